"""Make the table that comes with RNABinding: `python -m gfn_envs.envs.rnabinding.make.make_table` (extra `rna`).

ViennaRNA gives the energy of the duplex of each published target with each strand of eight letters, 0.2 ms each.

Source: Lorenz et al. 2011 (doi 10.1186/1748-7188-6-26).
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from gfn_envs.envs.rnabinding.binding import ENERGIES, LETTERS, TABLED, TARGETS, energies, least_energy, pack


@dataclass(frozen=True)
class Settings:
    """Compute and pack the energies of all strands of eight letters with the published targets."""

    out: Path = ENERGIES
    """File to write, by default the one in the package."""


def main(settings: Settings) -> None:
    """Write the table."""
    strands = ["".join(letters) for letters in itertools.product(LETTERS, repeat=TABLED)]
    parts = [strands[start : start + 1024] for start in range(0, len(strands), 1024)]
    found = np.stack([np.concatenate([energies(target, part) for part in tqdm(parts)]) for target in TARGETS])
    part = settings.out.with_name(settings.out.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **pack(found, np.array([least_energy(t) for t in TARGETS])))  # pyright: ignore[reportArgumentType]
    os.replace(part, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
