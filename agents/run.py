"""Train a GFlowNet agent: python agents/run.py --agent mdqn --backward tlm --env gfn/Hypergrid-v0.

The defaults are the paper's settings for the chosen agent and environment. A run writes its settings, metrics,
checkpoint, summary and pictures into --out. Ctrl-C (or a kill) loses nothing after the last checkpoint: --resume DIR
goes on.
"""

from __future__ import annotations

import argparse
import platform
import resource
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import tyro

from agents import build, report
from agents.checkpoint import RunFolder
from agents.config import Config, flatten, preset
from agents.logging_backends import Logger, TensorBoard, WandB
from agents.trainer import Trainer
from gfn_envs import registered
from gfn_envs.errors import choose


@dataclass(frozen=True)
class Options:
    """Train a GFlowNet agent on any registered environment.

    Defaults are the paper's settings for the chosen --agent and --env. Example, two minutes: --env-kwargs '{"dim": 2,
    "side": 8}' --trajectories 50000.
    """

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    out: str = ""
    """Folder of the run; by default runs/ENVIRONMENT/AGENT-BACKWARD-seedSEED."""
    resume: str = ""
    """Go on with the run in this folder, by its own settings; only --trajectories may be given too, to extend it."""
    overwrite: bool = False
    """Replace the run that --out already holds."""
    tensorboard: bool = False
    """Also log to TensorBoard, into the run's folder."""
    wandb: bool = False
    """Also log to Weights & Biases, project gfn-envs."""
    progress: bool = True
    """Show a progress bar."""


def parse(argv: list[str]) -> Options:
    """Return the options of a command line; the defaults depend on the agent and the environment named in it."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--agent", default="mdqn")
    first.add_argument("--env", default="gfn/Hypergrid-v0")
    known, _ = first.parse_known_args(argv)
    if not {"-h", "--help"} & set(argv):
        choose("agent", known.agent, build.AGENTS)
        choose("environment id", known.env, dict.fromkeys(registered()))
    return tyro.cli(Options, args=argv, default=Options(config=preset(known.env, known.agent)))


def open_run(options: Options) -> tuple[RunFolder, Trainer]:
    """Make the trainer of a new run, or of the one to resume, and its folder."""
    if options.resume:
        folder = RunFolder(Path(options.resume))
        config = _extended(folder.read_config(), options)
        trainer = build.build_trainer(config, build.make_dag(config))
        folder.load(trainer)
        folder.start(config)
        return folder, trainer
    config = options.config
    default = Path("runs") / config.env.replace("/", "-") / f"{config.agent}-{config.backward}-seed{config.seed}"
    folder = RunFolder(Path(options.out) if options.out else default)
    if folder.holds_run() and not options.overwrite:
        raise ValueError(
            f"{folder.path} already holds a run: --resume {folder.path} goes on with it, --overwrite replaces it, "
            "--out names another folder."
        )
    trainer = build.build_trainer(config, build.make_dag(config))
    folder.clear()
    folder.start(config)
    return folder, trainer


def _extended(config: Config, options: Options) -> Config:
    """Return the settings of the run to resume, with --trajectories replaced where that was given."""
    given, defaults = flatten(options.config), flatten(preset(options.config.env, options.config.agent))
    extra = [name for name in given if given[name] != defaults[name] and name != "trajectories"]
    if extra or options.out or options.overwrite:
        named = ", ".join("--" + name for name in [*extra, *(["out"] if options.out else [])]) or "--overwrite"
        raise ValueError(f"--resume goes on with the run's own settings: leave out {named}.")
    if given["trajectories"] != defaults["trajectories"]:
        return replace(config, trajectories=given["trajectories"])
    return config


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


def train(options: Options, folder: RunFolder, trainer: Trainer) -> int:
    """Train to the end or to a signal, save, report; return the exit code."""
    config = trainer.config
    size = sum(p.numel() for p in trainer.network.parameters())
    print(
        f"{config.agent} with {config.backward} on {config.env} {config.env_kwargs}, "
        f"{config.trajectories:,} trajectories, seed {config.seed}, {trainer.dag.device}, {size:,} weights "
        f"-> {folder.path}" + (f" (going on after {trainer.trajectories:,})" if trainer.iteration else ""),
        flush=True,
    )
    loggers = _loggers(options, folder, config)

    def on_evaluation(metrics: dict[str, float]) -> None:
        folder.save(trainer)
        for logger in loggers:
            logger.log(metrics)

    with StopSignals() as signals:
        finished = trainer.train(on_evaluation, signals.wanted, options.progress)
        folder.save(trainer)
        print(report.table(trainer.history), flush=True)
        if finished:
            folder.write_summary(_summary(trainer))
        pictures = report.draw_all(trainer, folder.path)
        for logger in loggers:
            logger.close()
    print("pictures: " + ", ".join(str(path) for path in pictures))
    if not finished:
        print(
            f"stopped after {trainer.trajectories:,} trajectories; go on with --resume {folder.path}", file=sys.stderr
        )
        return 128 + signals.received
    return 0


def _loggers(options: Options, folder: RunFolder, config: Config) -> list[Logger]:
    loggers: list[Logger] = []
    if options.tensorboard:
        loggers.append(TensorBoard(folder.path))
    if options.wandb:
        loggers.append(WandB(folder.path, flatten(config)))
    return loggers


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
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    torch.set_num_threads(trainer.config.threads)
    try:
        return train(options, folder, trainer)
    except KeyboardInterrupt:
        print(f"stopped at once; go on from the last checkpoint with --resume {folder.path}", file=sys.stderr)
        return 130
    except (FloatingPointError, ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
