"""Markov chains on objects: taken partly apart by P_B, rebuilt by P_F, accepted by Metropolis-Hastings, and replayed.

Whatever P_F and P_B are, R/Z is stationary. As P_F learns, its proposals reach further, and more of them are accepted.

Source: the back-and-forth proposal of Zhang et al. 2022 (arXiv 2202.01361).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch

from agents.sampling.local_search import back_and_forth
from agents.sampling.rollout import rollout
from agents.sampling.samplers import Collected, Sampler, SamplerSettings, Walker, num_beside
from agents.settings import Bounds
from gfn_envs.dag import LogRewards

if TYPE_CHECKING:
    from agents.networks.base import Network
    from agents.parts import Parts


class MCMC(Sampler):
    """Fresh trajectories, and beside them trajectories to the objects of some Markov chains, walked back by P_B.

    An iteration moves as many chains as it replays, those whose turn it is. A chain begins at a fresh object.

    Args:
        share: share of replayed trajectories among these and the fresh ones, below 1.
        chains: number of chains, at least as many as are moved in an iteration.
        rounds: proposals for each chain that is moved.
        depth: steps that an object is taken apart by.
    """

    def __init__(
        self, parts: Parts, batch_size: int, seen: Network, share: float, chains: int, rounds: int, depth: int
    ) -> None:
        super().__init__(parts, batch_size, seen)
        self.num_moved = num_beside(batch_size, share)
        if chains < self.num_moved:
            raise ValueError(
                f"--sampler.chains must be at least {self.num_moved}, the number of chains that a share of {share:g} "
                f"beside {batch_size} trajectories moves in an iteration, got {chains}."
            )
        self.rounds, self.depth = rounds, depth
        self.states = self.dag.reset(chains)
        self.rewards = LogRewards(*torch.zeros(2, chains, device=self.dag.device))
        self.iterations = 0

    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | torch.Tensor, generator: torch.Generator | None
    ) -> Collected:
        if self.num_moved == 0:
            return collected
        first, device = self.iterations * self.num_moved, self.dag.device
        turn = torch.arange(first, first + self.num_moved, device=device)
        chains = turn % len(self.states)
        fresh, of_fresh = collected.batch.fresh, (turn - first) % self.batch_size
        begins = turn < len(self.states)
        states = torch.where(begins.unsqueeze(1), fresh.terminal_states[of_fresh], self.states[chains])
        rewards = LogRewards(
            torch.where(begins, fresh.log_reward[of_fresh], self.rewards.log_reward[chains]),
            torch.where(begins, fresh.log_raw_reward[of_fresh], self.rewards.log_raw_reward[chains]),
        )
        policy = agent.policy(self.seen)
        for _ in range(self.rounds):
            states, rewards = back_and_forth(
                self.dag, agent, policy, states, rewards, self.depth, metropolis=True, generator=generator
            )
        self.states[chains] = states
        for kept, new in zip(self.rewards, rewards, strict=True):
            kept[chains] = new
        self.iterations += 1
        replayed = rollout(self.dag, agent.backward_policy(), states, generator, backward=True, rewards=rewards)
        return collected.plus(replayed, self.num_moved * self.rounds)

    def state_dict(self) -> dict:
        return {"states": self.states, **self.rewards._asdict(), "iterations": self.iterations}

    def load_state_dict(self, state: dict) -> None:
        for name, field in {"states": self.states, **self.rewards._asdict()}.items():
            field.copy_(state[name])
        self.iterations = state["iterations"]


@dataclass(frozen=True)
class MCMCSettings(SamplerSettings):
    """Fresh trajectories, and as many to the objects of Markov chains that propose by P_B and P_F."""

    share: Annotated[float, Bounds(0, 0.99)] = 0.5
    """Share of replayed trajectories among these and the fresh ones, which they come on top of."""
    chains: Annotated[int, Bounds(1, 10**6)] = 256
    """Markov chains. An iteration moves as many as it replays; each begins at a fresh object."""
    rounds: Annotated[int, Bounds(1, 10**4)] = 4
    """Proposals for each chain that is moved; each asks for one reward."""
    depth: Annotated[float, Bounds(0, 1)] = 0.25
    """Share of the longest trajectory's steps that an object is taken apart by."""

    def build(self, parts: Parts, batch_size: int) -> Sampler:
        depth = max(1, math.ceil(self.depth * parts.dag.max_steps))
        return MCMC(parts, batch_size, self.seen(parts), self.share, self.chains, self.rounds, depth)
