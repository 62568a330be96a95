"""The 72 fragments of the sEH task, how they are joined, and a table of the resulting atom features.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3 (the building blocks); their list: GFNOrg/gflownet (MIT).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from gfn_envs.envs.molecules.toolkit import logs_blocked, require_rdkit
from gfn_envs.envs.seh.download import BLOCKS, fetch
from gfn_envs.envs.seh.features import atom_bonds, atom_features, pad_bonds
from gfn_envs.envs.seh.proxy import NUM_FEATURES
from gfn_envs.errors import choose

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MAX_STEMS = 6
"""No fragment has more stems."""
FREE, JOINED, CONJUGATED = 0, 1, 2
"""What an atom's stem is: free, joined to an atom that does not conjugate, joined to one that does."""

# What a stem is joined to while the table is built: methane for JOINED, ethene for CONJUGATED. The lone pair of
# ammonia tells the atoms that conjugate: joined to one of them, it becomes sp2.
_PARTNERS = {JOINED: "C", CONJUGATED: "C=C"}
_PROBE = "N"


@dataclass(frozen=True)
class Block:
    """A fragment: its SMILES, and the indices of its stems, the atoms that may be joined to other fragments."""

    smiles: str
    stems: tuple[int, ...]


@cache
def published_blocks() -> tuple[Block, ...]:
    """Return the 72 fragments, sorted by SMILES, with their 127 stems; raises as `download.fetch` does.

    Each of the 105 entries of the published list is a fragment and an order of its stems. Here the entries of one
    fragment are merged.
    """
    table = json.loads(fetch(BLOCKS).read_text())
    stems: dict[str, set[int]] = {}
    for key, smiles in table["block_smi"].items():
        stems.setdefault(smiles, set()).update(table["block_r"][key])
    return tuple(Block(smiles, tuple(sorted(stems[smiles]))) for smiles in sorted(stems))


SETS = {"published": published_blocks}
"""Named sets of fragments."""


def blocks_of(fragments: str | Sequence[tuple[str, Sequence[int]]]) -> Sequence[Block]:
    """Return the fragments of a named set or the user's own; raise `ValueError` that names a bad fragment."""
    if isinstance(fragments, str):
        return choose("fragments", fragments, SETS)()
    if not isinstance(fragments, Sequence):
        raise ValueError(
            f"fragments must be a list of pairs (SMILES, stems), or {' or '.join(SETS)}, got {fragments!r}."
        )
    if not fragments:
        raise ValueError("fragments must name at least one fragment, got an empty list.")
    return [_own_block(f"fragments[{index}]", fragment) for index, fragment in enumerate(fragments)]


def _own_block(name: str, fragment: object) -> Block:
    match fragment:
        case [str(smiles), [*stems]] if all(type(stem) is int for stem in stems):
            pass
        case _:
            raise ValueError(f'{name} must be a pair such as ("CCO", [0, 1]), got {fragment!r}.')
    chem = require_rdkit()
    with logs_blocked():
        molecule = chem.MolFromSmiles(smiles)
    atoms = molecule.GetNumAtoms() if molecule else 0
    if not atoms or len(chem.GetMolFrags(molecule)) > 1:
        raise ValueError(f"{name} must begin with the SMILES of one molecule, got {smiles!r}.")
    if any(atom.GetAtomicNum() == 0 or atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        raise ValueError(f"{name} must have neither radicals nor unknown atoms, got {smiles!r}.")
    if not 1 <= len(stems) == len(set(stems)) <= MAX_STEMS or not all(0 <= stem < atoms for stem in stems):
        raise ValueError(
            f"{name} must have 1 to {MAX_STEMS} different stems out of the atoms 0 to {atoms - 1} of {smiles!r}, got "
            f"{stems}."
        )
    bare = [stem for stem in stems if molecule.GetAtomWithIdx(stem).GetTotalNumHs() == 0]
    if bare:
        raise ValueError(f"{name}: atom {bare[0]} of {smiles!r} has no hydrogen to give up as a stem.")
    return Block(smiles, tuple(stems))


def assemble(parts: Sequence[Mol], joins: Sequence[tuple[int, int, int, int]]) -> Mol:
    """Return the sanitised molecule of `parts`, atoms in their order, with a single bond for each of `joins`.

    A join `(i, a, j, b)` is between atom `a` of part `i` and atom `b` of part `j`; each gives up a hydrogen.
    """
    chem = require_rdkit()
    molecule, first = chem.RWMol(), []
    for part in parts:
        first.append(molecule.GetNumAtoms())
        molecule.InsertMol(part)
    for i, a, j, b in joins:
        ends = first[i] + a, first[j] + b
        molecule.AddBond(*ends, chem.BondType.SINGLE)
        for end in ends:
            # Implicit hydrogens follow the bonds by themselves, those written in the SMILES do not.
            atom = molecule.GetAtomWithIdx(end)
            atom.SetNumExplicitHs(max(atom.GetNumExplicitHs() - 1, 0))
    chem.SanitizeMol(molecule)
    return molecule.GetMol()


class Fragments:
    """Fragments as tensors, from which the graph of a molecule can be computed without RDKit.

    The features of an atom depend only on its fragment and on what its own stem is joined to: `FREE`, `JOINED` or
    `CONJUGATED`. There are F fragments of up to M atoms, and each atom has up to D neighbours in its fragment:

        smiles, molecules       of each fragment
        num_atoms [F]           number of atoms
        num_stems [F]           number of stems
        stems [F, 6]            atoms that are stems, -1 where there are no more
        stem_of [F, M]          which stem an atom is, 6 where it is none
        conjugates [F, 6]       bool, whether a stem conjugates with what it is joined to
        neighbours [F, M, D]    indices of neighbours in the fragment
        bonds [F, M, D]         numbers of the bonds to them, 0 where there are no more
        features [F, M, 3, 71]  features, by what the atom's stem is joined to

    Args:
        blocks: the fragments.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        parse = require_rdkit().MolFromSmiles
        probe, partners = parse(_PROBE), {code: parse(smiles) for code, smiles in _PARTNERS.items()}
        self.smiles = tuple(block.smiles for block in blocks)
        self.molecules: tuple[Mol, ...] = tuple(map(parse, self.smiles))
        sizes = [molecule.GetNumAtoms() for molecule in self.molecules]
        self.num_atoms = torch.tensor(sizes)
        self.num_stems = torch.tensor([len(block.stems) for block in blocks])
        self.stems = torch.full((len(blocks), MAX_STEMS), -1)
        self.stem_of = torch.full((len(blocks), max(sizes)), MAX_STEMS)
        self.conjugates = torch.zeros(len(blocks), MAX_STEMS, dtype=torch.bool)
        self.neighbours, self.bonds = pad_bonds([atom_bonds(molecule) for molecule in self.molecules], max(sizes))
        self.features = torch.zeros(len(blocks), max(sizes), 3, NUM_FEATURES)
        for f, (block, molecule) in enumerate(zip(blocks, self.molecules, strict=True)):
            self.features[f, : sizes[f]] = atom_features(molecule).unsqueeze(1)
            for s, atom in enumerate(block.stems):
                self.stems[f, s], self.stem_of[f, atom] = atom, s
                probed = assemble([probe, molecule], [(0, 0, 1, atom)]).GetAtomWithIdx(0)
                self.conjugates[f, s] = probed.GetHybridization().name == "SP2"
                for code, partner in partners.items():
                    joined = assemble([molecule, partner], [(0, atom, 1, 0)])
                    self.features[f, atom, code] = atom_features(joined)[atom]
