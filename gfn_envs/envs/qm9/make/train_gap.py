"""Train the network that predicts HOMO-LUMO gaps, on QM9: `python -m gfn_envs.envs.qm9.make.train_gap --help`.

The data are the 130,831 molecules of the package qm9pack, in the order of its tables. Molecules with charged atoms
(580) and repeated graphs (86) are left out, so n = 130,165 remain. Let p be numpy's `RandomState(0).permutation(n)`.
The first n // 13 = 10,012 rows of p are the test set, the next n // 26 = 5,006 are the validation set, and the others
are the training set. This split does not depend on `--seed`. The test set is used once, at the end.

Source: the data are from Ramakrishnan et al. 2014 (doi 10.1038/sdata.2014.22), the one-cycle learning rate is from
Smith and Topin 2017 (arXiv 1708.07120).
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from gfn_envs.envs.molecules.toolkit import require_rdkit
from gfn_envs.envs.qm9.encoding import from_smiles, types_and_orders
from gfn_envs.envs.qm9.gap import CHUNK, WEIGHTS, GapNetwork
from gfn_envs.errors import integer_at_least

EV_PER_HARTREE = 27.211386
SPLIT_SEED = 0
TOP = 0.01
"""Share of the test set with the smallest gaps, and so the highest rewards; its error is reported separately."""


@dataclass(frozen=True)
class Settings:
    """Train the gap network on QM9, on the CPU, and write its weights and the errors it reached to one file."""

    epochs: int = 30
    """Number of passes over the training set; one takes about half a minute on a free core."""
    batch_size: int = 256
    """Number of molecules per update."""
    learning_rate: float = 2e-3
    """Highest learning rate of the cycle."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    seed: int = 0
    """Seed of the initial weights and of the order of the molecules; the split does not depend on it."""
    threads: int = 1
    """Number of torch threads; equal seeds and equal numbers of threads give equal weights."""
    out: Path = WEIGHTS
    """File to write, by default the one in the package."""


