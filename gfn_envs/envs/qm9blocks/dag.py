"""QM9Blocks: a row of building blocks, prepended or appended, rewarded for a small HOMO-LUMO gap.

Source: Shen et al. 2023 (arXiv 2305.07170), blocks and steps; the reward is this project's own, see the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from gfn_envs.dag import LogRewards
from gfn_envs.envs.molecules.base import draw_molecule, increasing
from gfn_envs.envs.molecules.toolkit import require_rdkit
from gfn_envs.envs.qm9.encoding import to_molecules, to_states
from gfn_envs.envs.qm9.scale import REWARD_RANGE, unclipped
from gfn_envs.envs.qm9blocks.blocks import BLOCKS, LENGTH, assemble, compact
from gfn_envs.envs.qm9blocks.table import load_gaps, starts
from gfn_envs.envs.sequences.base import SequenceDAG
from gfn_envs.envs.sequences.table import Table
from gfn_envs.rewards import Asking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rdkit.Chem import Mol

GAP = "gap"
"""Name of the built-in reward."""

BETA = 40.0
"""Exponent of r; other than for gfn/QM9-v0, whose molecules have a wider range of gaps."""

BEST_SHARE = 0.005
"""Share of the rows that are modes, as in the literature."""

THRESHOLDS = (1.03, 1.045, 1.07)
"""The built-in reward's `mode_thresholds`."""


