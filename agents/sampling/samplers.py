"""How the trajectories of an iteration are obtained: the interface, and sampling on-policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from agents.sampling.buffer import Batch, RolloutBuffer
from agents.sampling.rollout import Policy, Trajectories, rollout
from agents.settings import Bounds, Settings

if TYPE_CHECKING:
    from agents.networks.base import Network
    from agents.parts import Parts


class Walker(Protocol):
    """What a sampler needs of an agent: its two policies, and its log Z."""

    def policy(self, network: Network | None = None) -> Policy:
        """Return P_F, or that of a slow copy of the network."""
        ...

    def backward_policy(self) -> Policy:
        """Return P_B."""
        ...

    def log_pb(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Return log P_B `[B]` of `backward_actions [B]` at `states [B, d]`."""
        ...

    def log_z(self) -> Tensor:
        """Return the estimate of log Z, a scalar tensor."""
        ...


class Collected(NamedTuple):
    """What a sampler obtained in one iteration."""

    batch: Batch
    """The trajectories to learn from."""
    reward_calls: int
    """Number of objects whose reward was asked for."""

    def plus(self, trajectories: Trajectories, reward_calls: int) -> Collected:
        """Return what there is after further `trajectories`, which are not fresh, for that many rewards more."""
        batch = Batch(Trajectories.cat(self.batch.all, trajectories), self.batch.fresh)
        return Collected(batch, self.reward_calls + reward_calls)


class Sampler(ABC):
    """A way of obtaining `batch_size` fresh trajectories of P_F an iteration, and perhaps others beside them.

    Args:
        parts: the environment, the network and its slow copies.
        batch_size: number of trajectories that P_F samples.
        seen: the network that P_F samples with.
    """

    def __init__(self, parts: Parts, batch_size: int, seen: Network) -> None:
        self.dag, self.batch_size, self.seen = parts.dag, batch_size, seen

    def fresh(self, agent: Walker, epsilon: float | Tensor, generator: torch.Generator | None) -> Trajectories:
        """Return `batch_size` trajectories of the current P_F, with random actions of probability `epsilon`."""
        return rollout(self.dag, agent.policy(self.seen), self.dag.reset(self.batch_size), generator, epsilon)

    def collect(self, agent: Walker, epsilon: float | Tensor, generator: torch.Generator | None) -> Collected:
        """Return the trajectories of an iteration: fresh ones, and those that `extend` puts beside them."""
        fresh = self.fresh(agent, epsilon, generator)
        return self.extend(agent, Collected(Batch.of(fresh), self.batch_size), epsilon, generator)

    @abstractmethod
    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | Tensor, generator: torch.Generator | None
    ) -> Collected:
        """Return what was `collected` in this iteration with this sampler's own trajectories beside it."""

    def update(self, agent: Walker, buffer: RolloutBuffer) -> dict[str, Tensor]:
        """Take a learning step, before those of P_B and of the agent, and return its metrics as they do.

        The newest batch of the `buffer` is the iteration's, with the trajectories of all samplers. The default learns
        nothing and returns no metrics.
        """
        return {}

    def state_dict(self) -> dict:
        """Return what the sampler keeps."""
        return {}

    def load_state_dict(self, state: dict) -> None:  # noqa: B027  (most keep nothing)
        """Restore what `state_dict` returned."""


def num_beside(batch_size: int, share: float) -> int:
    """Return how many trajectories beside `batch_size` fresh ones are the share `share` of both."""
    return round(batch_size * share / (1 - share))


@dataclass(frozen=True)
class SamplerSettings(Settings, ABC):
    """The settings of a sampler, which build it.

    A subclass is a frozen dataclass registered by `agents.register_sampler`.
    """

    networks: ClassVar[int] = 0
    """How many further networks the sampler trains, each as large as the agent's."""

    copy_rate: Annotated[float, Bounds(0, 1)] = 0.0
    """Sample from a slow copy of the network that takes over this share of the new weights; 0 samples from itself."""

    def seen(self, parts: Parts) -> Network:
        """Return the network that P_F samples with."""
        return parts.targets.get(self.copy_rate) if self.copy_rate else parts.network

    @abstractmethod
    def build(self, parts: Parts, batch_size: int) -> Sampler:
        """Return the sampler."""


class OnPolicy(Sampler):
    """The trajectories that the current P_F samples, and no others."""

    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | Tensor, generator: torch.Generator | None
    ) -> Collected:
        return collected


@dataclass(frozen=True)
class OnPolicySettings(SamplerSettings):
    """The trajectories that the current P_F samples."""

    def build(self, parts: Parts, batch_size: int) -> Sampler:
        return OnPolicy(parts, batch_size, self.seen(parts))
