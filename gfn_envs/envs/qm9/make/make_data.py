"""Make the two tables of QM9 that come with the package: `python -m gfn_envs.envs.qm9.make.make_data`.

`test_set.csv` holds 1,000 molecules of the gap network's test set, on which the network was not trained. These are the
100 molecules of smallest gap, which have the highest rewards, and 900 of the others, evenly spread by rank. The columns
are the index in QM9, the SMILES, the gap in Hartree, and the state as `gfn_envs.envs.qm9.encoding.encode` writes it.
`known.safetensors` holds the sorted keys (`QM9.graph_keys`) of all molecules of QM9 that the environment can build.
Equal inputs give equal files, bit for bit.

Source: Ramakrishnan et al. 2014 (doi 10.1038/sdata.2014.22), through the package qm9pack.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from safetensors.torch import save
from torch import Tensor

from gfn_envs.envs.qm9.dag import KNOWN, QM9, TEST_SET
from gfn_envs.envs.qm9.encoding import encode
from gfn_envs.envs.qm9.make.train_gap import Molecules, qm9pack_folder, ranked_test_set, read_molecules

NUM_BEST, NUM_OTHERS = 100, 900
KEYS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Settings:
    """Make the test set and the keys of QM9's molecules from the package qm9pack."""

    folder: Path = TEST_SET.parent
    """Folder in which to write test_set.csv and known.safetensors, by default the one in the package."""


def chosen(molecules: Molecules) -> Tensor:
    """Return the rows of the molecules of the test set, by increasing gap, int64 `[NUM_BEST + NUM_OTHERS]`."""
    test = ranked_test_set(molecules)
    if len(test) < NUM_BEST + NUM_OTHERS:
        raise ValueError(f"{len(molecules.index)} molecules are too few: they leave {len(test)} for the test set.")
    ranks = torch.linspace(NUM_BEST, len(test) - 1, NUM_OTHERS, dtype=torch.float64).round().long()
    return torch.cat([test[:NUM_BEST], test[ranks]])


def write_test_set(molecules: Molecules, path: Path) -> None:
    """Write the table of the molecules of the test set."""
    rows = chosen(molecules)
    columns = zip(rows.tolist(), molecules.gaps[rows].tolist(), encode(molecules.states[rows].long()), strict=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["index", "smiles", "gap", "state"])
        for row, gap, state in columns:
            table.writerow([molecules.index[row], molecules.smiles[row], f"{gap:.4f}", state])
    os.replace(part, path)


def write_known(molecules: Molecules, path: Path) -> None:
    """Write the sorted keys of all molecules."""
    dag = QM9()
    keys = torch.cat([dag.graph_keys(states.long()) for states in molecules.states.split(KEYS_AT_A_TIME)])
    part = path.with_name(path.name + ".part")
    part.write_bytes(save({"keys": keys.unique()}))
    os.replace(part, path)


def main(settings: Settings) -> None:
    """Write both tables."""
    molecules = read_molecules(qm9pack_folder())
    write_test_set(molecules, settings.folder / TEST_SET.name)
    write_known(molecules, settings.folder / KNOWN.name)


if __name__ == "__main__":
    main(tyro.cli(Settings))
