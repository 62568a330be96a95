"""The loop around a baseline: it completes objects; they are counted, evaluated, checkpointed."""

from __future__ import annotations

import time
from collections.abc import Callable

from tqdm import tqdm

from agents.evaluation.evaluator import Evaluator
from agents.evaluation.gflownet import FixedPolicy
from agents.evaluation.metric import Column, run_columns
from baselines.base import Baseline, Progress
from baselines.config import BaselineConfig
from gfn_envs.dag import LogRewards

FLUSH_EVERY = 1_000
"""Reports of a baseline between two counts of what it completed."""


class Trainer:
    """Runs one baseline on one DAG and measures it as agents are measured.

    `history` holds one dictionary of metrics an evaluation, under the names of `agents.trainer.Trainer`; besides them
    `steps`, environment steps so far, and what the baseline itself has to say.
    """

    def __init__(self, config: BaselineConfig, baseline: Baseline, evaluator: Evaluator) -> None:
        self.config, self.dag, self.baseline, self.evaluator = config, baseline.dag, baseline, evaluator
        self.trajectories = self.steps = self._reports = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    def done(self) -> float:
        """Return the share of the run that is behind, by trajectories or by steps, whichever is further."""
        shares = ((self.trajectories, self.config.trajectories), (self.steps, self.config.steps))
        return min(1.0, max(count / limit for count, limit in shares if limit))

    def train(
        self, on_evaluation: Callable[[dict[str, float]], None], stop: Callable[[], bool], progress: bool = True
    ) -> bool:
        """Run to the end, or until `stop()`; return whether the end was reached.

        `on_evaluation` receives each evaluation's metrics after they entered `history`.
        """
        if self.done() >= 1:
            return True
        in_objects = self.config.trajectories > 0
        total = self.config.trajectories or self.config.steps
        bar = tqdm(total=total, unit="traj" if in_objects else "step", disable=not progress)
        started = time.perf_counter()

        def take(new: Progress) -> bool:
            nonlocal started
            before = self.trajectories
            self._count(new)
            done = self.done()
            self.baseline.schedule(done)
            bar.n = min(total, self.trajectories if in_objects else self.steps)
            bar.update(0)
            every = self.config.eval_every
            if done >= 1 or self.trajectories // every > before // every:
                self.seconds += time.perf_counter() - started
                on_evaluation(self.evaluate())
                started = time.perf_counter()
            return done < 1 and not stop()

        with bar:
            self.baseline.run(take)
        self.seconds += time.perf_counter() - started
        return self.done() >= 1

    def _count(self, new: Progress) -> None:
        if len(new.states):
            self.evaluator.add_objects(new.states, LogRewards(new.log_reward, new.log_raw_reward), new.lengths)
        self.trajectories += len(new.states)
        self.steps += new.steps
        self._reports += 1
        if self._reports % FLUSH_EVERY == 0:
            self.evaluator.flush()

    def evaluate(self) -> dict[str, float]:
        """Measure the baseline, append the metrics to `history` and return them."""
        last = self.history[-1] if self.history else {"seconds": 0.0, "steps": 0}
        seconds = self.seconds - last["seconds"]
        metrics: dict[str, float] = {
            "trajectories": self.trajectories,
            "reward_calls": self.trajectories,
            "steps": self.steps,
            "seconds": self.seconds,
            "steps_per_second": (self.steps - last["steps"]) / seconds if seconds > 0 else 0.0,
            **self.baseline.metrics(),
            **self.evaluator.evaluate(self.gflownet(), last=self.done() >= 1),
        }
        self.history.append(metrics)
        return metrics

    def gflownet(self) -> FixedPolicy | None:
        """Return the baseline's policy beside the uniform P_B; None where it has none to evaluate."""
        return FixedPolicy(self.dag, self.baseline.policy(), self.baseline.stochastic) if self.baseline.exact else None

    def columns(self) -> dict[str, Column]:
        """Return how each figure of `history` is shown, by name: of the baseline's own, those that it declares."""
        hidden = {name: Column(name, in_table=False) for figures in self.history for name in figures}
        return {**hidden, **run_columns(self.evaluator.columns()), **self.baseline.columns()}

    def attachments(self) -> dict[str, bytes]:
        """Return no files: what a baseline learned is in its own format, see `Baseline.save_model`."""
        return {}

    def state_dict(self) -> dict:
        """Return everything that the rest of the run depends on, as tensors, numbers, lists and dictionaries."""
        return {
            "baseline": self.baseline.state_dict(),
            "evaluator": self.evaluator.state_dict(),
            "counts": [self.trajectories, self.steps, self._reports],
            "seconds": self.seconds,
            "history": self.history,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.baseline.load_state_dict(state["baseline"])
        self.evaluator.load_state_dict(state["evaluator"])
        self.trajectories, self.steps, self._reports = state["counts"]
        self.seconds, self.history = state["seconds"], list(state["history"])
