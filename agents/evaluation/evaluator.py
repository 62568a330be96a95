"""Metrics of a run: exact ones where the DAG can be enumerated, and estimates from samples and rollouts everywhere."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from agents.evaluation.collectors import BestStates, RecentSamples
from agents.evaluation.estimates import elbo, log_likelihood
from agents.evaluation.molecules import MoleculeMetrics
from agents.evaluation.settings import EvaluationSettings
from agents.objectives.base import Agent
from agents.sampling.random_state import get_state, make_generator, set_state
from agents.sampling.rollout import Policy, Trajectories
from gfn_envs import metrics
from gfn_envs.dag import DAG
from gfn_envs.envs.molecules import chem
from gfn_envs.exact import (
    Enumeration,
    StateKeys,
    TooLargeError,
    canonical,
    enumerate_dag,
    first_of,
    log_symmetry,
    reported_log_reward,
)

MOST_MODES = 100_000
"""Modes are not counted one by one where there are more."""


class Evaluator:
    """Collects terminal states during training and measures an agent against the target.

    It has a random generator of its own, so that measuring does not change the training. `test_set` holds the states,
    their log R and the log P_theta last estimated, each `[N, ...]`; empty before the first time.
    """

    def __init__(self, dag: DAG, settings: EvaluationSettings, metrics: tuple[str, ...] = (), seed: int = 0) -> None:
        self.dag, self.settings = dag, settings
        self.generator = make_generator(dag.device, seed)
        self.enumeration = enumerate_within(dag, settings.max_exact_edges)
        num_terminal = len(self.enumeration.terminal) if self.enumeration else 0
        self.recent = RecentSamples(num_terminal, settings.window)
        self.best = BestStates(dag.state_dim)
        self.keys = StateKeys(dag)
        self.unique = torch.empty(0, dtype=torch.int64)
        self.modes_found = torch.empty(0, dtype=torch.bool)
        if dag.offers("modes_hit") and dag.num_modes <= MOST_MODES:  # type: ignore[attr-defined]
            self.modes_found = torch.zeros(dag.num_modes, dtype=torch.bool)  # type: ignore[attr-defined]
        self.molecules = MoleculeMetrics(dag) if dag.offers("to_smiles") and chem.installed() else None
        self.test_set: dict[str, Tensor] = {}
        self.evaluations = 0
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sums = _no_sums()

    def add(self, trajectories: Trajectories) -> None:
        """Take note of a batch of training trajectories; nothing is read from the device yet."""
        self.add_objects(trajectories.terminal_states, trajectories.log_reward, trajectories.lengths)

    def add_objects(self, states: Tensor, log_reward: Tensor, lengths: Tensor) -> None:
        """Take note of terminal `states [B, d]`, their `log_reward [B]` and the steps that they took, `lengths [B]`."""
        self._pending.append((states, log_reward, lengths))

    def flush(self) -> None:
        """Count what was added since the last time."""
        if not self._pending:
            return
        states, log_reward, lengths = (torch.cat(part) for part in zip(*self._pending, strict=True))
        self._pending.clear()
        states, log_reward = canonical(self.dag, states), reported_log_reward(self.dag, states, log_reward)
        reward = log_reward.exp()
        new = self._first_seen(self.keys(states).cpu())
        if self.molecules:
            self.molecules.add(states[new], reward[new])
        if self.enumeration:
            self.recent.add(self.enumeration.terminal_rank[self.enumeration.index(states)])
        if len(self.modes_found):
            self.modes_found |= self.dag.modes_hit(states).any(0).cpu()  # type: ignore[attr-defined]
        self.best.add(states, log_reward)
        self._sums["reward"] += float(reward.sum())
        self._sums["log_reward"] += float(log_reward.sum())
        self._sums["length"] += float(lengths.sum())
        self._sums["count"] += len(states)

    def _first_seen(self, keys: Tensor) -> Tensor:
        """Return the place of each key's first occurrence in `keys [B]` that was never seen before, and remember it."""
        distinct, _, first = first_of(keys)
        new = ~torch.isin(distinct, self.unique)
        self.unique = torch.cat([self.unique, distinct[new]]).sort().values
        return first[new].sort().values.to(self.dag.device)

    def evaluate(self, agent: Agent, last: bool = False) -> dict[str, float]:
        """Return all metrics by name; sample means are over the trajectories since the previous call.

        With `last`, the correlation on the test set is among them whatever its turn.
        """
        log_z = float(agent.log_z())
        result = {**self.sample_metrics(), "log_z_estimate": log_z}
        if self.enumeration:
            result |= self.policy_metrics(self.enumeration, agent.policy())
            result["log_z_error"] = log_z - self.enumeration.log_z
        return result | self.likelihood_metrics(agent, last)

    def sample_metrics(self) -> dict[str, float]:
        """Return what the samples alone tell, whoever drew them; means are over those since the previous call."""
        self.flush()
        count = max(self._sums["count"], 1)
        best = self.best.log_reward.exp()
        result: dict[str, float] = {
            "mean_reward": self._sums["reward"] / count,
            "mean_log_reward": self._sums["log_reward"] / count,
            "mean_length": self._sums["length"] / count,
            "best_reward": float(best[:1].mean()),
            "top_reward": float(best.mean()),
            "top_log_reward": self.best.mean_log_reward(),
            "top_diversity": self.best.diversity(),
            "unique_states": len(self.unique),
        }
        self._sums = _no_sums()
        if self.molecules:
            result |= self.molecules.evaluate(self.best.states)
        if len(self.modes_found):
            result["modes_found"] = int(self.modes_found.sum())
        if self.enumeration:
            target = self.enumeration.target
            result["l1_empirical"] = metrics.l1(self.recent.frequencies().to(target.device), target)
            result["mean_reward_target"] = float((target * self._terminal_rewards(self.enumeration)).sum())
        return result

    def policy_metrics(self, enumeration: Enumeration, policy: Policy) -> dict[str, float]:
        """Return how far the exact terminal distribution of `policy` is from the target."""
        target = enumeration.target
        learned = enumeration.terminal_distribution(policy)
        return {
            "l1_exact": metrics.l1(learned, target),
            "total_variation_exact": metrics.total_variation(learned, target),
            "kl_exact": metrics.kl(learned, target),
            "jensen_shannon_exact": metrics.jensen_shannon(learned, target),
            "mean_reward_exact": float((learned * self._terminal_rewards(enumeration)).sum()),
        }

    def _terminal_rewards(self, enumeration: Enumeration) -> Tensor:
        states = enumeration.states[enumeration.terminal]
        return reported_log_reward(self.dag, states, enumeration.log_reward).exp()

    def likelihood_metrics(self, agent: Agent, last: bool = False) -> dict[str, float]:
        """Return what P_F and P_B together tell: the ELBO, and in its turn the correlation on the test set."""
        result: dict[str, float] = {}
        if self.settings.elbo_samples:
            result["elbo"] = float(elbo(agent, self.settings.elbo_samples, self.generator))
        self.evaluations += 1
        every = self.settings.test_every
        if every and self.dag.offers("test_states") and (last or self.evaluations % every == 0):
            result |= self._correlation(agent)
        return result

    def _correlation(self, agent: Agent) -> dict[str, float]:
        """Estimate log P_theta on the test set and compare it with log R, or with log R/|Aut| where that is sampled."""
        started = time.perf_counter()
        states: Tensor = self.dag.test_states()  # type: ignore[attr-defined]
        if len(states) == 0:  # none of the fixed set fits a small instance
            return {}
        states = states[spread(len(states), self.settings.test_objects)]
        log_p = log_likelihood(agent, states, self.settings.test_rollouts, self.generator)
        log_reward = self.dag.log_reward(states) - log_symmetry(self.dag, states)
        self.test_set = {"states": states.cpu(), "log_reward": log_reward.cpu(), "log_p": log_p.cpu()}
        return {
            "spearman": metrics.spearman(log_p, log_reward),
            "pearson": metrics.pearson(log_p, log_reward),
            "test_seconds": time.perf_counter() - started,
        }

    def state_dict(self) -> dict:
        """Return everything collected; what is not counted yet stays so, as sums depend on how they are split."""
        pending = [[torch.cat(part) for part in zip(*self._pending, strict=True)]] if self._pending else []
        return {
            "pending": pending,
            "recent": self.recent.state_dict(),
            "best": self.best.state_dict(),
            "unique": self.unique,
            "modes_found": self.modes_found,
            "molecules": self.molecules.state_dict() if self.molecules else {},
            "test_set": self.test_set,
            "evaluations": self.evaluations,
            "sums": dict(self._sums),
            "generator": get_state(self.generator),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        device = self.dag.device
        self._pending = [(x.to(device), y.to(device), z.to(device)) for x, y, z in state["pending"]]
        self.recent.load_state_dict(state["recent"])
        self.best.load_state_dict(state["best"])
        self.unique, self.modes_found = state["unique"], state["modes_found"]
        self.test_set, self.evaluations = state["test_set"], state["evaluations"]
        if self.molecules:
            self.molecules.load_state_dict(state["molecules"])
        self._sums = dict(state["sums"])
        set_state(self.generator, state["generator"])


def spread(n: int, count: int) -> Tensor:
    """Return `count` increasing indices evenly spread over `0 .. n - 1`, or all of them where `count` is 0 or too many.

    One in each of `count` stretches, at a place that moves on from one to the next: a constant stride could fall in
    with a period of the list, and take every mode with no flip at all, for example.
    """
    if not 0 < count < n:
        return torch.arange(n)
    i = torch.arange(count)
    return i * n // count + i % (n // count)


def _no_sums() -> dict[str, float]:
    return {"reward": 0.0, "log_reward": 0.0, "length": 0.0, "count": 0}


def enumerate_within(dag: DAG, max_edges: int) -> Enumeration | None:
    """Enumerate `dag` unless `max_edges` is 0 or too few; see `enumerate_dag`."""
    try:
        return enumerate_dag(dag, max_edges) if max_edges > 0 else None
    except TooLargeError:
        return None
