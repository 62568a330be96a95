"""What environments that build molecules share: rewards, symmetry, and the way to and from RDKit and SMILES.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.2, molecules by a GFlowNet with reward r^beta; the exact law of
a target over graphs needs the factor |Aut| (Kim et al. 2025, arXiv 2506.02685).
"""

from __future__ import annotations

import importlib
import math
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gfn_envs.dag import DAG, LogRewards
from gfn_envs.envs.molecules.slots import SlotGraph
from gfn_envs.envs.molecules.symmetry import canonical_order, log_automorphisms, rename
from gfn_envs.envs.molecules.toolkit import require_rdkit
from gfn_envs.errors import choose
from gfn_envs.rewards import NOTHING, Asking, own_reward

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rdkit.Chem import Mol

SYMMETRY = {"exact": True, "reference": False}


class MoleculeDAG(DAG):
    """A DAG whose states are molecular graphs in slots.

    The layout of a state and what the actions change is that of a `SlotGraph`; a subclass adds the masks, the chemistry
    and a built-in reward. Slots are renamed, so `canonical` says which states are one graph.

    With `symmetry="exact"` terminal graphs are sampled in proportion to `r^beta`. `"reference"` leaves the number of
    automorphisms out of `log_reward`, as the literature does: then they are sampled in proportion to `r^beta / |Aut|`.

    Args:
        reward: the name of the built-in reward, a callable, or a callable named as `"module:function"`. A callable
            takes a batch of distinct molecules and returns their rewards r, positive finite numbers, one each. It is
            asked about complete molecules only, and once about each; `gfn_envs.rewards` says how many are remembered.
        reward_input: what a callable takes: `"smiles"`, a list of canonical SMILES, or `"states"`, canonical terminal
            states int64 `[B, d]` on the DAG's device.
        symmetry: `"exact"` or `"reference"`.
        beta: the exponent of r, positive.
        mode_thresholds: rewards r from which on a molecule may count as a mode. None takes those of the built-in
            reward; a callable then has none.
        asking: how a callable is asked.
        device: where its tensors live.
    """

    renames_slots = True
    metrics = ("molecules",)
    built_in: tuple[str, ...]
    """Names of the built-in rewards."""
    calculated: Mapping[str, str] = NOTHING
    """Names of other rewards of its own, which are asked as a callable on SMILES is; `"module:function"` of each."""
    built_in_thresholds: tuple[float, ...]
    """The `mode_thresholds` of the built-in rewards."""

    def __init__(
        self,
        reward: str | Callable[..., Any],
        reward_input: str,
        symmetry: str,
        beta: float,
        mode_thresholds: Sequence[float] | None,
        asking: Asking,
        device: str | torch.device,
    ) -> None:
        super().__init__(device)
        if isinstance(beta, bool) or not (isinstance(beta, int | float) and 0 < beta < math.inf):
            raise ValueError(f"beta must be a positive, finite number, got {beta!r}.")
        self.beta = float(beta)
        self.exact_symmetry = choose("symmetry", symmetry, SYMMETRY)
        texts = choose("reward_input", reward_input, {"smiles": self.to_smiles, "states": None})
        if isinstance(reward, str) and reward in self.calculated and texts is None:
            raise ValueError(f"reward_input is of a reward of your own: the reward {reward} takes SMILES.")
        self.own_reward = own_reward(self, reward, self.built_in, texts, "molecules", asking, self.calculated)
        if mode_thresholds is None:
            mode_thresholds = () if self.own_reward else self.built_in_thresholds
        self.mode_thresholds = increasing(mode_thresholds)

    @abstractmethod
    def built_in_rewards(self, states: Tensor) -> Tensor:
        """Return the built-in reward r of `states [B, d]`, float32 `[B]`, positive and finite for any state."""

    @abstractmethod
    def to_molecules(self, states: Tensor) -> list[Mol]:
        """Return an RDKit molecule, sanitised, for each of `states [B, d]`, complete or not."""

    def lay_out(self, layout: SlotGraph) -> None:
        """Take the sizes and the steps of `layout`; a subclass calls this once in its constructor."""
        self.layout = layout
        self.nvec, self.stop_action = layout.nvec, layout.stop_action
        self.num_actions, self.num_backward_actions = layout.num_actions, layout.num_backward_actions

    def reset(self, n: int) -> Tensor:
        return self.layout.reset(n)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.layout.step(states, actions)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.layout.backward_step(states, backward_actions)

    @property
    def molecules_scored(self) -> int:
        """Number of molecules handed to the user's callable so far; 0 with the built-in reward."""
        return self.own_reward.num_asked if self.own_reward else 0

    def is_terminal(self, states: Tensor) -> Tensor:
        return states[:, -1] == 1

    def rewards(self, states: Tensor) -> Tensor:
        """Return r of terminal `states [B, d]`, float32 `[B]` (some positive number elsewhere)."""
        return self.own_reward(states) if self.own_reward else self.built_in_rewards(states)

    def log_reward(self, states: Tensor) -> Tensor:
        """Return `beta log r`, plus log |Aut| where `symmetry="exact"`, float32 `[B]`."""
        return self.log_rewards(states).log_reward

    def log_rewards(self, states: Tensor) -> LogRewards:
        """Return `log_reward` and, as the raw reward, log r, float32 `[B]` each; r is computed once."""
        log_r = self.rewards(states).log()
        log_reward = self.beta * log_r
        return LogRewards(log_reward + self.log_symmetry(states) if self.exact_symmetry else log_reward, log_r)

    def log_symmetry(self, states: Tensor) -> Tensor:
        """Return log |Aut|, float32 `[B]`: the renamings of filled slots that change nothing."""
        return log_automorphisms(*self.layout.parts(states))

    def canonical(self, states: Tensor) -> Tensor:
        """Return states `[B, d]` that are equal exactly for those that differ by a renaming of slots."""
        nodes, pairs = self.layout.parts(states)
        return self.layout.joined(*rename(nodes, pairs, canonical_order(nodes, pairs)), states[:, -1:])

    def object_sizes(self, states: Tensor) -> Tensor:
        """Return the number of filled slots of each of `states [B, d]`, int64 `[B]`."""
        return (self.layout.parts(states)[0] > 0).sum(1)

    def to_smiles(self, states: Tensor) -> list[str]:
        """Return the canonical SMILES of each of `states [B, d]`, complete or not; "" for the empty graph."""
        chem = require_rdkit()
        return [chem.MolToSmiles(molecule) for molecule in self.to_molecules(states)]

    def describe(self, states: Tensor) -> list[str]:
        try:
            smiles = self.to_smiles(states)
        except ModuleNotFoundError:
            return super().describe(states)
        return [
            (text or "(empty)") + " stopped" * stopped
            for text, stopped in zip(smiles, states[:, -1].tolist(), strict=True)
        ]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the molecule of the path's last state by RDKit, its SMILES above it."""
        (molecule,), (text,) = self.to_molecules(path[-1:]), self.describe(path[-1:])
        draw_molecule(molecule, text, axes)


def draw_molecule(molecule: Mol, text: str, axes: Axes) -> None:
    """Draw an RDKit molecule with a text above it; an empty one has the text alone."""
    require_rdkit()
    draw = importlib.import_module("rdkit.Chem.Draw")
    if molecule.GetNumAtoms():
        axes.imshow(draw.MolToImage(molecule, size=(600, 600)))
    axes.set_title("\n".join(textwrap.wrap(text, 40, break_on_hyphens=False)), fontsize=7)
    axes.set_axis_off()


def increasing(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Return `mode_thresholds` in increasing order; `ValueError` for what is no list of finite numbers."""
    try:
        found = tuple(sorted(map(float, thresholds)))
    except (TypeError, ValueError):
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise ValueError(f"mode_thresholds must be a list of finite numbers or None, got {thresholds!r}.")
    return found
