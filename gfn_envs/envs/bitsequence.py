"""Bit sequences: fill the words of a bit string, in any order or from left to right.

Source: Malkin et al. 2022 (arXiv 2201.13259), section 5.3 (the benchmark); Tiapkin et al. 2024 (arXiv 2310.12934)
(words in any order); modes and test set with seed 42: Gritsaev et al. 2025 (arXiv 2410.15474).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gfn_envs.dag import DAG
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.memory import demand
from gfn_envs.rewards import Asking, own_reward
from gfn_envs.views import TokenView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLOCKS = ("00000000", "11111111", "11110000", "00001111", "00111100")
"""Each mode is a sequence of these blocks (Malkin et al. 2022)."""

ORDERS = {"any": False, "autoregressive": True}

HAMMING = "hamming"
"""Name of the built-in reward."""

EXPONENT = 2.0
"""The published benchmark multiplies the distance by this factor."""


def random_modes(n: int, count: int, seed: int) -> list[str]:
    """Return `count` strings of random `BLOCKS`, each cut to `n` bits, drawn with numpy's legacy generator."""
    drawn = np.random.RandomState(seed).randint(len(BLOCKS), size=(count, -(-n // 8)))
    return ["".join(BLOCKS[block] for block in row)[:n] for row in drawn.tolist()]


class BitSequence(DAG):
    """A string of `n` bits in `L = n / k` words of `k` bits, each empty until it is set.

    State: int64 `[B, L]`: 0 for an empty word, `1 + value` for a set word. `value` is the word read as a binary number.
    Actions: with `order="any"`, `position * 2^k + value` sets an empty position. With `order="autoregressive"`, `value`
    sets the first empty position.
    Backward actions: with `order="any"`, `position` empties a set word. With `order="autoregressive"`, 0 empties the
    last set word.
    Terminal states: the states without an empty word.
    Reward: `log R(x) = -exponent * min over modes of Hamming(x, mode)`, natural log. The user's own reward can replace
    it; then no modes are known. `log_potential` takes the distance on the words that are set.
    Size: `(2^k + 1)^L` states in any order, `2^n` terminal; every trajectory has `L` steps.
    Source: Malkin et al. 2022 (arXiv 2201.13259), section 5.3; Tiapkin et al. 2024 (arXiv 2310.12934).

    Args:
        n: number of bits, a multiple of `k`.
        k: number of bits in a word, 1 to 16.
        modes: the number of random modes, or the modes themselves as strings of `n` characters 0 and 1. The test set
            lies around the modes for any reward.
        modes_seed: seed of random modes; 42 gives the published ones.
        exponent: factor on the distance in the built-in reward, positive.
        order: `"any"` or `"autoregressive"`.
        mode_distance: with the built-in reward, a mode counts as found once a sample lies within this Hamming distance.
            None stands for `n // 4`, which is the published 30 at 120 bits.
        reward: `"hamming"` (the formula above), a callable, or a callable named as `"module:function"`. A callable
            takes distinct terminal objects and returns one positive finite number for each. `gfn_envs.rewards` says how
            often it is called.
        reward_input: what a callable takes: `"states"`, int64 `[n, L]` on the DAG's device, or `"bits"`, a list of
            strings of `n` characters 0 and 1.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: device of its tensors.
    """

    metrics = ("correlation",)

    def __init__(
        self,
        n: int = 120,
        k: int = 8,
        modes: int | Sequence[str] = 60,
        modes_seed: int = 42,
        exponent: float = EXPONENT,
        order: str = "any",
        mode_distance: int | None = None,
        reward: str | Callable[..., Any] = HAMMING,
        reward_input: str = "states",
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.n, self.k = integer_at_least("n", n, 1), integer_at_least("k", k, 1)
        if self.k > 16:
            raise ValueError(f"k must be at most 16 (2^k words have an action each), got {k!r}.")
        if self.n % self.k:
            raise ValueError(f"n must be a multiple of k, got n = {n}, k = {k}.")
        if not (isinstance(exponent, int | float) and 0 < exponent < math.inf):
            raise ValueError(f"exponent must be a positive, finite number, got {exponent!r}.")
        self.exponent = exponent
        self.mode_distance = integer_at_least(
            "mode_distance", self.n // 4 if mode_distance is None else mode_distance, 0
        )
        self.autoregressive = choose("order", order, ORDERS)
        self.modes = self._checked_modes(modes, integer_at_least("modes_seed", modes_seed, 0))
        texts = choose("reward_input", reward_input, {"states": None, "bits": self.to_bits})
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, [HAMMING], texts, asking=asking)
        if self.own_reward is None:
            self.metrics, self.num_modes = ("modes", "correlation"), len(self.modes)
        elif exponent != EXPONENT or mode_distance is not None:
            raise ValueError(
                f"exponent and mode_distance belong to the reward {HAMMING}: they cannot be given together with a "
                f"reward of your own, {self.own_reward.name}."
            )
        self.num_words, self.word_values = self.n // self.k, 2**self.k
        self.nvec = (self.word_values + 1,) * self.num_words
        self.num_actions = self.word_values * (1 if self.autoregressive else self.num_words)
        self.num_backward_actions = 1 if self.autoregressive else self.num_words
        self.max_steps = self.num_words
        # Bits are stored as signs, because a product of signs counts agreements minus disagreements. Empty words are 0.
        shifts = torch.arange(self.k - 1, -1, -1)
        signs = 2.0 * (torch.arange(self.word_values).unsqueeze(1) >> shifts & 1) - 1
        self._signs = torch.cat([torch.zeros(1, self.k), signs]).to(self.device)
        bits = torch.frombuffer(bytearray("".join(self.modes).encode()), dtype=torch.uint8) - ord("0")
        self._mode_signs = (2.0 * bits.view(-1, self.n) - 1).T.contiguous().to(self.device)

    def _checked_modes(self, modes: int | Sequence[str], seed: int) -> list[str]:
        if seed >= 2**32:
            raise ValueError(f"modes_seed must be less than 2^32, got {seed!r}.")
        if not isinstance(modes, Sequence):
            count = integer_at_least("modes", modes, 1)
            demand("the bits of the modes", 16 * count * self.n, "modes or n")
            return random_modes(self.n, count, seed)
        if isinstance(modes, str) or not modes:
            raise ValueError(f"modes must be a number or a list of bit strings, got {modes!r}.")
        for mode in modes:
            if not isinstance(mode, str) or len(mode) != self.n or set(mode) - {"0", "1"}:
                raise ValueError(f"modes must be strings of {self.n} characters 0 and 1, got {mode!r}.")
        return list(modes)

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.num_words, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        values = actions % self.word_values
        positions = (
            self._num_set(states).clamp(max=self.num_words - 1)
            if self.autoregressive
            else (torch.div(actions, self.word_values, rounding_mode="floor"))
        )
        next_states = states.scatter(1, positions.unsqueeze(1), values.unsqueeze(1) + 1)
        return next_states, torch.zeros_like(actions) if self.autoregressive else positions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        positions = (self._num_set(states) - 1).clamp(min=0) if self.autoregressive else backward_actions
        positions = positions.unsqueeze(1)
        values = (states.gather(1, positions).squeeze(1) - 1).clamp(min=0)
        actions = values if self.autoregressive else backward_actions * self.word_values + values
        return states.scatter(1, positions, 0), actions

    def action_mask(self, states: Tensor) -> Tensor:
        empty = states == 0
        empty = empty.any(1, keepdim=True) if self.autoregressive else empty
        return empty.repeat_interleave(self.word_values, 1)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        is_set = states > 0
        return is_set.any(1, keepdim=True) if self.autoregressive else is_set

    def distances(self, states: Tensor) -> Tensor:
        """Return the Hamming distances of `states [B, L]` to all modes, on the words that are set, `[B, modes]`."""
        bits = self.k * self._num_set(states).unsqueeze(1)
        return (bits - self._signs[states].flatten(1) @ self._mode_signs) / 2

    def log_reward(self, states: Tensor) -> Tensor:
        if self.own_reward is not None:
            return self.own_reward(states).log()
        return -self.exponent * self.distances(states).amin(1)

    def log_potential(self, states: Tensor) -> Tensor:
        """Return the log of the reward on the words that are set at `states [B, L]`, float32 `[B]`.

        Of a reward of the user's own nothing is decided before the last step.
        """
        return self.log_reward(states)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`: the log of the number of orders in which the set words can come."""
        count = self._num_set(states).float()
        return torch.zeros_like(count) if self.autoregressive else torch.lgamma(count + 1)

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: whether each of `states [B, L]` lies within `mode_distance` of each mode."""
        return self.distances(states)[:, : self.num_modes] <= self.mode_distance

    def test_states(self, seed: int = 42) -> Tensor:
        """Return the published test set, `[n * modes, L]`: every mode with 0 .. n - 1 random bits flipped."""
        random = np.random.RandomState(seed)
        bits = np.array([[int(bit) for bit in mode] for mode in self.modes for _ in range(self.n)])
        for row, mode_and_count in enumerate(np.ndindex(len(self.modes), self.n)):
            if count := mode_and_count[1]:
                bits[row, random.choice(self.n, size=count, replace=False)] ^= 1
        return self.from_bits(torch.from_numpy(bits))

    def from_bits(self, bits: Tensor) -> Tensor:
        """Return terminal states `[B, L]` of bits `[B, n]`; raise `ValueError` for another width or other values."""
        if bits.ndim != 2 or bits.shape[1] != self.n:
            raise ValueError(f"bits must have shape [B, {self.n}], got {list(bits.shape)}.")
        if not bool(((bits == 0) | (bits == 1)).all()):
            raise ValueError("bits must be 0 or 1.")
        powers = 2 ** torch.arange(self.k - 1, -1, -1, device=bits.device)
        return ((bits.long().unflatten(1, (self.num_words, self.k)) * powers).sum(2) + 1).to(self.device)

    def to_bits(self, states: Tensor) -> list[str]:
        """Return terminal `states [B, L]` as strings of `n` characters 0 and 1."""
        return ["".join(format(word - 1, f"0{self.k}b") for word in row) for row in states.tolist()]

    def token_view(self) -> TokenView:
        """Return the words as tokens."""
        values = 0 if self.autoregressive else self.word_values
        return TokenView(self.num_words, self.word_values + 1, values, places=not self.autoregressive)

    def _num_set(self, states: Tensor) -> Tensor:
        return (states > 0).sum(1)

    def describe(self, states: Tensor) -> list[str]:
        return [
            " ".join(format(word - 1, f"0{self.k}b") if word else "." * self.k for word in row)
            for row in states.tolist()
        ]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the words as rows of bits (white 0, black 1, grey empty); red frames mark bits unlike the nearest mode.

        The user's own reward has no modes, so its picture has no frames.
        """
        signs = self._signs[path[-1:]].flatten(1)
        words = signs.view(self.num_words, self.k).cpu()
        axes.imshow((1 - words.numpy()) / 2, cmap="gray", vmin=0, vmax=1, aspect="auto")
        if self.num_modes:
            nearest = int((signs @ self._mode_signs).argmax())
            mode = self._mode_signs[:, nearest].view(self.num_words, self.k).cpu()
            rows, columns = ((words != 0) & (words != mode)).nonzero(as_tuple=True)
            axes.scatter(columns.numpy(), rows.numpy(), marker="s", s=30, facecolors="none", edgecolors="red")
            differ = "1 bit differs" if len(rows) == 1 else f"{len(rows)} bits differ"
            axes.set_title(f"nearest mode {nearest}: {differ}", fontsize=8)
        axes.locator_params(integer=True, min_n_ticks=1)
        axes.set_xlabel("bit")
        axes.set_ylabel("word")
