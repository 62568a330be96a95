"""Adaptive teacher: a second policy that learns to go where the agent's policy is wrong, and is sampled beside it.

Source: Kim et al. 2024 (arXiv 2410.01432), section 3.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor

from agents.objectives.trajectory import ConstantFlow
from agents.optimizer import AdamSettings
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.paths import log_pf_sum, log_probs
from agents.sampling.rollout import rollout
from agents.sampling.samplers import Collected, Sampler, SamplerSettings, Walker, num_beside
from agents.settings import Bounds

if TYPE_CHECKING:
    from agents.networks.base import Network
    from agents.parts import Parts

FLOOR = 1e-3
"""What is added within the logarithm of the teacher's reward."""


def teacher_log_reward(residual: Tensor, log_reward: Tensor, alpha: float, under_weight: float) -> Tensor:
    """Return `log(1 + 1e-3 + d^2 (1 + C [d > 0])) + alpha log R` of trajectories, `[B]`.

    Args:
        residual: `d = log R + sum log P_B - sum log P_F - log Z`, `[B]`; positive where P_F comes too rarely.
        log_reward: log R of the trajectories' ends, `[B]`.
        alpha: weight of log R.
        under_weight: C.
    """
    weight = 1 + under_weight * (residual > 0)
    return torch.log1p(FLOOR + residual.square() * weight) + alpha * log_reward


class Teacher(Sampler):
    """Fresh trajectories of P_F, and beside them trajectories of a teacher.

    The teacher learns by trajectory balance from the whole batch, with a log Z of its own and with the agent's P_B. It
    starts as a copy of the agent's network.

    Args:
        settings: what its reward and its optimizer are.
    """

    def __init__(self, parts: Parts, batch_size: int, seen: Network, settings: TeacherSettings) -> None:
        super().__init__(parts, batch_size, seen)
        self.settings, self.num_taught = settings, num_beside(batch_size, settings.share)
        self.network, self.flow = copy.deepcopy(parts.network), ConstantFlow(parts.dag.device)
        weights = self.network.parameters_of("forward")
        self.optimizer = settings.optimizer(self.network, weights, (self.flow.parameters(), settings.log_z_lr))

    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | Tensor, generator: torch.Generator | None
    ) -> Collected:
        if self.num_taught == 0:
            return collected
        start = self.dag.reset(self.num_taught)
        taught = rollout(self.dag, self.network.sampler(), start, generator, self.settings.epsilon)
        return collected.plus(taught, self.num_taught)

    def update(self, agent: Walker, buffer: RolloutBuffer) -> dict[str, Tensor]:
        trajectories = buffer.newest
        log_reward = trajectories.log_reward
        log_pf, log_pb = log_probs(self.dag, agent.policy(), agent.log_pb, trajectories)
        residual = log_reward + log_pb - log_pf - agent.log_z()
        target = teacher_log_reward(residual, log_reward, self.settings.alpha, self.settings.under_weight)
        own = log_pf_sum(self.dag, lambda states: self.network(states).forward_logits, trajectories)
        loss = (self.flow.log_z + own - log_pb - target).square().mean()
        self.optimizer.minimise(loss)
        return {"teacher_loss": loss.detach()}

    def state_dict(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "flow": self.flow.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        for name, saved in state.items():
            getattr(self, name).load_state_dict(saved)


@dataclass(frozen=True)
class TeacherSettings(SamplerSettings, AdamSettings):
    """Fresh trajectories, and as many of a second policy that learns to go where P_F is wrong."""

    networks: ClassVar[int] = 1

    share: Annotated[float, Bounds(0, 0.99)] = 0.5
    """Share of the teacher's trajectories among these and the fresh ones, which they come on top of."""
    alpha: Annotated[float, Bounds(0, 1e3)] = 0.0
    """Weight of log R in the teacher's reward."""
    under_weight: Annotated[float, Bounds(0, 1e6)] = 19.0
    """C: how much more the teacher is paid for a residual of what P_F samples too rarely than for one of the rest."""
    log_z_lr: Annotated[float, Bounds(0, 1e3)] = 1e-1
    """Learning rate of the teacher's log Z."""
    epsilon: Annotated[float, Bounds(0, 1)] = 0.0
    """Probability of a uniformly random action of the teacher."""

    def build(self, parts: Parts, batch_size: int) -> Sampler:
        return Teacher(parts, batch_size, self.seen(parts), self)