@dataclass(frozen=True)
class Molecules:
    """Molecules with their frontier orbitals, row by row."""

    index: list[int]
    """Index in QM9."""
    smiles: list[str]
    """SMILES as in qm9pack."""
    states: Tensor
    """Terminal states of the environment with 9 slots, uint8 `[n, 46]`."""
    orbitals: Tensor
    """Energies of HOMO and LUMO in Hartree, float32 `[n, 2]`."""

    @property
    def gaps(self) -> Tensor:
        """Gaps in Hartree, float32 `[n]`."""
        return self.orbitals[:, 1] - self.orbitals[:, 0]

    def graphs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return types `[len(rows), 9]` and bond orders `[len(rows), 9, 9]`, int64, of some rows."""
        return types_and_orders(self.states[rows].long())


def qm9pack_folder() -> Path:
    """Return the folder of qm9pack's tables; the package is not imported, because that would need pandas."""
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "The QM9 data come with the package qm9pack, which is not installed: pip install 'gfn-envs[retrain]'.",
            name="qm9pack",
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def table_rows(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of the tables `qm9_part*.csv` in `folder`, in the order of their names."""
    csv.field_size_limit(2**24)
    for path in sorted(folder.glob("qm9_part*.csv")):
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def read_molecules(folder: Path) -> Molecules:
    """Read from the tables in `folder` the distinct molecules that a state can hold."""
    chem = require_rdkit()
    index, smiles, states, orbitals, seen = [], [], [], [], set()
    for row in tqdm(table_rows(folder), desc="reading QM9", unit=" molecules"):
        try:
            state = from_smiles([row["SMILES"]])
        except ValueError:
            continue
        name = chem.CanonSmiles(row["SMILES"])
        if name not in seen:
            seen.add(name)
            index.append(int(row["Index"]))
            smiles.append(row["SMILES"])
            states.append(state.to(torch.uint8))
            orbitals.append([float(row["HOMO_au"]), float(row["LUMO_au"])])
    if not index:
        raise ValueError(f"No molecules in {folder}: expected the tables qm9_part*.csv of the package qm9pack.")
    return Molecules(index, smiles, torch.cat(states), torch.tensor(orbitals))


def split(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows, out of `count`, of the training, validation and test set, int64."""
    rows = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(count))
    test, validation, training = rows.split([count // 13, count // 26, count - count // 13 - count // 26])
    return training, validation, test


def ranked_test_set(molecules: Molecules) -> Tensor:
    """Return the rows of the test set by increasing gap, that is by decreasing reward, int64."""
    test = split(len(molecules.index))[2]
    return test[molecules.gaps[test].argsort(stable=True)]


@torch.no_grad()
def errors(network: GapNetwork, molecules: Molecules, rows: Tensor) -> Tensor:
    """Return the absolute errors of the predicted gaps of `rows`, in eV, float32 `[len(rows)]`."""
    gaps = torch.cat([network(*molecules.graphs(chunk)) for chunk in rows.split(CHUNK)])
    return EV_PER_HARTREE * (gaps - molecules.gaps[rows]).abs()


def train(molecules: Molecules, settings: Settings) -> GapNetwork:
    """Return a network trained on the training set of `molecules`.

    The loss is the mean absolute error of the gap plus half the mean absolute error of the two orbitals, in units of
    their spread. Matrix products are in bfloat16, which is several times faster if the CPU has instructions for it.
    """
    torch.manual_seed(settings.seed)
    training, validation, _ = split(len(molecules.index))
    targets = molecules.orbitals[training]
    network = GapNetwork()
    network.mean.copy_(targets.mean(0))
    network.spread.copy_(targets.std(0))
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    updates = settings.epochs * -(-len(training) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(updates, 2), pct_start=0.1
    )
    progress = tqdm(total=updates, desc="training", unit=" updates")
    for _ in range(settings.epochs):
        for rows in training[torch.randperm(len(training))].split(settings.batch_size):
            with torch.autocast("cpu", torch.bfloat16):
                encoded = network.encode(*molecules.graphs(rows))
            differences = (network.orbitals(encoded.float()) - molecules.orbitals[rows]) / network.spread.mean()
            gap_differences = differences[:, 1] - differences[:, 0]
            loss = gap_differences.abs().mean() + differences.abs().mean() / 2
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.update()
        progress.set_postfix_str(f"validation {errors(network, molecules, validation).mean():.4f} eV")
    progress.close()
    return network


def report(network: GapNetwork, molecules: Molecules) -> dict[str, float]:
    """Return the mean absolute errors in eV on each set, and on the test molecules of highest reward."""
    training, validation, _ = split(len(molecules.index))
    test_errors = errors(network, molecules, ranked_test_set(molecules))
    best = test_errors[: max(1, round(TOP * len(test_errors)))]
    return {
        "train": float(errors(network, molecules, training).mean()),
        "validation": float(errors(network, molecules, validation).mean()),
        "test": float(test_errors.mean()),
        "test, highest 1 % of rewards": float(best.mean()),
    }


def main(settings: Settings) -> str:
    """Train, report and write the weights; return their sha256."""
    for name in ("epochs", "batch_size", "threads"):
        integer_at_least(name, getattr(settings, name), 1)
    if not settings.out.parent.is_dir():
        raise ValueError(f"out must be a file in a folder that exists, got {str(settings.out)!r}.")
    torch.set_num_threads(settings.threads)
    molecules = read_molecules(qm9pack_folder())
    print(f"{len(molecules.index):,} distinct neutral molecules")
    network = train(molecules, settings)
    mean_errors = {name: round(value, 4) for name, value in report(network, molecules).items()}
    for name, value in mean_errors.items():
        print(f"mean absolute error, {name}: {value:.4f} eV")
    return write(network, settings, mean_errors)


def write(network: GapNetwork, settings: Settings, mean_errors: dict[str, float]) -> str:
    """Write the weights to `settings.out`, with settings and errors as metadata; return the file's sha256.

    The file is replaced in one step.
    """
    metadata = {
        "settings": {name: value for name, value in asdict(settings).items() if name != "out"},
        "mean absolute error in eV": mean_errors,
    }
    # The metadata are one entry, because safetensors writes several entries in no fixed order.
    content = save(network.state_dict(), {"gap": json.dumps(metadata)})
    part = settings.out.with_name(settings.out.name + ".part")
    part.write_bytes(content)
    os.replace(part, settings.out)
    sha256 = hashlib.sha256(content).hexdigest()
    print(f"{settings.out}: {len(content):,} bytes, sha256 {sha256}")
    return sha256


if __name__ == "__main__":
    main(tyro.cli(Settings))
