"""What command lines that train something share: the folder of a run, signals, loggers, errors and exit codes."""

from __future__ import annotations

import contextlib
import platform
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Protocol, TypeVar

import torch
import tyro

from agents.config import RunSettings
from agents.runs import report
from agents.runs.folder import Run, RunFolder, first_line
from agents.runs.loggers import Logger

DIR = Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
FILE = Annotated[str, tyro.conf.arg(name="config", metavar="FILE", help_behavior_hint="")]
FLAG = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class RunOptions:
    """What every command line has beside the settings."""

    out: DIR = ""
    """Folder of the run; by default runs/ENVIRONMENT/METHOD-seedSEED."""
    resume: DIR = ""
    """Go on with the run in this folder, by its own settings; of these only what extends it may change, see above."""
    config_file: FILE = ""
    """Take the settings from this file, such as the config.json of a run; flags change single ones of them."""
    overwrite: FLAG = False
    """Replace the run that --out already holds; other files there stay."""
    tensorboard: FLAG = False
    """Also log to TensorBoard, into the run's folder."""
    progress: FLAG = True
    """Show no progress bar."""


class Trainable(Run, Protocol):
    """A run that can go on."""

    @property
    def trajectories(self) -> int:
        """Number of trajectories so far."""
        ...

    def train(
        self, on_evaluation: Callable[[dict[str, float]], None], stop: Callable[[], bool], progress: bool
    ) -> bool:
        """Go on to the end, or until `stop()`; tell which."""
        ...


Options = TypeVar("Options", bound=RunOptions)
AnyRun = TypeVar("AnyRun", bound=Trainable)
Settings = TypeVar("Settings", bound=RunSettings)


def folder_of(options: RunOptions, config: Settings, method: str) -> RunFolder[Settings]:
    """Return the folder of the run, by default runs/ENVIRONMENT/METHOD-seedSEED.

    Raises `ValueError` where it holds a run that is not to be replaced, and for options that would change the run to
    resume.
    """
    default = Path("runs") / config.env.replace("/", "-").replace(":", "-") / f"{method}-seed{config.seed}"
    folder = RunFolder(Path(options.resume or options.out or default), type(config))
    if options.resume:
        changed = [key for key in config.differences(folder.read_config()) if key not in config.extends]
        given = {"out": options.out, "overwrite": options.overwrite, "config": options.config_file}
        changed += [key for key, value in given.items() if value]
        if changed:
            flags = ", ".join("--" + key.replace("_", "-") for key in changed)
            raise ValueError(f"--resume goes on with the run's own settings: leave out {flags}.")
    elif folder.holds_run() and not options.overwrite:
        raise ValueError(
            f"{folder.path} already holds a run: --resume {folder.path} goes on with it, --overwrite replaces it, "
            "--out names another folder."
        )
    return folder


def recorded(resume: str, config_file: str, settings: type[Settings]) -> Settings | None:
    """Return the settings of the run to resume, or those in the file of `--config`; None where neither is given.

    Raises `ValueError` where they cannot be read.
    """
    if resume:
        return RunFolder(Path(resume), settings).read_config()
    if not config_file:
        return None
    try:
        return settings.from_json(Path(config_file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {config_file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--config {config_file} cannot be used: {first_line(error)}.") from None


def check_choices(config_file: str, there: Settings, config: Settings) -> None:
    """Raise `ValueError` where a flag changes a choice of the file of `--config`, whose settings are the choice's."""
    changed = [name for name in config.choices if getattr(config, name) != getattr(there, name)]
    if config_file and changed:
        raise ValueError(
            f"--config {config_file} has the settings of --{changed[0]} {getattr(there, changed[0])}: leave out "
            f"--{changed[0]}, or begin without --config."
        )


def begin(folder: RunFolder[Settings], run: Run, config: Settings, resume: bool) -> None:
    """Bring `run` to the folder's checkpoint, if it is to resume, and the other files in line with it.

    Raises `ValueError` where the run has more behind it than `config` asks for.
    """
    if not resume:
        folder.clear()
        folder.start(config)
        folder.write_columns(run.columns())
        return
    loaded = folder.load(run)
    changed = config.differences(folder.read_config())
    for name in changed:
        behind, limit = getattr(run, name), getattr(config, name)
        if 0 < limit < behind:
            raise ValueError(f"--{name} {limit} is less than the {behind} that the run in {folder.path} has behind it.")
    if changed:
        folder.summary.unlink(missing_ok=True)
    folder.start(config)
    folder.write_columns(run.columns())
    if loaded:
        folder.write_metrics(run)


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


def follow(
    folder: RunFolder[Any],
    run: Trainable,
    loggers: Iterable[Logger],
    progress: bool,
    close: Callable[[bool], list[Path]],
) -> int:
    """Go on with `run` to the end or to a signal, saving after each evaluation; return the exit code.

    `close(finished)` writes what comes last, and returns the pictures that it drew.
    """
    with StopSignals() as signals, contextlib.ExitStack() as at_exit:
        for logger in loggers:
            at_exit.callback(logger.close)
            for metrics in run.history:
                logger.log(metrics)

        def on_evaluation(metrics: dict[str, float]) -> None:
            folder.save(run)
            for logger in loggers:
                logger.log(metrics)

        finished = run.train(on_evaluation, signals.wanted, progress)
        folder.save(run)
        print(report.table(run.history, run.columns()), flush=True)
        pictures = close(finished)
    print("pictures: " + ", ".join(str(path) for path in pictures))
    if not finished:
        print(f"stopped after {run.trajectories:,} trajectories; go on with --resume {folder.path}", file=sys.stderr)
        return 128 + signals.received
    return 0


def summary(run: Run, names: Iterable[str]) -> dict[str, Any]:
    """Return the last metrics, the settings `names`, and what the run ran on."""
    return {
        **run.history[-1],
        **{name: getattr(run.config, name) for name in names},
        "env_kwargs": run.config.parsed_env_kwargs(),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def execute(
    parse: Callable[[], Options],
    open_run: Callable[[Options], tuple[RunFolder[Settings], AnyRun]],
    train: Callable[[Options, RunFolder[Settings], AnyRun], int],
) -> int:
    """Run a command line; return its exit code: 0, 1 (the run failed), 2 (wrong input), 128 + signal."""
    try:
        options = parse()
        folder, run = open_run(options)
    except (ValueError, ArithmeticError, ModuleNotFoundError) as error:
        return _tell(error, 2)
    except OSError as error:
        return _tell(error, 1)
    except KeyboardInterrupt:
        print("stopped before the run began", file=sys.stderr)
        return 130
    try:
        return train(options, folder, run)
    except KeyboardInterrupt:
        print(f"stopped at once; go on from the last checkpoint with --resume {folder.path}", file=sys.stderr)
        return 130
    except (ArithmeticError, ValueError) as error:
        return _tell(error, 1)
    except OSError as error:
        return _tell(f"{error}. Once that is mended, --resume {folder.path} goes on from the last checkpoint.", 1)


def told(work: Callable[[], None]) -> int:
    """Do the work of a command line that trains nothing; return its exit code: 0, 1 (a file), 2 (wrong input), 130."""
    try:
        work()
    except (ValueError, ArithmeticError, ModuleNotFoundError) as error:
        return _tell(error, 2)
    except BrokenPipeError:  # what reads the output has seen enough
        return 0
    except OSError as error:
        return _tell(error, 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _tell(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
