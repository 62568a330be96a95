"""The shared parts of the training command lines: the folder of a run, signals, loggers, errors and exit codes."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Protocol, TypeVar

import torch
import tyro

from agents import distributed
from agents.config import RunSettings
from agents.runs import report
from agents.runs.folder import Run, RunFolder, first_line
from agents.runs.loggers import Logger
from gfn_envs.errors import RewardError
from gfn_envs.memory import is_exhausted

DIR = Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
FILE = Annotated[str, tyro.conf.arg(name="config", metavar="FILE", help_behavior_hint="")]
FLAG = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class RunOptions:
    """The options that every training command line has besides the settings."""

    out: DIR = ""
    """Folder of the run; by default runs/ENVIRONMENT/METHOD-seedSEED."""
    resume: DIR = ""
    """Continue the run in this folder with its own settings; you may change only those that extend it, see above."""
    config_file: FILE = ""
    """Take the settings from this file, such as the config.json of a run; flags override single settings."""
    overwrite: FLAG = False
    """Replace the run that --out already holds; other files in that folder stay."""
    tensorboard: FLAG = False
    """Also log to TensorBoard, into the run's folder."""
    progress: FLAG = True
    """Show no progress bar."""
    pictures: FLAG = True
    """Draw no pictures."""


class Trainable(Run, Protocol):
    """A run that can be trained."""

    @property
    def trajectories(self) -> int:
        """Number of trajectories sampled so far."""
        ...

    def train(
        self, on_evaluation: Callable[[dict[str, float]], None], stop: Callable[[], bool], progress: bool
    ) -> bool:
        """Train to the end, or until `stop()` is true; return whether the end was reached."""
        ...


Options = TypeVar("Options", bound=RunOptions)
AnyRun = TypeVar("AnyRun", bound=Trainable)
Settings = TypeVar("Settings", bound=RunSettings)


def folder_of(options: RunOptions, config: Settings, method: str) -> RunFolder[Settings]:
    """Return the folder of the run, by default runs/ENVIRONMENT/METHOD-seedSEED.

    Raises `ValueError` if the folder holds a run that must not be replaced, and for options that would change the run
    to resume.
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
    elif not options.overwrite and distributed.rank() == 0:  # to the others it may have begun already
        _demand_free(folder)
    return folder


def _demand_free(folder: RunFolder[Any]) -> None:
    """Raise `ValueError` if the folder holds a run."""
    if folder.holds_run():
        raise ValueError(
            f"{folder.path} already holds a run: --resume {folder.path} goes on with it, --overwrite replaces it, "
            "--out names another folder."
        )


def recorded(resume: str, config_file: str, settings: type[Settings]) -> Settings | None:
    """Return the settings of the run to resume or of the file given to `--config`; None if neither is given.

    Raises `ValueError` if they cannot be read.
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


def defaults(argv: Iterable[str], chosen: Callable[[], Settings], usual: Callable[[], Settings]) -> Settings:
    """Return the settings that a command line starts from: `chosen()`.

    Where that raises `ValueError` and help is asked for, it is `usual()`: help comes also with a mistake.
    """
    try:
        return chosen()
    except ValueError:
        if not {"-h", "--help"} & set(argv):
            raise
        return usual()


def check_choices(config_file: str, there: Settings, config: Settings) -> None:
    """Raise `ValueError` if a flag changes a choice of the `--config` file, whose settings fit only that choice."""
    changed = [name for name in config.choices if getattr(config, name) != getattr(there, name)]
    if config_file and changed:
        raise ValueError(
            f"--config {config_file} has the settings of --{changed[0]} {getattr(there, changed[0])}: leave out "
            f"--{changed[0]}, or begin without --config."
        )


def begin(folder: RunFolder[Settings], run: Run, config: Settings, options: RunOptions) -> None:
    """Take the folder and begin `run` there; to resume, load its checkpoint and bring the other files in line with it.

    Raises `ValueError` if another process has the folder, and if the run has already gone further than `config` asks
    for. The caller gives the folder back with `folder.lock.release()`; after an error it is given back. Of several
    processes the first one has the folder.
    """
    if distributed.rank():
        distributed.wait()
        if options.resume:
            folder.load(run)
        return
    folder.lock.take()
    try:
        _begin(folder, run, config, options)
        distributed.wait()
    except BaseException:
        folder.lock.release()
        raise


def _begin(folder: RunFolder[Settings], run: Run, config: Settings, options: RunOptions) -> None:
    if not options.resume:
        if not options.overwrite:
            _demand_free(folder)  # again: another process may have started and ended a run here meanwhile
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


@contextlib.contextmanager
def cause_last() -> Iterator[None]:
    """Let what tyro refuses end with the cause: its own message ends with how to get help."""
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            yield
    except SystemExit as stop:
        sys.stderr.write(shown.getvalue())
        if stop.code:
            _tell(_cause(shown.getvalue()), 2)
        raise
    sys.stderr.write(shown.getvalue())


