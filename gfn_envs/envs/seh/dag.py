"""sEH: build a molecule that binds to an enzyme, as a tree of fragments that are joined at their stems.

Source: the fragments and the proxy of soluble epoxide hydrolase are from Bengio et al. 2021 (arXiv 2106.04399), section
4.3. The actions are as in Gritsaev et al. 2025 (arXiv 2410.15474), section 4.3.
"""

from __future__ import annotations

import csv
import io
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
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.packaged import read
from gfn_envs.rewards import Asking
from gfn_envs.views import GraphView

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MAX_FRAGMENTS = 9
"""The largest number of fragments of a tree, as in the published task."""

UNSET = JOINED
"""The value of an ordered pair of joined fragments whose stem is not chosen; a chosen stem s is `UNSET + 1 + s`."""

CHOICES = tuple((UNSET, UNSET + 1 + stem) for stem in range(MAX_STEMS))
"""The value of a pair before and after each of its actions, which choose a stem."""

TEST_SET = Path(__file__).with_name("test_set.csv")
LITERATURE = Path(__file__).with_name("literature.csv")
TEST_SETS = {
    "stress": (TEST_SET, "580646dd9c99bff4d022a55c2bd81022ec6b7049cbcf7ed991a039f1451553a9"),
    "literature": (LITERATURE, "29908d0522e3af4db4c99792c13eb30b424e9f60c974872989e87544bcef191a"),
}
"""Files of trees by name, with their SHA-256."""

REWARD_RANGE = (math.exp(-7.5), 100.0)
"""Published training cuts log R off at -75, which is this r to the power of ten."""
REWARD_SCALE = 8.0
"""The prediction that gives a reward of 1."""


