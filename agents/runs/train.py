"""The training command line: python agents/run.py --agent mdqn --backward tlm --env gfn/Hypergrid-v0.

The defaults are the paper's settings for the run's choices. A run writes its settings, metrics, checkpoint, policy,
summary and pictures into --out. --resume DIR continues a stopped run: after Ctrl-C nothing is lost, and after a kill
only what came after the last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from agents import distributed, registry
from agents.build import build_trainer
from agents.config import Config, method_names, usual
from agents.model import make_dag
from agents.runs import command, listing, report
from agents.runs.folder import RunFolder
from agents.runs.loggers import Logger, TensorBoard, WandB, require
from agents.trainer import Trainer
from gfn_envs import registered

HELP = """Train a GFlowNet agent on any registered environment.

All defaults below are those of the chosen --agent, --backward, --network, --env and --preset: the paper's settings
where it has them. The flags that begin with --agent. belong to the chosen agent, and so on; another choice has others.

A short run:
  python agents/run.py --env-kwargs '{{"dim": 2, "side": 8}}' --trajectories 20000 --out runs/small

Go on with it after Ctrl-C or a kill, or extend it:
  python agents/run.py --resume runs/small
  python agents/run.py --resume runs/small --trajectories 40000

On several processes, which share each batch:
  torchrun --nproc-per-node 2 agents/run.py --env gfn/QM9-v0 --preset paper

The same settings again, but for what is given besides:
  python agents/run.py --config runs/small/config.json --seed 1 --out runs/small-1

Use what it learned:
  python agents/sample.py runs/small --num 1000 --out samples.csv
  python agents/evaluate.py runs/small --eval.elbo-samples 10000

Choices of your own, registered by my_module.py in the current folder (docs/extend.md):
  python agents/run.py --env my_module:my/Env-v0 --agent my_module:mine

What there is to choose from (--list says more):
  --agent: {agents}
  --backward: {backward}
  --sampler: {samplers}
  --network: {networks}
  --preset: {presets}
  --env: {envs}"""


@dataclass(frozen=True)
class Options(command.RunOptions):
    """The options of the command line: the settings of a run, and what to do with it."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    wandb: command.FLAG = False
    """Also log to Weights & Biases, project gfn-envs."""
    list: command.FLAG = False
    """List all environments, agents, backward policies, samplers, networks, presets and metrics, and stop."""


def parse(argv: list[str]) -> Options:
    """Return the options of a command line.

    The defaults depend on the choices that the command line names, or come from the run to resume.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choices = {name: getattr(Config, name) for name in ("env", "agent", "backward", "sampler", "preset")}
    for flag, default in {**choices, "network": "auto", "resume": "", "config": ""}.items():
        first.add_argument(f"--{flag}", nargs="?", default=default, const=default)
    known, _ = first.parse_known_args(argv)

    def chosen() -> Config:
        recorded = command.recorded(known.resume, known.config, Config)
        return recorded or usual(known.env, known.agent, known.backward, known.network, known.preset, known.sampler)

    config = command.defaults(argv, chosen, usual)
    names = {
        "agents": registry.AGENTS.names(),
        "backward": registry.BACKWARD.names(),
        "samplers": registry.SAMPLERS.names(),
        "networks": ["auto", *registry.NETWORKS.names()],
        "presets": registry.preset_names(),
        "envs": registered(),
    }
    text = HELP.format(**{key: ", ".join(values) for key, values in names.items()})
    with command.cause_last():
        options = tyro.cli(
            Options, args=argv, default=Options(config=config), prog="python agents/run.py", description=text
        )
    if options.config.network == "auto":  # the flag was given; `usual` has resolved it above
        options = dataclasses.replace(options, config=dataclasses.replace(options.config, network=config.network))
    command.check_choices(options.config_file, config, options.config)
    return options


def open_run(options: Options) -> tuple[RunFolder[Config], Trainer]:
    """Make the trainer and folder of a new run, or of the run to resume; if this fails, nothing is written."""
    config = options.config
    folder = command.folder_of(options, config, method_of(config))
    for package in _wanted_loggers(options):
        require(package)
    trainer = build_trainer(config, make_dag(config))
    command.begin(folder, trainer, config, options)
    return folder, trainer


def method_of(config: Config) -> str:
    """Return the method's part of a run's default folder name, such as "mdqn-tlm" or "tb-tlm-replay"."""
    return "-".join(method_names(config.agent, config.backward, config.sampler))


def train(options: Options, folder: RunFolder[Config], trainer: Trainer) -> int:
    """Train to the end or to a signal, save and report; return the exit code."""
    config = trainer.config
    torch.set_num_threads(config.threads)
    if distributed.rank():
        return command.assist(trainer)
    size = sum(p.numel() for p in trainer.network.parameters())
    sampler = "" if config.sampler == Config.sampler else f" and {config.sampler}"
    print(
        f"{config.agent} with {config.backward}{sampler} on {config.env} {config.env_kwargs}, "
        f"{config.trajectories:,} trajectories, seed {config.seed}, {trainer.dag.device}, {size:,} weights "
        f"-> {folder.path}" + (f" (going on after {trainer.trajectories:,})" if trainer.iteration else ""),
        flush=True,
    )
    for name, reason in trainer.evaluator.left_out.items():
        print(f"metric {name} is left out: {reason}", file=sys.stderr)
    loggers = [make(folder, config) for make in _wanted_loggers(options).values()]
    return command.follow(
        folder, trainer, loggers, options, lambda finished: close(folder, trainer, finished, options.pictures)
    )


def close(folder: RunFolder[Config], trainer: Trainer, finished: bool, pictures: bool = True) -> list[Path]:
    """Draw the pictures and the page, return their paths; if the run is finished, also write its tables and summary."""
    drawn = report.draw(folder, trainer) if pictures else []
    if drawn:
        drawn.append(report.write_page(folder, trainer, drawn, "python agents/run.py"))
    if finished:
        report.write_tables(folder, trainer)
        folder.write_summary(command.summary(trainer, ("agent", "backward", "network", "env", "seed")))
    return drawn


def _wanted_loggers(options: Options) -> dict[str, Callable[[RunFolder[Config], Config], Logger]]:
    """Return a function that makes each requested logger, by the package that the logger needs."""
    known: dict[str, Callable[[RunFolder[Config], Config], Logger]] = {
        "tensorboard": lambda folder, config: TensorBoard(folder.path),
        "wandb": lambda folder, config: WandB(folder.path, config.flat()),
    }
    return {package: make for package, make in known.items() if getattr(options, package)}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if "--list" in arguments:
        print(listing.text())
        return 0
    with distributed.joined():
        return command.execute(lambda: parse(arguments), open_run, train)
