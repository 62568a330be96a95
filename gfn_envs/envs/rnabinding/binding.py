"""How strongly a strand of RNA binds to a target: energies of their duplex by ViennaRNA, or from the packed table.

Source: Lorenz et al. 2011 (doi 10.1186/1748-7188-6-26), ViennaRNA; Sinai et al. 2020 (arXiv 2010.02141), FLEXS, the
targets and the scale of the energies. `NOTICE.md` says more on both.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfn_envs.errors import require
from gfn_envs.packaged import read

LETTERS = "ACGU"
TABLED = 8
"""Length of the strands whose energies are part of the package, for each of `TARGETS`."""

TARGETS = (
    "GAACGAGGCACAUUCCGGCUCGCCCGGCCCAUGUGAGCAUGGGCCGGACCCCGUCCGCGCGGGGCCCCCGCGCGGACGGGGGCGAGCCGGAAUGUGCCUC",
    "GAGGCACAUUCCGGCUCGCCCCCGUCCGCGCGGGGGCCCCGCGCGGACGGGGUCCGGCCCGCGCGGGGCCCCCGCGCGGGAGCCGGAAUGUGCCUCGUUC",
    "CCGGUGAUACUGUUAGUGGUCACGGUGCAUUUAUAGCGCUAAAGUACAGUCUUCCCCUGUUGAACGGCGCCAUUGCAUACAGGGCCAGCCGCGUAACGCC",
    "UAAGAGAGCGUAAAAAUAGAGAUAUGUUCUUGGGUCAGGGCUAUGCGUACCCCAUGAGAGUAAAUCAUACCCCCAAUGGGCUUCGGCGGAAAUUCACUUA",
)
"""The published targets 1 to 4."""

ENERGIES = Path(__file__).with_name("energies.npz")
ENERGIES_SHA256 = "9ab7b16b184785749f2607c39e0a93fea73eea7e303e68ea78db8a38954c4b6c"
UNIT = 0.1
"""What an energy in kcal/mol is a whole multiple of."""

PUBLISHED_LENGTH = 14
PUBLISHED_LOG_Z: dict[float, tuple[float, ...]] = {
    1: (18.211235, 18.164627, 18.257019),
    2: (17.143925, 17.060490, 17.204510),
    3: (16.177080, 16.064442, 16.237158),
    4: (15.292877, 15.157385, 15.345154),
    5: (14.479132, 14.326147, 14.520940),
    6: (13.726944, 13.560965, 13.758472),
    8: (12.381462, 12.199862, 12.399751),
    10: (11.216827, 11.028764, 11.237886),
    16: (8.571679, 8.374427, 8.722252),
    20: (7.362027, 7.136888, 7.694392),
    32: (5.466875, 4.983271, 6.585037),
    40: (5.041795, 4.289299, 6.727548),
}
"""Exponent -> log Z of all strands of 14 letters for targets 1, 2 and 3 (adaptive-teacher, Kim et al. 2025)."""


def require_vienna() -> Any:
    """Return the module `RNA`, or raise `ModuleNotFoundError` that says which extra brings it."""
    return require("RNA", "ViennaRNA", "rna", "Strands of length 8 for the published targets 1 to 4 do without.")


def energies(target: str, strands: Sequence[str]) -> np.ndarray:
    """Return the free energies in kcal/mol of the duplexes of `target` with each of `strands`, float64 `[N]`."""
    duplexfold = require_vienna().duplexfold
    return np.array([duplexfold(target, strand).energy for strand in strands])


def least_energy(target: str) -> float:
    """Return the energy in kcal/mol of the duplex of `target` with its complement."""
    complement = target[::-1].translate(str.maketrans(LETTERS, LETTERS[::-1]))
    return float(energies(complement, [target])[0])


def pack(all_energies: np.ndarray, least: np.ndarray) -> dict[str, np.ndarray]:
    """Return as named arrays energies `[targets, 4^8]` and least energies `[targets]` in kcal/mol.

    Raises `ValueError` for energies that are not multiples of `UNIT` or that do not fit into 8 bits of it.
    """
    units = np.rint(all_energies / UNIT).astype(np.int64)
    highest = units.max()
    if np.abs(units * UNIT - all_energies).max() > 1e-3 or highest - units.min() >= 2**8:
        raise ValueError("energies must be multiples of 0.1 kcal/mol that span less than 25.6 kcal/mol.")
    return {
        "highest": np.array(highest, "<i4"),
        "below": (highest - units).astype("u1"),
        "least": np.rint(least / UNIT).astype("<i4"),
    }


def load_energies(target: int) -> tuple[np.ndarray, float]:
    """Return for one of `TARGETS` the energies of all strands of 8 letters in alphabetical order, and the least energy.

    Both are in kcal/mol, float64 `[4^8]` and a float. Raises `ValueError` where the file is missing or damaged.
    """
    with np.load(io.BytesIO(read(ENERGIES, "the energies", ENERGIES_SHA256))) as file:
        units = file["highest"] - file["below"][target].astype(np.int64)
        return units * UNIT, float(file["least"][target] * UNIT)
