"""What samples of Bayesian networks say of edges, paths and Markov blankets, against the exact posterior and the truth.

Source: Deleu et al. 2022 (arXiv 2202.13903), section 5 (expected structural Hamming distance, area under the ROC curve,
correlation of the marginals of edges, paths and Markov blankets).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Drawer, Metric, Objects, Table
from agents.sampling.rollout import rollout
from gfn_envs.dag import DAG
from gfn_envs.envs.bayesnet.dag import BayesNet
from gfn_envs.envs.bayesnet.drawing import draw_network
from gfn_envs.metrics import pearson

SAMPLES = 1000
"""Graphs of the policy that are looked at, or the latest ones of a run without a policy."""
REFERENCE = 10_000
"""Exact samples that stand for the posterior where graphs cannot be enumerated."""
EDGES = "edge_probabilities"
"""Name of the picture and of the table of edges."""


class Marginals(NamedTuple):
    """Probabilities of what a graph says of pairs of nodes, each float64 `[d, d]`; the diagonals say nothing."""

    edges: Tensor
    """Of an edge i -> j."""
    paths: Tensor
    """Of a path from i to j."""
    blankets: Tensor
    """Of i in the Markov blanket of j: a parent, a child, or another parent of a child."""

    @classmethod
    def of(cls, graphs: Tensor, weights: Tensor | None = None) -> Marginals:
        """Return those of `graphs [G, d, d]`, which count alike unless `weights [G]` are given, which sum to 1."""
        graphs = graphs.double()
        weights = torch.full((len(graphs),), 1 / len(graphs), dtype=torch.float64) if weights is None else weights
        paths = graphs
        for via in range(graphs.shape[1]):
            paths = torch.maximum(paths, paths[:, :, via, None] * paths[:, None, via])
        blankets = (graphs + graphs.transpose(1, 2) + graphs @ graphs.transpose(1, 2) > 0).double()
        return cls(*(torch.einsum("g,gij->ij", weights, each) for each in (graphs, paths, blankets)))


def hamming_distances(graphs: Tensor, true_graph: Tensor) -> Tensor:
    """Return the number of pairs of nodes that each of `graphs [G, d, d]` joins otherwise than the true one, `[G]`.

    An edge turned round counts once.
    """
    differ = graphs != true_graph
    return (differ | differ.transpose(1, 2)).sum((1, 2)) / 2


def area_under_roc(probabilities: Tensor, true_graph: Tensor) -> float:
    """Return the chance that a true edge has a higher probability than a pair without one, where ties count half.

    The diagonals of `probabilities` and `true_graph`, both `[d, d]`, do not count. NaN where all pairs are alike.
    """
    p, true = off_diagonal(probabilities), off_diagonal(true_graph) == 1
    if true.all() or not true.any():
        return float("nan")
    return float(stats.mannwhitneyu(p[true], p[~true]).statistic / (true.sum() * (~true).sum()))


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the entries of `matrix [d, d]` that are not on its diagonal, `[d (d - 1)]`."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


class BayesNetMetrics(Metric):
    """Means over graphs of the policy: edges, distance from the true network, marginals compared with exact ones."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.dag = _bayes_net(context.dag)
        true_graph = self.dag.true_graph
        self.true_graph = true_graph if true_graph is not None and true_graph.any() else None
        self.latest = torch.zeros(0, self.dag.state_dim, dtype=torch.int64)

    def columns(self) -> dict[str, Column]:
        correlation, distance = "correlation of marginals with the exact ones", "distance from the true network"
        edges, roc = "edges a graph", "area under the ROC curve, edges against the true network"
        shown = {
            "expected_edges": Column("edges", "{:.2f}", edges, "samples"),
            "expected_edges_target": Column("edges, exact", "{:.2f}", edges, "posterior", dashed=True, in_table=False),
        }
        if self.true_graph is not None:
            shown |= {
                "expected_shd": Column(
                    "E-SHD", "{:.2f}", distance, "samples", compared=320, meaning="mean structural Hamming distance"
                ),
                "expected_shd_target": Column(
                    "E-SHD, exact", "{:.2f}", distance, "posterior", dashed=True, in_table=False
                ),
                "edge_auc": Column("AUC", "{:.3f}", roc, "samples", compared=330, curve=False, meaning=roc),
                "edge_auc_target": Column("AUC, exact", "{:.3f}", roc, "posterior", dashed=True, in_table=False),
            }
        about = "Pearson correlation of the probabilities of edges with the exact ones"
        return shown | {
            "edge_correlation": Column(
                "edge corr.", "{:.3f}", correlation, "edges", reference=1.0, compared=310, meaning=about
            ),
            "path_correlation": Column("path corr.", "{:.3f}", correlation, "paths", in_table=False),
            "blanket_correlation": Column("blanket corr.", "{:.3f}", correlation, "Markov blankets", in_table=False),
        }

    def add(self, objects: Objects) -> None:
        self.latest = torch.cat([self.latest, objects.states[-SAMPLES:].cpu()])[-SAMPLES:]

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        graphs = self._graphs(gflownet)
        if len(graphs) == 0:
            return {}
        found = Marginals.of(graphs)
        result = self._figures(graphs, found, None)
        if self.exact is None:
            return result
        graphs, weights, exact = self.exact
        names = zip(("edge", "path", "blanket"), found, exact, strict=True)
        result |= {f"{name}_correlation": pearson(off_diagonal(p), off_diagonal(q)) for name, p, q in names}
        return result | {f"{name}_target": value for name, value in self._figures(graphs, exact, weights).items()}

    def _graphs(self, gflownet: GFlowNet | None) -> Tensor:
        """Return graphs of the policy, or without one the latest of the run, int64 `[G, d, d]` on the CPU."""
        if gflownet is None:
            return self.dag.adjacency(self.latest)
        start, generator = self.dag.reset(SAMPLES), self.context.generator
        return self.dag.adjacency(rollout(self.dag, gflownet.policy(), start, generator).terminal_states).cpu()

    def _figures(self, graphs: Tensor, marginals: Marginals, weights: Tensor | None) -> dict[str, float]:
        """Return what `graphs [G, d, d]` say on their own and against the true one; `weights [G]` as in `Marginals`."""
        result = {"expected_edges": float(off_diagonal(marginals.edges).sum())}
        if self.true_graph is not None:
            distances = hamming_distances(graphs, self.true_graph).double()
            result["expected_shd"] = float(distances.mean() if weights is None else (weights * distances).sum())
            result["edge_auc"] = area_under_roc(marginals.edges, self.true_graph)
        return result

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor | None, Marginals] | None:
        """Graphs that stand for the posterior, their weights, and its marginals; None where it is not known.

        All graphs, where they are enumerated; otherwise exact samples, beside the exact probabilities of edges.
        """
        enumeration = self.context.enumeration
        if enumeration:
            graphs = self.dag.adjacency(enumeration.states[enumeration.terminal]).cpu()
            weights = enumeration.target.cpu()
            return graphs, weights, Marginals.of(graphs, weights)
        states = self.dag.sample_target(REFERENCE, torch.Generator(self.dag.device).manual_seed(0))
        if states is None or self.dag.posterior is None:
            return None
        graphs = self.dag.adjacency(states).cpu()
        return graphs, None, Marginals.of(graphs)._replace(edges=self.dag.posterior.edges)

    def pictures(self, gflownet: GFlowNet | None) -> dict[str, Drawer]:
        """Return what draws the probabilities of edges, beside the exact ones where they are known."""
        graphs = self._graphs(gflownet)
        return {EDGES: lambda: self._picture(Marginals.of(graphs).edges)} if len(graphs) else {}

    def _picture(self, edges: Tensor) -> Figure:
        shown = {"samples": edges} | ({"exact": self.exact[2].edges} if self.exact else {})
        figure = Figure(figsize=(5 * len(shown), 5), layout="constrained")
        for axes, (title, values) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            draw_network(axes, self.dag.names, values, self.dag.true_graph)
            axes.set_title(title)
        if self.true_graph is not None:
            figure.suptitle("probability of edges; red: not in the true network; dashed: only there", fontsize=9)
        return figure

    def tables(self, gflownet: GFlowNet | None, seed: int) -> dict[str, Callable[[], Table]]:
        """Return what lists the edges, the most probable first."""
        graphs = self._graphs(gflownet)
        exact = self.exact[2].edges if self.exact else None
        return {EDGES: lambda: edge_table(self.dag, graphs, exact)} if len(graphs) else {}

    @classmethod
    def of_objects(cls, dag: DAG, states: Tensor) -> Table:
        """Return the probabilities of edges in terminal `states [N, d]`, beside the exact ones where they are known."""
        dag = _bayes_net(dag)
        return edge_table(dag, dag.adjacency(states).cpu(), dag.posterior.edges if dag.posterior else None)

    def state_dict(self) -> dict:
        return {"latest": self.latest.clone()}

    def load_state_dict(self, state: dict) -> None:
        self.latest = state["latest"]


def edge_table(dag: BayesNet, graphs: Tensor, exact: Tensor | None) -> Table:
    """Return the edges that some of `graphs [G, d, d]` have, the most frequent first.

    The columns are their ends and their share of the graphs; then, where it is known, the `exact` probability, and
    whether the true network has them (0 or 1).
    """
    share = graphs.double().mean(0)
    columns = {"probability": share, "exact": exact, "true": dag.true_graph}
    known = {name: values for name, values in columns.items() if values is not None}
    order = share.flatten().argsort(descending=True, stable=True).tolist()
    pairs = [(k // dag.d, k % dag.d) for k in order if float(share.flatten()[k]) > 0]
    rows = [
        [dag.names[i], dag.names[j], *(f"{float(values[i, j]):.4g}" for values in known.values())] for i, j in pairs
    ]
    return [["from", "to", *known], *rows]


def _bayes_net(dag: DAG) -> BayesNet:
    """Return `dag` if it is a Bayesian network, or raise `ValueError`."""
    if not isinstance(dag, BayesNet):
        raise ValueError(f"the metric bayesnet is for gfn_envs.BayesNet, got {type(dag).__name__}.")
    return dag
