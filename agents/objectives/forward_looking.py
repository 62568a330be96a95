"""Flows that know a part of the reward already: forward-looking and modified detailed balance.

Source: Pan et al. 2023 (arXiv 2302.01687), forward-looking; Deleu et al. 2022 (arXiv 2202.13903), modified detailed
balance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.networks.base import Heads, Outputs
from agents.objectives.balance import DetailedBalanceSettings, SubTrajectoryBalanceSettings
from agents.sampling.categorical import log_prob
from gfn_envs.abilities import HasPotential
from gfn_envs.dag import DAG


class ForwardLookingFlow(nn.Module):
    """`log F(s) = phi(s) + f(s)`: `phi` is the part of log R that is decided at s, `f` the network's flow head.

    Raises `ValueError` where the environment knows no such part.
    """

    def __init__(self, dag: DAG) -> None:
        super().__init__()
        self.potential = _potential_of(dag, "a forward-looking flow")

    def forward(self, outputs: Outputs) -> Tensor:
        return self.potential(outputs.states) + outputs.log_flow


class StopFlow(nn.Module):
    """`log F(s) = log R(s stopped) - log P_F(stop | s)`, for environments where every state may stop.

    `log R(s stopped) = phi(s) + log R(s0 stopped)`, `phi` the environment's `log_potential`. Raises `ValueError` where
    it has none, or no stop action that is legal at s0.
    """

    start: Tensor

    def __init__(self, dag: DAG) -> None:
        super().__init__()
        self.dag, self.potential = dag, _potential_of(dag, "modified detailed balance")
        s0 = dag.reset(1)
        if dag.stop_action is None or not (s0.is_meta or bool(dag.action_mask(s0)[0, dag.stop_action])):
            raise ValueError(f"--agent mdb needs {type(dag).__name__} to have a stop action that is legal everywhere.")
        self.stop = dag.stop_action
        stopped, _ = dag.step(s0, torch.full((1,), self.stop, device=dag.device))
        self.register_buffer("start", dag.log_reward(stopped)[0], persistent=False)

    def forward(self, outputs: Outputs) -> Tensor:
        mask = self.dag.action_mask(outputs.states)
        stops = torch.full((len(outputs.states),), self.stop, device=outputs.states.device)
        return self.potential(outputs.states) + self.start - log_prob(outputs.forward_logits, mask, stops)


def _potential_of(dag: DAG, what: str) -> Callable[[Tensor], Tensor]:
    if not isinstance(dag, HasPotential):
        name = type(dag).__name__
        raise ValueError(f"{what} needs {name} to offer log_potential(), which it does not: take another --agent.")
    return dag.log_potential


@dataclass(frozen=True)
class ForwardLookingDBSettings(DetailedBalanceSettings):
    """Detailed balance whose flow begins with what is already decided of log R."""

    def flow(self, dag: DAG) -> nn.Module:
        return ForwardLookingFlow(dag)


@dataclass(frozen=True)
class ForwardLookingSubTBSettings(SubTrajectoryBalanceSettings):
    """Sub-trajectory balance whose flow begins with what is already decided of log R."""

    def flow(self, dag: DAG) -> nn.Module:
        return ForwardLookingFlow(dag)


@dataclass(frozen=True)
class ModifiedDBSettings(DetailedBalanceSettings):
    """Detailed balance without a flow of its own, where every state may stop: the stop action tells the flow."""

    def heads(self, dag: DAG) -> Heads:
        return {"forward": "forward"}

    def flow(self, dag: DAG) -> nn.Module:
        return StopFlow(dag)
