"""Phylogenetic trees: join taxa, two trees at a time, to a rooted binary tree that needs few mutations.

Source: Zhou et al. 2024, PhyloGFN (arXiv 2310.08774); reward and constants as in Deleu et al. 2024 (arXiv 2402.10309).
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gfn_envs.dag import DAG
from gfn_envs.envs.phylotree.alignment import Alignment, read
from gfn_envs.envs.phylotree.fitch import MOST_TAXA, Parsimony, Tree, reduced, stepwise_addition, unpacked
from gfn_envs.envs.phylotree.newick import read_newick, written
from gfn_envs.errors import choose
from gfn_envs.rewards import Asking, own_reward

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARSIMONY = "parsimony"
"""Name of the built-in reward."""

PUBLISHED: dict[int, int] = dict(zip(range(1, 9), (5800, 8000, 8800, 3500, 2300, 2300, 12500, 2800), strict=True))
"""Constants C of the literature, for all taxa of DS1 .. DS8."""

SCALE = 4.0
"""Mutations that cost one in log R, as published."""

BEST: dict[int, int] = dict(zip(range(1, 9), (4026, 6223, 6659, 2424, 1493, 880, 7155, 1463), strict=True))
"""Fewest mutations known, for all taxa of DS1 .. DS8: those of DS1 to DS3 are PAUP*'s, the others a short search's."""

TEST_TREES = 128
"""Trees of the test set, unless there are fewer."""

_NAMED: dict[str, dict[int, int]] = {"published": PUBLISHED, "best": BEST}


class PhyloTree(DAG):
    """A rooted binary tree over `n` taxa, grown by joining two trees of a forest until one is left.

    State: int64 `[B, n - 1]`. There is a slot for each taxon, and a tree lies in the slot of its least taxon. Component
    `j - 1` tells of slot `j = 1 .. n - 1`: 0 where it holds a tree of the forest, `1 + i (n - 1) + r` where its tree
    was joined to slot `i < j` as the r-th (from 0) that was joined there. So each forest is one state.
    Actions: the pairs `i < j` of slots in the order of `torch.triu_indices(n, n, 1)` join their trees in slot `i`.
    Backward actions: slot `i = 0 .. n - 2` undoes the join at the root of its tree.
    Terminal states: one tree, in slot 0.
    Reward: `log R(T) = (C - M(T)) / scale`, natural log, `M(T)` the least number of mutations that explain the
    alignment on T (Fitch's parsimony), or a reward of the user's own. A gap is a state like A, C, G and T. Parsimony
    does not depend on the root, so that each unrooted tree counts `2 n - 3` times. `log_potential` is `-1 / scale`
    times the mutations in the trees so far.
    Size: `(2 n - 3)!!` trees; every trajectory has `n - 1` steps. With 5, 6, 7, 8 taxa there are 266, 2,431, 27,007,
    353,522 states and 105, 945, 10,395, 135,135 trees.
    Source: Zhou et al. 2024 (arXiv 2310.08774); Deleu et al. 2024 (arXiv 2402.10309).

    Args:
        dataset: `"DS1"` to `"DS8"`, the path of a FASTA file, FASTA text, or a mapping from taxon to sequence. The
            sequences must be aligned. None takes DS1, of that the first 7 taxa unless `taxa` says otherwise.
        taxa: how many taxa, the first ones, or their names, in the order of the slots; None takes all.
        constant: C, a number, or `"stepwise"`: the parsimony of the tree that stepwise addition finds, so that good
            trees have log R about 0; for all taxa of DS1 to DS8 also `"best"`, the fewest mutations known, and
            `"published"`, the literature's. It does not change the target.
        scale: mutations that cost one in log R, positive.
        reward: `"parsimony"`, the formula above, a callable, or a callable named as `"module:function"`. A callable
            takes distinct trees and returns their rewards, positive finite numbers, one each. `gfn_envs.rewards` says
            how often it is asked.
        reward_input: what a callable takes: `"newick"`, a list of texts, or `"states"`, int64 `[m, n - 1]` on the DAG's
            device.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    metrics = ("phylo", "correlation")

    def __init__(
        self,
        dataset: str | os.PathLike[str] | Mapping[str, str] | None = None,
        taxa: int | Sequence[str] | None = None,
        constant: float | str = "stepwise",
        scale: float = SCALE,
        reward: str | Callable[..., Any] = PARSIMONY,
        reward_input: str = "newick",
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        if dataset is None:
            dataset, taxa = "DS1", 7 if taxa is None else taxa
        whole = read(dataset)
        alignment = whole.first(len(whole.taxa) if taxa is None else taxa)
        self.taxa, self.num_sites = alignment.taxa, int(alignment.counts.sum())
        n = self.num_taxa = len(self.taxa)
        if n > MOST_TAXA:
            raise ValueError(f"a tree may have at most {MOST_TAXA} taxa, but the alignment has {n}: choose with taxa=.")
        if not (isinstance(scale, int | float) and 0 < scale < math.inf):
            raise ValueError(f"scale must be a positive, finite number, got {scale!r}.")
        self.scale = float(scale)
        sets, counts = reduced(alignment)
        stepwise, self.stepwise_mutations = stepwise_addition(sets, counts)
        self.constant = self._checked_constant(constant, alignment)
        texts = choose("reward_input", reward_input, {"newick": self.to_newick, "states": None})
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, [PARSIMONY], texts, "trees", asking=asking)
        if self.own_reward and (constant != "stepwise" or scale != SCALE):
            raise ValueError(
                f"constant and scale belong to the reward {PARSIMONY}: they cannot be given together with a reward of "
                f"your own, {self.own_reward.name}."
            )
        self.nvec = tuple(1 + slot * (n - 1) for slot in range(1, n))
        self.num_actions, self.num_backward_actions, self.max_steps = n * (n - 1) // 2, n - 1, n - 1
        self._stepwise = self._state_of(stepwise)
        self._fitch = Parsimony(sets, counts, self.device)
        self._pairs = torch.triu_indices(n, n, 1, device=self.device)
        numbers = torch.zeros(n, n, dtype=torch.int64)
        numbers[*torch.triu_indices(n, n, 1)] = torch.arange(self.num_actions)
        self._pair_number = numbers.flatten().to(self.device)
        self._own = torch.arange(n, device=self.device)
        self._prepare_features(sets, counts)

    def _prepare_features(self, sets: np.ndarray, counts: np.ndarray) -> None:
        """Note how much each pattern weighs in the features of slots, and which states it has."""
        self._weights = torch.from_numpy((counts / max(1, counts.sum())) ** 0.5).float().to(self.device)
        # Patterns come in order of their number of states, so that those with a state of this number are the first.
        most = sets.max(0, initial=0)
        self._num_with_bit = [int((most >> bit > 0).sum()) for bit in range(int(most.max(initial=0)).bit_length())]
        self.num_slot_features = 3 + sum(self._num_with_bit)

    def _checked_constant(self, constant: float | str, alignment: Alignment) -> float:
        if isinstance(constant, str):
            if constant == "stepwise":
                return float(self.stepwise_mutations)
            known = choose("constant", constant, {"stepwise": {}, **_NAMED})
            if not alignment.name:
                raise ValueError(f"constant {constant!r} is known for all taxa of DS1 to DS8 only: give a number.")
            return float(known[int(alignment.name.removeprefix("DS"))])
        if isinstance(constant, bool) or not (isinstance(constant, int | float) and math.isfinite(constant)):
            raise ValueError(f"constant must be a finite number or a name, got {constant!r}.")
        return float(constant)

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.num_taxa - 1, dtype=torch.int64, device=self.device)

    def _into(self, states: Tensor) -> Tensor:
        """Return the slot that each of slots 1 .. n - 1 was joined to, `[B, n - 1]`; -1 where it was to none."""
        return torch.div(states - 1, self.num_taxa - 1, rounding_mode="floor")

    def _live(self, states: Tensor) -> Tensor:
        """Return bool `[B, n]`: the slots that hold a tree of the forest."""
        return functional.pad(states == 0, (1, 0), value=True)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        slots, others = self._pairs.index_select(1, actions)
        rank = (self._into(states) == slots.unsqueeze(1)).sum(1)
        codes = 1 + slots * (self.num_taxa - 1) + rank
        return states.scatter(1, others.unsqueeze(1) - 1, codes.unsqueeze(1)), slots

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        slots = backward_actions.unsqueeze(1)
        rank = (self._into(states) == slots).sum(1, keepdim=True) - 1
        others = (states == 1 + slots * (self.num_taxa - 1) + rank).int().argmax(1) + 1
        actions = self._pair_number.index_select(0, backward_actions * self.num_taxa + others)
        return states.scatter(1, others.unsqueeze(1) - 1, 0), actions

    def action_mask(self, states: Tensor) -> Tensor:
        live = self._live(states)
        return live.index_select(1, self._pairs[0]) & live.index_select(1, self._pairs[1])

    def backward_action_mask(self, states: Tensor) -> Tensor:
        joined = torch.zeros(len(states), self.num_taxa, dtype=torch.bool, device=states.device)
        # Slots that were not joined to another one point to the place after the last slot that can be joined to.
        into = torch.where(states > 0, self._into(states), self.num_taxa - 1)
        joined = joined.scatter_(1, into, True)
        return (joined & self._live(states))[:, :-1]

    def is_terminal(self, states: Tensor) -> Tensor:
        return (states > 0).all(1)

    def mutations(self, states: Tensor) -> Tensor:
        """Return the least number of mutations in the trees of `states [B, n - 1]` together, float32 `[B]`."""
        return self._fitch.mutations(states)

    def log_reward(self, states: Tensor) -> Tensor:
        return (
            self.own_reward(states).log() if self.own_reward else (self.constant - self.mutations(states)) / self.scale
        )

    def log_potential(self, states: Tensor) -> Tensor:
        """Return `-1 / scale` times the mutations so far, float32 `[B]`; of an own reward 0 until the end."""
        return self.log_reward(states) if self.own_reward else -self.mutations(states) / self.scale

    def _leaves(self, states: Tensor) -> Tensor:
        """Return the number of leaves of the tree in each slot, `[B, n]`; before it was joined, if it was."""
        leaves = torch.ones(len(states), self.num_taxa, dtype=torch.int64, device=states.device)
        into = torch.where(states > 0, self._into(states), self._own[1:])
        for slot in range(self.num_taxa - 1, 0, -1):
            added = leaves[:, slot] * (states[:, slot - 1] > 0)
            leaves.scatter_add_(1, into[:, slot - 1, None], added.unsqueeze(1))
        return leaves

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`: `m!` over the product, over the joins, of the joins at or below each; m joins so far.

        Source: the hook length formula for forests, Knuth 1973, The Art of Computer Programming 3, section 5.1.4.
        """
        joined, into = states > 0, self._into(states)
        leaves = self._leaves(states)[:, 1:].float()
        same = (into.unsqueeze(1) == into.unsqueeze(2)) & (states.unsqueeze(1) <= states.unsqueeze(2))
        hooks = torch.bmm(same.float(), leaves.unsqueeze(2)).squeeze(2).double()
        log_hooks = torch.where(joined, hooks, 1.0).log().sum(1)
        return (torch.lgamma(joined.sum(1).double() + 1) - log_hooks).float()

    def slot_features(self, states: Tensor) -> Tensor:
        """Return what the slots hold, float32 `[B, n, F]`; all 0 in slots that hold no tree of the forest.

        Feature 0 is 1, feature 1 the share of the taxa that the tree has, feature 2 its mutations, a site. The others
        are Fitch's sets at the tree's root: for each pattern of the alignment and each state that occurs in it, whether
        it is in the set, times the square root of the share of the sites that have this pattern.
        """
        sets, mutations = self._fitch.slots(states)
        live = self._live(states).unsqueeze(2)
        own = torch.stack(
            [torch.ones_like(mutations), self._leaves(states) / self.num_taxa, mutations / self.num_sites], 2
        )
        features = torch.empty(*live.shape[:2], self.num_slot_features, device=states.device)
        features[:, :, : own.shape[2]] = own * live
        sets, start = sets * live, own.shape[2]
        for bit, count in enumerate(self._num_with_bit):
            torch.mul(unpacked(sets, bit, count), self._weights[:count], out=features[:, :, start : start + count])
            start += count
        return features

    def trees(self, states: Tensor) -> list[list[Tree]]:
        """Return the trees of each forest, in the order of their slots, as nested pairs of leaves' numbers."""
        return [self._trees(row) for row in states.tolist()]

    def _trees(self, codes: list[int]) -> list[Tree]:
        slots: list[Tree] = list(range(self.num_taxa))
        joins = [(*divmod(code - 1, self.num_taxa - 1), slot) for slot, code in enumerate(codes, 1) if code]
        for into, _, slot in sorted(joins, key=lambda join: (-join[0], join[1])):
            slots[into] = (slots[into], slots[slot])
        return [slots[0]] + [slots[slot] for slot, code in enumerate(codes, 1) if not code]

    def _state_of(self, tree: Tree) -> list[int]:
        """Return the state of a tree that has all taxa."""
        codes, ranks = [0] * (self.num_taxa - 1), [0] * self.num_taxa

        def least(part: Tree) -> int:
            if isinstance(part, int):
                return part
            slot, other = sorted(map(least, part))
            codes[other - 1] = 1 + slot * (self.num_taxa - 1) + ranks[slot]
            ranks[slot] += 1
            return slot

        least(tree)
        return codes

    def to_newick(self, states: Tensor) -> list[str]:
        """Return each forest in Newick's format, its trees one after another, each with a semicolon."""
        return [" ".join(written(tree, self.taxa) + ";" for tree in forest) for forest in self.trees(states)]

    def from_newick(self, texts: str | Sequence[str]) -> Tensor:
        """Return the terminal states `[N, n - 1]` of trees in Newick's format, rooted or unrooted.

        An unrooted tree is one with three branches at its root, and gets a root on the third. `ValueError` for a text
        that is not a binary tree over exactly these taxa.
        """
        texts = [texts] if isinstance(texts, str) else texts
        codes = [self._state_of(read_newick(text, self.taxa)) for text in texts]
        return torch.tensor(codes, dtype=torch.int64, device=self.device).reshape(len(codes), self.num_taxa - 1)

    def stepwise_tree(self) -> Tensor:
        """Return the tree that stepwise addition finds, a terminal state `[1, n - 1]`."""
        return torch.tensor([self._stepwise], device=self.device)

    def test_states(self, seed: int = 42) -> Tensor:
        """Return distinct trees from good to random ones, terminal states `[N, n - 1]`, N at most `TEST_TREES`.

        Each is the tree of stepwise addition, of which some joins, none up to all, are undone at random from the root
        on, and then made anew at random.
        """
        generator = random.Random(seed)
        trees = (self._disturbed(i * self.max_steps // (TEST_TREES - 1), generator) for i in range(TEST_TREES))
        codes = dict.fromkeys(tuple(self._state_of(tree)) for tree in trees)
        return torch.tensor(list(codes), dtype=torch.int64, device=self.device)

    def _disturbed(self, joins: int, generator: random.Random) -> Tree:
        """Return the tree of stepwise addition with so many joins undone and made anew."""
        forest = self._trees(self._stepwise)
        for _ in range(joins):
            parts = forest.pop(generator.choice([i for i, tree in enumerate(forest) if not isinstance(tree, int)]))
            assert not isinstance(parts, int)
            forest += parts
        while len(forest) > 1:
            one, two = (forest.pop(generator.randrange(len(forest))) for _ in range(2))
            forest.append((one, two))
        return forest[0]

    def describe(self, states: Tensor) -> list[str]:
        return self.to_newick(states)

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the forest, leaves to the right and roots to the left; the newest join is red."""
        from gfn_envs.envs.phylotree.picture import draw_forest

        new = None
        if len(path) > 1 and bool((path[-1] != path[-2]).any()):
            # The slot whose tree the last step changed: to whom the newly joined one belongs.
            changed = int((path[-1] != path[-2]).int().argmax())
            new = int(self._into(path[-1:])[0, changed])
        live = self._live(path[-1:])[0].nonzero().flatten().tolist()
        draw_forest(axes, self._trees(path[-1].tolist()), self.taxa, live.index(new) if new in live else None)
        count, joins = int(self.mutations(path[-1:])), int((path[-1] > 0).sum())
        axes.set_title(f"{count} mutations in {joins} join{'' if joins == 1 else 's'}", fontsize=8)
