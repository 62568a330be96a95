"""Atom features of the sEH proxy, computed by RDKit, and predictions for any molecules.

Source: Bengio et al. 2021 (arXiv 2106.04399), appendix on the molecule task (features of the proxy).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gfn_envs.envs.molecules.chem import listed
from gfn_envs.envs.molecules.toolkit import logs_blocked, require_rdkit
from gfn_envs.envs.seh.download import read_weights
from gfn_envs.envs.seh.proxy import NUM_FEATURES, Proxy

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MAX_ATOMIC_NUMBER = 56
"""The proxy knows the elements up to barium."""
BONDS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 4}
"""The proxy's number of a bond, by RDKit's name of its type; 0 is none."""
_ELEMENT = {1: 0, 6: 1, 7: 2, 8: 3, 9: 4}  # by atomic number; any other is 5
_AROMATIC, _NUM_HYDROGENS = 9, 13
_HYBRIDIZATION = {"SP": 10, "SP2": 11, "SP3": 12}  # by RDKit's name
_CHUNK = 64  # molecules whose atoms a CPU's cache holds


def atom_features(molecule: Mol) -> Tensor:
    """Return the features of all atoms of a sanitised molecule, float32 `[atoms, 71]`.

    One-hot element (H, C, N, O, F, other) in 0 .. 5, aromatic in 9, one-hot sp, sp2, sp3 in 10 .. 12, number of
    hydrogens in 13, one-hot atomic number Z in 13 + Z; the rest is 0. `ValueError` for Z = 0 and Z > 56.
    """
    features = torch.zeros(molecule.GetNumAtoms(), NUM_FEATURES)
    values = features.numpy()
    for i, atom in enumerate(molecule.GetAtoms()):
        number = atom.GetAtomicNum()
        if not 1 <= number <= MAX_ATOMIC_NUMBER:
            raise ValueError(f"atom {i} ({atom.GetSymbol()}) is none of the elements up to barium that the proxy knows")
        values[i, _ELEMENT.get(number, 5)] = 1
        values[i, _AROMATIC] = atom.GetIsAromatic()
        values[i, _NUM_HYDROGENS] = atom.GetTotalNumHs(includeNeighbors=True)
        values[i, _NUM_HYDROGENS + number] = 1
        hybridization = _HYBRIDIZATION.get(atom.GetHybridization().name)
        if hybridization is not None:
            values[i, hybridization] = 1
    return features


def atom_bonds(molecule: Mol) -> list[list[tuple[int, int]]]:
    """Return the neighbours of each atom, as pairs of an atom's index and the number of the bond to it, 1 .. 4.

    `ValueError` for a bond that is neither single, double, triple nor aromatic.
    """
    bonds: list[list[tuple[int, int]]] = [[] for _ in range(molecule.GetNumAtoms())]
    for bond in molecule.GetBonds():
        i, j, kind = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondType().name
        if kind not in BONDS:
            raise ValueError(f"the bond of atoms {i} and {j} is {kind}; the proxy knows {', '.join(BONDS)}")
        bonds[i].append((j, BONDS[kind]))
        bonds[j].append((i, BONDS[kind]))
    return bonds


def pad_bonds(rows: Sequence[Sequence[Sequence[tuple[int, int]]]], length: int) -> tuple[Tensor, Tensor]:
    """Return `neighbours, bonds`, int64 `[B, length, D]`, of B molecules' `atom_bonds`; D is the largest degree."""
    width = max((len(pairs) for row in rows for pairs in row), default=0)
    padded = torch.zeros(len(rows), length, max(width, 1), 2, dtype=torch.int64)
    values = padded.numpy()
    for b, row in enumerate(rows):
        for i, pairs in enumerate(row):
            if pairs:
                values[b, i, : len(pairs)] = pairs
    return padded[..., 0], padded[..., 1]


def predict(smiles: str | Sequence[str], device: str | torch.device = "cpu") -> Tensor:
    """Return the proxy's raw predictions for molecules, float32 `[n]` on the CPU; `[1]` for a single SMILES.

    A reward of 1 is a prediction of 8. Raises `ValueError` with the SMILES if it is no molecule or the proxy cannot
    read it. Also raises the errors of `download.fetch`.
    """
    parsed = [_parse(text) for text in listed([smiles] if isinstance(smiles, str) else smiles)]
    proxy = load_proxy(torch.device(device))
    predictions = torch.empty(len(parsed))
    for chosen in _by_size([len(features) for features, _ in parsed]):
        sizes = torch.tensor([len(parsed[i][0]) for i in chosen])
        features = torch.nn.utils.rnn.pad_sequence([parsed[i][0] for i in chosen], batch_first=True)
        neighbours, bonds = pad_bonds([parsed[i][1] for i in chosen], features.shape[1])
        batch = (x.to(device) for x in (features, neighbours, bonds, sizes))
        predictions[chosen] = proxy(*batch).cpu()
    return predictions


@cache
def load_proxy(device: torch.device) -> Proxy:
    """Return the proxy with the published weights, built once per device; raises the errors of `download.fetch`."""
    return Proxy(read_weights()).to(device)


def _parse(smiles: str) -> tuple[Tensor, list[list[tuple[int, int]]]]:
    """Return `atom_features` and `atom_bonds` of a SMILES."""
    chem = require_rdkit()
    with logs_blocked():
        molecule = chem.MolFromSmiles(smiles) if isinstance(smiles, str) else None
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError(f"smiles must be SMILES of molecules, RDKit reads none in {smiles!r}.")
    try:
        return atom_features(molecule), atom_bonds(molecule)
    except ValueError as error:
        raise ValueError(f"smiles {smiles!r} has no prediction: {error}.") from error


def _by_size(sizes: list[int]) -> Iterator[list[int]]:
    """Give the indices of `sizes` in chunks of about equal size, which leave little padding."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    for start in range(0, len(order), _CHUNK):
        yield order[start : start + _CHUNK]
