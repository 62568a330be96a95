"""Prioritised replay of objects: the best distinct objects of the run, walked back by P_B, beside fresh trajectories.

Source: half of the replayed objects from the best tenth and half from the rest, Shen et al. 2023 (arXiv 2305.07170),
section 4 (prioritised replay training).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from agents.sampling.rollout import rollout
from agents.sampling.samplers import Collected, Sampler, SamplerSettings, Walker, num_beside
from agents.settings import Bounds
from gfn_envs.dag import DAG, LogRewards
from gfn_envs.exact import StateKeys

if TYPE_CHECKING:
    from agents.networks.base import Network
    from agents.parts import Parts


class ObjectStore:
    """The distinct objects of highest reward so far, best first; at most `capacity`.

    Everything stays on the DAG's device, and nothing waits for it. Where slots are renamed, objects are told apart by
    their canonical states.
    """

    def __init__(self, dag: DAG, capacity: int) -> None:
        self.dag, self.capacity, self._keys = dag, capacity, StateKeys(dag)
        device = dag.device
        self.states = torch.zeros(capacity, dag.state_dim, dtype=torch.int64, device=device)
        self.log_reward = torch.full((capacity,), -torch.inf, device=device)
        self.log_raw_reward = torch.zeros(capacity, device=device)

    def add(self, states: Tensor, rewards: LogRewards) -> None:
        """Take terminal `states [B, d]` with their `rewards [B]` into account."""
        states = torch.cat([self.states, self.dag.canonical(states)])
        log_reward = torch.cat([self.log_reward, rewards.log_reward])
        raw = torch.cat([self.log_raw_reward, rewards.log_raw_reward])
        # Empty places have the reward -inf: they come last, and are never taken for a copy of what is there.
        order = log_reward.argsort(descending=True, stable=True)
        states, log_reward, raw = states[order], log_reward[order], raw[order]
        keys, places = self._keys(states).sort(stable=True)
        follows_equal = torch.cat([torch.zeros_like(keys[:1], dtype=torch.bool), keys[1:] == keys[:-1]])
        copies = torch.empty_like(follows_equal).scatter(0, places, follows_equal)
        log_reward = log_reward.masked_fill(copies, -torch.inf)
        best = log_reward.argsort(descending=True, stable=True)[: self.capacity]
        self.states, self.log_reward, self.log_raw_reward = states[best], log_reward[best], raw[best]

    def draw(self, n: int, top: float, generator: torch.Generator | None) -> tuple[Tensor, LogRewards]:
        """Draw `n` objects with replacement: half of them from the share `top` of the best, half from the rest.

        At least one object must have been added.
        """
        filled = (self.log_reward > -torch.inf).sum()
        best = (top * filled).long().clamp(min=1)
        u = torch.rand(n, device=self.states.device, generator=generator)
        of_best = torch.arange(n, device=self.states.device) < (n + 1) // 2
        rest = best + (u * (filled - best)).long()
        at = torch.where(of_best, (u * best).long(), rest).clamp(max=filled - 1)
        return self.states[at], LogRewards(self.log_reward[at], self.log_raw_reward[at])

    def state_dict(self) -> dict:
        """Return the objects kept."""
        filled = self.log_reward > -torch.inf
        return {
            "states": self.states[filled],
            "log_reward": self.log_reward[filled],
            "log_raw_reward": self.log_raw_reward[filled],
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        n = len(state["states"])
        self.log_reward.fill_(-torch.inf)
        for name, field in state.items():
            getattr(self, name)[:n] = field.to(self.states.device)


class Replay(Sampler):
    """Fresh trajectories, and beside them trajectories to replayed objects, walked back by P_B.

    Args:
        share: share of replayed trajectories among these and the fresh ones, below 1.
        store: the objects to replay.
        top: share of the store's objects that half of the replayed ones come from.
    """

    def __init__(
        self, parts: Parts, batch_size: int, seen: Network, share: float, store: ObjectStore, top: float
    ) -> None:
        super().__init__(parts, batch_size, seen)
        self.num_replayed = num_beside(batch_size, share)
        self.store, self.top = store, top

    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | Tensor, generator: torch.Generator | None
    ) -> Collected:
        found = collected.batch.all
        self.store.add(found.terminal_states, LogRewards(found.log_reward, found.log_raw_reward))
        return self.with_replayed(agent, collected, generator)

    def with_replayed(self, agent: Walker, collected: Collected, generator: torch.Generator | None) -> Collected:
        """Return what was `collected`, with as many replayed trajectories as the share asks for."""
        if self.num_replayed == 0:
            return collected
        states, rewards = self.store.draw(self.num_replayed, self.top, generator)
        old = rollout(self.dag, agent.backward_policy(), states, generator, backward=True, rewards=rewards)
        return collected.plus(old, 0)

    def state_dict(self) -> dict:
        return self.store.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.store.load_state_dict(state)


@dataclass(frozen=True)
class ReplaySettings(SamplerSettings):
    """Fresh trajectories, and as many to the best objects of the run, walked back by P_B."""

    share: Annotated[float, Bounds(0, 0.99)] = 0.5
    """Share of replayed trajectories among these and the fresh ones, which they come on top of."""
    capacity: Annotated[int, Bounds(1, 10**7)] = 5_000
    """Distinct objects kept, those of highest reward."""
    top: Annotated[float, Bounds(0, 1)] = 0.1
    """Share of the kept objects, the best ones, that half of the replayed objects are drawn from."""

    def build(self, parts: Parts, batch_size: int) -> Sampler:
        store = ObjectStore(parts.dag, self.capacity)
        return Replay(parts, batch_size, self.seen(parts), self.share, store, self.top)
