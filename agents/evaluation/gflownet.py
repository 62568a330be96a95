"""What a metric sees of a policy, whoever trained it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from agents.sampling.rollout import Policy
from gfn_envs.dag import DAG


class GFlowNet(Protocol):
    """A forward policy P_F beside a backward policy P_B, with an estimate of log Z.

    Every `agents.Agent` is one. `FixedPolicy` makes one of a policy that something else trains.
    """

    dag: DAG
    stochastic: bool
    """Whether log P of an object means something. It means nothing of a greedy policy, which reaches few objects."""

    def policy(self) -> Policy:
        """Return P_F as a function of states: logits of the actions `[B, num_actions]`."""
        ...

    def backward_policy(self) -> Policy:
        """Return P_B as a function of states: logits of the backward actions `[B, num_backward_actions]`."""
        ...

    def log_pb(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Return log P_B `[B]` of `backward_actions [B]` at `states [B, d]`; any finite value at s0."""
        ...

    def log_z(self) -> Tensor:
        """Return the estimate of log Z, a scalar tensor; NaN where there is none."""
        ...


class FixedPolicy:
    """A policy that something else trains, beside the uniform P_B and without an estimate of log Z."""

    def __init__(self, dag: DAG, policy: Policy, stochastic: bool) -> None:
        self.dag, self.stochastic, self._policy = dag, stochastic, policy

    def policy(self) -> Policy:
        return self._policy

    def backward_policy(self) -> Policy:
        return lambda states: torch.zeros(len(states), self.dag.num_backward_actions, device=states.device)

    def log_pb(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        return -self.dag.backward_action_mask(states).sum(1).clamp(min=1).log()

    def log_z(self) -> Tensor:
        return torch.tensor(torch.nan)
