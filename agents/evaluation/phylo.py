"""Metrics of runs that build phylogenetic trees: the fewest mutations, and how many trees come near them.

Source: counts of trees near the most parsimonious one, Zhou et al. 2024 (arXiv 2310.08774).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from matplotlib.figure import Figure

from agents.evaluation.collectors import BestStates
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Drawer, Metric, Objects, Table
from gfn_envs.abilities import Phylogenies

NEAR = (0, 1, 5, 10)
"""Trees are counted that have at most so many mutations more than the best one seen."""
BEST = "best_trees"
"""Name of the picture of the best tree and of the table of the best ones."""


class PhyloMetrics(Metric):
    """The fewest mutations of a tree so far, and the number of distinct rooted trees near it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        dag = context.dag
        if not isinstance(dag, Phylogenies):
            raise ValueError(f"the metric phylo needs {type(dag).__name__} to have mutations (gfn_envs.abilities).")
        self._mutations, self._to_newick = dag.mutations, dag.to_newick
        self.best = BestStates(dag.state_dim)
        self.near: Counter[int] = Counter()
        """Number of distinct trees by their mutations, as far as they can count."""
        self.sum, self.count = 0.0, 0

    def columns(self) -> dict[str, Column]:
        panel, near = "mutations", "trees near the fewest mutations so far"
        within = {
            f"trees_within_{more}": Column(
                f"trees within {more}",
                "{:,.0f}",
                near,
                f"at most {more} more",
                scale="auto",
                compared=310 + i,
                curve=more == NEAR[-1],
                meaning="of the fewest mutations that the run has seen; rooted trees",
            )
            for i, more in enumerate(NEAR)
        }
        return {
            "fewest_mutations": Column("fewest mutations", "{:.0f}", panel, "fewest so far", compared=300),
            "mean_mutations": Column("mean mutations", "{:.1f}", panel, "latest samples", compared=320, curve=False),
            **within,
        }

    def add(self, objects: Objects) -> None:
        mutations = self._mutations(objects.states).cpu()
        self.best.add(objects.states, -mutations)
        self.sum += float(mutations.double().sum())
        self.count += len(mutations)
        self.near.update(mutations[objects.new.cpu()].int().tolist())
        most = min(self.near, default=0) + NEAR[-1]
        self.near = Counter({each: number for each, number in self.near.items() if each <= most})

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        """Return the figures; the mean is over the objects since the previous call."""
        if not self.near:
            return {}
        fewest = min(self.near)
        result: dict[str, float] = {"fewest_mutations": fewest}
        if self.count:
            result["mean_mutations"] = self.sum / self.count
        for more in NEAR:
            result[f"trees_within_{more}"] = sum(n for each, n in self.near.items() if each <= fewest + more)
        self.sum, self.count = 0.0, 0
        return result

    def pictures(self, gflownet: GFlowNet | None) -> dict[str, Drawer]:
        """Return what draws the best tree so far."""
        return {BEST: self._draw} if len(self.best.states) else {}

    def _draw(self) -> Figure:
        figure = Figure(figsize=(7, 6), layout="constrained")
        dag = self.context.dag
        dag.draw(self.best.states[:1].to(dag.device), figure.subplots())
        return figure

    def tables(self, gflownet: GFlowNet | None, seed: int) -> dict[str, Callable[[], Table]]:
        """Return what lists the best trees so far in Newick's format, with their mutations."""
        return {BEST: self._table}

    def _table(self) -> Table:
        texts = self._to_newick(self.best.states.to(self.context.dag.device))
        mutations = (f"{-value:.0f}" for value in self.best.log_reward.tolist())
        return [("newick", "mutations"), *zip(texts, mutations, strict=True)]

    def state_dict(self) -> dict:
        return {"best": self.best.state_dict(), "near": dict(self.near), "sum": self.sum, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.best.load_state_dict(state["best"])
        self.near, self.sum, self.count = Counter(state["near"]), state["sum"], state["count"]
