"""Run a baseline: python baselines/run.py --algo maskable_ppo --env gfn/Hypergrid-v0.

A run writes the same files as agents/run.py, with the same metrics under the same names, so that agents/compare.py
can set them side by side.
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

from agents.runs import command, report
from agents.runs.folder import RunFolder
from agents.runs.loggers import TensorBoard, require
from baselines.config import BaselineConfig, preset
from gfn_envs import registered
from gfn_envs.errors import choose
from gfn_envs.registry import find

try:
    from baselines import build as assemble
except ModuleNotFoundError as error:  # pragma: no cover
    sys.exit(f"error: {error.name} is not installed: pip install -e '.[baselines]' in the clone")

from baselines.trainer import Session

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

What there is to choose from:
  --algo: {algorithms}
  --env: {envs}
  --reward-mode: log_reward, reward, soft

Keyword arguments, which --algo-kwargs replaces one by one, as in --algo-kwargs '{{"ent_coef": 0.1}}':
{defaults}"""


@dataclass(frozen=True)
class Options(command.RunOptions):
    """The command line: the settings of a run, and what to do with it."""

    config: Annotated[BaselineConfig, tyro.conf.arg(name="")] = field(default_factory=BaselineConfig)


def parse(argv: list[str]) -> Options:
    """Return the options of a command line; the defaults depend on the algorithm, or are those of the run to resume."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag, default in (("--algo", "maskable_ppo"), ("--env", "gfn/Hypergrid-v0"), ("--resume", "")):
        first.add_argument(flag, nargs="?", default=default, const=default)
    for flag in ("--steps", "--trajectories"):
        first.add_argument(flag)
    known, _ = first.parse_known_args(argv)
    helps = bool({"-h", "--help"} & set(argv))
    if known.resume and not helps:
        config = RunFolder(Path(known.resume), BaselineConfig).read_config()
    else:
        if not helps:
            choose("algorithm", known.algo, assemble.ALGORITHMS)
            find(known.env)
        config = preset(known.env, known.algo)
        if known.steps and not known.trajectories:
            config = dataclasses.replace(config, trajectories=0)
    texts = {"algorithms": ", ".join(assemble.ALGORITHMS), "envs": ", ".join(registered())}
    text = HELP.format(**texts, defaults=assemble.describe_defaults())
    return tyro.cli(
        Options, args=argv, default=Options(config=config), prog="python baselines/run.py", description=text
    )


def open_run(options: Options) -> tuple[RunFolder[BaselineConfig], Session]:
    """Make the session of a new run, or of the one to resume, and its folder; nothing is written if that fails."""
    config = options.config
    folder = command.folder_of(options, config, config.algo)
    if options.tensorboard:
        require("tensorboard")
    torch.set_num_threads(config.threads)
    session = assemble.build_session(config)
    command.begin(folder, session, config, bool(options.resume))
    return folder, session


def train(options: Options, folder: RunFolder[BaselineConfig], session: Session) -> int:
    """Run to the end or to a signal, save, report; return the exit code."""
    config = session.config
    until = [f"{getattr(config, name):,} {name}" for name in config.extends if getattr(config, name)]
    print(
        f"{config.algo} on {config.env} {config.env_kwargs}, {' or '.join(until)}, reward mode {config.reward_mode}, "
        f"seed {config.seed}, {session.dag.device} -> {folder.path}"
        + (f" (going on after {session.trajectories:,})" if session.trajectories else ""),
        flush=True,
    )

    for name, reason in session.evaluator.left_out.items():
        print(f"metric {name} is left out: {reason}", file=sys.stderr)

    def close(finished: bool) -> list[Path]:
        session.method.save_model(folder.path)
        pictures = report.draw(folder, session)
        if finished:
            report.write_tables(folder, session)
            folder.write_summary(command.summary(session, ("algo", "reward_mode", "env", "seed")))
        return pictures

    loggers = [TensorBoard(folder.path)] if options.tensorboard else []
    return command.follow(folder, session, loggers, options.progress, close)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return command.execute(lambda: parse(sys.argv[1:] if argv is None else argv), open_run, train)
