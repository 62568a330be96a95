"""Sets: choose a given number of items, each of which has an energy.

Source: Pan et al. 2023 (arXiv 2302.01687), section 4.1 (set generation), with the energies of the published code
(ling-pan/FL-GFN, set/gflownet.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from gfn_envs.dag import DAG
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.rewards import Asking, own_reward

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANDOM = "random"
"""Name of energies drawn with a seed."""

ENERGY = "energy"
"""Name of the built-in reward."""

PUBLISHED: dict[str, tuple[int, str, tuple[float, ...]]] = {
    "small": (
        20,
        "692977150408636431097255818243",
        (
            -0.4381397850674522,
            -0.40046449111789073,
            -0.2745059751263419,
            0.013149744911117978,
            0.4110535720923896,
            0.6261749162235306,
            0.6961474461702144,
            0.7442282139370466,
            0.8206350287761408,
            0.883494921538938,
        ),
    ),
    "medium": (
        60,
        "26803969078211307342235871506543219373525821858668442651398497107690507769490441",
        (
            -0.7866830411595669,
            -0.7837872949891345,
            -0.5230497555411129,
            -0.41860806745880197,
            -0.3855205729595568,
            0.2961218224370139,
            0.5731802451199923,
            0.6009291618806774,
            0.6881812517688572,
            0.7396350970666805,
        ),
    ),
    "large": (
        80,
        "4400539318678091152820597441959646330502505897573481129770836186932461415820429630873226675477218369",
        (
            -0.8596854107736154,
            -0.5938789622812419,
            -0.5596177369051512,
            -0.4589997720511263,
            -0.15382957507887518,
            0.13832182722858843,
            0.3925029176153736,
            0.7231982581431591,
            0.7326989860019331,
            0.9244538380742333,
        ),
    ),
}
"""By name: the size of the set; which of ten values each item has, a digit each; these values."""


class Subset(DAG):
    """A set of `size` of `items` items, chosen one after another in any order.

    State: int64 `[B, items]`, 1 where the item is in the set.
    Actions: `item` puts it in, while fewer than `size` are. Backward actions: `item` takes it out.
    Terminal states: `size` items; there is no stop action.
    Reward: `log R = -sum of the energies of the items in the set`, natural log, or a reward of the user's own.
    Size: sums of binomial coefficients: 39,203 states and 12,870 sets for 8 of 16 items; every trajectory has `size`
    steps.
    Source: Pan et al. 2023 (arXiv 2302.01687), section 4.1.

    Args:
        items: number of items; None for 16 with random energies, and for as many as other energies are for.
        size: number of items of a complete set, 1 to `items`; None for half of the items, and for the published size
            with published energies.
        energies: `"random"`, drawn uniformly from -1 .. 1 with `seed`; `"small"`, `"medium"` or `"large"`, the
            published ones (20 of 30, 60 of 80, 80 of 100 items); or the energies themselves, one an item.
        seed: seed of random energies.
        reward: `"energy"`, the formula above, a callable, or a callable named as `"module:function"`. A callable takes
            distinct terminal states, int64 `[n, items]` on the DAG's device, and returns their rewards, `n` positive
            finite numbers. `gfn_envs.rewards` says how often it is asked.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        items: int | None = None,
        size: int | None = None,
        energies: str | Sequence[float] = RANDOM,
        seed: int = 0,
        reward: str | Callable[..., Any] = ENERGY,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, [ENERGY], asking=asking)
        found, usual_size = _energies(energies, items, integer_at_least("seed", seed, 0))
        self.items, self.energies = len(found), found
        if items is not None and items != self.items:
            raise ValueError(f"items is {items!r}, but there are {self.items} energies: leave it out.")
        self.size = usual_size if size is None else integer_at_least("size", size, 1)
        if self.size > self.items:
            raise ValueError(f"size must be at most items = {self.items}, got {size!r}.")
        self.nvec = (2,) * self.items
        self.num_actions = self.num_backward_actions = self.items
        self.max_steps = self.size
        self._log_weights = -torch.tensor(found, dtype=torch.float64)
        self._weights = self._log_weights.float().to(self.device)

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.items, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, actions.unsqueeze(1), 1), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, backward_actions.unsqueeze(1), 0), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        return (states == 0) & (states.sum(1, keepdim=True) < self.size)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states == 1

    def is_terminal(self, states: Tensor) -> Tensor:
        return states.sum(1) == self.size

    def log_reward(self, states: Tensor) -> Tensor:
        if self.own_reward is not None:
            return self.own_reward(states).log()
        return self.log_potential(states)

    def log_potential(self, states: Tensor) -> Tensor:
        """Return minus the energies of the items so far, `[B]`; of an own reward log R of full sets, and 0 before."""
        if self.own_reward is not None:
            return self.own_reward(states).log()
        # A sum by row, as a product with the weights would depend on the other rows in its last bits.
        return (states * self._weights).sum(1)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`: the items in any order."""
        return torch.lgamma(states.sum(1) + 1.0)

    @functools.cached_property
    def _log_sums(self) -> Tensor:
        """Logs of the elementary symmetric polynomials, float64 `[items + 1, size + 1]`.

        Entry `[i, k]` is the log of the sum over all sets of `k` of the first `i` items of the product of weights.
        """
        row = torch.full((self.size + 1,), -torch.inf, dtype=torch.float64)
        row[0] = 0
        rows = [row]
        for weight in self._log_weights:
            row = torch.cat([row[:1], torch.logaddexp(row[1:], row[:-1] + weight)])
            rows.append(row)
        return torch.stack(rows)

    def log_partition(self) -> float | None:
        """Return log Z, the log of an elementary symmetric polynomial; None for an own reward."""
        return None if self.own_reward else float(self._log_sums[-1, -1])

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` sets drawn from R/Z by `generator`, int64 `[n, items]`; None for an own reward."""
        if self.own_reward:
            return None
        uniform = torch.rand(n, self.items, dtype=torch.float64, generator=generator, device=self.device).cpu()
        states, left = torch.zeros(n, self.items, dtype=torch.int64), torch.full((n,), self.size)
        for i in reversed(range(self.items)):
            with_it = self._log_weights[i] + self._log_sums[i, (left - 1).clamp(min=0)] - self._log_sums[i + 1, left]
            states[:, i] = (uniform[:, i] < with_it.exp()) & (left > 0)
            left -= states[:, i]
        return states.to(self.device)

    def describe(self, states: Tensor) -> list[str]:
        return [f"{{{', '.join(str(i) for i, is_in in enumerate(row) if is_in)}}}" for row in states.tolist()]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the energies of the items as bars, those in the set in colour."""
        is_in = path[-1].cpu().bool().numpy()
        colours = np.where(is_in, "tab:blue", "lightgray")
        axes.bar(np.arange(self.items), self.energies, color=colours.tolist())
        axes.set_title(f"{int(is_in.sum())} of {self.size} items", fontsize=8)
        axes.set_xlabel("item")
        axes.set_ylabel("energy")


def _energies(energies: str | Sequence[float], items: int | None, seed: int) -> tuple[list[float], int]:
    """Return the energies, and the size of the set that goes with them; `ValueError` for neither a name nor a list."""
    if isinstance(energies, str):
        size, digits, values = choose("energies", energies, {RANDOM: (0, "", ()), **PUBLISHED})
        if digits:
            return [values[int(digit)] for digit in digits], size
        count = 16 if items is None else integer_at_least("items", items, 1)
        return np.random.default_rng(seed).uniform(-1, 1, count).tolist(), max(count // 2, 1)
    try:
        found = np.asarray(energies, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    if found.ndim != 1 or len(found) == 0 or not np.isfinite(found).all():
        raise ValueError(f"energies must be a name, or a list of finite numbers, one an item, got {energies!r}.")
    return found.tolist(), max(len(found) // 2, 1)
