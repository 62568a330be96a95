"""What is measured and drawn of molecules, by RDKit: fingerprints, similarity, separated modes, a grid of pictures.

Source: modes of reward above a threshold and Tanimoto similarity below 0.7 to each other, as in Gritsaev et al. 2025
(arXiv 2410.15474), after Bengio et al. 2021 (arXiv 2106.04399).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gfn_envs.envs.molecules.toolkit import logs_blocked, require_rdkit

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SIMILAR = 0.7
"""Two molecules are different modes if their Tanimoto similarity is below this."""


def installed() -> bool:
    """Tell whether RDKit is there, without loading it."""
    return importlib.util.find_spec("rdkit") is not None


def listed(smiles: Sequence[str]) -> list[str]:
    """Return several SMILES as a list, or raise `ValueError` for a single one and for what is none."""
    if isinstance(smiles, str):
        raise ValueError(f"smiles must be a list of SMILES, got the single text {smiles!r}: write [{smiles!r}].")
    if not isinstance(smiles, Sequence):
        raise ValueError(f"smiles must be a list of SMILES, got {smiles!r}.")
    return list(smiles)


def parse(smiles: str) -> Any:
    """Return the RDKit molecule of `smiles`; `ValueError` if it does not parse."""
    molecule = require_rdkit().MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"{smiles!r} is not a valid SMILES string.")
    return molecule


def valid(smiles: Sequence[str]) -> list[bool]:
    """Tell which strings RDKit reads as a molecule, all its checks of valence and aromaticity passed."""
    chem = require_rdkit()
    with logs_blocked():
        return [chem.MolFromSmiles(each) is not None for each in smiles]


def fingerprints(smiles: Sequence[str]) -> list[Any]:
    """Return the RDKit path fingerprint of each, 2,048 bits (paths of up to 7 bonds)."""
    require_rdkit()
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetRDKitFPGenerator()
    return list(generator.GetFingerprints([parse(each) for each in smiles]))


def similarities(fingerprint: Any, others: list[Any]) -> list[float]:
    """Return the Tanimoto similarity, in 0..1, of a fingerprint to each of `others`."""
    from rdkit import DataStructs

    return DataStructs.BulkTanimotoSimilarity(fingerprint, others)


def diversity(smiles: Sequence[str]) -> float:
    """Return the mean of 1 - Tanimoto similarity over all pairs, in 0..1; NaN below two."""
    prints = fingerprints(smiles)
    alike = [each for i, one in enumerate(prints) for each in similarities(one, prints[:i])]
    return 1 - sum(alike) / len(alike) if alike else float("nan")


class SeparatedModes:
    """Counts molecules of reward above each threshold that differ from one another, over a run.

    A molecule is a new mode of a threshold if its reward reaches it and its Tanimoto similarity to every mode of that
    threshold so far is below `MOST_SIMILAR`; those that come together are taken in the order of their reward.
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = tuple(thresholds)
        self.modes: list[list[str]] = [[] for _ in self.thresholds]
        self._prints: list[list[Any]] = [[] for _ in self.thresholds]

    def add(self, smiles: Sequence[str], rewards: Sequence[float]) -> None:
        """Take molecules with their rewards into account."""
        ranked = sorted(zip(rewards, smiles, strict=True), key=lambda pair: -pair[0])
        ranked = [pair for pair in ranked if pair[0] >= min(self.thresholds, default=math.inf)]
        for (reward, each), fingerprint in zip(ranked, fingerprints([each for _, each in ranked]), strict=True):
            for threshold, modes, prints in zip(self.thresholds, self.modes, self._prints, strict=True):
                if reward >= threshold and max(similarities(fingerprint, prints), default=0.0) < MOST_SIMILAR:
                    modes.append(each)
                    prints.append(fingerprint)

    def counts(self) -> list[int]:
        """Return the number of modes of each threshold."""
        return [len(modes) for modes in self.modes]

    def state_dict(self) -> list[list[str]]:
        """Return the modes of each threshold as SMILES."""
        return [list(modes) for modes in self.modes]

    def load_state_dict(self, state: list[list[str]]) -> None:
        """Restore what `state_dict` returned."""
        self.modes = [list(modes) for modes in state]
        self._prints = [fingerprints(modes) for modes in self.modes]


def grid(smiles: Sequence[str], captions: Sequence[str], columns: int = 6) -> Image:
    """Return a picture of molecules side by side, each with its caption below."""
    from rdkit.Chem import Draw

    molecules = [parse(each) for each in smiles]
    return Draw.MolsToGridImage(
        molecules, molsPerRow=columns, subImgSize=(220, 200), legends=list(captions), returnPNG=False
    )
