"""The exact distribution over all acyclic graphs of a few nodes, without enumeration: log Z, marginals and samples.

Source: layer by layer, as Kuipers and Moffa 2015 count acyclic graphs and draw them at random (arXiv 1202.6590); with a
weight of each node and its parents instead of 1.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Generator, Tensor

from gfn_envs.envs.bayesnet.scores import parent_sets

MOST_NODES = 12
"""Time and memory grow as 4^d: 12 nodes take some seconds, and 1 GB for the probabilities of edges."""

_NOTHING = -1e100  # the log of no weight: finite, so that sums of it and their gradients are no NaN
_CHUNK = 2048  # samples drawn in one go


class Posterior:
    """The graphs G over `d` nodes without a cycle, each with the weight `exp(sum_j local[j, parents of j in G])`.

    The layers of a graph: first the nodes without parents; then those whose parents all lie in layers before, and at
    least one of them in the layer just before. With U the nodes placed so far and T of them the last layer, a new layer
    L of other nodes multiplies the weight by `prod_{j in L} w_j(U, T)`. Here w_j is the sum of `exp(local[j, P])` over
    the sets P of parents in U that meet T. Hence `f(U + L, L) = sum_T f(U, T) prod_j w_j(U, T)`, and Z is the sum of
    `f(all, T)` over T. Nothing is subtracted, so all is accurate to rounding.

    Args:
        local: float64 `[d, 2^d]`, the log weight of each node with each set of parents; bit `i` of the second index
            tells whether node `i` is in the set. Sets that hold the node itself are never used.
    """

    def __init__(self, local: Tensor) -> None:
        self.local, self.d = local.double().cpu(), len(local)
        if not 1 <= self.d <= MOST_NODES:
            raise ValueError(f"the exact posterior is for 1 to {MOST_NODES} nodes, got {self.d}.")
        sets = parent_sets(self.d)
        self._sets = sets.long()
        # A pair of sets T in U has the code sum_k 3^k (1 if k is in U) + 3^k (1 if k is in T).
        self._codes = (sets * 3 ** torch.arange(self.d)).sum(1)

    @cached_property
    def log_z(self) -> float:
        """The log of the sum of all weights."""
        return float(self._flows[self._codes[-1] + self._codes].logsumexp(0))

    @cached_property
    def _weights(self) -> Tensor:
        """log w_j(U, T) by the code of the pair, float64 `[d, 3^d]`."""
        return _layer_weights(self.local)

    @cached_property
    def _flows(self) -> Tensor:
        """log f(U, T) by the code of the pair, float64 `[3^d]`."""
        return self._sum_layers(self.local[:, 0], self._weights)

    def _sum_layers(self, alone: Tensor, weights: Tensor) -> Tensor:
        """Return log f `[3^d]`, given the log weights `alone [d]` without parents and `weights [d, 3^d]`."""
        flows = alone.new_full((3**self.d,), _NOTHING)
        sizes, everything = self._sets.sum(1), torch.arange(self.d)
        flows = flows.index_copy(0, 2 * self._codes[1:], _sums_over_subsets(alone.unsqueeze(0))[0, 1:])
        for size in range(1, self.d):
            rows = self._sets[sizes == size].bool()
            placed = everything.expand(len(rows), -1)[rows].view(-1, size)
            others = everything.expand(len(rows), -1)[~rows].view(-1, self.d - size)
            start = (3**placed).sum(1, keepdim=True)
            codes = start + _sums_over_subsets(3**placed)  # of (U, T), [sets U, 2^size]
            steps = weights[others.unsqueeze(1), codes.unsqueeze(2)]  # [sets U, sets T, others]
            arriving = (flows[codes].unsqueeze(2) + _sums_over_subsets(steps)).logsumexp(1)
            targets = start + _sums_over_subsets(2 * 3**others)  # of (U + L, L), [sets U, 2^(d - size)]
            flows = flows.index_copy(0, targets[:, 1:].flatten(), arriving[:, 1:].flatten())
        return flows

    @cached_property
    def parents(self) -> Tensor:
        """The probability of each set of parents of each node, float64 `[d, 2^d]`: the gradient of log Z."""
        with torch.enable_grad():
            local = self.local.clone().requires_grad_()
            flows = self._sum_layers(local[:, 0], _layer_weights(local))
            (gradient,) = torch.autograd.grad(flows[self._codes[-1] + self._codes].logsumexp(0), local)
        return gradient

    @cached_property
    def edges(self) -> Tensor:
        """The probability of each edge i -> j, float64 `[d, d]`."""
        return self._sets.double().T @ self.parents.T

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return `n` graphs drawn by `generator`, int64 `[n, d, d]` on the CPU; entry `[i, j]` is 1 for i -> j."""
        uniform = torch.rand(n, 2 * self.d, dtype=torch.float64, generator=generator, device=generator.device).cpu()
        return torch.cat([self._draw(part) for part in uniform.split(_CHUNK)])

    def _draw(self, uniform: Tensor) -> Tensor:
        """Walk back from the last layer by `uniform [n, 2 d]`; return graphs `[n, d, d]`."""
        everything, nodes = 2**self.d, 1 << torch.arange(self.d)
        parents = torch.zeros(len(uniform), self.d, dtype=torch.int64)
        placed = torch.full((len(uniform),), everything - 1)
        ways = self._flows[self._codes[-1] + self._codes].unsqueeze(0)
        layer = _draw_rows(ways, torch.zeros_like(placed), uniform[:, 0])
        for turn in range(1, self.d):
            above = (placed != layer).nonzero().squeeze(1)  # the rest is drawn to the top
            before, next_layer = placed[above] - layer[above], layer[above]
            pairs, row = torch.unique(before * everything + next_layer, return_inverse=True)
            last = _draw_rows(self._log_last(pairs // everything, pairs % everything), row, uniform[above, turn])
            for j in range(self.d):
                here = (next_layer & nodes[j] != 0).nonzero().squeeze(1)
                pairs, row = torch.unique(before[here] * everything + last[here], return_inverse=True)
                ways = self._log_parents(j, pairs // everything, pairs % everything)
                parents[above[here], j] = _draw_rows(ways, row, uniform[above[here], self.d + j])
            placed[above], layer[above] = before, last
        return self._sets[parents].transpose(1, 2)

    def _log_last(self, before: Tensor, layer: Tensor) -> Tensor:
        """Return the log weights `[M, 2^d]` of all sets to be the last layer of `before`, where `layer` comes next."""
        every = torch.arange(2**self.d)
        codes = self._codes[before].unsqueeze(1) + self._codes
        weights = self._flows[codes]
        for j in range(self.d):
            weights = weights + torch.where((layer >> j & 1).bool().unsqueeze(1), self._weights[j][codes], 0.0)
        inside = (every & ~before.unsqueeze(1) == 0) & (every != 0)
        return weights.masked_fill(~inside, _NOTHING)

    def _log_parents(self, j: int, before: Tensor, last: Tensor) -> Tensor:
        """Return the log weights `[M, 2^d]` of all sets of parents of `j` that lie in `before` and meet `last`."""
        every = torch.arange(2**self.d)
        fits = (every & ~before.unsqueeze(1) == 0) & (every & last.unsqueeze(1) != 0)
        return torch.where(fits, self.local[j], _NOTHING)


def _layer_weights(local: Tensor) -> Tensor:
    """Return log w_j(U, T) by the code of the pair, `[d, 3^d]`, from `local [d, 2^d]`.

    Node by node, the last first, a digit of the index turns from "is it a parent" to "is it in U, is it in T". Sums
    over parents outside T, and over those with a parent in T, are kept apart, so that none has to be subtracted.
    """
    outside = local.unsqueeze(1)
    meeting = torch.full_like(outside, _NOTHING)
    for k in reversed(range(len(local))):
        (out, out_with), (met, met_with) = (x.unflatten(2, (2, 2**k)).unbind(2) for x in (outside, meeting))
        met_any = torch.logaddexp(met, met_with)
        outside = torch.stack([out, torch.logaddexp(out, out_with), out], 2).flatten(1, 2)
        meeting = torch.stack([met, met_any, torch.logaddexp(met_any, out_with)], 2).flatten(1, 2)
    return meeting.squeeze(2)


def _sums_over_subsets(values: Tensor) -> Tensor:
    """Return the sum of each subset of `values [..., m]`, `[..., 2^m]`; bit `k` of the last index takes in value k."""
    sums = torch.zeros_like(values[..., :1])
    for value in values.split(1, -1):
        sums = torch.cat([sums, sums + value], -1)
    return sums


def _draw_rows(log_weights: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """Return a column for each of `rows [n]` of `log_weights [M, K]`, drawn by `uniform [n]` numbers in 0 .. 1."""
    cumulative = log_weights.softmax(1).cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]
    last = (cumulative < 1).sum(1)  # the last column of any weight, for numbers that round up to the next row
    stretched = (cumulative + torch.arange(len(cumulative)).unsqueeze(1)).flatten()
    columns = torch.searchsorted(stretched, rows + uniform, right=True) - rows * cumulative.shape[1]
    return torch.minimum(columns, last[rows])
