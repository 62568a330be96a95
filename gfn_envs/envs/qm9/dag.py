"""QM9: build a neutral molecule of up to nine atoms C, N, O and F, atom by atom and bond by bond.

Source: the task is that of Gritsaev et al. 2025 (arXiv 2410.15474), section 4.3. The molecules are those of
Ramakrishnan et al. 2014 (doi 10.1038/sdata.2014.22). The state space and the reward are this project's own; the class
describes them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load
from torch import Tensor

from gfn_envs.envs.molecules.base import MoleculeDAG
from gfn_envs.envs.molecules.slots import SlotGraph, pair_slots
from gfn_envs.envs.molecules.symmetry import canonical_order, mix, rename
from gfn_envs.envs.qm9 import encoding as molecules
from gfn_envs.envs.qm9.encoding import (
    ELEMENTS,
    MAX_ATOMS,
    decode,
    resized,
    to_states,
    types_and_orders,
)
from gfn_envs.envs.qm9.gap import CHUNK, GapNetwork, bond_labels, load_gap_network
from gfn_envs.envs.qm9.quantum import require_tblite
from gfn_envs.envs.qm9.scale import REWARD_RANGE, unclipped
from gfn_envs.errors import integer_at_least
from gfn_envs.packaged import read
from gfn_envs.rewards import Asking
from gfn_envs.views import GraphView

if TYPE_CHECKING:
    from rdkit.Chem import Mol

XTB = "xtb"
"""Name of the reward whose gap is calculated."""
UNSTRAINED = "unstrained-gap"
"""Name of the reward that halves for each part of a molecule that would not hold together."""
MOST_RINGS = 2
"""Rings that count as no strain."""

KNOWN = Path(__file__).with_name("known.safetensors")
KNOWN_SHA256 = "0c035581472c1a5d6f85dcd73b620e01c10835ee4eca615d71e8a697f69afef6"
TEST_SET = Path(__file__).with_name("test_set.csv")
TEST_SET_SHA256 = "e3c7d78f4cde10fd3ddba28398715847b1eb2ce9ee456bc6d456731f0c5dc80a"

ORDERS = ((0, 1), (1, 2), (1, 3))
"""Bond order before and after each action of a pair: add a single bond, single to double, single to triple."""


class QM9(MoleculeDAG):
    """A connected graph of up to `max_atoms` atoms with bonds of order 1 to 3; hydrogens fill the free valences.

    The sum of an atom's bond orders is at most its valence: C 4, N 3, O 2, F 1. So every state except s0 is a valid
    neutral molecule. Slots are renamed: removing an atom clears its slot and moves it to the end. The other slots keep
    their order, so filled slots come first. States with equal `canonical` forms are the same graph. The two Kekule
    structures of an aromatic ring are two graphs with one SMILES.

    State: int64 `[B, N + P + 1]`, `N = max_atoms`, `P = N (N - 1) / 2`. First comes the type of each slot: 0 empty,
    1 C, 2 N, 3 O, 4 F. Then comes the bond order, 0 to 3, of each pair of slots `i < j`, row by row. The stopped flag
    is last.
    Actions: `4 i + (type - 1)` adds an atom in the first empty slot and joins it to atom `i` by a single bond. The
    first atom has `i = 0` and no bond. `4 N + 3 pair + 0` adds a single bond between atoms that have none, which closes
    a ring. `4 N + 3 pair + 1` makes a single bond double, and `4 N + 3 pair + 2` makes it triple. The last action,
    `4 N + 3 P`, stops.
    Backward actions: `i` removes an atom that has a single bond to its only neighbour, or the only atom. `N + 2 pair`
    removes a single bond that is part of a ring. `N + 2 pair + 1` makes a double or triple bond single. `N + 2 P`
    undoes the stop; it is the only backward action of a stopped state.
    Terminal states: the stopped states. Every molecule of at least one atom can be terminal.
    Reward: `r = clip((1 - (gap - 0.1760) / 0.5975) / 2^s, e^-7.5, 2)`, where `gap` is the HOMO-LUMO gap in Hartree, and
    `s` counts the parts of the molecule that would not hold together (`strain`). A network of this project predicts the
    gap from the graph (`gfn_envs.envs.qm9.predict_gap`); at such parts it extrapolates. The network of the literature
    is not used, because it needs coordinates. With `reward="gap"` s is 0, as in the published task.
    `log R = beta log r + log |Aut|`, natural logs; `symmetry="reference"` leaves `log |Aut|` out.
    Size: 4, 23, 117, 738, 5,453 and 47,540 molecules (graphs up to renaming) of at most 1, 2, 3, 4, 5 and 6 atoms.
    Each further atom gives about 8 times as many. Each molecule is two states, one stopped and one not. The longest
    trajectory has at most `2 N + 2` steps.
    Source: Gritsaev et al. 2025 (arXiv 2410.15474), section 4.3, the task.

    Args:
        max_atoms: largest number of atoms other than hydrogen, 1 to 9 (the literature: 8).
        max_rings: largest number of independent rings, bonds - atoms + 1. The default 10 is no limit, because nine
            atoms can have no more.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        symmetry, beta, reward, reward_input, mode_thresholds, device: as in
            `gfn_envs.envs.molecules.base.MoleculeDAG`. The built-in rewards are `"unstrained-gap"` and `"gap"`.
            `"xtb"` calculates the gap by GFN2-xTB (`gfn_envs.envs.qm9.quantum`, extra `qm`), a second or less for a
            molecule, and puts it on the same scale. It is asked as a callable is, best with `reward_workers`;
            `reward_floor` is e^-7.5 unless given.
    """

    metrics = ("molecules", "correlation")
    built_in = (UNSTRAINED, "gap")
    calculated: Mapping[str, str] = MappingProxyType({XTB: "gfn_envs.envs.qm9.quantum:xtb"})
    built_in_thresholds = (1.04, 1.05, 1.08)

    def __init__(
        self,
        max_atoms: int = 9,
        max_rings: int = 10,
        symmetry: str = "exact",
        beta: float = 10.0,
        reward: str | Callable[..., Any] = UNSTRAINED,
        reward_input: str = "smiles",
        mode_thresholds: Sequence[float] | None = None,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if reward == XTB:
            require_tblite()
            reward_floor = REWARD_RANGE[0] if reward_floor is None else reward_floor
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        super().__init__(reward, reward_input, symmetry, beta, mode_thresholds, asking, device)
        self._unstrained = reward == UNSTRAINED
        self.max_atoms = slots = integer_at_least("max_atoms", max_atoms, 1)
        if slots > MAX_ATOMS:
            raise ValueError(f"max_atoms must be at most {MAX_ATOMS}, as in QM9, got {max_atoms!r}.")
        self.max_rings = integer_at_least("max_rings", max_rings, 0)
        self.lay_out(SlotGraph(slots, len(ELEMENTS), ORDERS, ordered=False, device=self.device))
        # Each bond is added once and raised at most once. Both add to the sum of bond orders, which is at most 2 N.
        self.max_steps = 2 + 2 * min(slots, self.layout.num_pairs, slots - 1 + self.max_rings)
        first, second = pair_slots(slots, torch.device("cpu"))
        ends = torch.eye(slots)[first], torch.eye(slots)[second]
        self._ends = (ends[0] + ends[1]).to(self.device)
        edges = (ends[0] - ends[1])[:, 1:]
        self._laplacians = (edges.unsqueeze(2) * edges.unsqueeze(1)).flatten(1).to(self.device)
        self._is_first = torch.arange(slots, device=self.device) == 0
        self._first, self._second = first.to(self.device), second.to(self.device)

    def action_mask(self, states: Tensor) -> Tensor:
        types, orders, going = self._parts(states)
        # Slot 0 is empty only in s0. There it counts as an atom that the first atom may join.
        atoms = (types > 0) | self._is_first
        free = torch.where(atoms & going, 5 - types, 0) - orders @ self._ends
        room = types[:, -1:] == 0
        least = torch.minimum(free.index_select(1, self._first), free.index_select(1, self._second))
        open_rings = (orders > 0).sum(1, keepdim=True) - (types > 0).sum(1, keepdim=True) + 1
        mask = torch.empty(len(states), self.num_actions, dtype=torch.bool, device=states.device)
        pairs = mask[:, len(ELEMENTS) * self.max_atoms : -1].unflatten(1, (self.layout.num_pairs, len(ORDERS)))
        mask[:, : len(ELEMENTS) * self.max_atoms] = ((free >= 1) & room).repeat_interleave(len(ELEMENTS), 1)
        pairs[:, :, 0] = (orders == 0) & (least >= 1) & (open_rings < self.max_rings)
        pairs[:, :, 1] = (orders == 1) & (least >= 1)
        pairs[:, :, 2] = (orders == 1) & (least >= 2)
        mask[:, -1:] = going & (types[:, :1] > 0)
        return mask

    def backward_action_mask(self, states: Tensor) -> Tensor:
        types, orders, going = self._parts(states)
        mask = torch.empty(len(states), self.num_backward_actions, dtype=torch.bool, device=states.device)
        pairs = mask[:, self.max_atoms : -1].unflatten(1, (self.layout.num_pairs, self.layout.backward_pair_actions))
        mask[:, : self.max_atoms] = (types > 0) & (orders @ self._ends <= 1) & going
        pairs[:, :, 0] = (orders == 1) & self._on_rings(types > 0, orders > 0) & going
        pairs[:, :, 1] = (orders > 1) & going
        mask[:, -1:] = ~going
        return mask

    def _parts(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return types `[B, N]` and orders `[B, P]` as float32 (faster than int64), and not stopped `[B, 1]`."""
        return states[:, : self.max_atoms].float(), states[:, self.max_atoms : -1].float(), states[:, -1:] == 0

    def _on_rings(self, atoms: Tensor, bonds: Tensor) -> Tensor:
        """Return which of `bonds [B, P]` lie on a ring of the connected graph of `atoms [B, N]`, bool `[B, P]`.

        Take each bond as a resistor of 1 ohm. The resistance between the ends of a bond is then 1 if the bond is a
        bridge, and at most 1 - 1/n if it lies on a ring of n atoms. Let G be the inverse of the Laplacian L without
        slot 0, with G = 0 at slot 0. The resistance is G_ii + G_jj - 2 G_ij (Klein and Randic 1993, doi
        10.1007/BF01164627).
        """
        size = self.max_atoms - 1
        matrix = (bonds.float() @ self._laplacians).T.reshape(size, size, len(bonds))
        matrix.diagonal(dim1=0, dim2=1).add_(~atoms[:, 1:])
        # Gauss-Jordan sweeps over all graphs at once. The matrix is positive definite, so rows need not be exchanged.
        # The result is minus the inverse. On a CPU this is about 20 times faster than torch.linalg.inv_ex.
        for k in range(size):
            pivot, column = matrix[k, k].reciprocal(), matrix[k].clone()
            row = column * pivot
            matrix.addcmul_(column.unsqueeze(1), row.unsqueeze(0), value=-1)
            matrix[k] = matrix[:, k] = row
            matrix[k, k] = -pivot
        resistances = -(self._laplacians @ matrix.flatten(0, 1)).T
        return resistances < 1 - 1 / (2 * self.max_atoms)

    @cached_property
    def _network(self) -> GapNetwork:
        return load_gap_network(self.device)

    def built_in_rewards(self, states: Tensor) -> Tensor:
        gap = torch.cat([self._network(*types_and_orders(part)) for part in states.split(CHUNK)])
        r = unclipped(gap)
        if self._unstrained:
            r = r * 0.5 ** self.strain(states)
        return r.clamp(*REWARD_RANGE)

    def strain(self, states: Tensor) -> Tensor:
        """Return how many parts of each of `states [B, d]` make a molecule fall apart, int64 `[B]`.

        These are triple bonds in rings; atoms with two double bonds in rings; multiple bonds of a ring at the head of a
        bridge (Bredt 1924, doi 10.1002/jlac.19244370102), an atom with three bonds in rings of whose ring neighbours
        none has three; and rings beyond the second. None of the 1,000 molecules of the test set has one of the first
        three.
        """
        types, orders, _ = self._parts(states)
        ring = self._on_rings(types > 0, orders > 0) & (orders > 0)

        def at_atoms(bonds: Tensor) -> Tensor:
            return bonds.float() @ self._ends

        cumulated = at_atoms(ring & (orders == 2)) > 1
        three = at_atoms(ring) > 2
        fused = at_atoms(ring & (three.float() @ self._ends.T > 1)) > 0
        bridgehead = three & ~fused & (at_atoms(ring & (orders > 1)) > 0)
        triple = (ring & (orders == 3)).sum(1)
        return triple + (cumulated | bridgehead).sum(1) + (self._rings(states) - MOST_RINGS).clamp(min=0)

    def graph_view(self) -> GraphView:
        """Return the layout of the state as a graph: a node's features are its type and 1 + its free valence."""
        return self.layout.view(node_values=(len(ELEMENTS) + 1, len(ELEMENTS) + 2), whole_values=(2,))

    def graph(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes `[B, N, 2]`, pairs `[B, N, N]` (bond orders) and whole `[B, 1]` (the stopped flag)."""
        types, orders = types_and_orders(states)
        free = torch.where(types > 0, 6 - types - orders.sum(2), 0)
        return torch.stack([types, free], 2), orders, states[:, -1:].clone()

    def to_molecules(self, states: Tensor) -> list[Mol]:
        return molecules.to_molecules(states)

    def from_smiles(self, smiles: Sequence[str]) -> Tensor:
        """Return the terminal states `[B, d]` of molecules, as `gfn_envs.envs.qm9.encoding.from_smiles` does.

        Raises `ValueError`, with the index and the SMILES, for one that does not parse or is no state of this
        environment.
        """
        states = molecules.from_smiles(smiles, self.max_atoms).to(self.device)
        rings = self._rings(states)
        if (rings > self.max_rings).any():
            first = int((rings > self.max_rings).int().argmax())
            raise ValueError(
                f"smiles[{first}] = {smiles[first]!r}: there must be at most max_rings = {self.max_rings} rings, this "
                f"has {int(rings[first])}."
            )
        return states

    def graph_keys(self, states: Tensor) -> Tensor:
        """Return a hash of the molecules of `states [B, d]`, int64 `[B]`, which does not depend on `max_atoms`.

        It does not change with the names of slots or with the stopped flag. The two Kekule structures of a benzene ring
        have the same hash.
        """
        types, orders = types_and_orders(resized(states, MAX_ATOMS))
        bonds = bond_labels(orders)
        types, bonds = rename(types, bonds, canonical_order(types, bonds))
        values = to_states(types, bonds, torch.zeros_like(states[:, -1:]))
        places = torch.arange(1, values.shape[1] + 1, device=values.device)
        return mix((mix(8 * places + values) * (values > 0)).sum(1))

    def is_novel(self, states: Tensor) -> Tensor:
        """Return bool `[B]`: whether each molecule is not in QM9."""
        keys = self.graph_keys(states)
        return self._known[torch.searchsorted(self._known, keys).clamp(max=len(self._known) - 1)] != keys

    @cached_property
    def _known(self) -> Tensor:
        return load(read(KNOWN, "the keys of QM9", KNOWN_SHA256))["keys"].to(self.device)

    def test_states(self) -> Tensor:
        """Return the test set: terminal states `[M, d]` of molecules of QM9 that did not train the gap network.

        These are the molecules in `test_set.csv` that have at most `max_atoms` atoms and `max_rings` rings.
        """
        table = io.StringIO(read(TEST_SET, "the test set", TEST_SET_SHA256).decode(), newline="")
        states = decode([row["state"] for row in csv.DictReader(table)], self.max_atoms)
        return states[self._rings(states) <= self.max_rings].to(self.device)

    def _rings(self, states: Tensor) -> Tensor:
        """Return the number of independent rings, bonds - atoms + 1, of `states [B, d]`, int64 `[B]`."""
        atoms, bonds = (part > 0 for part in states[:, :-1].tensor_split([self.max_atoms], 1))
        return bonds.sum(1) - atoms.sum(1) + 1
