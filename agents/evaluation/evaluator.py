"""The metrics of a run: they see what it samples, and measure its policy from time to time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from agents import distributed
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Drawer, Metric, Objects, SideBySide, Table
from agents.evaluation.settings import EvaluationSettings
from agents.registry import METRICS, bare
from agents.sampling.random_state import get_state, make_generator, set_state
from agents.sampling.rollout import Trajectories
from gfn_envs.dag import DAG, LogRewards
from gfn_envs.exact import Enumeration, StateKeys, TooLargeError, enumerate_dag, first_of

STANDARD = ("exact", "samples", "bounds", "slack")
"""The metrics that every run has."""


class Evaluator:
    """Hands what a run samples to its metrics, and collects their figures; it knows none of them by name.

    It has a random generator of its own, so that measuring does not change the training.

    Args:
        dag: the environment. It contributes the metrics in `dag.metrics`.
        settings: what is measured.
        metrics: names of more metrics, as `agents.register_metric` knows them.
        seed: seed of the generator.

    Attributes:
        metrics: the metrics by name, the standard ones first, then the environment's, then the others.
        left_out: the environment's metrics that need a package which is not installed, by name, with the reason.
    """

    def __init__(self, dag: DAG, settings: EvaluationSettings, metrics: Iterable[str] = (), seed: int = 0) -> None:
        self.dag, self.settings = dag, settings
        self.generator = make_generator(dag.device, seed)
        self.enumeration = enumerate_within(dag, settings.max_exact_edges)
        self.metrics: dict[str, Metric] = {}
        self.left_out: dict[str, str] = {}
        context = Context(dag, self.enumeration, settings, self.generator)
        asked = tuple(metrics)
        for name in dict.fromkeys((*STANDARD, *dag.metrics, *asked)):
            try:
                self.metrics[bare(name)] = METRICS.find(name)(context)
            except ModuleNotFoundError as error:
                if name in asked:
                    raise
                self.left_out[bare(name)] = str(error)
        self._keys = StateKeys(dag)
        self._seen = torch.empty(0, dtype=torch.int64)
        self._pending: list[tuple[Tensor, ...]] = []

    def add(self, trajectories: Trajectories) -> None:
        """Take note of a batch of training trajectories; nothing is read from the device yet."""
        rewards = LogRewards(trajectories.log_reward, trajectories.log_raw_reward)
        self.add_objects(trajectories.terminal_states, rewards, trajectories.lengths)

    def add_objects(self, states: Tensor, rewards: LogRewards, lengths: Tensor) -> None:
        """Take note of terminal `states [B, d]`, their `rewards` and the steps that they took, `lengths [B]`."""
        self._pending.append((states, *rewards, lengths))

    def flush(self) -> None:
        """Show the metrics what was added since the last time, in all processes."""
        if not self._pending:
            return
        states, log_reward, log_raw_reward, lengths = (
            distributed.gathered(torch.cat(part)) for part in zip(*self._pending, strict=True)
        )
        self._pending.clear()
        states = self.dag.canonical(states)
        new = self._first_seen(self._keys(states).cpu())
        objects = Objects(states, log_reward, log_raw_reward, lengths, new)
        for metric in self.metrics.values():
            metric.add(objects)

    def _first_seen(self, keys: Tensor) -> Tensor:
        """Return the place of each key's first occurrence in `keys [B]` that was never seen before, and remember it."""
        distinct, _, first = first_of(keys)
        new = ~torch.isin(distinct, self._seen)
        self._seen = torch.cat([self._seen, distinct[new]]).sort().values
        return first[new].sort().values.to(self.dag.device)

    def evaluate(self, gflownet: GFlowNet | None, last: bool = False) -> dict[str, float]:
        """Return the figures of all metrics by name; several processes share the work.

        Args:
            gflownet: the policy to measure; None where nothing but its samples can be looked at.
            last: whether this is the last evaluation of the run.
        """
        self.flush()
        figures: dict[str, float] = {}
        with distributed.together():
            for metric in self.metrics.values():
                figures |= metric.compute(gflownet, last)
        return figures

    def columns(self) -> dict[str, Column]:
        """Return how each figure is shown, by name."""
        shown: dict[str, Column] = {}
        for metric in self.metrics.values():
            shown |= metric.columns()
        return shown

    def pictures(self, gflownet: GFlowNet | None) -> dict[str, Drawer]:
        """Return what draws the metrics' pictures, by name."""
        drawers: dict[str, Drawer] = {}
        for metric in self.metrics.values():
            drawers |= metric.pictures(gflownet)
        return drawers

    def tables(self, gflownet: GFlowNet | None, seed: int) -> dict[str, Callable[[], Table]]:
        """Return what makes the metrics' tables, by name; `seed` is the run's."""
        makers: dict[str, Callable[[], Table]] = {}
        for metric in self.metrics.values():
            makers |= metric.tables(gflownet, seed)
        return makers

    def side_by_side(self) -> list[SideBySide]:
        """Return the pictures that the metrics want of runs side by side."""
        wanted = [metric.side_by_side() for metric in self.metrics.values()]
        return [each for each in wanted if each is not None]

    def state_dict(self) -> dict:
        """Return everything collected; what is not counted yet stays so, as sums depend on how they are split."""
        pending = [[torch.cat(part) for part in zip(*self._pending, strict=True)]] if self._pending else []
        return {
            "pending": pending,
            "seen": self._seen,
            "metrics": {name: metric.state_dict() for name, metric in self.metrics.items()},
            "generator": get_state(self.generator),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned; `KeyError` for a metric that it lacks."""
        self._pending = [tuple(part.to(self.dag.device) for part in batch) for batch in state["pending"]]
        self._seen = state["seen"]
        for name, metric in self.metrics.items():
            metric.load_state_dict(state["metrics"][name])
        set_state(self.generator, state["generator"])


def enumerate_within(dag: DAG, max_edges: int) -> Enumeration | None:
    """Enumerate `dag` unless `max_edges` is 0 or too few; see `enumerate_dag`."""
    try:
        return enumerate_dag(dag, max_edges) if max_edges > 0 else None
    except TooLargeError:
        return None
