"""Run a baseline: python baselines/run.py --algo maskable_ppo --env gfn/Hypergrid-v0.

A run writes the same files as agents/run.py, with the same metrics under the same names, so agents/compare.py can
compare both.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from agents.model import make_dag
from agents.registry import bare
from agents.runs import command, report
from agents.runs.folder import RunFolder
from agents.runs.loggers import TensorBoard, require
from baselines.build import build_trainer
from baselines.config import BaselineConfig, usual
from baselines.registry import ALGORITHMS
from baselines.trainer import Trainer
from gfn_envs import registered

HELP = """Run a baseline on any registered environment, to compare agents with.

maskable_ppo is MaskablePPO of sb3-contrib. ppo, a2c, dqn (Stable-Baselines3) and trpo, qrdqn, recurrent_ppo
(sb3-contrib) know no masks: an invalid action leads back to its own state, and their share of invalid actions is
reported. Where they come to prefer that to finishing, let --steps end the run. All of these maximise reward. random
takes uniform legal actions; mcmc is Metropolis-Hastings over complete objects, and samples in proportion to the reward
in the long run.

A short run:
  python baselines/run.py --algo ppo --env-kwargs '{{"dim": 2, "side": 8}}' --trajectories 20000 --out runs/ppo

Go on with it after Ctrl-C or a kill, or extend it:
  python baselines/run.py --resume runs/ppo
  python baselines/run.py --resume runs/ppo --trajectories 40000

The same settings again, but for what is given besides:
  python baselines/run.py --config runs/ppo/config.json --seed 1 --out runs/ppo-1

What there is to choose from:
  --algo: {algorithms}
  --env: {envs}
  --reward-mode: log_reward, reward, soft

Keyword arguments, which --algo-kwargs replaces one by one, as in --algo-kwargs '{{"ent_coef": 0.1}}':
{defaults}"""


@dataclass(frozen=True)
class Options(command.RunOptions):
    """The options of the command line: the settings of a run, and what to do with it."""

    config: Annotated[BaselineConfig, tyro.conf.arg(name="")] = field(default_factory=BaselineConfig)


def parse(argv: list[str]) -> Options:
    """Return the options of a command line; the defaults depend on the algorithm, or come from the run to resume."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choices = {"algo": BaselineConfig.algo, "env": BaselineConfig.env, "resume": "", "config": ""}
    for flag, default in choices.items():
        first.add_argument(f"--{flag}", nargs="?", default=default, const=default)
    for flag in ("--steps", "--trajectories"):
        first.add_argument(flag, nargs="?")
    known, _ = first.parse_known_args(argv)

    def chosen() -> BaselineConfig:
        recorded = command.recorded(known.resume, known.config, BaselineConfig)
        return recorded or usual(known.env, known.algo)

    config = command.defaults(argv, chosen, usual)
    if known.steps and not (known.trajectories or known.resume or known.config):
        config = dataclasses.replace(config, trajectories=0)
    texts = {"algorithms": ", ".join(ALGORITHMS.names()), "envs": ", ".join(registered())}
    text = HELP.format(**texts, defaults=describe_defaults())
    with command.cause_last():
        options = tyro.cli(
            Options, args=argv, default=Options(config=config), prog="python baselines/run.py", description=text
        )
    command.check_choices(options.config_file, config, options.config)
    return options


def describe_defaults() -> str:
    """Return the default keyword arguments of the algorithms, one line for each algorithm."""
    rows = {name: ALGORITHMS.find(name).defaults for name in ALGORITHMS.names()}
    shown = {name: ", ".join(f"{key}={value}" for key, value in values.items()) for name, values in rows.items()}
    return "\n".join(f"  {name}: {text or '(none)'}" for name, text in shown.items())


def open_run(options: Options) -> tuple[RunFolder[BaselineConfig], Trainer]:
    """Make the trainer and folder of a new run, or of the run to resume; if this fails, nothing is written."""
    config = options.config
    folder = command.folder_of(options, config, bare(config.algo))
    if options.tensorboard:
        require("tensorboard")
    torch.set_num_threads(config.threads)
    trainer = build_trainer(config, make_dag(config))
    command.begin(folder, trainer, config, options)
    return folder, trainer


def train(options: Options, folder: RunFolder[BaselineConfig], trainer: Trainer) -> int:
    """Run to the end or to a signal, save and report; return the exit code."""
    config = trainer.config
    until = [f"{getattr(config, name):,} {name}" for name in config.extends if getattr(config, name)]
    print(
        f"{config.algo} on {config.env} {config.env_kwargs}, {' or '.join(until)}, reward mode {config.reward_mode}, "
        f"seed {config.seed}, {trainer.dag.device} -> {folder.path}"
        + (f" (going on after {trainer.trajectories:,})" if trainer.trajectories else ""),
        flush=True,
    )

    for name, reason in trainer.evaluator.left_out.items():
        print(f"metric {name} is left out: {reason}", file=sys.stderr)

    def close(finished: bool) -> list[Path]:
        trainer.baseline.save_model(folder.path)
        pictures = report.draw(folder, trainer) if options.pictures else []
        if pictures:
            pictures.append(report.write_page(folder, trainer, pictures, "python baselines/run.py"))
        if finished:
            report.write_tables(folder, trainer)
            folder.write_summary(command.summary(trainer, ("algo", "reward_mode", "env", "seed")))
        return pictures

    loggers = [TensorBoard(folder.path)] if options.tensorboard else []
    return command.follow(folder, trainer, loggers, options, close)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return command.execute(lambda: parse(sys.argv[1:] if argv is None else argv), open_run, train)
