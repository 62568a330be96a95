"""HOMO-LUMO gaps of molecules, calculated by the tight-binding method GFN2-xTB.

A calculation does not extrapolate from a training set, and tells molecules that hold together from those that do not.
GFN2-xTB is not the density functional (B3LYP) of QM9's gaps: a straight line, fitted on molecules of QM9, turns its
gaps into gaps on the scale of QM9.

Source: Bannwarth et al. 2019 (doi 10.1021/acs.jctc.8b01176), GFN2-xTB, by the library tblite
(https://github.com/tblite/tblite); Riniker and Landrum 2015 (doi 10.1021/acs.jcim.5b00654), conformers by distance
geometry (ETKDG), by RDKit.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gfn_envs.envs.molecules.toolkit import logs_blocked, require_rdkit
from gfn_envs.envs.qm9.scale import reward
from gfn_envs.errors import require
from gfn_envs.workers import Failure, Workers

if TYPE_CHECKING:
    from rdkit.Chem import Mol

EV_PER_HARTREE = 27.211386245988
ANGSTROM_PER_BOHR = 0.529177210903
"""CODATA 2018."""

SEED = 1
"""Of the conformers, so that a molecule has one gap."""

NUM_CONFORMERS = 5
"""Conformers of which the one of least MMFF energy is taken: some isomers of a small cage fall apart."""

MAX_FORCE = 1e-3
"""Largest component of the gradient at a relaxed geometry, in Hartree per Bohr."""

BONDED = 0.4
"""Wiberg bond order (Wiberg 1968, doi 10.1016/0040-4020(68)88057-3) from which on two atoms are bonded. In molecules of
QM9 bonds have 0.53 and more, other pairs 0.27 at most. Distances do not tell them apart in small bicycles."""

MAX_ISOMERS, MAX_ATTEMPTS = 32, 30
"""Stereoisomers that are tried for one with a conformer, and attempts at each conformer."""

MAX_STEPS = 250
"""Steps of the relaxation, of which molecules of nine atoms besides hydrogens take some ten to thirty."""

NO_CONFORMER, NO_SCF, NOT_RELAXED = "no conformer", "SCF not converged", "not relaxed"
REARRANGED = "connectivity changed"
FAILURES = {
    NO_CONFORMER: "embed",
    NO_SCF: "have an SCF solution",
    NOT_RELAXED: "relax",
    REARRANGED: "keep connectivity",
}
"""What a calculation may fail at, in the order in which it gets there, and what a molecule does that gets beyond."""

TIMEOUT = 120.0
"""Seconds for a molecule in `calculated`."""

SLOPE, OFFSET = 0.9955, 2.3788
"""The gap of B3LYP in eV is about `SLOPE * gap + OFFSET` of that of GFN2-xTB in eV, where this is below 5 eV: Pearson
0.920, mean absolute error 0.36 eV on 341 molecules of QM9. Larger ones come out too large, but in their order: Spearman
0.952 over all 493. `python -m gfn_envs.envs.qm9.make.fit_xtb` finds this."""


class CalculationError(ValueError):
    """A molecule has no calculated gap; the message says what has failed."""


@dataclass(frozen=True)
class Calculation:
    """What was calculated of a molecule."""

    smiles: str
    gap: float
    """In eV; NaN where there is none. Where the connectivity has changed it is that of another molecule."""
    failure: str
    """What the calculation failed at, one of the states above, or "" where it came to its end."""


def require_tblite() -> Any:
    """Return the module `tblite.interface`, or raise `ModuleNotFoundError` that says which extra brings it."""
    return require("tblite.interface", "tblite", "qm", "The built-in rewards of gfn/QM9-v0 do without.")


def calculate(smiles: str) -> Calculation:
    """Return the gap of a molecule, relaxed by GFN2-xTB from one conformer, or what the calculation failed at.

    Raises `ValueError` for a text that RDKit does not read as a molecule.
    """
    molecule = _with_conformer(smiles)
    if molecule is None:
        return Calculation(smiles, math.nan, NO_CONFORMER)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    start = molecule.GetConformer().GetPositions() / ANGSTROM_PER_BOHR
    try:
        gap, force, bond_orders = _relaxed(numbers, start)
    except RuntimeError:  # what tblite raises where the charges do not converge
        return Calculation(smiles, math.nan, NO_SCF)
    if force > MAX_FORCE:
        return Calculation(smiles, gap, NOT_RELAXED)
    kept = np.array_equal(bond_orders > BONDED, require_rdkit().GetAdjacencyMatrix(molecule) > 0)
    return Calculation(smiles, gap, "" if kept else REARRANGED)


def calculated(
    smiles: Sequence[str], workers: int, shown: Callable[..., Iterable[Any]] = iter, timeout: float = TIMEOUT
) -> list[Calculation]:
    """Return the calculation of each of `smiles` by worker processes.

    Args:
        smiles: molecules.
        workers: number of processes.
        shown: wraps what is gone through, to show the progress.
        timeout: seconds for a molecule; one that takes longer, or ends its process, has failed.
    """
    outcomes = Workers(_calculate_all, workers, timeout).outcomes(smiles, until_failure=False, shown=shown)
    return [
        Calculation(text, math.nan, outcome.reason) if isinstance(outcome, Failure) else outcome[0]
        for text, outcome in zip(smiles, outcomes, strict=True)
    ]


def _calculate_all(smiles: list[str]) -> list[Calculation]:
    return [calculate(each) for each in smiles]


def qm9_gap(gap: float) -> float:
    """Return a gap of GFN2-xTB in eV as a gap on the scale of QM9, in Hartree."""
    return (SLOPE * gap + OFFSET) / EV_PER_HARTREE


def xtb(smiles: list[str]) -> list[float]:
    """Return the rewards r of molecules, those of the calculated gap on the scale of QM9.

    Raises `CalculationError` for a molecule whose calculation does not come to its end.
    """
    return [_reward(calculate(each)) for each in smiles]


def _reward(calculation: Calculation) -> float:
    if calculation.failure:
        raise CalculationError(calculation.failure)
    return reward(qm9_gap(calculation.gap))


def _with_conformer(smiles: str) -> Mol | None:
    """Return a molecule with hydrogens and the best of some conformers, relaxed by MMFF; None where there is none."""
    chem = require_rdkit()
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"{smiles!r} is not a valid SMILES string.")
    with logs_blocked():
        parameters = rdDistGeom.ETKDGv3()
        parameters.randomSeed, parameters.maxIterations = SEED, MAX_ATTEMPTS
        for isomer in _isomers(molecule):
            whole = chem.AddHs(isomer)
            # The molecule as it is stands for all its isomers, of which some conformers show the likely ones.
            number = NUM_CONFORMERS if isomer is molecule else 1
            if found := list(rdDistGeom.EmbedMultipleConfs(whole, number, parameters)):
                energies = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(whole, maxIters=1000)
                best = min(range(len(found)), key=lambda place: energies[place][1])
                return chem.Mol(whole, confId=found[best])
    return None


def _isomers(molecule: Mol) -> Iterator[Mol]:
    """Yield a molecule as it is, where any stereochemistry will do, then with each one: in cages few are possible."""
    from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

    yield molecule
    yield from EnumerateStereoisomers(molecule, StereoEnumerationOptions(maxIsomers=MAX_ISOMERS, rand=SEED))


def _relaxed(numbers: np.ndarray, start: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Relax atoms from `start` in Bohr, `[N, 3]`.

    Returns the gap in eV, the largest component of the gradient in Hartree per Bohr, and bond orders `[N, N]`.
    """
    optimize = importlib.import_module("scipy.optimize")
    calculator = require_tblite().Calculator("GFN2-xTB", numbers, start)
    calculator.set("verbosity", 0)

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        calculator.update(flat.reshape(-1, 3))
        found = calculator.singlepoint()
        return float(found.get("energy")), np.ravel(found.get("gradient"))

    options = {"gtol": MAX_FORCE, "maxiter": MAX_STEPS}
    relaxed = optimize.minimize(energy, start.ravel(), jac=True, method="BFGS", options=options)
    calculator.update(relaxed.x.reshape(-1, 3))
    found = calculator.singlepoint()
    levels = found.get("orbital-energies")
    homo = round(float(found.get("orbital-occupations").sum())) // 2 - 1
    gap = float(levels[homo + 1] - levels[homo]) * EV_PER_HARTREE
    return gap, float(np.abs(relaxed.jac).max()), found.get("bond-orders").reshape(len(numbers), -1)