class QM9Blocks(SequenceDAG):
    """A row of five building blocks out of eleven, each joined to the next by a single bond.

    The blocks are C, O, N, CF, C=O, C=C, C#C, c1ccccc1, C1CCCCC1, C1CCNC1 and CCC, in this order; each has an end for
    the block before it and one for the block behind it. Several rows may be one molecule, and each counts by itself: a
    row and its reverse are one unless C1CCNC1, whose ends differ, is in it. The 161,051 rows are 111,550 molecules.

    State: int64 `[B, length]`: 0 where a place is empty, 1 + block elsewhere. Unless `order="any"`, the blocks of an
    unfinished row stand at the first places.
    Actions: with `order="prepend_append"`, `block` appends it and `11 + block` prepends it, the first block being
    appended; the other orders are those of `gfn_envs.TFBind8` with eleven blocks in place of four letters.
    Backward actions: with `order="prepend_append"`, 0 takes the last block away and 1 the first, of a single one 0.
    Terminal states: the rows without an empty place.
    Reward: `r = clip(1 - (gap - 0.1760) / 0.5975, e^-7.5, 2)`, the reward `"gap"` of `gfn/QM9-v0`, and
    `log R = beta log r`, natural logs; a reward of the user's own is r, too. The gap in Hartree of each row was
    predicted once by the network of `gfn/QM9-v0` and rounded to 1e-5. Most of the molecules have more than the nine
    atoms that this network was trained on, so their gaps are extrapolations.
    Size: 161,051 rows, and 177,156 states (`"any"`: 248,832); every trajectory has `length` steps.
    Source: Shen et al. 2023 (arXiv 2305.07170), blocks and steps; the literature's reward is another network's.

    Modes are the best 805 rows, 0.5 % of all; a row counts for the mode that it is. A reward of the user's own has
    none.

    Args:
        length: number of blocks, 1 to 5.
        order: `"prepend_append"`, `"any"`, `"left_to_right"` or `"insert"`.
        beta: exponent of r, positive.
        reward: `"gap"`, a callable, or a callable named as `"module:function"`. A callable returns the rewards r of
            distinct complete rows, positive finite numbers, one each. `gfn_envs.rewards` says how often it is asked.
        reward_input: what a callable takes: `"smiles"`, a list of canonical SMILES (needs RDKit; rows that are one
            molecule are asked about once), `"words"`, a list of names of blocks joined by `-`, or `"states"`, int64
            `[n, length]` on the DAG's device.
        mode_thresholds: rewards r from which on a molecule may count as a mode of the metric `molecules`; None for
            1.03, 1.045 and 1.07 with the built-in reward, and for none at all with a callable.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    separator = "-"
    metrics = ("molecules",)

    def __init__(
        self,
        length: int = LENGTH,
        order: str = "prepend_append",
        beta: float = BETA,
        reward: str | Callable[..., Any] = GAP,
        reward_input: str = "smiles",
        mode_thresholds: Sequence[float] | None = None,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        names, more = [block.smiles for block in BLOCKS], {"smiles": self.to_smiles}
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        super().__init__(names, length, order, reward, [GAP], reward_input, more, asking, device)
        if self.length > LENGTH:
            raise ValueError(f"length must be at most {LENGTH}, of which the gaps are known, got {length!r}.")
        if isinstance(beta, bool) or not (isinstance(beta, int | float) and 0 < beta < math.inf):
            raise ValueError(f"beta must be a positive, finite number, got {beta!r}.")
        self.beta = float(beta)
        self._starts = torch.tensor(starts(self.length), device=self.device)
        self.mode_thresholds = increasing(
            (() if self.own_reward else THRESHOLDS) if mode_thresholds is None else mode_thresholds
        )
        self._modes = torch.zeros(0, dtype=torch.int64, device=self.device)
        if self.own_reward is not None:
            return
        r = unclipped(torch.from_numpy(load_gaps())).clamp(*REWARD_RANGE)
        log_r = r.log().nan_to_num(0.0)  # the empty row has no gap, and its potential is 0
        self._log_r = log_r.to(self.device)
        complete = log_r[starts(self.length)[-1] :][: len(BLOCKS) ** self.length]
        self.table = Table(self.beta * complete, self.device)
        best = (-complete).argsort(stable=True)[: max(1, int(BEST_SHARE * len(complete)))]
        self._modes = best.to(self.device)
        self.metrics, self.num_modes = ("modes", "molecules"), len(best)

    def _row(self, states: Tensor) -> Tensor:
        """Return where `states [B, length]`, gaps closed, stand among all rows of 0 to 5 blocks, int64 `[B]`."""
        place = torch.zeros_like(states[:, 0])
        for blocks in states.unbind(1):
            place = torch.where(blocks > 0, place * len(BLOCKS) + blocks - 1, place)
        return place + self._starts[(states > 0).sum(1)]

    def rewards(self, states: Tensor) -> Tensor:
        """Return r of terminal `states [B, length]`, float32 `[B]` (some positive number elsewhere)."""
        return self.log_rewards(states).log_raw_reward.exp()

    def built_in_log_reward(self, states: Tensor) -> Tensor:
        return (self.beta * self._log_r[self._row(states)]).float()

    def log_reward(self, states: Tensor) -> Tensor:
        return self.log_rewards(states).log_reward

    def log_rewards(self, states: Tensor) -> LogRewards:
        """Return `beta log r` and, as the raw reward, log r, float32 `[B]` each."""
        if self.own_reward is not None:
            log_r = self.own_reward(states).log()
            return LogRewards(self.beta * log_r, log_r)
        return LogRewards(self.built_in_log_reward(states), self._log_r[self._row(states)].float())

    def log_potential(self, states: Tensor) -> Tensor:
        """Return what the molecule so far would earn, `beta log r`, 0 at s0, float32 `[B]`; 0 for an own reward."""
        if self.own_reward is not None:
            return torch.zeros(len(states), device=states.device)
        return self.built_in_log_reward(states)

    def log_partition(self) -> float | None:
        """Return log Z of all rows; None for a reward of the user's own."""
        return None if self.own_reward else self.table.log_z

    def sample_target(self, n: int, generator: Generator) -> Tensor:
        """Return `n` rows drawn from R/Z, int64 `[n, length]`; a reward of the user's own is first asked about all."""
        return self.from_index(self.table.sample(n, generator))

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: which mode each of terminal `states [B, length]` is."""
        return self.index(states).unsqueeze(1) == self._modes

    def to_molecules(self, states: Tensor) -> list[Mol]:
        """Return an RDKit molecule, sanitised, for each of `states [B, length]`, complete or not, gaps closed."""
        types, orders = compact(*assemble(states.cpu()))
        return to_molecules(to_states(types, orders, torch.zeros_like(types[:, :1])))

    def to_smiles(self, states: Tensor) -> list[str]:
        """Return the canonical SMILES of each of `states [B, length]`, complete or not; "" for the empty row."""
        chem = require_rdkit()
        return [chem.MolToSmiles(molecule) for molecule in self.to_molecules(states)]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the molecule of the path's last state by RDKit, its blocks above it; without RDKit as any word."""
        try:
            draw_molecule(self.to_molecules(path[-1:])[0], self.describe(path[-1:])[0], axes)
        except ModuleNotFoundError:
            super().draw(path, axes)
