"""Run a baseline: python baselines/run.py --algo maskable_ppo --env gfn/Hypergrid-v0.

A run writes the same files as agents/run.py, with the same metrics under the same names, so that baselines/compare.py
can set them side by side.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and os.path.samefile(sys.path[0] or os.curdir, os.path.dirname(__file__) or os.curdir):
    # As in agents/run.py: this folder must shadow no package, and MODULE:ID finds a user's module in the current one.
    sys.path[:] = [*sys.path[1:], os.getcwd()]

import argparse
import contextlib
import dataclasses
import platform
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from agents import report
from agents.checkpoint import RunFolder
from agents.logging_backends import TensorBoard, require
from agents.run import StopSignals
from baselines.config import BaselineConfig, preset
from gfn_envs import registered
from gfn_envs.errors import choose
from gfn_envs.registry import find

try:
    from baselines import assemble
except ModuleNotFoundError as error:  # pragma: no cover
    sys.exit(f"error: {error.name} is not installed: pip install -e '.[baselines]' in the clone")

from baselines.session import Session

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

_DIR = Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
_FLAG = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class Options:
    """The command line: the settings of a run, and what to do with it."""

    config: Annotated[BaselineConfig, tyro.conf.arg(name="")] = field(default_factory=BaselineConfig)
    out: _DIR = ""
    """Folder of the run; by default runs/ENVIRONMENT/ALGO-seedSEED."""
    resume: _DIR = ""
    """Go on with the run in this folder, by its own settings; only --trajectories and --steps may change."""
    overwrite: _FLAG = False
    """Replace the run that --out already holds; other files there stay."""
    tensorboard: _FLAG = False
    """Also log to TensorBoard, into the run's folder."""
    progress: _FLAG = True
    """Show no progress bar."""


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
    folder = RunFolder(Path(options.resume or options.out or _default_folder(config)), BaselineConfig)
    if options.resume:
        named = [
            name.replace("_", "-") for name in config.differences(folder.read_config()) if name not in config.extends
        ]
        named += [name for name in ("out", "overwrite") if getattr(options, name)]
        if named:
            flags = ", ".join("--" + name for name in named)
            raise ValueError(f"--resume goes on with the run's own settings: leave out {flags}.")
    elif folder.holds_run() and not options.overwrite:
        raise ValueError(
            f"{folder.path} already holds a run: --resume {folder.path} goes on with it, --overwrite replaces it, "
            "--out names another folder."
        )
    if options.tensorboard:
        require("tensorboard")
    torch.set_num_threads(config.threads)
    session = assemble.build_session(config)
    if not options.resume:
        folder.clear()
        folder.start(config)
        return folder, session
    loaded = folder.load(session)
    for name in config.extends:
        behind, limit = getattr(session, name), getattr(config, name)
        if config.differences(folder.read_config()) and limit and limit < behind:
            raise ValueError(f"--{name} {limit} is less than the {behind} that the run in {folder.path} has behind it.")
    folder.start(config)
    if loaded:
        folder.write_metrics(session)
    if session.done() < 1:
        folder.summary.unlink(missing_ok=True)
    return folder, session


def _default_folder(config: BaselineConfig) -> Path:
    env = config.env.replace("/", "-").replace(":", "-")
    return Path("runs") / env / f"{config.algo}-seed{config.seed}"


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
    with StopSignals() as signals, contextlib.ExitStack() as at_exit:
        loggers = [TensorBoard(folder.path)] if options.tensorboard else []
        for logger in loggers:
            at_exit.callback(logger.close)
            for metrics in session.history:
                logger.log(metrics)

        def on_evaluation(metrics: dict[str, float]) -> None:
            folder.save(session)
            for logger in loggers:
                logger.log(metrics)

        finished = session.train(on_evaluation, signals.wanted, options.progress)
        folder.save(session)
        session.method.save_model(folder.path)
        print(report.table(session.history), flush=True)
        if finished:
            folder.write_summary(_summary(session))
        pictures = session.draw(folder.path)
    print("pictures: " + ", ".join(str(path) for path in pictures))
    if not finished:
        print(
            f"stopped after {session.trajectories:,} trajectories; go on with --resume {folder.path}", file=sys.stderr
        )
        return 128 + signals.received
    return 0


def _summary(session: Session) -> dict[str, Any]:
    config = session.config
    return {
        **session.history[-1],
        "algo": config.algo,
        "reward_mode": config.reward_mode,
        "env": config.env,
        "env_kwargs": config.parsed_env_kwargs(),
        "seed": config.seed,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (the run failed), 2 (wrong input), 128 + signal."""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        folder, session = open_run(options)
    except (ValueError, ArithmeticError, ModuleNotFoundError) as error:
        return _report(error, 2)
    except OSError as error:
        return _report(error, 1)
    except KeyboardInterrupt:
        print("stopped before the run began", file=sys.stderr)
        return 130
    try:
        return train(options, folder, session)
    except KeyboardInterrupt:
        print(f"stopped at once; go on from the last checkpoint with --resume {folder.path}", file=sys.stderr)
        return 130
    except (ArithmeticError, ValueError) as error:
        return _report(error, 1)
    except OSError as error:
        return _report(f"{error}. Once that is mended, --resume {folder.path} goes on from the last checkpoint.", 1)


def _report(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
