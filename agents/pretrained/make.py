"""Train the policies that come with the project: `python -m agents.pretrained.make [ID ...]`.

Each takes some minutes of one CPU core, with the environment's default arguments and a small network. A policy and its
row in the index are replaced as soon as it is trained. The index has its settings and its metrics. They are measured on
the file: `python agents/evaluate.py pretrained:ID` repeats them. At the end the table of docs/pretrained.md is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

import agents
from agents.config import method_names
from agents.pretrained import FOLDER, INDEX, file_of, read_index
from agents.runs.folder import write_atomically

LICENCE = "MIT"
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """How one policy is trained."""

    agent: str
    backward: str
    trajectories: int
    sampler: str = "on-policy"
    network: str = "mlp"
    batch_size: int = 32
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings by dotted name."""

    def all_settings(self) -> dict[str, Any]:
        """Return the settings by dotted name: learning rates fall to a hundredth, so that the end does not hover."""
        decay = 0.01 ** (self.batch_size / self.trajectories)
        learned = {"backward.lr_decay": decay} if self.backward in ("tlm", "pessimistic") else {}
        narrow = {"network.width": 128} if self.network == "mlp" else {}
        rest = {"batch_size": self.batch_size, "eval_every": 10**9, "agent.lr_decay": decay}
        return {**rest, **learned, **narrow, **self.settings}


_EXPLORES_FIRST = {"epsilon_trajectories": 128_000}
"""The environment's random actions end within the run."""
RECIPES: dict[str, Recipe] = {
    "gfn/RandomDAG-v0": Recipe("mdqn", "uniform", 64_000),
    "gfn/GraphSet-v0": Recipe("tb", "tlm", 192_000, batch_size=64),
    "gfn/Set-v0": Recipe("tb", "tlm", 320_000, batch_size=64),
    "gfn/BayesNet-v0": Recipe("tb", "tlm", 256_000, "replay"),
    "gfn/FactorGraph-v0": Recipe("mdqn", "uniform", 256_000),
    "gfn/Bag-v0": Recipe("mdqn", "tlm", 256_000),
    "gfn/QM9-v0": Recipe("tb", "tlm", 48_000, "replay", "graph", settings={"network.width": 48, "network.layers": 2}),
    "gfn/Hypergrid-v0": Recipe("mdqn", "tlm", 256_000),
    "gfn/HypergridHard-v0": Recipe("mdqn", "tlm", 256_000),
    "gfn/PhyloTree-v0": Recipe("tb", "uniform", 320_000, "replay", settings=_EXPLORES_FIRST),
    "gfn/TFBind8-v0": Recipe("mdqn", "uniform", 320_000, settings=_EXPLORES_FIRST),
    "gfn/RNABinding-v0": Recipe("mdqn", "uniform", 320_000, settings=_EXPLORES_FIRST),
    "gfn/QM9Blocks-v0": Recipe("mdqn", "uniform", 320_000, settings=_EXPLORES_FIRST),
    "gfn/Ising-v0": Recipe("mdqn", "uniform", 256_000, settings=_EXPLORES_FIRST),
    "gfn/SpinGlass-v0": Recipe("mdqn", "uniform", 256_000, settings=_EXPLORES_FIRST),
    "gfn/SEH-v0": Recipe("tb", "tlm", 12_000, "replay", "graph", settings={"network.width": 48, "network.layers": 2}),
    "gfn/BitSequence-v0": Recipe(
        "tb", "tlm", 20_000, "replay", "transformer", settings={"network.width": 48, "network.layers": 2}
    ),
}
"""How the policy of each environment is trained."""


def make(env: str) -> None:
    """Train the policy for one environment, and replace its file and its row in the index."""
    recipe = RECIPES[env]
    choices = (recipe.agent, recipe.backward, recipe.trajectories, SEED, recipe.sampler, recipe.network)
    began = time.process_time()
    run = agents.train(env, *choices, settings=recipe.all_settings())
    seconds = time.process_time() - began
    file = FOLDER / file_of(env)
    run.policy.save(file)
    metrics = agents.load(file).evaluate()
    row = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        **asdict(recipe),
        "settings": recipe.all_settings(),
        "metrics": {name: float(f"{value:.4g}") for name, value in metrics.items() if math.isfinite(value)},
        "cpu_seconds": round(seconds),
        "licence": LICENCE,
        "command": f"python -m agents.pretrained.make {env}",
    }
    rows = {**read_index(), env: row}
    write_atomically(INDEX, (json.dumps(dict(sorted(rows.items())), indent=2) + "\n").encode())


COLUMNS = {
    "total_variation_exact": "total variation",
    "log_z_error": "error of log Z",
    "elbo": "ELBO",
    "eubo": "EUBO",
    "spearman": "Spearman",
}
"""The metrics in the table of the documentation, and their headings."""


def table() -> str:
    """Return the index as the table that docs/pretrained.md shows."""
    lines = [f"| environment | trained by | trajectories | CPU minutes | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---" * (4 + len(COLUMNS)) + "|")
    for env, row in read_index().items():
        trained = " + ".join(method_names(row["agent"], row["backward"], row["sampler"]))
        metrics = [f"{row['metrics'][name]:.3g}" if name in row["metrics"] else "" for name in COLUMNS]
        cells = [f"`{env}`", trained, f"{row['trajectories']:,}", f"{row['cpu_seconds'] / 60:.1f}", *metrics]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parse(argv: list[str] | None = None) -> list[str]:
    """Return the environments that a command line names; all if it names none."""
    parser = argparse.ArgumentParser(prog="python -m agents.pretrained.make", description="Train the policies again.")
    parser.add_argument("env", nargs="*", choices=[[], *RECIPES], help="environments; all by default", metavar="ID")
    return parser.parse_args(argv).env or list(RECIPES)


def main() -> None:
    """Train the policies that the command line names, and print the table."""
    torch.set_num_threads(1)
    for env in parse():
        print(env, flush=True)
        make(env)
    print(table(), end="")


if __name__ == "__main__":
    main()
