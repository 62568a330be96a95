"""Train a GFlowNet agent: python agents/run.py --agent mdqn --backward tlm --env gfn/Hypergrid-v0.

The defaults are the paper's settings for the chosen agent and environment. A run writes its settings, metrics,
checkpoint, summary and pictures into --out. Ctrl-C loses nothing, a kill nothing before the last checkpoint: --resume
DIR goes on.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and os.path.samefile(sys.path[0] or os.curdir, os.path.dirname(__file__) or os.curdir):
    # A script's own folder comes first on the path, where agents/build.py and others would shadow packages of these
    # names. In its place the current folder comes last: there MODULE:ID finds a user's module, and shadows nothing.
    sys.path[:] = [*sys.path[1:], os.getcwd()]

import argparse
import contextlib
import platform
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import tyro

from agents import build, report
from agents.checkpoint import RunFolder
from agents.config import Config, flatten, preset
from agents.logging_backends import Logger, TensorBoard, WandB, require
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

_DIR = Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
_FLAG = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class Options:
    """The command line: the settings of a run, and what to do with it."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    out: _DIR = ""
    """Folder of the run; by default runs/ENVIRONMENT/AGENT-BACKWARD-seedSEED."""
    resume: _DIR = ""
    """Go on with the run in this folder, by its own settings; of these only --trajectories may change, to extend it."""
    overwrite: _FLAG = False
    """Replace the run that --out already holds; other files there stay."""
    tensorboard: _FLAG = False
    """Also log to TensorBoard, into the run's folder."""
    wandb: _FLAG = False
    """Also log to Weights & Biases, project gfn-envs."""
    progress: _FLAG = True
    """Show no progress bar."""


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
    folder = RunFolder(Path(options.resume or options.out or _default_folder(options.config)), Config)
    if options.resume:
        _check_resume(options, folder)
    elif folder.holds_run() and not options.overwrite:
        raise ValueError(
            f"{folder.path} already holds a run: --resume {folder.path} goes on with it, --overwrite replaces it, "
            "--out names another folder."
        )
    for package in _wanted_loggers(options):
        require(package)
    trainer = build.build_trainer(options.config, build.make_dag(options.config))
    if options.resume:
        _load(folder, trainer)
    else:
        folder.clear()
        folder.start(trainer.config)
    return folder, trainer


def _default_folder(config: Config) -> Path:
    env = config.env.replace("/", "-").replace(":", "-")
    return Path("runs") / env / f"{config.agent}-{config.backward}-seed{config.seed}"


def _check_resume(options: Options, folder: RunFolder[Config]) -> None:
    """Raise `ValueError` for options that would change the run to resume."""
    named = [
        name.replace("_", "-") for name in options.config.differences(folder.read_config()) if name != "trajectories"
    ]
    named += [name for name in ("out", "overwrite") if getattr(options, name)]
    if named:
        flags = ", ".join("--" + name for name in named)
        raise ValueError(f"--resume goes on with the run's own settings: leave out {flags}.")


def _load(folder: RunFolder[Config], trainer: Trainer) -> None:
    """Bring `trainer` to the folder's checkpoint, then the other files in line with it."""
    loaded = folder.load(trainer)
    if trainer.iteration > trainer.num_iterations:
        raise ValueError(
            f"--trajectories {trainer.config.trajectories} is less than the {trainer.trajectories} that the run in "
            f"{folder.path} has behind it."
        )
    folder.start(trainer.config)
    if loaded:
        folder.write_metrics(trainer)
    if trainer.iteration < trainer.num_iterations:
        folder.summary.unlink(missing_ok=True)


class StopSignals:
    """Turns Ctrl-C and SIGTERM into a wish to stop between two iterations; a second one stops at once."""

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> StopSignals:
        self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number

    def wanted(self) -> bool:
        """Tell whether to stop."""
        return bool(self.received)


def train(options: Options, folder: RunFolder[Config], trainer: Trainer) -> int:
    """Train to the end or to a signal, save, report; return the exit code."""
    config = trainer.config
    size = sum(p.numel() for p in trainer.network.parameters())
    print(
        f"{config.agent} with {config.backward} on {config.env} {config.env_kwargs}, "
        f"{config.trajectories:,} trajectories, seed {config.seed}, {trainer.dag.device}, {size:,} weights "
        f"-> {folder.path}" + (f" (going on after {trainer.trajectories:,})" if trainer.iteration else ""),
        flush=True,
    )
    if trainer.dag.offers("to_smiles") and not trainer.evaluator.molecules:
        print("RDKit is not installed: no modes, no samples.csv (pip install 'gfn-envs[molecules]')", file=sys.stderr)
    with StopSignals() as signals, contextlib.ExitStack() as at_exit:
        loggers = [make(folder, config) for make in _wanted_loggers(options).values()]
        for logger in loggers:
            at_exit.callback(logger.close)
            for metrics in trainer.history:
                logger.log(metrics)

        def on_evaluation(metrics: dict[str, float]) -> None:
            folder.save(trainer)
            for logger in loggers:
                logger.log(metrics)

        finished = trainer.train(on_evaluation, signals.wanted, options.progress)
        folder.save(trainer)
        print(report.table(trainer.history), flush=True)
        if finished:
            report.write_samples(trainer, folder.path)
            folder.write_summary(_summary(trainer))
        pictures = report.draw_all(trainer, folder.path)
    print("pictures: " + ", ".join(str(path) for path in pictures))
    if not finished:
        print(
            f"stopped after {trainer.trajectories:,} trajectories; go on with --resume {folder.path}", file=sys.stderr
        )
        return 128 + signals.received
    return 0


def _wanted_loggers(options: Options) -> dict[str, Callable[[RunFolder[Config], Config], Logger]]:
    """Return what makes each logger asked for, by the package that it needs."""
    known: dict[str, Callable[[RunFolder[Config], Config], Logger]] = {
        "tensorboard": lambda folder, config: TensorBoard(folder.path),
        "wandb": lambda folder, config: WandB(folder.path, flatten(config)),
    }
    return {package: make for package, make in known.items() if getattr(options, package)}


def _summary(trainer: Trainer) -> dict[str, Any]:
    return {
        **trainer.history[-1],
        "agent": trainer.config.agent,
        "backward": trainer.config.backward,
        "env": trainer.config.env,
        "env_kwargs": trainer.config.parsed_env_kwargs(),
        "seed": trainer.config.seed,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (training failed), 2 (wrong input), 128 + signal."""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        folder, trainer = open_run(options)
    except (ValueError, ArithmeticError, ModuleNotFoundError) as error:
        return _report(error, 2)
    except OSError as error:
        return _report(error, 1)
    except KeyboardInterrupt:
        print("stopped before the training began", file=sys.stderr)
        return 130
    torch.set_num_threads(trainer.config.threads)
    try:
        return train(options, folder, trainer)
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
