"""The evaluation command line: python agents/evaluate.py RUN --eval.test-rollouts 100."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from agents.evaluation.settings import EvaluationSettings
from agents.policy import load
from agents.runs import command
from agents.runs.folder import write_atomically
from agents.settings import check, values_of

HELP = """Measure a trained policy again, with other settings than its run's.

RUN is the folder of a run, a policy's file, or pretrained:ID for the policy that comes with the project for an
environment. The defaults below are those of its run. Metrics of samples are of --eval.samples fresh objects.

  python agents/evaluate.py runs/main --eval.elbo-samples 10000
  python agents/evaluate.py runs/qm9 --eval.test-rollouts 100 --eval.test-objects 0 --out metrics.json"""


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, a policy's file, or pretrained:ID."""
    eval: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0
    """Seed of everything random."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """File to which the metrics are also written, as JSON."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def evaluate(arguments: list[str]) -> None:
    """Parse a command line with the defaults of its run, evaluate the policy, and print the metrics."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("run", nargs="?")
    first.add_argument("--device", nargs="?", default="auto", const="auto")
    known, _ = first.parse_known_args(arguments)
    asks = bool({"-h", "--help"} & set(arguments))
    policy = None if asks or known.run is None else load(known.run, known.device)
    default = Options(run=tyro.MISSING, eval=policy.config.eval if policy else EvaluationSettings())
    with command.cause_last():
        options = tyro.cli(Options, args=arguments, default=default, prog="python agents/evaluate.py", description=HELP)
    assert policy is not None
    torch.set_num_threads(policy.config.threads)
    check(options.eval, policy.config.eval, "eval.")
    if not 0 <= options.seed <= 2**62:
        raise ValueError(f"--seed must lie in 0 .. 2^62, got {options.seed}.")
    metrics = policy.evaluate(options.seed, **values_of(options.eval))
    strict = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    width = max(map(len, metrics))
    print("\n".join(f"{name.ljust(width)}  {value:.6g}" for name, value in metrics.items()))
    if options.out:
        write_atomically(Path(options.out), (json.dumps(strict, indent=2) + "\n").encode())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (the file cannot be written), 2 (wrong input)."""
    arguments = sys.argv[1:] if argv is None else argv
    return command.told(lambda: evaluate(arguments))
