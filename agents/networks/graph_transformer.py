"""A graph transformer policy: when slots are renamed, its outputs for slots and pairs of slots move with them.

Source: Ying et al. 2021 (arXiv 2106.05234) for attention biased by the kind of pair and by the length of shortest
paths; Xiong et al. 2020 (arXiv 2002.04745) for layers that normalise first; Gritsaev et al. 2025 (arXiv 2410.15474)
for a graph transformer of 8 layers, 128 units and 2 heads as the policy of the molecule experiments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from agents.networks.base import Heads, Kind, Network
from agents.networks.transformer import AttentionSettings, check_divisible
from agents.sampling.categorical import host_is_free
from agents.settings import Bounds
from gfn_envs.abilities import GraphStates
from gfn_envs.dag import DAG
from gfn_envs.views import GraphView

_PADDING_TOKENS = 32
"""On the CPU, rows of different sizes share a pass if this adds at most so many padding tokens.

Computing these costs about as much as one more pass.
"""

_PASS_TOKENS = 768
"""On the CPU, a pass is cut to about this many tokens, so that the results of a layer stay in the fast caches."""


@dataclass(frozen=True)
class GraphPass:
    """The torso's output for some graphs of up to `n` nodes."""

    tokens: Tensor
    """`[b, 1 + n, width]`: the summary token, then one token per slot; arbitrary in empty slots."""
    codes: Tensor
    """int64 `[b, n, n]`: the kind of each pair of slots, see `PairKinds`."""
    filled: Tensor
    """bool `[b, n]`: whether the slot holds a node."""


@dataclass(frozen=True)
class GraphFeatures:
    """The torso's output for a batch of graphs, in passes over rows of similar size."""

    passes: list[GraphPass]
    place: Tensor
    """int64 `[B]`: the place of each row among the rows of all passes."""

    def gather(self, outputs: list[Tensor]) -> Tensor:
        """Return the `outputs` of all passes as `[B, ...]`, in the order of the batch."""
        return torch.cat(outputs)[self.place]


class PairKinds:
    """The kind of a pair of slots, as one number that describes how the graph relates the two slots.

    The number encodes the length of the shortest path, the number of common neighbours (2 or more count as 2), the pair
    value (i, j), and, if pairs are ordered, (j, i). Two graphs have six nodes with three neighbours each: distances
    alone cannot tell them apart, but distances and triangles can.

    Pairs of filled slots have the kinds 0 .. `count - 1`. All pairs with an empty slot have the kind `count`.
    """

    def __init__(self, view: GraphView) -> None:
        self.far, self.values, self.ordered = view.slots, view.pair_values, view.ordered
        self.radices = (view.slots + 1, 3, *(view.pair_values,) * (1 + view.ordered))
        self.count = math.prod(self.radices)

    def codes(self, pairs: Tensor, filled: Tensor) -> Tensor:
        """Return the kind `[B, N, N]` of each pair, given `pairs [B, N, N]` and `filled [B, N]`."""
        both = filled.unsqueeze(2) & filled.unsqueeze(1)
        pairs = pairs * both
        joined = (pairs != 0) | (pairs != 0).transpose(1, 2)
        links = joined.to(torch.float32)
        common = (links @ links).clamp_(max=2).long()
        codes = (self._distances(joined).long() * 3 + common) * self.values + pairs
        if self.ordered:
            codes = codes * self.values + pairs.transpose(1, 2)
        return torch.where(both, codes, self.count)

    def _distances(self, joined: Tensor) -> Tensor:
        """Return the lengths of shortest paths along joined pairs, uint8 `[B, N, N]`; `far` if there is no path."""
        lengths = torch.where(joined, 1, self.far).to(torch.uint8)
        lengths.diagonal(dim1=1, dim2=2).zero_()
        for via in range(joined.shape[1]):
            lengths = torch.minimum(lengths, lengths[:, :, via, None] + lengths[:, None, via])
        return lengths


