"""Fit the line from gaps of GFN2-xTB to those of QM9: `python -m gfn_envs.envs.qm9.make.fit_xtb` (extra `qm`).

It calculates molecules of the shipped test set, evenly spread by rank, and prints the constants of
`gfn_envs.envs.qm9.quantum` with the correlations. The line is that of least squares over the molecules whose calculated
gap is below `LINEAR` eV. Rewards distinguish those, and beyond it gaps of GFN2-xTB grow faster than those of QM9.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
import tyro
from scipy.stats import pearsonr, spearmanr
from tqdm import tqdm

from gfn_envs.envs.qm9.dag import TEST_SET, TEST_SET_SHA256
from gfn_envs.envs.qm9.quantum import EV_PER_HARTREE, calculated
from gfn_envs.packaged import read

LINEAR = 5.0


@dataclass(frozen=True)
class Settings:
    """Calculate molecules of QM9 by GFN2-xTB, and fit a line to their gaps."""

    every: int = 2
    """Of the 1,000 molecules of the test set, every how manieth is taken."""
    workers: int = 2
    """Processes."""


def main(settings: Settings) -> None:
    """Print the constants and how well they fit."""
    table = io.StringIO(read(TEST_SET, "the test set", TEST_SET_SHA256).decode(), newline="")
    rows = list(csv.DictReader(table))[:: settings.every]
    found = calculated([row["smiles"] for row in rows], settings.workers, tqdm)
    print(f"{len(rows)} molecules:", dict(Counter(each.failure or "calculated" for each in found)))
    gaps = [(each.gap, float(row["gap"])) for each, row in zip(found, rows, strict=True) if not each.failure]
    xtb, dft = np.array(gaps).T * [[1], [EV_PER_HARTREE]]
    low = xtb < LINEAR
    line = np.polyfit(xtb[low], dft[low], 1)
    print(f"SLOPE, OFFSET = {line[0]:.4f}, {line[1]:.4f}, of {low.sum()} molecules of less than {LINEAR} eV")
    for name, chosen in (("of these", low), ("of all", xtb < np.inf)):
        error = np.abs(np.polyval(line, xtb[chosen]) - dft[chosen]).mean()
        pearson, spearman = (f(xtb[chosen], dft[chosen])[0] for f in (pearsonr, spearmanr))
        print(f"{name}: Pearson {pearson:.3f}, Spearman {spearman:.3f}, mean absolute error {error:.2f} eV")


if __name__ == "__main__":
    main(tyro.cli(Settings))
