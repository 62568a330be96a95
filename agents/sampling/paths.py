"""Log-probabilities of trajectories under a forward and a backward policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agents.sampling.categorical import log_prob
from agents.sampling.rollout import Policy, Trajectories
from gfn_envs.dag import DAG

LogPB = Callable[[Tensor, Tensor], Tensor]
"""`(states [B, d], backward_actions [B]) -> log P_B [B]`."""


def log_pf_sum(dag: DAG, policy: Policy, trajectories: Trajectories) -> Tensor:
    """Return `sum_t log P_F` of each trajectory, or stretch of one, `[B]`, with gradient."""
    rows = trajectories.rows
    log_pf = log_prob(policy(rows.states), dag.action_mask(rows.states), rows.actions)
    return rows.pad(torch.where(rows.has_action, log_pf, 0.0))[:, :-1].sum(1)


@torch.no_grad()
def log_probs(dag: DAG, policy: Policy, log_pb: LogPB, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """Return `sum_t log P_F` and `sum_t log P_B` of each trajectory, or stretch of one, each `[B]`."""
    rows = trajectories.rows
    backward = log_pb(rows.states, rows.backward_actions)
    backward = rows.pad(torch.where(rows.has_parent, backward, 0.0))[:, 1:].sum(1)
    return log_pf_sum(dag, policy, trajectories), backward
