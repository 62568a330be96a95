"""sEH: build a molecule as a tree of fragments that are joined at their stems, for binding to an enzyme.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3 (fragments, and the proxy of soluble epoxide hydrolase);
actions as in Gritsaev et al. 2025 (arXiv 2410.15474), section 4.3.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from gfn_envs.envs.molecules.base import MoleculeDAG
from gfn_envs.envs.molecules.slots import JOINED, SlotGraph
from gfn_envs.envs.seh.features import load_proxy
from gfn_envs.envs.seh.fragments import MAX_STEMS, Fragments, assemble, blocks_of
from gfn_envs.envs.seh.trees import TreeScorer
from gfn_envs.errors import integer_at_least
from gfn_envs.views import GraphView

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MAX_FRAGMENTS = 9
"""Most fragments of a tree, as in the published task."""

UNSET = JOINED
"""The value of an ordered pair of joined fragments whose stem is not chosen; stem s is `UNSET + 1 + s`."""

CHOICES = tuple((UNSET, UNSET + 1 + stem) for stem in range(MAX_STEMS))
"""The value of a pair before and after each of its actions, which choose a stem."""

TEST_SET = Path(__file__).with_name("test_set.csv")

REWARD_RANGE = (1e-4, 100.0)
REWARD_SCALE = 8.0
"""The prediction that gives a reward of 1."""


class SEH(MoleculeDAG):
    """A tree of up to `max_fragments` fragments; an edge becomes a bond once the stems at both ends are chosen.

    A stem is an atom of a fragment that may be joined to another fragment, and takes part in one edge at most. A
    fragment has at most as many edges as stems, so that every end of every edge finds a free one: each state can be
    completed. Slots are renamed: removing a fragment moves its slot to the end, and clears it; the others keep their
    order, so that filled slots come first. `canonical` says which states are one tree.

    Terminal trees are not unique molecules: a molecule may be cut into fragments in several ways, and stems that a
    symmetry of their fragment exchanges (the six atoms of benzene) give equal molecules. As in the literature, each
    tree counts by itself, so that a molecule is sampled in proportion to `r^beta` times the number of its trees.

    State: int64 `[B, N + N * N + 1]`, `N = max_fragments`: for each slot its fragment, 0 empty, `1 + f`; for each
    ordered pair of slots `(i, j)`, row by row, 0 where they are not joined, 1 where they are and the stem of i is not
    chosen, `2 + s` where stem `s`, 0 to 5, of i is; then the stopped flag.
    Actions: with `F` fragments, `F i + f` adds fragment `f` in the first empty slot, joined to slot `i`, which has
    fewer edges than stems (the first fragment: `i = 0`, no edge); `N F + 6 (N i + j) + s` chooses the free stem `s` of
    i for its edge to j; the last action stops, where all stems are chosen.
    Backward actions: `i` removes a fragment with one edge, no stem of which is chosen, or the only fragment;
    `N + N i + j` takes back the choice of i's stem for its edge to j; the last one undoes the stop.
    Terminal states: stopped; a tree of at least one fragment, all stems of its edges chosen.
    Reward: `r = clip(proxy / 8, 1e-4, 100)`, `proxy` the published network's prediction of the binding energy
    (`gfn_envs.envs.seh.predict`). `log R = beta log r + log |Aut|`, natural logs; `symmetry="reference"` leaves
    `log |Aut|` out.
    Size: with the published fragments 8,200 terminal trees of up to 2 fragments (28,173 states), 1,653,358 of up to 3,
    1.4e19 of up to 8 and 6.5e21 of up to 9; longest trajectory `3 N - 1` steps.
    Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3; Gritsaev et al. 2025 (arXiv 2410.15474), section 4.3.

    Args:
        max_fragments: most fragments, 1 to 9 (some of the literature: 8).
        fragments: `"published"`, the 72 fragments of the published task, which are downloaded on first use, or a list
            of fragments `(SMILES, indices of the atoms that are stems)`.
        symmetry, beta, reward, reward_input, mode_thresholds, device: as in
            `gfn_envs.envs.molecules.base.MoleculeDAG`; the built-in reward is `"proxy"`, whose weights are downloaded
            on first use.
    """

    metrics = ("molecules", "correlation")
    built_in = "proxy"
    built_in_thresholds = (0.875, 0.9375, 1.0)

    def __init__(
        self,
        max_fragments: int = 9,
        fragments: str | Sequence[tuple[str, Sequence[int]]] = "published",
        symmetry: str = "exact",
        beta: float = 10.0,
        reward: str | Callable[..., Any] = "proxy",
        reward_input: str = "smiles",
        mode_thresholds: Sequence[float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(reward, reward_input, symmetry, beta, mode_thresholds, device)
        self.max_fragments = slots = integer_at_least("max_fragments", max_fragments, 1)
        if slots > MAX_FRAGMENTS:
            raise ValueError(f"max_fragments must be at most {MAX_FRAGMENTS}, got {max_fragments!r}.")
        self.published = isinstance(fragments, str)
        self.fragments = Fragments(blocks_of(fragments))
        self.num_fragments = len(self.fragments.smiles)
        self.lay_out(SlotGraph(slots, self.num_fragments, CHOICES, ordered=True, device=self.device))
        # Each fragment is added once, each of the n - 1 edges gets two stems, and then comes the stop.
        self.max_steps = 3 * slots - 1
        # An empty slot has no stems.
        self._num_stems = torch.cat([torch.zeros(1, dtype=torch.int64), self.fragments.num_stems]).to(self.device)
        self._stems = torch.arange(MAX_STEMS, device=self.device)
        if self.own_reward is None:
            self._scorer = TreeScorer(load_proxy(self.device), self.fragments, slots).to(self.device)

    def action_mask(self, states: Tensor) -> Tensor:
        slots, pairs, going = self._parts(states)
        places, capacity = self.num_fragments * self.max_fragments, self._num_stems[slots]
        can_grow = (pairs > 0).sum(2) < capacity
        # Slot 0 is empty in s0 alone: there the first fragment is added to it.
        can_grow[:, 0] |= slots[:, 0] == 0
        unset = (pairs == UNSET) & going.unsqueeze(2)
        # Stem s as bit s: no two edges of a fragment have the same one, so that their sum holds each.
        used = (torch.ones_like(pairs) << pairs >> (UNSET + 1)).sum(2)
        free = (self._stems < capacity.unsqueeze(2)) & ((used.unsqueeze(2) >> self._stems) & 1 == 0)
        mask = torch.empty(len(states), self.num_actions, dtype=torch.bool, device=states.device)
        mask[:, :places] = (can_grow & (slots[:, -1:] == 0) & going).repeat_interleave(self.num_fragments, 1)
        mask[:, places:-1] = (unset.unsqueeze(3) & free.unsqueeze(2)).flatten(1)
        mask[:, -1:] = going & (slots[:, :1] > 0) & ~unset.flatten(1).any(1, keepdim=True)
        return mask

    def backward_action_mask(self, states: Tensor) -> Tensor:
        slots, pairs, going = self._parts(states)
        chosen = pairs > UNSET
        touched = chosen.any(2) | chosen.any(1)
        removable = (slots > 0) & ((pairs > 0).sum(2) <= 1) & ~touched
        return torch.cat([removable & going, chosen.flatten(1) & going, ~going], 1)

    def _parts(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return fragments `[B, N]`, ordered pairs `[B, N, N]`, uint8 for speed, and not stopped `[B, 1]`."""
        slots, pairs = self.layout.parts(states)
        return slots, pairs.to(torch.uint8), states[:, -1:] == 0

    def built_in_rewards(self, states: Tensor) -> Tensor:
        # What the network says of no atom at all is arbitrary.
        predictions = self._scorer(states) * (states[:, 0] > 0)
        return (predictions / REWARD_SCALE).clamp(*REWARD_RANGE)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s), float32 `[B]`, the number of orders in which fragments, stems and the stop can come.

        Once the fragment r that comes first is given, a fragment comes after its neighbour towards r, and a stem after
        the edge it belongs to: a forest, whose orders the hook length formula counts, M! / prod over v of h_r(v). Here
        M counts all fragments and chosen stems, and h_r(v) those that are v, on v's edge towards r, or beyond v.
        """
        slots, pairs = self.layout.parts(states)
        filled, chosen = slots > 0, (pairs > UNSET).double()
        distances = _distances(pairs > 0)
        # closer[b, w, v, u]: v and u are joined, and w is on the side of v.
        closer = ((distances.unsqueeze(3) < distances.unsqueeze(2)) & (pairs > 0).unsqueeze(1)).double().flatten(2)
        stems = chosen + chosen.transpose(1, 2)
        # Half of the stems on a side's own edges, summed over it, counts those within it once and the edge's once more.
        weights = filled.double() + stems.sum(2) / 2
        hooks = torch.bmm(weights.unsqueeze(1), closer).squeeze(1) + stems.flatten(1) / 2
        # Seen from r, the hook at v's edge towards u counts where u is on the side of r, hence transposed.
        logs = hooks.clamp(min=1).log().unflatten(1, slots.shape[1:] * 2).transpose(1, 2).flatten(1)
        total = weights.sum(1)
        per_root = -torch.bmm(closer, logs.unsqueeze(2)).squeeze(2).masked_fill(~filled, math.inf)
        return torch.where(total > 0, torch.lgamma(total) + per_root.logsumexp(1), 0).float()

    def to_molecules(self, states: Tensor) -> list[Mol]:
        """Return an RDKit molecule for each of `states [B, d]`; fragments lie apart while a stem is not chosen.

        Its atoms are in the order of the slots, and in a fragment in that of its SMILES.
        """
        parts, stems = self.fragments.molecules, self.fragments.stems.tolist()
        molecules = []
        row: list[int]
        for row, chosen in zip(*(x.tolist() for x in self.layout.parts(states)), strict=True):
            bonds = [(i, j) for i in range(len(row)) for j in range(i) if min(chosen[i][j], chosen[j][i]) > UNSET]
            ends = [[(u, stems[row[u] - 1][chosen[u][v] - UNSET - 1]) for u, v in (b, b[::-1])] for b in bonds]
            molecules.append(assemble([parts[t - 1] for t in row if t], [(*one, *other) for one, other in ends]))
        return molecules

    def to_texts(self, states: Tensor) -> list[str]:
        """Return terminal `states [B, d]` as texts: fragments, then the joins of slots and stems, `3 14 0.1-1.0`."""
        texts = []
        for row, chosen in zip(*(x.tolist() for x in self.layout.parts(states)), strict=True):
            joins = [
                f"{i}.{chosen[i][j] - UNSET - 1}-{j}.{chosen[j][i] - UNSET - 1}"
                for j in range(len(row))
                for i in range(j)
                if chosen[i][j]
            ]
            texts.append(" ".join([*(str(t - 1) for t in row if t), *joins]))
        return texts

    def from_texts(self, texts: Iterable[str]) -> Tensor:
        """Return the terminal states `[B, d]` of those of `texts`, as from `to_texts`, that have room for them.

        Raises `ValueError` for a text that joins fragments which it does not name.
        """
        slots, rows = self.max_fragments, []
        for text in texts:
            words = text.split()
            fragments = [int(word) + 1 for word in words if "-" not in word]
            if len(fragments) > slots:
                continue
            row = [*fragments, *[0] * (self.state_dim - len(fragments) - 1), 1]
            for word in (word for word in words if "-" in word):
                (i, s), (j, u) = (map(int, end.split(".")) for end in word.split("-"))
                if not max(i, j) < len(fragments):
                    raise ValueError(f"{text!r}: {word} joins a fragment that is not there, of {len(fragments)}.")
                row[slots + slots * i + j], row[slots + slots * j + i] = s + UNSET + 1, u + UNSET + 1
            rows.append(row)
        return torch.tensor(rows, dtype=torch.int64, device=self.device).view(len(rows), self.state_dim)

    def complete(self, states: Tensor, sizes: Tensor, generator: Generator) -> Tensor:
        """Return terminal states `[B, d]` reached from `states [B, d]` by random legal actions.

        Fragments are added up to `sizes [B]`, or fewer where all stems are in use; it stops where it can add none.
        """
        places = self.num_fragments * self.max_fragments
        for _ in range(self.max_steps):
            legal = self.action_mask(states)
            filled = (states[:, : self.max_fragments] > 0).sum(1)
            legal[:, :places] &= (filled < sizes).unsqueeze(1)
            legal[:, -1] &= ~legal[:, :places].any(1)
            noise = torch.rand(legal.shape, generator=generator, device=self.device)
            next_states = self.step(states, (noise * legal).argmax(1))[0]
            states = torch.where(self.is_terminal(states).unsqueeze(1), states, next_states)
        return states

    def test_states(self) -> Tensor:
        """Return the fixed set of terminal states `[n, d]` that fit: trees spread over the range of rewards.

        For fragments of one's own, whose rewards are not known, random trees of all sizes, 1,000 with their copies.
        """
        if self.published:
            with TEST_SET.open(newline="") as file:
                return self.from_texts([row["tree"] for row in csv.DictReader(file)])
        sizes = torch.arange(1000, device=self.device) % self.max_fragments + 1
        return self.complete(self.reset(len(sizes)), sizes, Generator(self.device).manual_seed(0))

    def graph_view(self) -> GraphView:
        """Return how the state reads as a graph: a node's features are its fragment and 1 + its stems without edge."""
        return self.layout.view(node_values=(self.num_fragments + 1, MAX_STEMS + 2), whole_values=(2,))

    def graph(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes `[B, N, 2]`, ordered pairs `[B, N, N]` and whole `[B, 1]` (the stopped flag)."""
        slots, pairs = self.layout.parts(states)
        free = self._num_stems[slots] - (pairs > 0).sum(2) + (slots > 0)
        return torch.stack([slots, free], 2), pairs.clone(), states[:, -1:].clone()


def _distances(joined: Tensor) -> Tensor:
    """Return the lengths of paths in trees of which nodes are `joined`, bool `[B, N, N]`; N - 1 where there is none."""
    slots = joined.shape[1]
    steps = joined.float() + torch.eye(slots, device=joined.device)
    reached = torch.eye(slots, device=joined.device).expand_as(steps)
    distances = torch.zeros_like(steps)
    for _ in range(slots - 1):
        distances += 1 - reached
        reached = torch.bmm(reached, steps).clamp(max=1)
    return distances
