"""Train a GFlowNet agent: python agents/run.py --agent mdqn --backward tlm --env gfn/Hypergrid-v0.

The defaults are the paper's settings for the chosen agent and environment. A run writes its settings, metrics,
checkpoint, summary and pictures into --out. Ctrl-C loses nothing, a kill nothing before the last checkpoint: --resume
DIR goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from agents import build
from agents.config import Config, flatten, preset
from agents.runs import command, report
from agents.runs.folder import RunFolder
from agents.runs.loggers import Logger, TensorBoard, WandB, require
from agents.trainer import Trainer
from gfn_envs import registered
from gfn_envs.errors import choose
from gfn_envs.registry import find

HELP = """Train a GFlowNet agent on any registered environment.

All defaults below are those of the chosen --agent, --env and --preset: the paper's settings where it has them. A
setting that the chosen --agent and --backward do not read is refused.

A short run:
  python agents/run.py --env-kwargs '{{"dim": 2, "side": 8}}' --trajectories 20000 --out runs/small

Go on with it after Ctrl-C or a kill, or extend it:
  python agents/run.py --resume runs/small
  python agents/run.py --resume runs/small --trajectories 40000

An environment of your own, registered by my_module.py in the current folder:
  python agents/run.py --env my_module:my/Env-v0

What there is to choose from:
  --agent: {agents}
  --backward: {backward}
  --env: {envs}"""


@dataclass(frozen=True)
class Options(command.RunOptions):
    """The command line: the settings of a run, and what to do with it."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    wandb: command.FLAG = False
    """Also log to Weights & Biases, project gfn-envs."""


def parse(argv: list[str]) -> Options:
    """Return the options of a command line.

    The defaults depend on the agent, the environment and the preset named in it, or are those of the run to resume.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    defaults = (("--agent", "mdqn"), ("--env", "gfn/Hypergrid-v0"), ("--preset", "default"), ("--resume", ""))
    for flag, default in defaults:
        first.add_argument(flag, nargs="?", default=default, const=default)
    known, _ = first.parse_known_args(argv)
    helps = bool({"-h", "--help"} & set(argv))
    if known.resume and not helps:
        config = RunFolder(Path(known.resume), Config).read_config()
    else:
        if not helps:
            choose("agent", known.agent, build.AGENTS)
            find(known.env)
        config = preset(known.env, known.agent, known.preset)
    names = {"agents": build.AGENTS, "backward": build.BACKWARD, "envs": registered()}
    text = HELP.format(**{key: ", ".join(values) for key, values in names.items()})
    return tyro.cli(Options, args=argv, default=Options(config=config), prog="python agents/run.py", description=text)


def open_run(options: Options) -> tuple[RunFolder[Config], Trainer]:
    """Make the trainer of a new run, or of the one to resume, and its folder; nothing is written if that fails."""
    config = options.config
    folder = command.folder_of(options, config, f"{config.agent}-{config.backward}")
    for package in _wanted_loggers(options):
        require(package)
    trainer = build.build_trainer(config, build.make_dag(config))
    command.begin(folder, trainer, config, bool(options.resume))
    return folder, trainer


def train(options: Options, folder: RunFolder[Config], trainer: Trainer) -> int:
    """Train to the end or to a signal, save, report; return the exit code."""
    config = trainer.config
    torch.set_num_threads(config.threads)
    size = sum(p.numel() for p in trainer.network.parameters())
    print(
        f"{config.agent} with {config.backward} on {config.env} {config.env_kwargs}, "
        f"{config.trajectories:,} trajectories, seed {config.seed}, {trainer.dag.device}, {size:,} weights "
        f"-> {folder.path}" + (f" (going on after {trainer.trajectories:,})" if trainer.iteration else ""),
        flush=True,
    )
    if trainer.dag.offers("to_smiles") and not trainer.evaluator.molecules:
        print("RDKit is not installed: no modes, no molecules (pip install 'gfn-envs[molecules]')", file=sys.stderr)

    def close(finished: bool) -> list[Path]:
        pictures = report.draw_all(trainer, folder.path)
        if finished:
            report.write_samples(trainer.agent, config.eval, config.seed, folder.path)
            folder.write_summary(command.summary(trainer, ("agent", "backward", "env", "seed")))
        return pictures

    loggers = [make(folder, config) for make in _wanted_loggers(options).values()]
    return command.follow(folder, trainer, loggers, options.progress, close)


def _wanted_loggers(options: Options) -> dict[str, Callable[[RunFolder[Config], Config], Logger]]:
    """Return what makes each logger asked for, by the package that it needs."""
    known: dict[str, Callable[[RunFolder[Config], Config], Logger]] = {
        "tensorboard": lambda folder, config: TensorBoard(folder.path),
        "wandb": lambda folder, config: WandB(folder.path, flatten(config)),
    }
    return {package: make for package, make in known.items() if getattr(options, package)}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return command.execute(lambda: parse(sys.argv[1:] if argv is None else argv), open_run, train)
