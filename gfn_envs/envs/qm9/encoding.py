"""Molecules of C, N, O and F as arrays of atom types and bond orders; conversion to and from SMILES, RDKit, digits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gfn_envs.envs.molecules.chem import listed
from gfn_envs.envs.molecules.slots import pair_indices, pair_slots, squared
from gfn_envs.envs.molecules.toolkit import logs_blocked, require_rdkit

if TYPE_CHECKING:
    from rdkit.Chem import Mol

ELEMENTS = ("C", "N", "O", "F")
"""Atom type `1 + i` is element `ELEMENTS[i]`, which has `4 - i` bonds."""

MAX_ATOMS = 9
"""The largest number of atoms other than hydrogen of a molecule in QM9, and here."""

_TYPES = {element: 1 + index for index, element in enumerate(ELEMENTS)}


def num_slots(states: Tensor) -> int:
    """Return N of `states [B, N + N (N - 1) / 2 + 1]`."""
    return (math.isqrt(8 * states.shape[1] - 7) - 1) // 2


def types_and_orders(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the atom types `[B, N]` and the symmetric bond orders `[B, N, N]` of `states [B, d]`."""
    slots = num_slots(states)
    return states[:, :slots].clone(), squared(states[:, slots:-1], slots)


def to_states(types: Tensor, orders: Tensor, stopped: Tensor) -> Tensor:
    """Return the states `[B, d]` of `types [B, N]`, symmetric `orders [B, N, N]` and flags `stopped [B, 1]`."""
    first, second = pair_slots(types.shape[1], types.device)
    return torch.cat([types, orders[:, first, second], stopped], 1)


def resized(states: Tensor, slots: int) -> Tensor:
    """Return `states [B, d]` with slots added (empty) or cut off at the end, so that there are `slots`."""
    types, orders = types_and_orders(states)
    more = slots - types.shape[1]
    pad = torch.nn.functional.pad
    return to_states(pad(types, (0, more)), pad(orders, (0, more, 0, more)), states[:, -1:])


def encode(states: Tensor) -> list[str]:
    """Return the types and orders of `states [B, d]`, extended to `MAX_ATOMS` slots, as strings of 45 digits."""
    return ["".join(map(str, row)) for row in resized(states, MAX_ATOMS)[:, :-1].tolist()]


def decode(texts: Iterable[str], max_atoms: int = MAX_ATOMS) -> Tensor:
    """Return terminal states `[B, d]` of the `texts` (from `encode`) that have at most `max_atoms` atoms."""
    fitting = [text for text in texts if not text[max_atoms:MAX_ATOMS].strip("0")]
    rows = [[*map(int, text), 1] for text in fitting]
    return resized(
        torch.tensor(rows, dtype=torch.int64).view(len(rows), MAX_ATOMS * (MAX_ATOMS + 1) // 2 + 1), max_atoms
    )


def to_molecules(states: Tensor) -> list[Mol]:
    """Return a sanitised RDKit molecule for each of `states [B, d]`."""
    chem = require_rdkit()
    bond_types = (None, chem.BondType.SINGLE, chem.BondType.DOUBLE, chem.BondType.TRIPLE)
    slots = num_slots(states)
    pairs = pair_slots(slots, torch.device("cpu")).T.tolist()
    molecules = []
    for row in states.tolist():
        molecule = chem.RWMol()
        for kind in row[:slots]:
            if kind:
                molecule.AddAtom(chem.Atom(ELEMENTS[kind - 1]))
        for (i, j), order in zip(pairs, row[slots:-1], strict=True):
            if order:
                molecule.AddBond(i, j, bond_types[order])
        chem.SanitizeMol(molecule)
        molecules.append(molecule.GetMol())
    return molecules


def from_smiles(smiles: Sequence[str], max_atoms: int = MAX_ATOMS) -> Tensor:
    """Return the terminal states `[B, d]` of molecules, without their hydrogens and stereochemistry.

    Aromatic bonds become alternating single and double bonds. Raises `ValueError`, with the index and the SMILES, for a
    text that does not parse or is not one neutral molecule of at most `max_atoms` atoms C, N, O and F.
    """
    smiles = listed(smiles)
    chem = require_rdkit()
    indices = pair_indices(max_atoms, torch.device("cpu")).tolist()
    width = max_atoms * (max_atoms + 1) // 2 + 1
    rows = []
    with logs_blocked():
        for index, text in enumerate(smiles):
            try:
                rows.append(_row(chem, text, indices, width))
            except ValueError as error:
                raise ValueError(f"smiles[{index}] = {text!r}: {error}.") from None
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), width)


def _row(chem: Any, text: str, indices: list[list[int]], width: int) -> list[int]:
    """Return one terminal state as a list, or raise `ValueError` with only the reason."""
    molecule = chem.MolFromSmiles(text) if isinstance(text, str) else None
    if molecule is None:
        raise ValueError("does not parse as the SMILES of a molecule")
    _demand_representable(chem, molecule, len(indices))
    chem.Kekulize(molecule, clearAromaticFlags=True)
    row = [0] * width
    for atom in molecule.GetAtoms():
        row[atom.GetIdx()] = _TYPES[atom.GetSymbol()]
    orders = {chem.BondType.SINGLE: 1, chem.BondType.DOUBLE: 2, chem.BondType.TRIPLE: 3}
    for bond in molecule.GetBonds():
        if bond.GetBondType() not in orders:
            raise ValueError(f"bonds must be single, double or triple, this has {bond.GetBondType().name.lower()}")
        pair = indices[bond.GetBeginAtomIdx()][bond.GetEndAtomIdx()]
        row[len(indices) + pair] = orders[bond.GetBondType()]
    row[-1] = 1
    return row


def _demand_representable(chem: Any, molecule: Mol, max_atoms: int) -> None:
    """Raise `ValueError` unless this is one neutral molecule of at most `max_atoms` atoms C, N, O, F."""
    atoms = list(molecule.GetAtoms())
    strange = [atom.GetSymbol() for atom in atoms if atom.GetSymbol() not in _TYPES]
    if strange:
        raise ValueError(f"atoms must be C, N, O or F (and hydrogens on them), this has {strange[0]}")
    if not 1 <= len(atoms) <= max_atoms:
        raise ValueError(f"there must be 1 to {max_atoms} atoms besides hydrogens, this has {len(atoms)}")
    if any(atom.GetFormalCharge() for atom in atoms):
        raise ValueError("atoms must be neutral, this has charges")
    if any(atom.GetNumRadicalElectrons() for atom in atoms):
        raise ValueError("all bonds must be used or taken by hydrogens, this is a radical")
    if any(atom.GetIsotope() for atom in atoms):
        raise ValueError("isotopes are not told apart, so leave them out")
    parts = len(chem.GetMolFrags(molecule))
    if parts > 1:
        raise ValueError(f"it must be one molecule, this has {parts} parts")
