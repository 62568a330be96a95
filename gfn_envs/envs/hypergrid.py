"""Hypergrid: walk up the axes of a D-dimensional grid and stop anywhere.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.1; reward constants "standard" and "hard": Gritsaev et al. 2025
(arXiv 2410.15474), section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gfn_envs.dag import DAG
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.rewards import own_reward

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REWARDS: dict[str, tuple[float, float, float]] = {"standard": (1e-3, 0.5, 2.0), "hard": (1e-4, 1.0, 3.0)}
"""Named reward constants (R0, R1, R2)."""


def _constants(named: tuple[float, float, float], given: dict[str, float]) -> tuple[float, float, float]:
    """Return the constants `named`, of which `given` ones are replaced; `ValueError` for a bad one."""
    constants = dict(zip(("R0", "R1", "R2"), named, strict=True)) | given
    for name, value in constants.items():
        ok = isinstance(value, int | float) and math.isfinite(value) and (value > 0 if name == "R0" else value >= 0)
        if not ok:
            least = "> 0" if name == "R0" else ">= 0"
            raise ValueError(
                f"{name} must be a finite number {least}, got {value!r}: the reward has to be positive everywhere."
            )
    return constants["R0"], constants["R1"], constants["R2"]


class Hypergrid(DAG):
    """A cell of a `dim`-dimensional grid with `side` cells along each axis, reached from the corner 0 by unit steps.

    State: int64 `[B, dim + 1]`: coordinates in `0 .. side - 1`, then the stopped flag (0 or 1).
    Actions: `0 .. dim - 1` add 1 to that coordinate, while it stays below `side`; `dim` stops.
    Backward actions: `0 .. dim - 1` subtract 1 from that coordinate, while it is positive; `dim` undoes the stop, the
    only backward action of a stopped state.
    Terminal states: stopped; every cell can be terminal.
    Reward: with `u_d = |s_d / (side - 1) - 1/2|`, `R(s) = R0 + R1 prod_d [0.25 < u_d] + R2 prod_d [0.3 < u_d < 0.4]`,
    or a reward of the user's own; `log_reward` is its natural log. Modes and log Z are known for the formula alone.
    Size: `2 side^dim` states, `side^dim` terminal; longest trajectory `dim (side - 1) + 1`.
    Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.1.

    Args:
        dim: number of axes, at least 1.
        side: number of cells along an axis, at least 2.
        reward: `"standard"` (R0 = 1e-3, R1 = 0.5, R2 = 2), `"hard"` (1e-4, 1, 3), a callable, or a callable named as
            `"module:function"`. A callable takes distinct terminal states, int64 `[n, dim + 1]` on the DAG's device,
            and returns their rewards, `n` positive finite numbers. `gfn_envs.rewards` says how often it is asked.
        R0, R1, R2: constants that replace those of a named `reward`; R0 > 0, R1 >= 0, R2 >= 0.
        device: where its tensors live.
    """

    def __init__(
        self,
        dim: int = 4,
        side: int = 20,
        reward: str | Callable[..., Any] = "standard",
        R0: float | None = None,  # noqa: N803  (the constants' names in the literature)
        R1: float | None = None,  # noqa: N803
        R2: float | None = None,  # noqa: N803
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.dim = integer_at_least("dim", dim, 1)
        self.side = integer_at_least("side", side, 2)
        given = {name: value for name, value in (("R0", R0), ("R1", R1), ("R2", R2)) if value is not None}
        self.own_reward = own_reward(self, reward, REWARDS)
        if self.own_reward is None:
            self.R0, self.R1, self.R2 = _constants(choose("reward", reward, REWARDS), given)
        elif given:
            raise ValueError(
                f"{', '.join(given)} replace constants of the rewards {' and '.join(REWARDS)}: they cannot be given "
                f"together with a reward of your own, {self.own_reward.name}."
            )
        self.nvec = (self.side,) * self.dim + (2,)
        self.num_actions = self.num_backward_actions = self.dim + 1
        self.stop_action = self.dim
        self.max_steps = self.dim * (self.side - 1) + 1
        self._last = torch.tensor(self.nvec, device=self.device) - 1
        self._is_stop = torch.arange(self.dim + 1, device=self.device) == self.dim
        self._unit = torch.eye(self.dim + 1, dtype=torch.int64, device=self.device)
        # Integers, not rounded quotients, decide the bounds: u < 2/5 means |2 s - (side - 1)| * 5 < 4 (side - 1).
        n = self.side - 1
        twice = (2 * torch.arange(self.side, dtype=torch.int64) - n).abs()
        outer, ring = 2 * twice > n, (5 * twice > 3 * n) & (5 * twice < 4 * n)
        self._num_outer, self._num_ring = int(outer.sum()), int(ring.sum())
        self._axes = torch.arange(self.dim, device=self.device)
        self._outer, self._ring = outer.to(self.device), ring.to(self.device)
        if self.own_reward is None:
            self.metrics, self.num_modes = ("modes",), 2**self.dim
            # The three values that R takes, as logs computed in double precision.
            self._log_values = torch.tensor(
                [[math.log(self.R0 + outer * self.R1 + ring * self.R2) for ring in (0, 1)] for outer in (0, 1)],
                device=self.device,
                dtype=torch.float32,
            )

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.dim + 1, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        # An action is the index of the component it raises, the stopped flag included, and so is its reverse.
        return states + self._unit.index_select(0, actions), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states - self._unit.index_select(0, backward_actions), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        return (states < self._last) & (states[:, -1:] == 0)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return (states > 0) & (self._is_stop | (states[:, -1:] == 0))

    def log_reward(self, states: Tensor) -> Tensor:
        if self.own_reward is not None:
            return self.own_reward(states).log()
        cells = states[:, :-1]
        return self._log_values[self._outer[cells].all(1).long(), self._ring[cells].all(1).long()]

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`: the multinomial coefficient of the coordinates, in natural log."""
        cells = states[:, :-1].double()
        return (torch.lgamma(cells.sum(1) + 1) - torch.lgamma(cells + 1).sum(1)).float()

    def log_potential(self, states: Tensor) -> Tensor:
        """Return `log R` of the cell less `log R` of the origin, float32 `[B]`: what stopping here would pay."""
        return self.log_reward(self._stopped(states)) - self.log_reward(self._stopped(self.reset(1)))

    def _stopped(self, states: Tensor) -> Tensor:
        return torch.cat([states[:, :-1], torch.ones_like(states[:, -1:])], 1)

    def log_partition(self) -> float | None:
        """Return log Z in closed form, as both products of indicators factorise over the axes; None for an own reward.

        An enumeration has log Z for any reward, in its `log_z`.
        """
        return None if self.own_reward else math.log(sum(self._summed_terms(self.dim)))

    def _summed_terms(self, axes: int) -> tuple[float, float, float]:
        """Return the three terms of R, each summed over all values of `axes` coordinates."""
        outer, ring = self._num_outer, self._num_ring
        return self.R0 * self.side**axes, self.R1 * outer**axes, self.R2 * ring**axes

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: the corner in whose peak, its cells of the highest reward, `states` lie.

        Bit `d` of a corner's index tells whether it is at the far end of axis `d`. A reward of the user's own has no
        known modes.
        """
        cells = states[:, :-1]
        peak = self._ring if self._num_ring else self._outer
        corner = ((2 * cells >= self.side).long() << self._axes).sum(1, keepdim=True)
        return (corner == torch.arange(self.num_modes, device=self.device)) & peak[cells].all(1, keepdim=True)

    def describe(self, states: Tensor) -> list[str]:
        return [f"({', '.join(map(str, row[:-1]))}){' stopped' if row[-1] else ''}" for row in states.tolist()]

    def _heat(self) -> Tensor:
        """Return the log of R summed over all axes but the first two, float64 `[side, side]`, or `[1, side]`."""
        outer, ring = self._outer.cpu().double(), self._ring.cpu().double()
        column = torch.ones(1, dtype=torch.float64)
        level, plateau, peak = self._summed_terms(max(self.dim - 2, 0))
        rows = (outer, ring) if self.dim > 1 else (column, column)
        return (level + plateau * rows[0][:, None] * outer + peak * rows[1][:, None] * ring).log()

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the path over the first two axes on the target's heat map: log of R summed over the other axes.

        A reward of the user's own has no heat map: every cell has one colour.
        """
        path = path.cpu()
        xs = path[:, 0].numpy()
        ys = path[:, 1].numpy() if self.dim > 1 else 0 * xs
        heat = torch.zeros(self.side if self.dim > 1 else 1, self.side) if self.own_reward else self._heat()
        axes.imshow(heat.numpy(), origin="lower", cmap="viridis", aspect="equal" if self.dim > 1 else "auto")
        axes.plot(xs, ys, color="white", linewidth=1.5)
        axes.plot(xs[-1:], ys[-1:], marker="s" if path[-1, -1] else "o", color="red", markersize=6)
        axes.set_xlabel("axis 0")
        if self.dim > 1:
            axes.set_ylabel("axis 1")
        else:
            axes.set_yticks([])
