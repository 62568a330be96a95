"""The two yardsticks that need no learning: uniform legal actions, and Metropolis-Hastings over terminal states.

Source: back-and-forth proposals along the edges of a DAG: Zhang et al. 2022 (arXiv 2202.01361); the acceptance rule:
Metropolis et al. 1953 and Hastings 1970 (doi:10.1093/biomet/57.1.97), here over pairs of paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from agents.evaluation.metric import Column
from agents.sampling.random_state import get_state, make_generator, set_state
from agents.sampling.rollout import Policy, Trajectories, rollout
from baselines.base import Baseline, Progress
from gfn_envs.dag import DAG


def uniform_policy(dag: DAG) -> Policy:
    """Return the policy that takes all legal actions with equal probability."""
    return lambda states: torch.zeros(len(states), dag.num_actions, device=states.device)


class RandomPolicy(Baseline):
    """Complete objects by uniformly drawn legal actions, `num_envs` at a time."""

    exact = stochastic = True

    def __init__(self, dag: DAG, num_envs: int, seed: int) -> None:
        super().__init__(dag)
        self.num_envs, self.generator = num_envs, make_generator(dag.device, seed)

    def run(self, report: Callable[[Progress], bool]) -> None:
        going_on = True
        while going_on:
            batch = rollout(self.dag, self.policy(), self.dag.reset(self.num_envs), self.generator)
            steps = int(batch.lengths.sum())
            rewards = (batch.log_reward, batch.log_raw_reward)
            going_on = report(Progress(batch.terminal_states, *rewards, batch.lengths, steps))

    def policy(self) -> Policy:
        return uniform_policy(self.dag)

    def state_dict(self) -> dict:
        return {"generator": get_state(self.generator)}

    def load_state_dict(self, state: dict) -> None:
        set_state(self.generator, state["generator"])


class MetropolisHastings(Baseline):
    """`num_envs` chains over terminal states: walk some steps back, forwards again to another object, take it or not.

    A move walks k steps back by the uniform P_B, k geometric with mean `mean_back` (no further than s0), then forwards
    by the uniform P_F to a terminal state x' in m steps. Its reverse walks the same paths the other way round, m steps
    back and k forwards. So x' is taken with probability min(1, ratio) of

        ratio = R(x')/R(x) * p(m)/p(k) * [P_B(forward path) P_F(backward path)] / [P_F(forward path) P_B(backward path)]

    which leaves R/Z invariant: detailed balance holds for each pair of paths, and p(m)/p(k) = (1 - 1/mean_back)^(m - k)
    also where they meet at s0, which is reached with the probability of walking at least so far. Where slots are
    renamed, actions are counted by slot, and the invariant law is exp(log_reward - log_symmetry) as for the agents.

    A proposal is an object completed and one call of the reward; what counts as sampled is the chain's state after it.
    """

    exact = stochastic = False

    def __init__(self, dag: DAG, num_envs: int, seed: int, mean_back: float = 8.0) -> None:
        super().__init__(dag)
        if not (isinstance(mean_back, int | float) and 1 <= mean_back < math.inf):
            raise ValueError(f"mean_back, steps, must be a number of at least 1, got {mean_back!r}.")
        self.mean_back, self.generator = float(mean_back), make_generator(dag.device, seed)
        self.num_envs = num_envs
        self.states = dag.reset(0)
        self.log_reward = self.log_raw_reward = torch.zeros(0, device=dag.device)
        self._accepted = self._proposed = 0

    def run(self, report: Callable[[Progress], bool]) -> None:
        going_on = True
        while going_on:
            going_on = report(self.move() if len(self.states) else self._begin())

    def _begin(self) -> Progress:
        """Put every chain at the end of a random walk from s0."""
        batch = rollout(self.dag, uniform_policy(self.dag), self.dag.reset(self.num_envs), self.generator)
        self.states, self.log_reward, self.log_raw_reward = (
            batch.terminal_states,
            batch.log_reward,
            batch.log_raw_reward,
        )
        return self._progress(batch.lengths)

    @torch.no_grad()
    def move(self) -> Progress:
        """Propose a move in every chain, and take it or not."""
        junction, back, log_back = self._walk_back()
        batch = rollout(self.dag, uniform_policy(self.dag), junction, self.generator)
        forth, log_forth = batch.lengths, self._log_forward(batch)
        # At mean_back = 1 every walk has one step: other lengths have probability 0, and 0 * log 0 is 0 here.
        stay = math.log1p(-1 / self.mean_back) if self.mean_back > 1 else -math.inf
        difference = forth - back
        log_lengths = torch.where(difference == 0, 0.0, difference * stay)
        log_ratio = batch.log_reward - self.log_reward + log_lengths + log_back - log_forth
        uniform = torch.rand(len(junction), generator=self.generator, device=junction.device)
        taken = uniform.log() < log_ratio
        self.states = torch.where(taken[:, None], batch.terminal_states, self.states)
        self.log_reward = torch.where(taken, batch.log_reward, self.log_reward)
        self.log_raw_reward = torch.where(taken, batch.log_raw_reward, self.log_raw_reward)
        self._accepted += int(taken.sum())
        self._proposed += len(taken)
        return self._progress(back + forth)

    def _progress(self, steps: Tensor) -> Progress:
        """Return where the chains are, after `steps [n]` each."""
        return Progress(self.states, self.log_reward, self.log_raw_reward, steps, int(steps.sum()))

    def _walk_back(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return where the chains' walks back lead `[n, d]`, in how many steps `[n]`, and log P_F - log P_B of them."""
        dag, states = self.dag, self.states
        n = len(states)
        uniform = torch.rand(n, generator=self.generator, device=states.device).clamp(min=1e-12)
        stay = 1 - 1 / self.mean_back
        wanted = 1 + (uniform.log() / math.log(stay)).floor() if stay > 0 else torch.ones_like(uniform)
        back = torch.zeros(n, dtype=torch.int64, device=states.device)
        log_ratio = torch.zeros(n, device=states.device)
        for step in range(min(int(wanted.max()), dag.max_steps)):
            mask = dag.backward_action_mask(states)
            going = (step < wanted) & mask.any(1)
            weights = torch.where(going[:, None], mask.float(), 1.0)
            actions = torch.multinomial(weights, 1, generator=self.generator).squeeze(1)
            before = torch.where(going[:, None], dag.backward_step(states, actions)[0], states)
            log_ratio += torch.where(going, _log_count(mask) - _log_count(dag.action_mask(before)), 0.0)
            states, back = before, back + going
        return states, back, log_ratio

    def _log_forward(self, batch: Trajectories) -> Tensor:
        """Return log P_F - log P_B of paths from the junction, `[n]`."""
        n, length = batch.mask.shape
        flat = batch.states.flatten(0, 1)
        log_pf = -_log_count(self.dag.action_mask(flat)).view(n, length + 1)[:, :-1]
        log_pb = -_log_count(self.dag.backward_action_mask(flat)).view(n, length + 1)[:, 1:]
        return torch.where(batch.mask, log_pf - log_pb, 0.0).sum(1)

    def metrics(self) -> dict[str, float]:
        """Return the share of proposals taken since the last call."""
        share = self._accepted / max(self._proposed, 1)
        self._accepted = self._proposed = 0
        return {"acceptance": share}

    def columns(self) -> dict[str, Column]:
        return {"acceptance": Column("accepted", "{:.2f}", in_table=False, compared=840, curve=False)}

    def state_dict(self) -> dict:
        return {
            "states": self.states,
            "log_reward": self.log_reward,
            "log_raw_reward": self.log_raw_reward,
            "generator": get_state(self.generator),
            "counts": [self._accepted, self._proposed],
        }

    def load_state_dict(self, state: dict) -> None:
        for name in ("states", "log_reward", "log_raw_reward"):
            setattr(self, name, state[name].to(self.dag.device))
        set_state(self.generator, state["generator"])
        self._accepted, self._proposed = state["counts"]


def _log_count(mask: Tensor) -> Tensor:
    """Return the log of the number of legal actions, `[B]`; 0 where there is none."""
    return mask.sum(1).clamp(min=1).log()