class PairTable(nn.Module):
    """`size` learned numbers for each kind of pair: the sum of one part for each property that the kind encodes."""

    def __init__(self, kinds: PairKinds, size: int, spread: float) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(torch.randn(values, size) * spread) for values in kinds.radices)

    def forward(self) -> Tensor:
        """Return the table, `[kinds.count, size]`."""
        table, *parts = self.parts
        for part in parts:
            table = (table.unsqueeze(1) + part).flatten(0, 1)
        return table


class _Attention(Function):
    """`(softmax(q k^T / sqrt(d) + bias) + extra) v` for all heads, for graphs of a few tokens.

    For such graphs the rows have fewer than ten numbers, and torch's own softmax and attention then take ten times as
    long as the arithmetic itself.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, bias: Tensor, extra: Tensor) -> Tensor:  # type: ignore[override]
        """Map `qkv [B, T, 3 * width]`, `bias` and `extra [heads, B, T, T]` to `[B, T, width]`."""
        heads, batch = bias.shape[:2]
        ctx.shape = bias.shape
        parts = (
            qkv.unflatten(2, (3, heads, qkv.shape[2] // (3 * heads))).permute(2, 3, 0, 1, 4).flatten(1, 2).contiguous()
        )
        q, k, v = parts
        scores = torch.baddbmm(bias.flatten(0, 1), q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
        weights = scores.sub_(scores.amax(2, keepdim=True)).exp_()
        weights /= _row_sums(weights)
        mixed = weights + extra.flatten(0, 1)
        ctx.save_for_backward(parts, weights, mixed)
        return torch.bmm(mixed, v).unflatten(0, (heads, batch)).permute(1, 2, 0, 3).flatten(2)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        parts, weights, mixed = ctx.saved_tensors
        (q, k, v), heads, scale = parts, ctx.shape[0], parts.shape[3] ** -0.5
        gradient = gradient.unflatten(2, (heads, parts.shape[3])).permute(2, 0, 1, 3).flatten(0, 1)
        of_mixed = torch.bmm(gradient, v.transpose(1, 2))
        of_scores = weights * of_mixed
        of_scores -= weights * _row_sums(of_scores)
        of_parts = torch.empty_like(parts)
        scaled = of_scores * scale
        torch.bmm(scaled, k, out=of_parts[0])
        torch.bmm(scaled.transpose(1, 2), q, out=of_parts[1])
        torch.bmm(mixed.transpose(1, 2), gradient, out=of_parts[2])
        of_qkv = of_parts.unflatten(1, ctx.shape[:2]).permute(2, 3, 0, 1, 4).flatten(2)
        return of_qkv, of_scores.view(ctx.shape), of_mixed.view(ctx.shape)


def _row_sums(x: Tensor) -> Tensor:
    """Return the sums of the short rows of `x [M, T, T]`, each repeated along its row, by one product with ones."""
    return (x.flatten(0, 1) @ x.new_ones(x.shape[2], x.shape[2])).view_as(x)


def _weight(inputs: int, outputs: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(inputs, outputs) * (scale / math.sqrt(inputs)))


class GraphLayer(nn.Module):
    """Attention, then a feed-forward part of `4 * width` GELU units.

    Each part normalises its input first and adds its output to the input. The linear maps have no biases of their own,
    because the biases of the norms before them do the same.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        small = 1 / math.sqrt(2 * layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = _weight(width, 3 * width), _weight(width, width, small)
        self.up, self.down = _weight(width, 4 * width), _weight(4 * width, width, small)

    def forward(self, x: Tensor, bias: Tensor, extra: Tensor) -> Tensor:
        """Return the next `x [B * T, width]`, given `bias` and `extra [heads, B, T, T]`."""
        first, second = self.norms
        mixed = _Attention.apply((first(x) @ self.qkv).unflatten(0, bias.shape[1:3]), bias, extra)
        x = torch.addmm(x, mixed.flatten(0, 1), self.out)  # type: ignore[union-attr]
        return torch.addmm(x, functional.gelu(second(x) @ self.up), self.down)


class GraphTorso(nn.Module):
    """`states [B, d] -> GraphFeatures`: a node starts as the sum of the embeddings of its features and its pairs.

    Every layer mixes the tokens with `softmax(q k^T / sqrt(d) + bias) + extra`. Each head learns a `bias` and an
    `extra` for each kind of pair: `bias` weighs neighbours, and `extra` counts them.

    Args:
        graph: the DAG's method `states [B, d] -> nodes, pairs, whole`.
    """

    starts: Tensor
    padding: Tensor

    def __init__(
        self,
        view: GraphView,
        graph: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
        width: int,
        layers: int,
        attention_heads: int,
    ) -> None:
        super().__init__()
        # Wrapped in a function, so that a copy of the network does not copy the DAG.
        self.graph = lambda states: graph(states)
        self.kinds = PairKinds(view)
        values = (*view.node_values, *view.whole_values)
        self.register_buffer("starts", torch.tensor([0, *values]).cumsum(0)[:-1], persistent=False)
        self.embedding = nn.Parameter(torch.randn(sum(values), width))
        self.around = PairTable(self.kinds, width, 1 / math.sqrt(view.slots))
        self.summary = nn.Parameter(torch.randn(width))
        self.shape = (layers, 2, attention_heads)
        self.biases = PairTable(self.kinds, math.prod(self.shape), 0.1)
        self.summary_biases = nn.Parameter(torch.randn(3, math.prod(self.shape)) * 0.1)
        padding = torch.tensor([-math.inf, 0.0]).view(1, 1, 2, 1).expand(1, *self.shape).flatten(1)
        self.register_buffer("padding", padding, persistent=False)
        self.layers = nn.ModuleList(GraphLayer(width, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor) -> GraphFeatures:
        nodes, pairs, whole = self.graph(states)
        order, cuts = _plan(nodes)
        nodes, pairs, whole = nodes[order], pairs[order], whole[order]
        filled = nodes[:, :, 0] != 0
        codes = self.kinds.codes(pairs, filled)
        embedding, biases = self._tables()
        bags = torch.cat([nodes + self.starts[: nodes.shape[2]], codes + len(self.embedding)], 2)
        whole_bags = whole + self.starts[nodes.shape[2] :]
        summary = self.summary + functional.embedding_bag(whole_bags, embedding, mode="sum")
        attention_codes = self._with_summary(codes, filled)
        passes = []
        for start, stop, n in cuts:
            rows = slice(start, stop)
            bag = bags[rows, :n, : nodes.shape[2] + n].flatten(0, 1)
            of_nodes = functional.embedding_bag(bag, embedding, mode="sum").view(stop - start, n, summary.shape[1])
            tokens = torch.cat([summary[rows].unsqueeze(1), of_nodes], 1)
            tokens = self._encode(tokens, functional.embedding(attention_codes[rows, : 1 + n, : 1 + n], biases))
            passes.append(GraphPass(tokens, codes[rows, :n, :n], filled[rows, :n]))
        return GraphFeatures(passes, order.argsort())

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Return the table of embeddings and the table of attention biases.

        The first holds rows for features, then for kinds of pairs. The second holds rows for kinds of pairs, then for
        pairs with the summary. In both, the padding has a row: it adds nothing to a node, and it blocks attention.
        """
        around, biases = self.around(), self.biases()
        embedding = torch.cat([self.embedding, around, torch.zeros_like(around[:1])])
        return embedding, torch.cat([biases, self.padding, self.summary_biases])

    def _with_summary(self, codes: Tensor, filled: Tensor) -> Tensor:
        """Return the kinds of pairs `[B, 1 + N, 1 + N]` of summary and slots: the query's axis, then the key's."""
        at_nodes, at_summary, at_itself = range(self.kinds.count + 1, self.kinds.count + 4)
        top = torch.where(filled, at_nodes, self.kinds.count).unsqueeze(1)
        left = functional.pad(torch.full_like(top, at_summary), (1, 0), value=at_itself)
        return torch.cat([left.transpose(1, 2), torch.cat([top, codes], 1)], 2)

    def _encode(self, tokens: Tensor, biases: Tensor) -> Tensor:
        """Run `tokens [b, 1 + n, width]` through the layers, given `biases [b, 1 + n, 1 + n, layers * 2 * heads]`."""
        by_layer = biases.permute(3, 0, 1, 2).contiguous().unflatten(0, self.shape).flatten(0, 1).unbind(0)
        x = tokens.flatten(0, 1)
        for layer, bias, extra in zip(self.layers, by_layer[::2], by_layer[1::2], strict=True):
            x = layer(x, bias, extra)
        return self.norm(x).view_as(tokens)


def _plan(nodes: Tensor) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Return an order `[B]` of the rows of `nodes [B, N, K]`, and passes `(start, stop, n)` over the ordered rows.

    On the CPU a pass holds graphs of about `n` nodes, so that little padding is computed. On other devices there is one
    pass over all slots, because reading the sizes would make the host wait for the device.
    """
    batch, slots, _ = nodes.shape
    if not host_is_free(nodes.device):
        return torch.arange(batch, device=nodes.device), [(0, batch, slots)]
    sizes = (nodes[:, :, 0] != 0).sum(1)
    cuts = []
    for start, stop, n in _merged(sizes.bincount().tolist()):
        pieces = max(1, math.ceil((stop - start) / max(1, _PASS_TOKENS // (1 + n))))
        edges = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
        cuts += [(a, b, n) for a, b in itertools.pairwise(edges)]
    return sizes.argsort(), cuts


def _merged(counts: list[int]) -> list[tuple[int, int, int]]:
    """Return ranges `(start, stop, n)` of rows sorted by size, padded to `n`; `counts[n]` rows have size n."""
    ranges: list[tuple[int, int, int]] = []
    start = stop = size = padding = 0
    for n, count in enumerate(counts):
        if count == 0:
            continue
        padding += (stop - start) * (n - size)
        if padding > _PADDING_TOKENS:
            ranges.append((start, stop, size))
            start, padding = stop, 0
        stop, size = stop + count, n
    return [*ranges, (start, stop, size)]


def _pair_places(view: GraphView) -> Tensor:
    """Return the place of each pair in a flat matrix of n slots, int64 `[slots + 1, pairs]`, one row for each n.

    The place is `n * n` for a pair that the matrix does not hold.
    """
    slots = torch.arange(view.slots)
    first, second = (
        torch.cartesian_prod(slots, slots).T if view.ordered else torch.triu_indices(len(slots), len(slots), 1)
    )
    n = torch.arange(view.slots + 1).unsqueeze(1)
    return torch.where((first < n) & (second < n), first * n + second, n * n)


class ActionLogits(nn.Module):
    """Logits `[B, slots * node_actions + pairs * pair_actions + 1]` in the order of `GraphView`; 0 at empty slots.

    The logits of a node come from its token, and the last logit comes from the summary. The logits of a pair are
    `sum_r scale_r u_ir v_jr`, plus a number from each end, plus a number for the kind of the pair. If pairs are not
    ordered, both ends are read in the same way.

    Args:
        begins: whether slot 0 of the empty graph has logits too. They come from the summary and add the first node.
    """

    index: Tensor

    def __init__(self, view: GraphView, width: int, node_actions: int, pair_actions: int, begins: bool) -> None:
        super().__init__()
        kinds, rank = PairKinds(view), max(1, width // 4)
        self.ends, self.pair_actions, self.rank = 1 + view.ordered, pair_actions, rank
        self.node = nn.Linear(width, node_actions) if node_actions else None
        self.stop = nn.Linear(width, 1)
        self.first = nn.Linear(width, node_actions) if begins and node_actions else None
        self.factors = nn.Linear(width, self.ends * pair_actions * rank)
        self.offsets = nn.Linear(width, self.ends * pair_actions)
        self.scale = nn.Parameter(torch.full((pair_actions, 1, rank), rank**-0.5))
        self.of_kind = PairTable(kinds, pair_actions, 0.1)
        self.register_buffer("index", _pair_places(view), persistent=False)

    def zero(self) -> None:
        """Make all logits 0 until something is learned."""
        with torch.no_grad():
            for module in filter(None, (self.node, self.stop, self.first, self.offsets, self.of_kind)):
                for parameter in module.parameters():
                    parameter.zero_()
            self.scale.zero_()

    def forward(self, features: GraphFeatures) -> Tensor:
        of_kind = torch.cat([self.of_kind(), self.scale.new_zeros(1, self.pair_actions)])
        return features.gather([self._of_pass(part, of_kind) for part in features.passes])

    def _of_pass(self, part: GraphPass, of_kind: Tensor) -> Tensor:
        """Return the logits of one pass, `[b, all actions]`."""
        nodes = part.tokens[:, 1:]
        of_nodes = self.node(nodes) if self.node else nodes[:, :, :0]
        of_nodes = torch.where(part.filled.unsqueeze(2), of_nodes, 0.0)
        of_nodes = functional.pad(of_nodes, (0, 0, 0, len(self.index) - 1 - nodes.shape[1]))
        of_pairs = self._of_pairs(nodes) + functional.embedding(part.codes, of_kind).permute(0, 3, 1, 2)
        of_pairs = torch.where((part.codes < len(of_kind) - 1).unsqueeze(1), of_pairs, 0.0)
        # The last column is for all pairs with a slot that this pass does not hold.
        of_pairs = functional.pad(of_pairs.flatten(2), (0, 1))[:, :, self.index[nodes.shape[1]]].transpose(1, 2)
        summary, slot_0 = part.tokens[:, 0], of_nodes[:, 0]
        if self.first:
            slot_0 = torch.where(part.filled.any(1, keepdim=True), slot_0, self.first(summary))
        return torch.cat([slot_0, of_nodes[:, 1:].flatten(1), of_pairs.flatten(1), self.stop(summary)], 1)

    def _of_pairs(self, nodes: Tensor) -> Tensor:
        """Return the part of the pair logits that comes from `nodes [b, n, width]`, `[b, pair_actions, n, n]`."""
        # factors: [ends, b, pair_actions, n, rank]; offsets: [ends, b, pair_actions, n].
        ends = (*nodes.shape[:2], self.ends, self.pair_actions)
        factors = self.factors(nodes).view(*ends, self.rank).permute(2, 0, 3, 1, 4)
        offsets = self.offsets(nodes).view(ends).permute(2, 0, 3, 1)
        products = (factors[0] * self.scale) @ factors[-1].transpose(2, 3)
        return products + offsets[0].unsqueeze(3) + offsets[-1].unsqueeze(2)


class SummaryNumber(nn.Module):
    """One number per graph from the summary token, `[B, 1]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, features: GraphFeatures) -> Tensor:
        return self.linear(features.gather([part.tokens[:, 0] for part in features.passes]))


class GraphTransformer(Network):
    """A network over the graphs of `dag.graph_view()`, with `layers` layers of `width` units, `4 * width` inside.

    If the slots of a state are renamed, its logits move with them, and no other output changes.
    """

    def __init__(
        self,
        dag: DAG,
        heads: Heads,
        width: int = 64,
        layers: int = 3,
        attention_heads: int = 4,
        shared_torso: bool = True,
        seed: int = 0,
    ) -> None:
        check_divisible(width, attention_heads)
        assert isinstance(dag, GraphStates)
        view, graph = dag.graph_view(), dag.graph

        def head(kind: Kind) -> nn.Module:
            if kind == "forward":
                return ActionLogits(view, width, view.node_actions, view.pair_actions, begins=True)
            if kind == "backward":
                return ActionLogits(view, width, view.backward_node_actions, view.backward_pair_actions, begins=False)
            return SummaryNumber(width)

        super().__init__(
            heads, lambda: GraphTorso(view, graph, width, layers, attention_heads), head, shared_torso, seed
        )


@dataclass(frozen=True)
class GraphTransformerSettings(AttentionSettings):
    """A transformer over a state's graph, for environments that offer `graph_view()` and `graph()`."""

    attention_heads: Annotated[int, Bounds(1, 10**6)] = 4
    """Attention heads per layer."""

    @classmethod
    def fits(cls, dag: type[DAG]) -> str:
        return "" if issubclass(dag, GraphStates) else "graph_view() and graph()"

    def build(self, dag: DAG, heads: Heads, seed: int) -> Network:
        return GraphTransformer(dag, heads, self.width, self.layers, self.attention_heads, self.shared_torso, seed)
