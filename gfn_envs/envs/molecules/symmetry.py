"""Automorphisms and canonical orders of batches of small coloured graphs, by individualisation and refinement.

Source: McKay and Piperno 2014 (arXiv 1301.1493), the method; here without a search tree, for graphs so small that the
nodes which refinement cannot tell apart are images of one another.
"""

from __future__ import annotations

import torch
from torch import Tensor

WALKS = 8
"""Two nodes are told apart from two others by the walks of up to this many steps between them."""

REFINEMENTS = 3
"""Rounds of colour refinement after a node is fixed; the labels of walks tell how nodes lie to it in the whole graph.
One round is too few: on a ring of alternating labels the walks to the right and to the left weigh the same. Two did for
every graph that was tried."""

PRIME = 2**24 - 3
"""Walks are counted modulo this prime: sums of 32 products stay below 2^53, so float64 matrix products are exact."""

HORNER = 0x5851F42D4C957F2D
"""Numbers of walks, of each length, are the coefficients of a polynomial at this point, modulo 2^64."""


def mix(x: Tensor) -> Tensor:
    """Return a hash of each int64 in `x`, one-to-one, the same on every device and in every version; 0 stays 0.

    The masks keep the sign, which `>>` carries along, out of the exclusive or: else `x` and `-1 - x` had one hash.
    """
    x = (x ^ (x >> 32 & 0xFFFFFFFF)) * 0x7FB5D329728EA185
    x = (x ^ (x >> 32 & 0xFFFFFFFF)) * -0x61C8864680B583EB
    return x ^ (x >> 32 & 0xFFFFFFFF)


def log_automorphisms(colours: Tensor, pairs: Tensor) -> Tensor:
    """Return log |Aut|, float32 `[B]`, natural log, of graphs of up to 9 nodes.

    Args:
        colours: int64 `[B, N]`, the colours of the nodes; 0 for an empty slot, which counts for nothing.
        pairs: int64 `[B, N, N]`, labels >= 0 of ordered pairs, 0 where nothing joins them; 0 on the diagonal and in
            empty slots.

    By the orbit-stabiliser theorem |Aut| is the product of the orbit sizes met while nodes are fixed one by one.
    """
    return _fixed(colours, pairs)[1].float().log().sum(1)


def canonical_order(colours: Tensor, pairs: Tensor) -> Tensor:
    """Return a permutation of the slots, int64 `[B, N]`: filled ones first, and equal graphs for isomorphic ones.

    The graph in this order is `colours.gather(1, order)`, and `pairs` likewise along both axes (`rename` does it).
    """
    names, _ = _fixed(colours, pairs)
    return torch.where(colours > 0, names, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)


def rename(colours: Tensor, pairs: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return `colours [B, N]` and `pairs [B, N, N]` with slot `order[b, i]` moved to slot `i`."""
    rows = order.unsqueeze(2).expand_as(pairs)
    return colours.gather(1, order), pairs.gather(1, rows).gather(2, rows.transpose(1, 2))


def _fixed(colours: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Fix nodes until all differ; return their names, int64 `[B, N]`, and the orbit sizes met, int64 `[B, N]`.

    In each round the largest name that several nodes share is taken, and one of the nodes is fixed: which one does not
    matter if they are images of one another.
    """
    filled = colours > 0
    labels = _walk_labels(colours, pairs)
    names = _refined(colours, labels)
    smallest = torch.iinfo(torch.int64).min
    slots = torch.arange(colours.shape[1], device=colours.device)
    sizes = [torch.ones_like(colours[:, 0])]
    for _ in range(colours.shape[1] - 1):
        equal = names.unsqueeze(1) == names.unsqueeze(2)
        shared = filled & (equal.sum(2) > 1)
        chosen = torch.where(shared, names, smallest).amax(1, keepdim=True)
        orbit = shared & (names == chosen)
        sizes.append(orbit.sum(1).clamp(min=1))
        fixed = orbit & (slots == orbit.int().argmax(1, keepdim=True))
        names = _refined(names + fixed, labels)
    return names, torch.stack(sizes, 1)


def _refined(names: Tensor, labels: Tensor) -> Tensor:
    """Give nodes new names `[B, N]`, equal where the old ones and those of the nodes related in each way are."""
    for _ in range(REFINEMENTS):
        names = mix(names)
        names = mix(5 * names + mix(labels + names.unsqueeze(1)).sum(2))
    return names


def _walk_labels(colours: Tensor, pairs: Tensor) -> Tensor:
    """Return labels of ordered pairs, int64 `[B, N, N]`: a hash of the walks between them, by length.

    A walk weighs the product of the weights of its steps, which stand for the colour it comes to and for the labels of
    the pair, both ways.
    """
    weights = mix(pairs + 3 * mix(pairs.transpose(1, 2))).remainder(PRIME).double()
    steps = (weights * mix(colours).remainder(PRIME).unsqueeze(1)).remainder(PRIME)
    walks = steps
    labels = steps.long()
    for _ in range(WALKS - 1):
        walks = (walks @ steps).remainder(PRIME)
        labels = HORNER * labels + walks.long()
    return mix(labels)
