"""Ising spins on a torus, ferromagnet and spin glass: each spin is set up or down, in any order.

Source: Onsager 1944 (Physical Review 65, 117) and Kaufman 1949 (Physical Review 76, 1232); spin glass Edwards and
Anderson 1975 (Journal of Physics F 5, 965); as a GFlowNet problem Zhang et al. 2022 (arXiv 2202.01361).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gfn_envs.envs.factor_graph.dag import FACTORS, FactorGraph
from gfn_envs.envs.factor_graph.torus import Torus, kaufman_log_z
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.memory import demand

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FERROMAGNET = "ferromagnet"
"""Name of the bonds that are all 1."""

BONDS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    FERROMAGNET: lambda side, random: np.ones((2, side, side)),
    "random_signs": lambda side, random: random.choice([-1.0, 1.0], size=(2, side, side)),
    "gaussian": lambda side, random: random.standard_normal((2, side, side)),
}
"""Bonds `[2, side, side]` by name: of each spin to the one on its right, and to the one below."""


class Ising(FactorGraph):
    """Spins +1 or -1 on a square of `side` rows and columns whose opposite edges are joined, set in any order.

    State: int64 `[B, side^2]`, row by row: 0 where the spin is unset, 1 where it is -1 (down), 2 where it is +1 (up).
    Actions: `2 * place` sets a spin down, `2 * place + 1` up. Backward actions: `place` unsets a spin.
    Terminal states: no unset spin.
    Reward: `log R(s) = coupling * sum over bonds J_ij s_i s_j`, natural log, each of the `2 side^2` bonds once (with
    side 2 two neighbours are joined twice), or a reward of the user's own. `log_potential` is the sum over the bonds
    both of whose spins are set.
    Size: `3^(side^2)` states, `2^(side^2)` terminal; every trajectory has `side^2` steps. With side 3: 19,683, 512.
    Source: Onsager 1944, Kaufman 1949; spin glass Edwards and Anderson 1975; Zhang et al. 2022 (arXiv 2202.01361).

    Args:
        side: number of rows and of columns, at least 2.
        coupling: K, the log weight of one bond with J = 1 between equal spins, less half of that between different
            ones: `exp(K s s')`. The infinite ferromagnet has its transition at K = 0.4407.
        bonds: J. `"ferromagnet"` (all 1), `"random_signs"` (1 or -1 with equal probability), `"gaussian"` (standard
            normal), or numbers of your own, `[2, side, side]`: of each spin and the one to its right, then of each spin
            and the one below.
        seed: of random bonds.
        reward: `"factors"`, the formula above, a callable, or a callable named as `"module:function"`. A callable takes
            distinct terminal states, int64 `[n, side^2]` on the DAG's device, and returns their rewards, `n` positive
            finite numbers. `gfn_envs.rewards` says how often it is asked.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        side: int = 4,
        coupling: float = 0.44,
        bonds: str | Sequence[Any] | np.ndarray | Tensor = FERROMAGNET,
        seed: int = 0,
        reward: str | Callable[..., Any] = FACTORS,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.side = integer_at_least("side", side, 2)
        demand("the factors of the spins", 800 * self.side**2, "side")
        if isinstance(coupling, bool) or not (isinstance(coupling, int | float) and math.isfinite(coupling)):
            raise ValueError(f"coupling must be a finite number, got {coupling!r}.")
        self.coupling = float(coupling)
        self.bonds = _checked_bonds(bonds, self.side, integer_at_least("seed", seed, 0))
        places = np.arange(self.side**2).reshape(self.side, self.side)
        ends = np.stack([np.roll(places, -1, 1), np.roll(places, -1, 0)])
        agree = np.array([[1.0, -1.0], [-1.0, 1.0]])
        pairs = zip(np.stack([places, places]).ravel().tolist(), ends.ravel().tolist(), strict=True)
        strengths = (self.coupling * self.bonds).ravel()
        factors = [(pair, strength * agree) for pair, strength in zip(pairs, strengths, strict=True)]
        super().__init__(
            factors,
            reward=reward,
            reward_workers=reward_workers,
            reward_timeout=reward_timeout,
            reward_floor=reward_floor,
            device=device,
        )

    def exact_sums(self) -> Torus:
        """Return log Z and exact samples by the transfer matrix; `ValueError` for sides above 10."""
        right, down = torch.from_numpy(self.coupling * self.bonds)
        return Torus(right, down, self.device)

    def log_partition(self) -> float | None:
        """Return log Z: Kaufman's formula for equal bonds, the transfer matrix for others up to side 10, or None.

        Exact samples are drawn row by row with the transfer matrix, up to side 10.
        """
        if self.own_reward:
            return None
        strengths = self.coupling * self.bonds
        uniform = float(strengths.flat[0])
        if uniform < 0 and self.side % 2 == 0:
            uniform = -uniform  # every other spin turned round makes a ferromagnet of it
        if np.ptp(strengths) == 0 and uniform >= 0:
            return kaufman_log_z(self.side, uniform) if uniform > 0 else self.side**2 * math.log(2)
        return super().log_partition()

    def spins(self, states: Tensor) -> Tensor:
        """Return spins -1, 0 (unset) or 1, int64 `[B, side, side]`."""
        return (2 * states - 3).masked_fill(states == 0, 0).unflatten(1, (self.side, self.side))

    def describe(self, states: Tensor) -> list[str]:
        texts = ["".join(".-+"[value] for value in row) for row in states.tolist()]
        return ["/".join(text[i : i + self.side] for i in range(0, len(text), self.side)) for text in texts]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the spins: blue down, yellow up, grey unset; a red line crosses each bond that is not satisfied."""
        from matplotlib.collections import LineCollection
        from matplotlib.colors import ListedColormap

        spins = self.spins(path[-1:])[0].cpu().numpy()
        axes.imshow(spins, cmap=ListedColormap(["#30588c", "#dcdcdc", "#f2c14e"]), vmin=-1, vmax=1)
        strengths = self.coupling * self.bonds
        right, below = (
            np.nonzero(strengths[0] * spins * np.roll(spins, -1, 1) < 0),
            np.nonzero(strengths[1] * spins * np.roll(spins, -1, 0) < 0),
        )
        walls = [[(x + 0.5, y - 0.3), (x + 0.5, y + 0.3)] for y, x in zip(*right, strict=True)]
        walls += [[(x - 0.3, y + 0.5), (x + 0.3, y + 0.5)] for y, x in zip(*below, strict=True)]
        axes.add_collection(LineCollection(walls, colors="#c03028", linewidths=1.5, clip_on=False))
        decided = float(self.log_weights(path[-1:]))
        axes.set_title(f"bonds {decided:.2f}, mean spin {spins.mean():.2f}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])


def _checked_bonds(bonds: Any, side: int, seed: int) -> np.ndarray:
    """Return bonds by name or of the user's own as float64 `[2, side, side]`, or raise `ValueError`."""
    if isinstance(bonds, str):
        draw = choose("bonds", bonds, BONDS)
        if seed and bonds == FERROMAGNET:
            raise ValueError(f"seed {seed} has no effect: bonds {FERROMAGNET!r} are not random.")
        return draw(side, np.random.default_rng(seed))
    if seed:
        raise ValueError(f"seed {seed} has no effect with bonds of your own.")
    try:
        given = np.array(bonds.tolist() if isinstance(bonds, Tensor) else bonds, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"bonds must be numbers of shape [2, {side}, {side}], or a name: {error}") from None
    if given.shape != (2, side, side):
        raise ValueError(f"bonds must have shape [2, {side}, {side}] (right, then below), got {list(given.shape)}.")
    if not np.isfinite(given).all():
        raise ValueError(f"bonds must be finite numbers, got {given[~np.isfinite(given)][0]}.")
    return given
