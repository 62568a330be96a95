"""Local search: take fresh objects partly apart by P_B, rebuild them by P_F, keep what is better, and replay that.

Source: Kim et al. 2024 (arXiv 2310.02710).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from agents.sampling.paths import log_probs
from agents.sampling.replay import ObjectStore, Replay, ReplaySettings
from agents.sampling.rollout import Policy, Trajectories, rollout
from agents.sampling.samplers import Collected, Sampler, Walker
from agents.settings import Bounds
from gfn_envs.dag import DAG, LogRewards

if TYPE_CHECKING:
    from agents.networks.base import Network
    from agents.parts import Parts


class LocalSearch(Replay):
    """Replay of objects among which are those that a local search around the fresh ones found.

    Args:
        rounds: how often each fresh object is taken apart and rebuilt.
        depth: steps that it is taken apart by.
        metropolis: accept by the ratio of Metropolis and Hastings, which leaves R/Z as it is; otherwise what is better.
    """

    def __init__(
        self,
        parts: Parts,
        batch_size: int,
        seen: Network,
        share: float,
        store: ObjectStore,
        top: float,
        rounds: int,
        depth: int,
        metropolis: bool,
    ) -> None:
        super().__init__(parts, batch_size, seen, share, store, top)
        self.rounds, self.depth, self.metropolis = rounds, depth, metropolis

    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | Tensor, generator: torch.Generator | None
    ) -> Collected:
        found = collected.batch.all
        states, rewards = found.terminal_states, LogRewards(found.log_reward, found.log_raw_reward)
        self.store.add(states, rewards)
        for _ in range(self.rounds):
            states, rewards = back_and_forth(
                self.dag, agent, agent.policy(self.seen), states, rewards, self.depth, self.metropolis, generator
            )
            self.store.add(states, rewards)
        reward_calls = collected.reward_calls + len(states) * self.rounds
        return self.with_replayed(agent, Collected(collected.batch, reward_calls), generator)


def back_and_forth(
    dag: DAG,
    agent: Walker,
    policy: Policy,
    states: Tensor,
    rewards: LogRewards,
    depth: int,
    metropolis: bool,
    generator: torch.Generator | None,
) -> tuple[Tensor, LogRewards]:
    """Take terminal `states [B, d]` apart by `depth` steps of P_B, rebuild them by `policy`, keep what is accepted.

    Returns states and rewards. Accepted is what has the higher reward, or with `metropolis` by the ratio of Metropolis
    and Hastings, which leaves R/Z as it is.
    """
    away = rollout(dag, agent.backward_policy(), states, generator, backward=True, max_steps=depth, rewards=rewards)
    back = rollout(dag, policy, away.states[:, 0], generator)
    found, reward = back.terminal_states, LogRewards(back.log_reward, back.log_raw_reward)
    accepted = reward.log_reward > rewards.log_reward
    if metropolis:
        ratio, reversible = _log_ratio(dag, agent, policy, away, back, depth)
        accepted = (torch.rand(len(ratio), device=ratio.device, generator=generator).log() < ratio) & reversible
    return (
        torch.where(accepted.unsqueeze(1), found, states),
        LogRewards(*(torch.where(accepted, new, old) for new, old in zip(reward, rewards, strict=True))),
    )


def _log_ratio(
    dag: DAG, agent: Walker, policy: Policy, away: Trajectories, back: Trajectories, depth: int
) -> tuple[Tensor, Tensor]:
    """Return log R(x')/R(x) P(x' -> x)/P(x -> x') `[B]`, over pairs of paths, and bool `[B]`: whether it is not 0.

    `away` leads to x and `back` to x', both from where x was taken apart to. The way from x' to x has probability 0
    where taking x' apart would not end there: unless it takes `depth` steps, or ends in s0 before.
    """
    there, here = (log_probs(dag, policy, agent.log_pb, path) for path in (away, back))
    ratio = back.log_reward - away.log_reward + (there[0] - there[1]) - (here[0] - here[1])
    at_s0 = ~dag.backward_action_mask(away.states[:, 0]).any(1)
    return ratio, (back.lengths == depth) | (at_s0 & (back.lengths <= depth))


@dataclass(frozen=True)
class LocalSearchSettings(ReplaySettings):
    """Replay of objects that a local search around the fresh ones improves: back by P_B, rebuilt by P_F."""

    rounds: Annotated[int, Bounds(1, 10**4)] = 4
    """How often each fresh object is taken apart and rebuilt; each time asks for one reward."""
    depth: Annotated[float, Bounds(0, 1)] = 0.5
    """Share of the longest trajectory's steps that an object is taken apart by."""
    accept: Literal["better", "metropolis"] = "better"
    """Keep what has the higher reward, or accept by the ratio of Metropolis and Hastings."""

    def build(self, parts: Parts, batch_size: int) -> Sampler:
        return LocalSearch(
            parts,
            batch_size,
            self.seen(parts),
            self.share,
            ObjectStore(parts.dag, self.capacity),
            self.top,
            self.rounds,
            max(1, math.ceil(self.depth * parts.dag.max_steps)),
            self.accept == "metropolis",
        )
