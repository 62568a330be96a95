"""Make the table that comes with QM9Blocks: `python -m gfn_envs.envs.qm9blocks.make.make_table`.

The gap network of QM9 scores all rows of one to five blocks, a row and its reverse once where they are one molecule.
It takes some minutes on a CPU. On another machine a gap may differ by one unit, which is 1e-5 Hartree.

Source: `gfn_envs.envs.qm9.gap`, the network; Shen et al. 2023 (arXiv 2305.07170), the blocks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from gfn_envs.envs.qm9.gap import CHUNK, GapNetwork, load_gap_network
from gfn_envs.envs.qm9blocks.blocks import LENGTH, assemble, compact
from gfn_envs.envs.qm9blocks.table import GAPS, digits, kept, pack


@dataclass(frozen=True)
class Settings:
    """Score all rows of one to five blocks by the gap network, and pack the gaps."""

    threads: int = 1
    """Threads of torch."""
    device: str = "cpu"
    """Where the network runs."""
    out: Path = GAPS
    """File to write, by default the one in the package."""


def every_row() -> Tensor:
    """Return all rows of 0 to 5 blocks as states of five places, int64 `[NUM_ROWS, 5]`."""
    rows = [np.pad(1 + digits(length), ((0, 0), (0, LENGTH - length))) for length in range(LENGTH + 1)]
    return torch.from_numpy(np.concatenate(rows))


@torch.no_grad()
def predicted(states: Tensor, network: GapNetwork, device: str = "cpu", progress: bool = False) -> Tensor:
    """Return the predicted gaps of rows of blocks `states [B, 5]` in Hartree, float32 `[B]`."""
    gaps = torch.empty(len(states))
    atoms = (assemble(states)[0] > 0).sum(1)  # rows of as many atoms together, so that few slots are empty
    for rows in tqdm(atoms.argsort(stable=True).split(CHUNK), disable=not progress, unit="batch"):
        types, orders = compact(*assemble(states[rows]))
        gaps[rows] = network(types.to(device), orders.to(device)).cpu()
    return gaps


def main(settings: Settings) -> None:
    """Write the table."""
    torch.set_num_threads(settings.threads)
    states = every_row()[torch.from_numpy(kept())]
    gaps = predicted(states, load_gap_network(settings.device), settings.device, progress=True)
    part = settings.out.with_name(settings.out.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **pack(gaps.double().numpy()))  # pyright: ignore[reportArgumentType]
    os.replace(part, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
