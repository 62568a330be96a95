"""Detailed and sub-trajectory balance, and what all balance losses have in common: the newest batch trains a policy.

Source: see the losses in `agents.objectives.losses`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from agents import distributed
from agents.backward import Backward
from agents.networks.base import Heads, Network, Outputs
from agents.objectives import losses
from agents.objectives.base import Agent, AgentSettings
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.categorical import log_prob
from agents.sampling.rollout import Policy, Trajectories
from agents.settings import Bounds
from gfn_envs.dag import DAG

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`(log_flow [B, T + 1], log_pf [B, T], log_pb [B, T], mask [B, T]) -> [B]`."""


class NetworkFlow(nn.Module):
    """log F(s) from the network's flow head."""

    def forward(self, outputs: Outputs) -> Tensor:
        return outputs.log_flow


class Balance(Agent):
    """An agent that learns P_F and a flow with one of the balance losses.

    Args:
        flow: module `Outputs -> log F [B]` at their states.
        loss: one of `agents.objectives.losses`.
        per_edge: average the loss over edges rather than over trajectories.
        optimizer: trains P_F and the flow, and P_B's head if P_B is `naive`.
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
        self.own = self.flow = flow
        self.loss, self.per_edge, self.optimizer = loss, per_edge, optimizer

    def policy(self, network: Network | None = None) -> Policy:
        return (network or self.network).sampler()

    @torch.no_grad()
    def log_z(self) -> Tensor:
        return self.flow(self.network(self.dag.reset(1)))[0].detach()

    def terms(
        self, trajectories: Trajectories, outputs: Outputs | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the losses take: `log_flow [B, T + 1]`, `log_pf [B, T]`, `log_pb [B, T]`, `mask [B, T]`.

        `outputs` are the network's at the trajectories' rows, for who reads more of them.
        """
        rows = trajectories.rows
        here: Outputs = self.network(rows.states) if outputs is None else outputs
        log_flow = torch.where(rows.has_action, self.flow(here), rows.log_reward)
        log_pf = log_prob(here.forward_logits, self.dag.action_mask(rows.states), rows.actions)
        log_pb = self.backward.log_prob(here, rows.backward_actions)
        return rows.pad(log_flow), rows.pad(log_pf)[:, :-1], rows.pad(log_pb)[:, 1:], trajectories.mask

    def losses(self, trajectories: Trajectories) -> Tensor:
        """Return the loss of each trajectory, `[B]`."""
        return self.loss(*self.terms(trajectories))

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        mask = buffer.newest.mask
        loss = self.losses(buffer.newest).sum() / (distributed.mean(mask.sum()) if self.per_edge else len(mask))
        self.optimizer.minimise(loss)
        return {"loss": loss.detach()}


PENALTIES: dict[str, losses.Penalty] = {
    "squared": torch.square,
    "huber": losses.huber,
    "cosh": losses.cosh,
    "linex": losses.linex,
    "linex-half": losses.linex_half,
}


@dataclass(frozen=True)
class BalanceSettings(AgentSettings):
    """The settings that the balance losses have in common."""

    penalty: Literal["squared", "huber", "cosh", "linex", "linex-half"] = "squared"
    """Penalty of a balance residual: its square, its Huber loss, or an exponential of it."""

    @abstractmethod
    def loss(self) -> Loss:
        """Return the loss function on padded trajectories."""

    def _loss(self, loss: Callable[..., Tensor]) -> Loss:
        return partial(loss, penalty=PENALTIES[self.penalty])


@dataclass(frozen=True)
class StateFlowSettings(BalanceSettings):
    """The settings that losses with a learned flow log F(s) at every state have in common."""

    def heads(self, dag: DAG) -> Heads:
        return {"forward": "forward", "flow": "scalar"}

    def flow(self, dag: DAG) -> nn.Module:
        """Return how log F(s) is read from the network."""
        return NetworkFlow()

    def _build(self, parts: Parts, backward: Backward, per_edge: bool) -> Agent:
        network = parts.network
        weights = network.parameters_of(*self.heads(parts.dag), *backward.learned_by_agent)
        optimizer = self.optimizer(network, weights)
        return Balance(parts.dag, network, backward, self.flow(parts.dag), self.loss(), per_edge, optimizer)


@dataclass(frozen=True)
class DetailedBalanceSettings(StateFlowSettings):
    """Detailed balance: the flow along each edge must be the same from both ends."""

    def loss(self) -> Loss:
        return self._loss(losses.detailed_balance)

    def build(self, parts: Parts, backward: Backward) -> Agent:
        return self._build(parts, backward, per_edge=True)


@dataclass(frozen=True)
class SubTrajectoryBalanceSettings(StateFlowSettings):
    """Sub-trajectory balance: the flow must balance along every part of a trajectory."""

    lamda: Annotated[float, Bounds(1e-6, 1e6)] = 0.9
    """lambda: weight ratio of two parts whose lengths differ by one."""

    def loss(self) -> Loss:
        return self._loss(partial(losses.subtrajectory_balance, lamda=self.lamda))

    def build(self, parts: Parts, backward: Backward) -> Agent:
        return self._build(parts, backward, per_edge=False)
