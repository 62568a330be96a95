"""Forced stops: beside fresh trajectories, some that P_F may stop at one random number of steps only.

A balance loss holds for trajectories of any origin. So P_F also learns whether to stop where it never did, or always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from agents.sampling.rollout import rollout
from agents.sampling.samplers import Collected, Sampler, SamplerSettings, Walker, num_beside
from agents.settings import Bounds

if TYPE_CHECKING:
    from agents.networks.base import Network
    from agents.parts import Parts


class RandomStop(Sampler):
    """Fresh trajectories, and beside them trajectories of P_F that are made to stop at a random number of steps.

    The number is drawn uniformly from 0 .. `max_steps` - 1, once an iteration. Before that step the stop action is
    taken only where no other is legal. From it on it is taken wherever it is legal. Everything else is up to P_F and
    to random actions. `ValueError` for a DAG without a stop action.

    Args:
        share: share of these trajectories among themselves and the fresh ones, below 1.
    """

    def __init__(self, parts: Parts, batch_size: int, seen: Network, share: float) -> None:
        super().__init__(parts, batch_size, seen)
        dag = parts.dag
        if dag.stop_action is None:
            raise ValueError(f"--sampler random-stop needs a stop action, and {type(dag).__name__} has none.")
        self.num_stopped = num_beside(batch_size, share)
        self._stops = torch.arange(dag.num_actions, device=dag.device) == dag.stop_action

    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | Tensor, generator: torch.Generator | None
    ) -> Collected:
        if self.num_stopped == 0:
            return collected
        steps = torch.randint(self.dag.max_steps, (), device=self.dag.device, generator=generator)

        def allow(mask: Tensor, t: int) -> Tensor:
            wanted = mask & torch.where(steps > t, ~self._stops, self._stops)
            return torch.where(wanted.any(1, keepdim=True), wanted, mask)

        start = self.dag.reset(self.num_stopped)
        stopped = rollout(self.dag, agent.policy(self.seen), start, generator, epsilon, allow=allow)
        return collected.plus(stopped, self.num_stopped)


@dataclass(frozen=True)
class RandomStopSettings(SamplerSettings):
    """Fresh trajectories, and some of P_F that are made to stop at a random number of steps."""

    share: Annotated[float, Bounds(0, 0.99)] = 0.125
    """Share of forced stops among these and the fresh trajectories, which they come on top of."""

    def build(self, parts: Parts, batch_size: int) -> Sampler:
        return RandomStop(parts, batch_size, self.seen(parts), self.share)
