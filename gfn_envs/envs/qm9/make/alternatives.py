"""Other ways to choose molecules of QM9 than by one network: `python -m gfn_envs.envs.qm9.make.alternatives --help`.

An ensemble has a spread, which should be large where its members extrapolate. A network retrained on calculated gaps
should rank those that are calculated next.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from safetensors import SafetensorError
from safetensors.torch import load
from scipy.stats import spearmanr

from gfn_envs.envs.qm9.encoding import from_smiles, types_and_orders
from gfn_envs.envs.qm9.gap import GapNetwork, load_gap_network
from gfn_envs.envs.qm9.judge import read_rows
from gfn_envs.envs.qm9.quantum import EV_PER_HARTREE

SPREADS = (0, 1, 2, 4)
"""How many times the spread of the ensemble is added to the mean gap."""
FOLDS, PENALTY = 5, 1.0
"""Of the cross-validation, and of the ridge regression, per molecule and feature of unit variance."""


@dataclass(frozen=True)
class Settings:
    """Compare an ensemble, and retraining on calculated gaps, with the shipped network."""

    judged: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="JUDGED")]
    """What `gfn_envs.envs.qm9.judge` wrote with `--out`; take `--best 400` there, or more."""
    members: tuple[Path, ...] = ()
    """Weights of further networks, as `gfn_envs.envs.qm9.make.train_gap --seed 1 --out FILE` writes them."""
    best: int = 100
    """Number of molecules that are chosen."""


def member(file: Path) -> GapNetwork:
    """Return a network with the weights in `file`."""
    network = GapNetwork()
    try:
        network.load_state_dict(load(file.read_bytes()))
    except (SafetensorError, RuntimeError):
        raise ValueError(f"{file} does not hold the weights of a gap network.") from None
    return network.eval()


def ensemble(gaps: np.ndarray, kept: np.ndarray, calculated: np.ndarray, best: int) -> list[str]:
    """Return lines about the molecules of least mean gap plus some spreads.

    Args:
        gaps: predictions of each network, `[members, n]`.
        kept: whether a molecule keeps its bonds, `[n]`.
        calculated: gaps, `[n]`; NaN where there is none.
        best: number of molecules that are chosen.
    """
    mean, spread = gaps.mean(0), gaps.std(0, ddof=1)
    lines = [
        f"mean spread in eV: {spread[kept].mean():.3f} of what keeps its bonds, {spread[~kept].mean():.3f} of others"
    ]
    for times in SPREADS:
        bound = mean + times * spread
        chosen = np.argsort(bound, kind="stable")[:best]
        good = chosen[kept[chosen]]
        rank = f"{spearmanr(bound[good], calculated[good])[0]:.2f}" if len(good) > 2 else "-"
        lines.append(f"least mean + {times} spreads: {len(good)} of {len(chosen)} keep their bonds, Spearman {rank}")
    return lines


def retrained(features: np.ndarray, predicted: np.ndarray, calculated: np.ndarray) -> np.ndarray:
    """Return each gap as predicted without itself: by a ridge regression of what the network misses, `[n]`.

    Args:
        features: what the network knows of each molecule, `[n, d]`.
        predicted: its gaps, `[n]`.
        calculated: those to learn, `[n]`.
    """
    missed, found = calculated - predicted, predicted.copy()
    fold = np.random.RandomState(0).permutation(len(predicted)) % FOLDS
    for held in range(FOLDS):
        known = fold != held
        mean, spread = features[known].mean(0), features[known].std(0) + 1e-6
        scaled = (features - mean) / spread
        x, usual = scaled[known], missed[known].mean()
        ridge = PENALTY * len(x) * np.eye(x.shape[1])
        weights = np.linalg.solve(x.T @ x + ridge, x.T @ (missed[known] - usual))
        found[~known] += usual + scaled[~known] @ weights
    return found


@torch.no_grad()
def main(settings: Settings) -> str:
    """Return the comparison as text."""
    rows = read_rows(settings.judged)
    if not rows or not {"smiles", "qm9_gap", "failure"} <= rows[0].keys():
        raise ValueError(f"{settings.judged} is not what gfn_envs.envs.qm9.judge writes with --out.")
    networks = [load_gap_network(), *(member(file) for file in settings.members)]
    graphs = types_and_orders(from_smiles([row["smiles"] for row in rows]))
    gaps = np.stack([(network(*graphs) * EV_PER_HARTREE).double().numpy() for network in networks])
    kept = np.array([row["failure"] == "" for row in rows])
    calculated = np.array([float(row["qm9_gap"] or "nan") for row in rows])
    lines = [f"{len(rows)} molecules, of which {kept.sum()} keep their bonds"]
    if settings.members:
        lines += ensemble(gaps, kept, calculated, settings.best)
    features = networks[0].encode(*graphs).double().numpy()[kept]
    predicted, calculated = gaps[0][kept], calculated[kept]
    for name, found in (("predicted", predicted), ("retrained", retrained(features, predicted, calculated))):
        chosen = np.argsort(found, kind="stable")[: settings.best]
        lines.append(
            f"{name}: Spearman with calculated {spearmanr(found, calculated)[0]:.2f} of all that do, "
            f"{spearmanr(found[chosen], calculated[chosen])[0]:.2f} of the best {len(chosen)}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(main(tyro.cli(Settings)))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
