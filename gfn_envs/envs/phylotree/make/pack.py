"""Pack the alignments DS1 .. DS8 into `alignments.npz`: python -m gfn_envs.envs.phylotree.make.pack FOLDER.

FOLDER holds `DS1.json` .. `DS8.json`, taxon -> aligned sequence, as in gfn_maxent_rl/envs/phylo_gfn/datasets of
https://github.com/tristandeleu/gfn-maxent-rl (MIT), commit e8808a4328233277afc728548b0df86f49b0917d.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from gfn_envs.envs.phylotree.alignment import DATASETS, PACKED


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write each distinct column of letters once, with the number of sites that have it."""
    arrays: dict[str, np.ndarray] = {}
    for name in DATASETS:
        sequences = json.loads((folder / f"{name}.json").read_text())
        letters = np.array([list(sequence.encode()) for sequence in sequences.values()], dtype=np.uint8)
        columns, counts = np.unique(letters, axis=1, return_counts=True)
        arrays[f"{name}.taxa"] = np.array(list(sequences), dtype=bytes)
        arrays[f"{name}.letters"] = columns
        arrays[f"{name}.counts"] = counts.astype(np.uint16)
    np.savez_compressed(PACKED, **arrays)  # type: ignore[arg-type]  (numpy's stub takes keywords for its own options)


if __name__ == "__main__":
    tyro.cli(main)
