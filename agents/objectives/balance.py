"""Detailed, trajectory and sub-trajectory balance: a policy and a flow trained on the newest batch.

Source: see the losses in `agents.objectives.losses`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from agents.backward import Backward
from agents.networks.base import Evaluation, Network
from agents.objectives.base import Agent
from agents.objectives.losses import log_prob
from agents.optimizer import Optimizer
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.rollout import Policy, Trajectories
from gfn_envs.dag import DAG

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`(log_flow [B, T + 1], log_pf [B, T], log_pb [B, T], mask [B, T]) -> [B]`."""


class NetworkFlow(nn.Module):
    """log F(s) from the network's flow head."""

    def forward(self, here: Evaluation) -> Tensor:
        return here.log_flow


class ConstantFlow(nn.Module):
    """log Z as one parameter, for losses that read the flow at s0 only."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.log_z = nn.Parameter(torch.zeros((), device=device))

    def forward(self, here: Evaluation) -> Tensor:
        return self.log_z.expand(len(here.states))


class Balance(Agent):
    """A flow agent with any of the balance losses.

    Args:
        flow: gives log F of the states that an evaluation holds.
        loss: one of `agents.objectives.losses`.
        per_edge: average the loss over edges rather than over trajectories.
        optimizer: steps P_F and the flow (and P_B's head for `naive`).
    """

    def __init__(
        self,
        dag: DAG,
        network: Network,
        backward: Backward,
        flow: nn.Module,
        loss: Loss,
        per_edge: bool,
        optimizer: Optimizer,
    ) -> None:
        super().__init__(dag, network, backward)
        self.flow, self.loss, self.per_edge, self.optimizer = flow, loss, per_edge, optimizer

    def policy(self) -> Policy:
        return self.network.sampler()

    @torch.no_grad()
    def log_z(self) -> Tensor:
        return self.flow(self.network.at(self.dag.reset(1)))[0].detach()

    def losses(self, trajectories: Trajectories) -> Tensor:
        """Return the loss of each trajectory, `[B]`."""
        rows = trajectories.rows
        here = self.network.at(rows.states)
        log_flow = torch.where(rows.has_action, self.flow(here), rows.log_reward)
        log_pf = log_prob(here.forward_logits, self.dag.action_mask(rows.states), rows.actions)
        log_pb = self.backward.log_prob(here, rows.backward_actions)
        return self.loss(rows.pad(log_flow), rows.pad(log_pf)[:, :-1], rows.pad(log_pb)[:, 1:], trajectories.mask)

    def update(self, buffer: RolloutBuffer) -> Tensor:
        mask = buffer.newest.mask
        loss = self.losses(buffer.newest).sum() / (mask.sum() if self.per_edge else len(mask))
        self.optimizer.minimise(loss)
        return loss.detach()

    def state_dict(self) -> dict:
        return {"flow": self.flow.state_dict(), **super().state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.flow.load_state_dict(state["flow"])
        super().load_state_dict(state)
