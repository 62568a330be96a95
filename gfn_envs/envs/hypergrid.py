"""Hypergrid: walk up the axes of a D-dimensional grid and stop anywhere.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.1; reward constants "standard" and "hard": Gritsaev et al. 2025
(arXiv 2410.15474), section 4.1; "deceptive": Kim et al. 2025 (arXiv 2410.01432), by its published code; "cosine":
torchgfn (Lahlou et al. 2023, arXiv 2305.14594); "sparse": Pan et al. 2023 (arXiv 2210.03308).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor

from gfn_envs.dag import DAG
from gfn_envs.errors import integer_at_least
from gfn_envs.memory import demand
from gfn_envs.rewards import Asking, own_reward

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class NamedReward(NamedTuple):
    """A reward `R(s) = sum_k w_k prod_d f_k(s_d)`, the first product being 1."""

    constants: dict[str, float]
    """Its constants by name, with their published values."""
    weights: Callable[..., tuple[float, ...]]
    """The constants -> the weights w `[k]`."""
    factors: Callable[[int], tuple[Tensor, ...]]
    """The side -> the values of each f but the first at each coordinate, float64 `[side]`."""
    least_side: int = 2
    """Shortest side on which it is defined."""
    modes: bool = True
    """Whether the corners have modes: the cells where the last product that adds to R, and is not empty, is 1."""


def _plain(R0: float, R1: float, R2: float) -> tuple[float, ...]:  # noqa: N803  (the constants' names)
    return R0, R1, R2


def _inside_out(R0: float, R1: float, R2: float) -> tuple[float, ...]:  # noqa: N803
    return R0 + R1, -R1, R2


def _two(R0: float, R1: float) -> tuple[float, ...]:  # noqa: N803
    return R0, R1


def _twice_from_middle(side: int) -> Tensor:
    """Return `|2 s - (side - 1)|` for each coordinate s: integers, as rounded quotients could not decide the bounds."""
    return (2 * torch.arange(side, dtype=torch.int64) - (side - 1)).abs()


def _ring(side: int) -> Tensor:
    twice, n = _twice_from_middle(side), side - 1
    return ((5 * twice > 3 * n) & (5 * twice < 4 * n)).double()


def _outer_and_ring(side: int) -> tuple[Tensor, ...]:
    return (2 * _twice_from_middle(side) > side - 1).double(), _ring(side)


def _far_and_ring(side: int) -> tuple[Tensor, ...]:
    return (5 * _twice_from_middle(side) > side - 1).double(), _ring(side)


def _waves(side: int) -> tuple[Tensor, ...]:
    u = _twice_from_middle(side).double() / (2 * (side - 1))
    return ((torch.cos(50 * u) + 1) * torch.exp(-((5 * u) ** 2) / 2) / math.sqrt(2 * math.pi),)


def _next_to_ends(side: int) -> tuple[Tensor, ...]:
    s = torch.arange(side)
    return (((s == 1) | (s == side - 2)).double(),)


REWARDS: dict[str, NamedReward] = {
    "standard": NamedReward({"R0": 1e-3, "R1": 0.5, "R2": 2.0}, _plain, _outer_and_ring),
    "hard": NamedReward({"R0": 1e-4, "R1": 1.0, "R2": 3.0}, _plain, _outer_and_ring),
    "deceptive": NamedReward({"R0": 1e-5, "R1": 0.1, "R2": 2.0}, _inside_out, _far_and_ring),
    "cosine": NamedReward({"R0": 0.1, "R1": 0.5}, _two, _waves, modes=False),
    "sparse": NamedReward({"R0": 1e-12, "R1": 1.0}, _two, _next_to_ends, least_side=4),
}
"""The built-in rewards by name; `Hypergrid` writes out their formulas."""


def _replaced(name: str, given: dict[str, float]) -> dict[str, float]:
    """Return the constants of a named reward, of which `given` ones are replaced; `ValueError` for a bad one."""
    constants = REWARDS[name].constants
    if unknown := [each for each in given if each not in constants]:
        raise ValueError(f"{', '.join(unknown)}: the reward {name} has the constants {' and '.join(constants)} alone.")
    for each, value in given.items():
        positive = each == "R0"
        if not (isinstance(value, int | float) and math.isfinite(value) and (value > 0 if positive else value >= 0)):
            least = "> 0" if positive else ">= 0"
            raise ValueError(
                f"{each} must be a finite number {least}, got {value!r}: the reward has to be positive everywhere."
            )
    return constants | given


class Hypergrid(DAG):
    """A cell of a `dim`-dimensional grid with `side` cells along each axis, reached from the corner 0 by unit steps.

    State: int64 `[B, dim + 1]`: coordinates in `0 .. side - 1`, then the stopped flag (0 or 1).
    Actions: `0 .. dim - 1` add 1 to that coordinate, while it stays below `side`; `dim` stops.
    Backward actions: `0 .. dim - 1` subtract 1 from that coordinate, while it is positive; `dim` undoes the stop, the
    only backward action of a stopped state.
    Terminal states: stopped; every cell can be terminal.
    Reward: `log_reward` is the natural log of one of these, with `u_d = |s_d / (side - 1) - 1/2|`, or of a reward of
    the user's own:

    - `"standard"`, `"hard"`: `R0 + R1 prod_d [0.25 < u_d] + R2 prod_d [0.3 < u_d < 0.4]`;
    - `"deceptive"`: `R0 + R1 (1 - prod_d [0.1 < u_d]) + R2 prod_d [0.3 < u_d < 0.4]`, whose middle leads astray;
    - `"cosine"`: `R0 + R1 prod_d (cos(50 u_d) + 1) N(5 u_d)`, N the standard normal density;
    - `"sparse"`: `R0 + R1 prod_d [s_d = 1 or s_d = side - 2]`.

    log Z is known for all of them, as their products factorise over the axes; of a reward of the user's own neither
    modes nor log Z are.
    Size: `2 side^dim` states, `side^dim` terminal; longest trajectory `dim (side - 1) + 1`.
    Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.1.

    Args:
        dim: number of axes, at least 1.
        side: number of cells along an axis, at least 2.
        reward: `"standard"` (R0 = 1e-3, R1 = 0.5, R2 = 2), `"hard"` (1e-4, 1, 3), `"deceptive"` (1e-5, 0.1, 2),
            `"cosine"` (0.1, 0.5), `"sparse"` (1e-12, 1; a side of at least 4), a callable, or a callable named as
            `"module:function"`. A callable takes distinct terminal states, int64 `[n, dim + 1]` on the DAG's device,
            and returns their rewards, `n` positive finite numbers. `gfn_envs.rewards` says how often it is asked.
        R0, R1, R2: constants that replace those of a named `reward`; R0 > 0, R1 >= 0, R2 >= 0.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
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
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.dim = integer_at_least("dim", dim, 1)
        self.side = integer_at_least("side", side, 2)
        demand("the steps along the axes", 8 * (self.dim + 1) ** 2, "dim", device)
        demand("the factors of the reward", 32 * self.side, "side", device)
        given = {name: value for name, value in (("R0", R0), ("R1", R1), ("R2", R2)) if value is not None}
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, REWARDS, asking=asking)
        if self.own_reward is None:
            self.constants = _replaced(str(reward), given)
        elif given:
            raise ValueError(
                f"{', '.join(given)} replace constants of a built-in reward: they cannot be given together with a "
                f"reward of your own, {self.own_reward.name}."
            )
        self.nvec = (self.side,) * self.dim + (2,)
        self.num_actions = self.num_backward_actions = self.dim + 1
        self.stop_action = self.dim
        self.max_steps = self.dim * (self.side - 1) + 1
        self._last = torch.tensor(self.nvec, device=self.device) - 1
        self._is_stop = torch.arange(self.dim + 1, device=self.device) == self.dim
        self._unit = torch.eye(self.dim + 1, dtype=torch.int64, device=self.device)
        self._axes = torch.arange(self.dim, device=self.device)
        self._peak = torch.zeros(self.side, dtype=torch.bool, device=self.device)
        if self.own_reward is None:
            self._set_reward(str(reward))

    def _set_reward(self, name: str) -> None:
        """Tabulate the factors of a named reward over a coordinate, and say where its modes are."""
        reward = REWARDS[name]
        if self.side < reward.least_side:
            raise ValueError(f"the reward {name} needs a side of at least {reward.least_side}, got {self.side}.")
        weights = reward.weights(**self.constants)
        factors = torch.stack([torch.ones(self.side, dtype=torch.float64), *reward.factors(self.side)])
        self._terms = list(zip(weights, factors, strict=True))
        self._weights = torch.tensor(weights, dtype=torch.float64, device=self.device).unsqueeze(1)
        self._factors = factors.to(self.device)
        peaks = [factor > 0 for weight, factor in self._terms[1:] if reward.modes and weight > 0 and factor.any()]
        if peaks:
            self.metrics, self.num_modes = ("modes",), 2**self.dim
            self._peak = peaks[-1].to(self.device)

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
        products = self._factors[:, states[:, :-1]].prod(2)
        return (self._weights * products).sum(0).log().float()

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
        """Return log Z in closed form, as the products factorise over the axes; None for a reward of the user's own.

        An enumeration has log Z for any reward, in its `log_z`.
        """
        if self.own_reward:
            return None
        return math.log(sum(weight * float(factor.sum()) ** self.dim for weight, factor in self._terms))

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` stopped cells drawn from R/Z, int64 `[n, dim + 1]`; None for a reward of the user's own."""
        if self.own_reward:
            return None
        states = torch.ones(n, self.dim + 1, dtype=torch.int64, device=self.device)
        products = self._weights.expand(-1, n)  # over the axes drawn so far, one for each term
        for axis in range(self.dim):
            rest = self._factors.sum(1, keepdim=True) ** (self.dim - 1 - axis)
            cells = (products.T @ (rest * self._factors)).clamp(min=0)
            states[:, axis] = torch.multinomial(cells, 1, generator=generator).squeeze(1)
            products = products * self._factors[:, states[:, axis]]
        return states

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: the corner in whose peak, its cells of the highest reward, `states` lie.

        Bit `d` of a corner's index tells whether it is at the far end of axis `d`. The reward "cosine" and one of the
        user's own have no known modes.
        """
        cells = states[:, :-1]
        corner = ((2 * cells >= self.side).long() << self._axes).sum(1, keepdim=True)
        return (corner == torch.arange(self.num_modes, device=self.device)) & self._peak[cells].all(1, keepdim=True)

    def describe(self, states: Tensor) -> list[str]:
        return [f"({', '.join(map(str, row[:-1]))}){' stopped' if row[-1] else ''}" for row in states.tolist()]

    def _heat(self) -> Tensor:
        """Return the log of R summed over all axes but the first two, float64 `[side, side]`, or `[1, side]`."""
        heat = torch.zeros((), dtype=torch.float64)
        for weight, factor in self._terms:
            here = factor[:, None] * factor if self.dim > 1 else factor[None]
            heat = heat + weight * factor.sum() ** max(self.dim - 2, 0) * here
        return heat.log()

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
