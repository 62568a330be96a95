"""The sampling command line: python agents/sample.py RUN --num 1000 --out samples.csv."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from agents.policy import Samples, TrainedPolicy, load
from agents.registry import METRICS
from agents.runs import command
from agents.runs.folder import write_atomically
from gfn_envs.abilities import ReadsSmiles

HELP = """Sample complete objects with a trained policy, or trajectories that lead to given ones.

RUN is the folder of a run, a policy's file, or pretrained:ID for the policy that comes with the project for an
environment. Objects come out as CSV, a line each:
  object  the object as text: a molecule's SMILES, or the state in words
  r       its reward as metrics report it (r for molecules, R elsewhere)
  log_reward  log R, which training aims at (with the exponent and the symmetry factor, for molecules)
  log_pf  log-probability of the trajectory that the policy took to it
  log_p   with --rollouts K: log-probability that the policy ends in it, estimated by K backward walks
  state   the state, its components separated by spaces

  python agents/sample.py runs/main --num 1000 --out samples.csv
  python agents/sample.py runs/main --num 20 --rollouts 10
  python agents/sample.py pretrained:gfn/QM9-v0 --num 1000 --out molecules.csv

Where an environment's metrics say something of many objects together, such as how probable each edge of a Bayesian
network is, this goes to the standard error stream.

With --backward-from FILE the backward policy takes given objects apart. FILE is a CSV file with a column state, or
smiles or object for molecules, such as this command writes. Out come trajectories as JSON, a line each:
  python agents/sample.py runs/main --backward-from samples.csv --out trajectories.jsonl"""

CHUNK = 1024
"""Objects per step of the progress bar."""

MOST_ROWS = 40
"""Rows shown of a table of what the objects say together."""


@dataclass(frozen=True)
class Options:
    """What to sample, and where to write it."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, a policy's file, or pretrained:ID."""
    num: int = 1000
    """Number of objects."""
    seed: int = 0
    """Seed of everything random."""
    rollouts: int = 0
    """Backward walks per object for log_p; 0 leaves log_p out."""
    backward_from: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """File of objects to take apart."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """File to write; by default the output goes to the screen."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    progress: command.FLAG = True
    """Show no progress bar."""


def samples_csv(policy: TrainedPolicy, samples: Samples, seed: int, rollouts: int, progress: bool) -> str:
    """Return objects that the policy has sampled, as CSV with the columns that `HELP` describes."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["object", "r", "log_reward", "log_pf", *["log_p"] * bool(rollouts), "state"])
    num = len(samples.states)
    with tqdm(total=num, unit="object", disable=not progress) as bar:
        for rows in torch.arange(num).split(CHUNK):
            states = samples.states[rows]
            columns = [
                policy.texts(states),
                [f"{r:.6g}" for r in samples.log_raw_reward[rows].double().exp().tolist()],
                _rounded(samples.log_reward[rows]),
                _rounded(samples.log_pf[rows]),
                *([_rounded(policy.log_prob(states, rollouts, seed))] if rollouts else []),
                [" ".join(map(str, state)) for state in states.tolist()],
            ]
            writer.writerows(zip(*columns, strict=True))
            bar.update(len(rows))
    return file.getvalue()


def together(policy: TrainedPolicy, states: Tensor) -> str:
    """Return what terminal `states [N, d]` say together, as the environment's metrics tell it; "" where they do not."""
    lines: list[str] = []
    for name in policy.dag.metrics:
        table = METRICS.find(name).of_objects(policy.dag, states)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        shown = table[: 1 + MOST_ROWS]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
        lines += [f"... and {len(table) - len(shown):,} rows more"] * (len(table) > len(shown))
    return "".join(line + "\n" for line in lines)


def _rounded(values: Tensor) -> list[str]:
    return [f"{value:.4f}" for value in values.tolist()]


def read_states(policy: TrainedPolicy, file: Path) -> Tensor:
    """Return the states `[N, d]` of the objects in a CSV file; `ValueError` for an unreadable file or object."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file ({error}).") from None
    if not rows:
        raise ValueError(f"{file} holds no object: it needs a heading and a line for each.")
    dag, columns = policy.dag, rows[0].keys()
    if "state" in columns:
        return _parsed(file, [row["state"] or "" for row in rows])
    column = next((name for name in ("smiles", "object") if name in columns), None)
    if column is None or not isinstance(dag, ReadsSmiles):
        wanted = "state, smiles or object" if isinstance(dag, ReadsSmiles) else "state"
        raise ValueError(f"{file} has no column {wanted} (it has {', '.join(map(str, columns))}).")
    return dag.from_smiles([row[column] or "" for row in rows])


def _parsed(file: Path, texts: list[str]) -> Tensor:
    states = []
    for line, text in enumerate(texts, 2):
        try:
            states.append([int(word) for word in text.split()])
        except ValueError:
            raise ValueError(f"{file}, line {line}: {text[:80]!r} is not a state (integers and spaces).") from None
    if len({len(state) for state in states}) > 1:
        raise ValueError(f"{file}: the states differ in the number of components.")
    return torch.tensor(states, dtype=torch.int64)


def trajectories_json(policy: TrainedPolicy, states: Tensor, seed: int) -> str:
    """Return one trajectory to each of `states [N, d]`, walked back by P_B, as JSON lines that start at s0."""
    batch = policy.trajectories_to(states, seed)
    log_pf, log_pb = (values.tolist() for values in policy.log_probs_along(batch))
    texts = policy.texts(batch.terminal_states)
    lines = []
    for i, length in enumerate(batch.lengths.tolist()):
        line = {
            "object": texts[i],
            "log_reward": round(float(batch.log_reward[i]), 4),
            "log_pf": round(log_pf[i], 4),
            "log_pb": round(log_pb[i], 4),
            "actions": batch.actions[i, :length].tolist(),
            "states": batch.states[i, : length + 1].tolist(),
        }
        lines.append(json.dumps(line))
    return "\n".join(lines) + "\n"


def sample(options: Options) -> None:
    """Write the samples or trajectories that the options ask for."""
    if not 1 <= options.num <= 10**9:
        raise ValueError(f"--num must lie in 1 .. 1e+09, got {options.num}.")
    if not 0 <= options.rollouts <= 10**6:
        raise ValueError(f"--rollouts must lie in 0 .. 1e+06, got {options.rollouts}.")
    if not 0 <= options.seed <= 2**62:
        raise ValueError(f"--seed must lie in 0 .. 2^62, got {options.seed}.")
    policy = load(options.run, options.device)
    torch.set_num_threads(policy.config.threads)  # as in training: on a busy machine more wait for each other
    if options.backward_from:
        text = trajectories_json(policy, read_states(policy, Path(options.backward_from)), options.seed)
        kind = "trajectories"
    else:
        samples = policy.sample(options.num, options.seed)
        text, kind = samples_csv(policy, samples, options.seed, options.rollouts, options.progress), "objects"
        sys.stderr.write(together(policy, samples.states))
    if not options.out:
        sys.stdout.write(text)
        return
    write_atomically(Path(options.out), text.encode())
    count = text.count("\n") - (kind == "objects")
    about = f"log Z = {policy.log_z:.3f}" if math.isfinite(policy.log_z) else "log Z unknown"
    print(f"{count:,} {kind} of {options.run} ({about}) -> {options.out}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (the file cannot be written), 2 (wrong input)."""
    arguments = sys.argv[1:] if argv is None else argv
    with command.cause_last():
        options = tyro.cli(Options, args=arguments, prog="python agents/sample.py", description=HELP)
    return command.told(lambda: sample(options))