def _cause(box: str) -> str:
    """Return what a box of tyro says between its title and the rule below that, in one line."""
    plain = [row.strip(" │|") for row in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    title, *rows = filter(None, plain or [""])
    parts = [list(part) for rule, part in itertools.groupby(rows, lambda row: not set(row) - set("─-╰╯")) if not rule]
    return " ".join(" ".join(parts[0] if parts else [title]).split())


class StopSignals:
    """Turns Ctrl-C and SIGTERM into a request to stop between two iterations; a second signal stops at once."""

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
        """Return whether to stop."""
        return bool(self.received)


def follow(
    folder: RunFolder[Any],
    run: Trainable,
    loggers: Sequence[Logger],
    options: RunOptions,
    close: Callable[[bool], list[Path]],
) -> int:
    """Train `run` to the end or to a signal, and save after each evaluation; return the exit code.

    Loggers also get the pictures of each evaluation. `close(finished)` writes the last files, and returns those that
    are to be looked at. Of several processes the first one does this, and the others `assist`.
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
            if loggers and options.pictures:
                drawn = {name: report.png(picture) for name, picture in report.pictures(run).items()}
                for logger in loggers if drawn else ():
                    logger.show(drawn, int(metrics["trajectories"]))

        finished = run.train(on_evaluation, signals.wanted, options.progress)
        folder.save(run)
        print(report.table(run.history, run.columns()), flush=True)
        pictures = close(finished)
        distributed.wait()
    if pictures:
        print("to look at: " + ", ".join(str(path) for path in pictures))
    if not finished:
        print(f"stopped after {run.trajectories:,} trajectories; go on with --resume {folder.path}", file=sys.stderr)
        return 128 + signals.received
    return 0


def assist(run: Trainable) -> int:
    """Train beside the first process, which saves what all processes hold; return the exit code."""

    def on_evaluation(metrics: dict[str, float]) -> None:
        run.state_dict()

    with StopSignals() as signals:
        finished = run.train(on_evaluation, signals.wanted, False)
        run.state_dict()
        distributed.wait()  # `torchrun` stops the others when one process ends with an error
    return 0 if finished else 128 + signals.received


def summary(run: Run, names: Iterable[str]) -> dict[str, Any]:
    """Return the last metrics, the settings called `names`, peak memory, and on what and by which code it ran."""
    return {
        **run.history[-1],
        **{name: getattr(run.config, name) for name in names},
        "env_kwargs": run.config.parsed_env_kwargs(),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "processes": distributed.size(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "version": _version(),
        "commit": _commit(),
    }


def _version() -> str:
    """Return the version of this project; nothing where its code is used without being installed."""
    try:
        return metadata.version("gfn-envs")
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """Return the commit of this code with a plus if files differ from it; nothing outside a Git repository."""
    root = Path(__file__).resolve().parents[2]
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    if not (root / ".git").exists():
        return ""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def execute(
    parse: Callable[[], Options],
    open_run: Callable[[Options], tuple[RunFolder[Settings], AnyRun]],
    train: Callable[[Options, RunFolder[Settings], AnyRun], int],
) -> int:
    """Run a training command line; return its exit code: 0, 1 (the run failed), 2 (wrong input), 128 + signal."""
    try:
        return _execute(parse, open_run, train)
    except KeyboardInterrupt:  # while it was about to end
        return 130


def _execute(
    parse: Callable[[], Options],
    open_run: Callable[[Options], tuple[RunFolder[Settings], AnyRun]],
    train: Callable[[Options, RunFolder[Settings], AnyRun], int],
) -> int:
    try:
        options = parse()
        folder, run = open_run(options)
    except KeyboardInterrupt:
        print("stopped before the run began", file=sys.stderr)
        return 130
    except OSError as error:
        return _tell(error, 1)
    except Exception as error:
        return _answer(error, 2)
    again = f"--resume {folder.path} goes on from the last checkpoint"
    try:
        return train(options, folder, run)
    except KeyboardInterrupt:
        print(f"stopped at once; go on from the last checkpoint with --resume {folder.path}", file=sys.stderr)
        return 130
    except OSError as error:
        return _tell(f"{error}. Once that is mended, {again}.", 1)
    except Exception as error:
        return _answer(error, 1, f" Once it is mended, {again}.")
    finally:
        folder.lock.release()


def told(work: Callable[[], int | None]) -> int:
    """Run a command line that is no run itself; return its exit code: 0, 1 (a file), 2 (wrong input), 130 (stopped).

    Where `work` returns an exit code, it is that one.
    """
    try:
        return work() or 0
    except BrokenPipeError:  # the reader of the output has closed it
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except OSError as error:
        return _tell(error, 1)
    except Exception as error:
        return _answer(error, 2)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let a SIGTERM do what Ctrl-C does: it must stop the processes that this one has started, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _answer(error: Exception, code: int, mended: str = "") -> int:
    """Tell in one line what was wrong, with the traceback of a user's reward below; raise what is our own mistake."""
    if isinstance(error, RewardError) and (cause := error.__cause__):
        _tell(f"{error}{mended} Its traceback:", code)
        frames = cause.__traceback__
        traceback.print_exception(type(cause), cause, frames and frames.tb_next)  # without the call of ours
        return code
    if is_exhausted(error):
        what = "lower --batch-size, the network or the sizes of the environment"
        return _tell(f"memory ran out ({first_line(error)}): {what}.", code)
    if isinstance(error, ValueError | ArithmeticError | ModuleNotFoundError):
        return _tell(error, code)
    raise error


def _tell(error: Exception | str, code: int) -> int:
    if code != 2 or distributed.rank() == 0:  # wrong input is the same to all processes
        print(f"error: {error}", file=sys.stderr)
    return code
