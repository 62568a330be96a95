"""Whether the policy prefers the objects of a test set as their reward does."""

from __future__ import annotations

import time
from functools import cached_property

import torch
from matplotlib.figure import Figure
from torch import Tensor

from agents.evaluation.estimates import flow_consistency, likelihood
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, CostlyMetric, Drawer, Objects
from gfn_envs.abilities import HasSizes, HasTestSet
from gfn_envs.metrics import pearson, spearman

SETS, SET_SIZE = 256, 8
"""The sets of test objects that FCS looks at."""
FEWEST = 10
"""Objects that a correlation within one size needs."""


class CorrelationMetrics(CostlyMetric):
    """The correlation of log P_theta with log R over the environment's test set, and FCS, every so many evaluations.

    Where the law that is sampled is R/|Aut|, log R stands for its log. Where objects have sizes, there is one more
    correlation, over the test objects of the size that most of the latest samples have: how seldom a policy ends early
    is learned from a handful of samples, so that log P - log R may differ by much from size to size.

    Attributes:
        test_set: the objects used, their log R and the log P_theta last estimated, by the names `states`, `log_reward`
            and `log_p`, each `[N, ...]`; empty before the first time.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        dag = context.dag
        if not isinstance(dag, HasTestSet):
            raise ValueError(
                f"the metric correlation needs {type(dag).__name__} to have test_states (gfn_envs.abilities)."
            )
        self._test_states = dag.test_states
        self._sized = dag if isinstance(dag, HasSizes) else None
        self._own_size = 0
        self.test_set: dict[str, Tensor] = {}

    def columns(self) -> dict[str, Column]:
        panel = "correlation of log P and log R on the test set"
        about = "rank correlation of log P and log R on the test set"
        return {
            "pearson": Column("Pearson", "{:.3f}", panel),
            "spearman": Column("Spearman", "{:.3f}", panel, compared=300, meaning=about),
            "spearman_own_size": Column("Spearman, own size", "{:.3f}", panel, in_table=False, dashed=True),
            "pearson_own_size": Column("Pearson, own size", "{:.3f}", panel, in_table=False, dashed=True),
            "log_p_error": Column("standard error of log P", "{:.3f}", in_table=False),
            "fcs": Column("FCS", "{:.3f}", "total variation within small sets of test objects", in_table=False),
            "test_seconds": Column("seconds for the test set", "{:.1f}", in_table=False),
        }

    def add(self, objects: Objects) -> None:
        if self._sized is not None:
            self._own_size = int(self._sized.object_sizes(objects.states).mode().values)

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        """Return the figures in their turn, and whenever it is the last."""
        if gflownet is None or not gflownet.stochastic or not self.due(last):
            return {}
        started = time.perf_counter()
        states, log_reward = self._chosen
        if len(states) == 0:  # none of the fixed set fits a small instance
            return {}
        log_p, error = likelihood(gflownet, states, self.context.settings.test_rollouts, self.context.generator)
        self.test_set = {"states": states.cpu(), "log_reward": log_reward.cpu(), "log_p": log_p.cpu()}
        return {
            "spearman": spearman(log_p, log_reward),
            "pearson": pearson(log_p, log_reward),
            **self._within_size(states, log_p, log_reward),
            **({"log_p_error": float(error.mean())} if self.context.settings.test_rollouts > 1 else {}),
            "fcs": float(flow_consistency(log_p, log_reward, SETS, SET_SIZE, torch.Generator().manual_seed(0))),
            "test_seconds": time.perf_counter() - started,
        }

    def _within_size(self, states: Tensor, log_p: Tensor, log_reward: Tensor) -> dict[str, float]:
        """Return the correlation over the objects of the policy's own size, if there are some."""
        if self._sized is None:
            return {}
        own = self._sized.object_sizes(states) == self._own_size
        if int(own.sum()) < FEWEST:
            return {}
        both = log_p[own], log_reward[own]
        return {"spearman_own_size": spearman(*both), "pearson_own_size": pearson(*both)}

    @cached_property
    def _chosen(self) -> tuple[Tensor, Tensor]:
        """Return the objects of the test set that are used, `[N, d]`, and log R of the law that is sampled, `[N]`."""
        states, dag = self._test_states(), self.context.dag
        states = states[spread(len(states), self.context.settings.test_objects)]
        return states, dag.log_reward(states) - dag.log_symmetry(states)

    def pictures(self, gflownet: GFlowNet | None) -> dict[str, Drawer]:
        if not self.test_set:
            return {}
        drawers: dict[str, Drawer] = {"correlation": lambda: scatter(self.test_set)}
        if (sized := self._sized) is not None:
            states = self.test_set["states"].to(self.context.dag.device)
            drawers["offsets"] = lambda: offsets(self.test_set, sized.object_sizes(states).cpu())
        return drawers

    def state_dict(self) -> dict:
        return {**super().state_dict(), "test_set": self.test_set, "own_size": self._own_size}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.test_set, self._own_size = state["test_set"], state["own_size"]


def spread(n: int, count: int) -> Tensor:
    """Return `count` increasing indices evenly spread over `0 .. n - 1`, or all of them where `count` is 0 or too many.

    There is one in each of `count` stretches, at a place that moves on from one stretch to the next. A constant stride
    could fall in with a period of the list, and take every mode with no flip at all, for example.
    """
    if not 0 < count < n:
        return torch.arange(n)
    i = torch.arange(count)
    return i * n // count + i % (n // count)


def scatter(test_set: dict[str, Tensor]) -> Figure:
    """Draw log R against the estimated log P_theta of the test set's objects."""
    log_reward, log_p = test_set["log_reward"], test_set["log_p"]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(log_reward.numpy(), log_p.numpy(), s=8, alpha=0.5)
    axes.set_xlabel("log R")
    axes.set_ylabel("log P, estimated by backward rollouts")
    correlation = f"Pearson {pearson(log_p, log_reward):.3f}, Spearman {spearman(log_p, log_reward):.3f}"
    axes.set_title(f"{len(log_p)} test objects: {correlation}", fontsize=10)
    axes.grid(alpha=0.3)
    return figure


def offsets(test_set: dict[str, Tensor], sizes: Tensor) -> Figure:
    """Draw log P_theta - log R of the test set's objects by their `sizes [N]`: level where the policy is right."""
    difference = test_set["log_p"] - test_set["log_reward"]
    present = sizes.unique().tolist()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.boxplot([difference[sizes == size].numpy() for size in present], positions=present)
    axes.set_xlabel("parts of the object")
    axes.set_ylabel("log P - log R")
    axes.grid(alpha=0.3)
    return figure
