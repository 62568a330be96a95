"""The predicted gaps of all rows of one to five blocks, packed.

A row and its reverse are one molecule unless they hold a block with different ends, and then stand in the file once.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from gfn_envs.envs.qm9blocks.blocks import BLOCKS, LENGTH, SAME_BACKWARDS
from gfn_envs.packaged import read

GAPS = Path(__file__).with_name("gaps.npz")
GAPS_SHA256 = "7151c36aa29f5d55f5c954b6e2fef273879968deffbaebd592933d5ab5785780"
UNIT = 1e-5
"""What a gap in Hartree is rounded to; the network errs by 300 times as much."""


def starts(length: int = LENGTH) -> list[int]:
    """Return where the rows of 0, 1 .. `length` blocks begin among all rows, which are sorted by number of blocks."""
    return [sum(len(BLOCKS) ** shorter for shorter in range(blocks)) for blocks in range(length + 1)]


NUM_ROWS = starts(LENGTH + 1)[-1]
"""Number of rows of 0 to 5 blocks."""


def digits(length: int) -> np.ndarray:
    """Return the blocks of all rows of `length` blocks in alphabetical order, int64 `[11^length, length]`."""
    powers = len(BLOCKS) ** np.arange(length)[::-1]
    return np.arange(len(BLOCKS) ** length)[:, None] // powers % len(BLOCKS)


def _first_of_pairs() -> np.ndarray:
    """Return for each row the place of the row that stands for it in the file, int64 `[NUM_ROWS]`."""
    places = []
    for length, start in enumerate(starts()):
        blocks = digits(length)
        own = np.arange(len(blocks))
        reverse = (blocks[:, ::-1] * len(BLOCKS) ** np.arange(length)[::-1]).sum(1)
        same = np.array(SAME_BACKWARDS)[blocks].all(1)
        places.append(start + np.where(same, np.minimum(own, reverse), own))
    return np.concatenate(places)


def kept() -> np.ndarray:
    """Return the rows that stand in the file, the empty one left out, int64 `[K]`, increasing."""
    return np.unique(_first_of_pairs())[1:]


def pack(gaps: np.ndarray) -> dict[str, np.ndarray]:
    """Return as named arrays the gaps in Hartree of the rows `kept`, float `[K]`.

    Raises `ValueError` for gaps that do not fit into 16 bits of `UNIT`.
    """
    units = np.rint(gaps / UNIT).astype(np.int64)
    least = units.min()
    if units.max() - least >= 2**16:
        raise ValueError(f"gaps must span less than {2**16 * UNIT} Hartree, got {gaps.min()} to {gaps.max()}.")
    above = (units - least).astype("<u2")
    return {"least": np.array(least, "<i4"), "high": (above >> 8).astype("u1"), "low": (above & 255).astype("u1")}


def unpack(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the gaps in Hartree of all rows, float64 `[NUM_ROWS]`, NaN for the empty one."""
    gaps = np.full(NUM_ROWS, np.nan)
    gaps[kept()] = (arrays["least"] + arrays["high"].astype(np.int64) * 256 + arrays["low"]) * UNIT
    return gaps[_first_of_pairs()]


def load_gaps() -> np.ndarray:
    """Return the gaps in Hartree of all rows, float64 `[NUM_ROWS]`, NaN for the empty one.

    Raises `ValueError` where the file is missing or damaged.
    """
    with np.load(io.BytesIO(read(GAPS, "the gaps", GAPS_SHA256))) as file:
        return unpack(dict(file))
