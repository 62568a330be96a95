"""Bags: multisets of letters, rewarded for many of one letter.

Source: Shen et al. 2023 (arXiv 2305.07170), section 6 (the bag environment).
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from gfn_envs.dag import DAG
from gfn_envs.errors import integer_at_least
from gfn_envs.exact import StateKeys
from gfn_envs.rewards import Asking, own_reward

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPEATS = "repeats"
"""Name of the built-in reward."""

NOTHING, REPEATED, MODE = 0.01, 10.0, 30.0
"""The three rewards."""

MOST_BAGS = 2_000_000
"""All complete bags are listed beforehand, to draw the modes among them."""


class Bag(DAG):
    """A multiset of `size` letters, put in one after another; what counts is how many there are of each letter.

    State: int64 `[B, letters]`, the number of each letter so far.
    Actions: `letter` puts one in, while there are fewer than `size`. Backward actions: `letter` takes one out.
    Terminal states: `size` letters in all; there is no stop action.
    Reward: R is 30 for the modes, 10 for other bags in which some letter occurs at least `repeats` times, and 0.01
    elsewhere; `log_reward` is its natural log; or a reward of the user's own. The modes are a quarter of the bags with
    repeats, drawn with `seed`.
    Size: `C(size + letters, letters)` states, `C(size + letters - 1, letters - 1)` terminal: 77,520 and 27,132 by
    default; every trajectory has `size` steps.
    Source: Shen et al. 2023 (arXiv 2305.07170), section 6.

    Args:
        letters: number of different letters, 1 to 26.
        size: number of letters of a complete bag, at least 1.
        repeats: how often a letter has to occur, 1 to `size`.
        seed: seed of the modes.
        reward: `"repeats"`, the formula above, a callable, or a callable named as `"module:function"`. A callable takes
            distinct terminal states, int64 `[n, letters]` on the DAG's device, and returns their rewards, `n` positive
            finite numbers. `gfn_envs.rewards` says how often it is asked.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        letters: int = 7,
        size: int = 13,
        repeats: int = 7,
        seed: int = 0,
        reward: str | Callable[..., Any] = REPEATS,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.letters, self.size = integer_at_least("letters", letters, 1), integer_at_least("size", size, 1)
        self.repeats, seed = integer_at_least("repeats", repeats, 1), integer_at_least("seed", seed, 0)
        if self.letters > len(string.ascii_uppercase):
            raise ValueError(f"letters must be at most 26, got {letters!r}.")
        if self.repeats > self.size:
            raise ValueError(f"repeats must be at most size = {size!r}, got {repeats!r}.")
        self.nvec = (self.size + 1,) * self.letters
        self.num_actions = self.num_backward_actions = self.letters
        self.max_steps = self.size
        self._unit = torch.eye(self.letters, dtype=torch.int64, device=self.device)
        self._keys = StateKeys(self)
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, [REPEATS], asking=asking)
        if self.own_reward is None:
            self._draw_modes(seed)

    def _draw_modes(self, seed: int) -> None:
        """List all complete bags, and draw the modes among those with repeats."""
        count = math.comb(self.size + self.letters - 1, self.letters - 1)
        if count > MOST_BAGS:
            raise ValueError(f"there are {count:,} bags of {self.size} letters: at most {MOST_BAGS:,} can be listed.")
        bags = _bags(self.letters, self.size)
        repeated = np.flatnonzero(bags.max(1) >= self.repeats)
        modes = np.random.default_rng(seed).permutation(repeated)[: len(repeated) // 4]
        rewards = np.full(count, NOTHING)
        rewards[repeated], rewards[modes] = REPEATED, MODE
        self._bags, self._rewards = torch.from_numpy(bags), torch.from_numpy(rewards)
        # The keys of the modes, after one that no bag has, so that there is at least one.
        none = torch.full((1,), torch.iinfo(torch.int64).min, device=self.device)
        self._mode_keys = torch.cat([none, self._keys(self._bags[modes].to(self.device))]).sort().values
        self._values = torch.tensor([NOTHING, REPEATED, MODE], dtype=torch.float64).log().float().to(self.device)
        self.num_modes = len(modes)
        self.metrics = ("modes",) if self.num_modes else ()

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.letters, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return states + self._unit.index_select(0, actions), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states - self._unit.index_select(0, backward_actions), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        return (states.sum(1, keepdim=True) < self.size).repeat(1, self.letters)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states > 0

    def is_terminal(self, states: Tensor) -> Tensor:
        return states.sum(1) == self.size

    def log_reward(self, states: Tensor) -> Tensor:
        if self.own_reward is not None:
            return self.own_reward(states).log()
        repeated = states.amax(1) >= self.repeats
        return self._values[repeated.long() + (self._mode(states) > 0).long()]

    def _mode(self, states: Tensor) -> Tensor:
        """Return the place of each of `states [B, letters]` among the modes, from 1 on, int64 `[B]`; 0 for none."""
        keys = self._keys(states)
        place = torch.searchsorted(self._mode_keys, keys).clamp(max=len(self._mode_keys) - 1)
        return torch.where(self._mode_keys[place] == keys, place, 0)

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: which mode each of terminal `states [B, letters]` is."""
        if self.own_reward is not None:
            return torch.zeros(len(states), 0, dtype=torch.bool, device=states.device)
        return self._mode(states).unsqueeze(1) == torch.arange(1, self.num_modes + 1, device=self.device)

    def log_potential(self, states: Tensor) -> Tensor:
        """Return how much of log R, above that of a bag without repeats, is certain, `[B]`: repeats are not lost again.

        Of an own reward, log R of complete bags, and 0 before.
        """
        return self.log_reward(states) - (0.0 if self.own_reward else math.log(NOTHING))

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`: the multinomial coefficient of the numbers of letters."""
        counts = states.double()
        return (torch.lgamma(counts.sum(1) + 1) - torch.lgamma(counts + 1).sum(1)).float()

    def log_partition(self) -> float | None:
        """Return log Z, from the numbers of bags of each reward; None for an own reward."""
        return None if self.own_reward else float(self._rewards.sum().log())

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` bags drawn from R/Z by `generator`, int64 `[n, letters]`; None for an own reward."""
        if self.own_reward:
            return None
        uniform = torch.rand(n, dtype=torch.float64, generator=generator, device=self.device).cpu()
        cumulative = self._rewards.cumsum(0)
        rows = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).clamp(max=len(cumulative) - 1)
        return self._bags[rows].to(self.device)

    def describe(self, states: Tensor) -> list[str]:
        return [
            "".join(letter * count for letter, count in zip(string.ascii_uppercase, row, strict=False)) or "(empty)"
            for row in states.tolist()
        ]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the numbers of letters as bars, and the number at which repeats count as a dashed line."""
        counts = path[-1].cpu().numpy()
        axes.bar(list(string.ascii_uppercase[: self.letters]), counts, color="tab:blue")
        axes.set_ylim(0, self.size)
        axes.set_title(f"{int(counts.sum())} of {self.size} letters", fontsize=8)
        if self.own_reward is None:
            axes.axhline(self.repeats, color="tab:red", linestyle="dashed")


def _bags(letters: int, size: int) -> np.ndarray:
    """Return all multisets of `size` out of `letters` letters as numbers of each, int64 `[X, letters]`, sorted."""
    bags, left = np.zeros((1, 0), dtype=np.int64), np.array([size])
    for _ in range(letters - 1):
        rows = np.repeat(np.arange(len(left)), left + 1)
        first = np.cumsum(left + 1) - (left + 1)
        counts = np.arange(len(rows)) - first[rows]
        bags, left = np.column_stack([bags[rows], counts]), left[rows] - counts
    return np.column_stack([bags, left])