class SEH(MoleculeDAG):
    """A tree of up to `max_fragments` fragments; an edge becomes a bond once the stems at both ends are chosen.

    A stem is an atom of a fragment that may be joined to another fragment. It takes part in at most one edge. A
    fragment has at most as many edges as stems, so each end of each edge can get a free stem. So each state can be
    completed. Slots are renamed: removing a fragment clears its slot and moves it to the end. The other slots keep
    their order, so filled slots come first. States with equal `canonical` forms are the same tree.

    Several terminal trees can give the same molecule. A molecule may be cut into fragments in several ways. Also, stems
    that a symmetry of their fragment exchanges (the six atoms of benzene) give equal molecules. As in the literature,
    each tree counts separately, so a molecule is sampled in proportion to `r^beta` times the number of its trees.

    State: int64 `[B, N + N * N + 1]`, `N = max_fragments`. First comes the fragment of each slot: 0 empty, `1 + f` for
    fragment `f`. Then comes the value of each ordered pair of slots `(i, j)`, row by row: 0 if they are not joined, 1
    if they are joined and the stem of i is not chosen, `2 + s` if stem `s` of i, 0 to 5, is chosen. The stopped flag is
    last.
    Actions: with `F` fragments, `F i + f` adds fragment `f` in the first empty slot and joins it to slot `i`, which
    must have fewer edges than stems. The first fragment has `i = 0` and no edge. `N F + 6 (N i + j) + s` chooses the
    free stem `s` of i for its edge to j. The last action stops; it is legal once all stems are chosen.
    Backward actions: `i` removes the only fragment, or a fragment with one edge for which neither stem is chosen.
    `N + N i + j` takes back the choice of i's stem for its edge to j. The last one undoes the stop.
    Terminal states: the stopped states. Each is a tree of at least one fragment, with all stems of its edges chosen.
    Reward: `r = clip(proxy / 8, e^-7.5, 100)`, where `proxy` is the published network's prediction of the binding
    energy (`gfn_envs.envs.seh.predict`). `log R = beta log r + log |Aut|`, natural logs; `symmetry="reference"` leaves
    `log |Aut|` out.
    Size: 8,200, 1,653,358, 1.4e19 and 6.5e21 terminal trees of up to 2, 3, 8 and 9 of the published fragments.
    With up to 2 there are 28,173 states. The longest trajectory has `3 N - 1` steps.
    Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3; Gritsaev et al. 2025 (arXiv 2410.15474), section 4.3.

    Args:
        max_fragments: largest number of fragments, 1 to 9 (some of the literature: 8).
        fragments: `"published"`, the 72 fragments of the published task, which are downloaded on first use, or a list
            of fragments `(SMILES, indices of the atoms that are stems)`.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        symmetry, beta, reward, reward_input, mode_thresholds, device: as in
            `gfn_envs.envs.molecules.base.MoleculeDAG`. The built-in reward is `"proxy"`; its weights are downloaded on
            first use.
        test_set: `"stress"`, 1,000 trees spread over all sizes and rewards, a test of what a policy knows of sizes that
            it seldom builds; or `"literature"`, the 897 trees of the literature's test set, of which 635 have eight
            fragments (take `max_fragments=8` to compare with the literature).
    """

    metrics = ("molecules", "correlation")
    built_in = ("proxy",)
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
        test_set: str = "stress",
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        super().__init__(reward, reward_input, symmetry, beta, mode_thresholds, asking, device)
        self._test_set = choose("test_set", test_set, TEST_SETS)
        self.max_fragments = slots = integer_at_least("max_fragments", max_fragments, 1)
        if slots > MAX_FRAGMENTS:
            raise ValueError(f"max_fragments must be at most {MAX_FRAGMENTS}, got {max_fragments!r}.")
        self.published = isinstance(fragments, str)
        if not self.published and test_set != "stress":
            raise ValueError(f"test_set {test_set!r} is of the published fragments: leave it out with your own.")
        self.fragments = Fragments(blocks_of(fragments))
        self.num_fragments = len(self.fragments.smiles)
        self.lay_out(SlotGraph(slots, self.num_fragments, CHOICES, ordered=True, device=self.device))
        # Each of the n fragments is added once, each of the n - 1 edges gets two stems, and then comes the stop.
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
        # Slot 0 is empty only in s0, where the first fragment is added to it.
        can_grow[:, 0] |= slots[:, 0] == 0
        unset = (pairs == UNSET) & going.unsqueeze(2)
        # Stem s is bit s. No two edges of a fragment have the same stem, so the sum of their bits holds each of them.
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
        """Return fragments `[B, N]`, ordered pairs `[B, N, N]` (uint8 for speed) and not stopped `[B, 1]`."""
        slots, pairs = self.layout.parts(states)
        return slots, pairs.to(torch.uint8), states[:, -1:] == 0

    def built_in_rewards(self, states: Tensor) -> Tensor:
        # The network's prediction for a molecule without atoms is arbitrary.
        predictions = self._scorer(states) * (states[:, 0] > 0)
        return (predictions / REWARD_SCALE).clamp(*REWARD_RANGE)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s), float32 `[B]`; n(s) is the number of orders in which fragments, stems and the stop can come.

        Let r be the fragment that comes first. Then each fragment comes after its neighbour towards r, and each stem
        after the edge that it belongs to. This is a forest, and the hook length formula counts its orders:
        M! / prod over v of h_r(v). Here M is the number of all fragments and chosen stems, and h_r(v) is the number of
        those that are v, on v's edge towards r, or beyond v.
        """
        slots, pairs = self.layout.parts(states)
        filled, chosen = slots > 0, (pairs > UNSET).double()
        distances = _distances(pairs > 0)
        # closer[b, w, v, u] is True if v and u are joined and w is on the side of v.
        closer = ((distances.unsqueeze(3) < distances.unsqueeze(2)) & (pairs > 0).unsqueeze(1)).double().flatten(2)
        stems = chosen + chosen.transpose(1, 2)
        # An edge gives half of its stems to each of its ends. Summed over a side, edges within it count fully, and the
        # edge that leaves it counts by half. The second term adds the other half.
        weights = filled.double() + stems.sum(2) / 2
        hooks = torch.bmm(weights.unsqueeze(1), closer).squeeze(1) + stems.flatten(1) / 2
        # For the root r, the hook at v's edge towards u counts if u is on the side of r, so the tensor is transposed.
        logs = hooks.clamp(min=1).log().unflatten(1, slots.shape[1:] * 2).transpose(1, 2).flatten(1)
        total = weights.sum(1)
        per_root = -torch.bmm(closer, logs.unsqueeze(2)).squeeze(2).masked_fill(~filled, math.inf)
        return torch.where(total > 0, torch.lgamma(total) + per_root.logsumexp(1), 0).float()

    def to_molecules(self, states: Tensor) -> list[Mol]:
        """Return an RDKit molecule for each of `states [B, d]`; an edge is a bond only if both its stems are chosen.

        The atoms are in the order of the slots, and within a fragment in the order of its SMILES.
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
        """Return terminal `states [B, d]` as texts such as `3 14 0.1-1.0`: fragments, then joins as `slot.stem`."""
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
        """Return terminal states `[B, d]` of the `texts` (from `to_texts`) with at most `max_fragments` fragments.

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

        Fragments are added until a tree has `sizes [B]` of them or all its stems are in use. Then the walk stops.
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
        """Return the terminal states `[n, d]` of the chosen test set that fit.

        The rewards of the user's own fragments are not known. For them this returns 1,000 random trees of all sizes,
        which may contain duplicates.
        """
        if self.published:
            file, sha256 = self._test_set
            table = io.StringIO(read(file, "the test set", sha256).decode(), newline="")
            return self.from_texts([row["tree"] for row in csv.DictReader(table)])
        sizes = torch.arange(1000, device=self.device) % self.max_fragments + 1
        return self.complete(self.reset(len(sizes)), sizes, Generator(self.device).manual_seed(0))

    def graph_view(self) -> GraphView:
        """Return the state's layout as a graph: a node's features are its fragment and 1 + its stems less its edges."""
        return self.layout.view(node_values=(self.num_fragments + 1, MAX_STEMS + 2), whole_values=(2,))

    def graph(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes `[B, N, 2]`, ordered pairs `[B, N, N]` and whole `[B, 1]` (the stopped flag)."""
        slots, pairs = self.layout.parts(states)
        free = self._num_stems[slots] - (pairs > 0).sum(2) + (slots > 0)
        return torch.stack([slots, free], 2), pairs.clone(), states[:, -1:].clone()


def _distances(joined: Tensor) -> Tensor:
    """Return path lengths in trees with edges `joined`, bool `[B, N, N]`; N - 1 if there is no path."""
    slots = joined.shape[1]
    steps = joined.float() + torch.eye(slots, device=joined.device)
    reached = torch.eye(slots, device=joined.device).expand_as(steps)
    distances = torch.zeros_like(steps)
    for _ in range(slots - 1):
        distances += 1 - reached
        reached = torch.bmm(reached, steps).clamp(max=1)
    return distances
