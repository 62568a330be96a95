"""Predictions of the sEH proxy for batches of fragment trees, computed with tensors only.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3 (molecules as trees of fragments).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfn_envs.envs.seh.fragments import CONJUGATED, FREE, JOINED, MAX_STEMS, Fragments
from gfn_envs.envs.seh.proxy import Proxy
from gfn_envs.errors import integer_at_least

_CHUNK = 64  # trees whose atoms a CPU's cache holds
_WIDE_CHUNK = 2048  # trees whose atoms other devices hold, padded to the largest possible tree


class TreeScorer(nn.Module):
    """The proxy's predictions for trees of up to N fragments.

    A batch of trees is int64 `[B, N + N * N + 1]`. First come the fragments `t[i]`: 0 for none, `f + 1` for fragment
    `f`. Then comes `c[i, j]` row by row: 0 if i and j are not joined, 1 if they are joined and the stem of i is not
    chosen, `2 + s` if stem `s` of i points to j. The last component is not read. An edge is a bond once both its stems
    are set.

    Args:
        proxy: the network.
        fragments: what the fragments are.
        max_fragments: N.
    """

    def __init__(self, proxy: Proxy, fragments: Fragments, max_fragments: int) -> None:
        super().__init__()
        self.max_fragments = integer_at_least("max_fragments", max_fragments, 1)
        self.proxy = proxy
        self._max_atoms = fragments.features.shape[1]
        self._features = nn.Buffer(fragments.features.flatten(0, 2), persistent=False)
        self._neighbours = nn.Buffer(fragments.neighbours.flatten(0, 1), persistent=False)
        self._bonds = nn.Buffer(fragments.bonds.flatten(0, 1), persistent=False)
        self._stem_of = nn.Buffer(fragments.stem_of.flatten(), persistent=False)
        self._stems = nn.Buffer(fragments.stems.flatten(), persistent=False)
        self._conjugates = nn.Buffer(fragments.conjugates.flatten(), persistent=False)
        self._num_atoms = nn.Buffer(fragments.num_atoms, persistent=False)

    def forward(self, trees: Tensor) -> Tensor:
        """Return the raw predictions `[B]`, finite for incomplete and empty trees as well."""
        if trees.device.type != "cpu":
            longest = self.max_fragments * self._max_atoms
            return torch.cat([self._score(part, longest) for part in trees.split(_WIDE_CHUNK)])
        # Trees of about equal size in one chunk need little padding. On a CPU, reading the sizes costs no wait.
        sizes = self._sizes(trees).sum(1)
        order = sizes.argsort()
        predictions = torch.zeros(len(trees))
        for rows in order.split(_CHUNK):
            predictions[rows] = self._score(trees[rows], max([1, *sizes[rows].tolist()]))
        return predictions

    def graph(self, trees: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `features, neighbours, bonds, sizes` of molecules of up to `length` atoms, as `Proxy.forward` reads.

        Atoms are in the order of the fragments, and within a fragment in the order of its SMILES.
        """
        sizes = self._sizes(trees)
        ends = sizes.cumsum(1)
        fragments = (trees[:, : self.max_fragments] - 1).clamp(min=0)
        stem_codes, stem_atoms = self._joins(trees, fragments, ends - sizes)
        places = torch.arange(length, device=trees.device).expand(len(trees), -1).contiguous()
        slots = torch.searchsorted(ends, places, right=True).clamp(max=self.max_fragments - 1)
        starts = (ends - sizes).gather(1, slots)
        atoms = fragments.gather(1, slots) * self._max_atoms + (places - starts).clamp(max=self._max_atoms - 1)
        own_stems = slots * (MAX_STEMS + 1) + self._stem_of[atoms]
        codes = stem_codes.gather(1, own_stems)
        far = stem_atoms.gather(1, own_stems)
        features = self._features[atoms * 3 + codes]
        neighbours = torch.cat([self._neighbours[atoms] + starts.unsqueeze(2), far.unsqueeze(2)], 2)
        bonds = torch.cat([self._bonds[atoms], (codes != FREE).long().unsqueeze(2)], 2)
        # Padding can have neighbours out of range. They are clamped, and their messages are never read.
        return features, neighbours.clamp(max=length - 1), bonds, ends[:, -1]

    def _score(self, trees: Tensor, length: int) -> Tensor:
        return self.proxy(*self.graph(trees, length))

    def _sizes(self, trees: Tensor) -> Tensor:
        """Return the number of atoms of each fragment, `[B, N]`."""
        fragments = trees[:, : self.max_fragments]
        return self._num_atoms[(fragments - 1).clamp(min=0)] * (fragments > 0)

    def _joins(self, trees: Tensor, fragments: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code of each stem and the atom in the molecule that it is joined to, both `[B, N * 7]`.

        The seventh stem of a fragment stands for atoms that are no stem. Its code is `FREE`.
        """
        n = self.max_fragments
        pairs = trees[:, n : n + n * n].view(-1, n, n)
        back = pairs.transpose(1, 2)
        joined = (pairs > 1) & (back > 1)
        far_stems = fragments.unsqueeze(1) * MAX_STEMS + (back - 2).clamp(min=0)
        codes = torch.where(joined, torch.where(self._conjugates[far_stems], CONJUGATED, JOINED), FREE)
        atoms = torch.where(joined, starts.unsqueeze(1) + self._stems[far_stems], 0)
        near_stems = torch.where(joined, pairs - 2, MAX_STEMS)
        none = torch.zeros(len(trees), n, MAX_STEMS + 1, dtype=torch.int64, device=trees.device)
        return none.scatter(2, near_stems, codes).flatten(1), none.scatter(2, near_stems, atoms).flatten(1)
