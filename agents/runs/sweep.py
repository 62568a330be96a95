"""Run a suite of methods, environments and seeds, some at a time: python agents/sweep.py SUITE.

A suite that is started again skips finished runs and goes on with the others.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from agents.config import json_object
from agents.runs import command, suite
from agents.runs.engines import Engine, EngineOptions, stoppable
from agents.runs.lock import FolderLock
from agents.runs.storage import Storage
from agents.runs.suite import BUSY, WRONG_INPUT, Cell, log_file, run_cell
from gfn_envs.registry import find

HELP = """Run a suite: methods with several seeds on some environments, each for the same number of trajectories.

A SUITE is one of the project's own or a TOML file (docs/suites.md). Without one, the options below make a suite of one
environment. A method is AGENT+BACKWARD of agents/run.py, to which +SAMPLER... and +NETWORK may be added, or an --algo
of baselines/run.py, with defaults for the environment; a reward mode other than the default follows a colon. Each name
may be MODULE:NAME, which first imports the module that registers it.

  python agents/sweep.py tiny --jobs 2
  python agents/sweep.py tiny --list
  python agents/sweep.py tiny --only 'tiny/hypergrid-*/mdqn+*'
  python agents/sweep.py tiny --shard 3/8
  python agents/sweep.py my_suite.toml --engine ray --address auto
  python agents/sweep.py --methods mdqn+tlm maskable_ppo maskable_ppo:soft mcmc --seeds 0 1 --out runs/few

Started again, it skips finished runs, goes on with the others from their checkpoints, and tries failed ones once more.
Several sweeps may share a folder. A run's folder is ENVIRONMENT/METHOD/SEED; beside it, SEED.json has the settings that
it was started with, and SEED.log what it prints. Then:
  python agents/compare.py runs/few --out runs/few/report
  python agents/results.py tiny

The project's own suites: {suites}"""

TRIES = 2
"""How often a run that fails is started in one sweep."""


@dataclass(frozen=True)
class Options(EngineOptions):
    """What to run, and where."""

    suite: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SUITE")] = ""
    """Name of a suite, or a TOML file; without one, the options --methods to --device say what to run."""
    only: tuple[str, ...] = ()
    """Ids of the runs to do, or patterns of them such as 'tiny/hypergrid-*'."""
    shard: str = ""
    """I/N: do only the I-th of N parts of the runs, such as 1/4."""
    list: command.FLAG = False
    """Show the runs and how far they are, and stop."""
    print: command.FLAG = False
    """Print a command for each run that is not finished, and stop; a scheduler can run them in any order."""
    methods: tuple[str, ...] = ("mdqn+tlm", "tb+uniform", "random")
    """AGENT+BACKWARD[+SAMPLER...][+NETWORK], or a baseline, with :REWARD_MODE if that is not the default."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each method."""
    env: str = "gfn/Hypergrid-v0"
    """Id of the environment."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment as JSON."""
    preset: str = "default"
    """Named defaults of the agents' runs; the options here override them."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the usual ones."""
    trajectories: int = 48_000
    """Trajectories of each run."""
    evaluations: int = 6
    """Evaluations of each run."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """Folder for the folders of the runs, by default runs/SUITE; Ray's nodes must share it, or a --storage."""
    storage: Annotated[str, tyro.conf.arg(metavar="URL")] = ""
    """Where runs keep their files while they run, for machines without a common disk, such as s3://bucket/runs; what
    has ended comes to --out."""
    progress: command.FLAG = True
    """Show no progress bar."""


OF_SUITE = ("methods", "seeds", "env", "env_kwargs", "preset", "metrics", "trajectories", "evaluations", "device")
"""The options that make a suite."""
UNNAMED = "sweep"
"""The name of the suite that these options make."""


def plan(options: Options) -> list[Cell]:
    """Return all cells of the suite, wherever they run; `ValueError` for a wrong name or number."""
    values = {name: getattr(options, name) for name in OF_SUITE}
    if options.suite:
        usual = Options()
        if given := [name for name in OF_SUITE if values[name] != getattr(usual, name)]:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"{flags}: a suite says that itself. Leave it out, or change a copy of the suite's file.")
        return suite.cells(*suite.read(options.suite))
    find(options.env)
    env, env_kwargs = values.pop("env"), json_object("--env-kwargs", values.pop("env_kwargs"))
    return suite.cells(UNNAMED, suite.of_one_environment(env, env_kwargs, **values))


def chosen(options: Options, cells: list[Cell]) -> list[Cell]:
    """Return the cells that `--only` and `--shard` name; `ValueError` if these name none."""
    cells = suite.only(cells, options.only)
    if not options.shard:
        return cells
    part, slash, parts = options.shard.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"--shard must be like 1/4, the first of four parts, got {options.shard!r}.")
    return cells[int(part) - 1 :: int(parts)]


def state(cell: Cell, out: Path) -> str:
    """Return how far a cell is: finished, running, failed, stopped after some trajectories, or waiting.

    Raises `ValueError` if its folder holds a run with other settings.
    """
    folder = cell.folder(out)
    if not folder.config.exists():
        return "failed" if _failure(folder.path).exists() else "waiting"
    if other := cell.config.differences(folder.read_config()):
        told = ", ".join(f"{name} {there!r} instead of {here!r}" for name, (here, there) in other.items())
        raise ValueError(f"{folder.path} holds a run with {told}")
    if folder.summary.exists():
        return "finished"
    if folder.lock.is_taken():
        return "running"
    return "failed" if _failure(folder.path).exists() else "stopped"


def _failure(folder: Path) -> Path:
    """Return the file that stands beside the folder of a run that failed."""
    return folder.with_name(f"{folder.name}.failed")


def states(cells: list[Cell], out: Path) -> dict[Cell, str]:
    """Return how far each cell is.

    Raises `ValueError` that names the cells whose folders hold runs with other settings: the suite has changed.
    """
    found: dict[Cell, str] = {}
    changed: list[str] = []
    for cell in cells:
        try:
            found[cell] = state(cell, out)
        except ValueError as error:
            changed.append(str(error))
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ValueError(f"{changed[0]}{more}: name another --out, or remove it.")
    return found


def sweep(options: Options) -> int:
    """Run the cells; return the exit code: 0, 1 if a run failed, 130 after Ctrl-C."""
    cells = plan(options)
    out = Path(options.out or f"runs/{cells[0].suite if cells else UNNAMED}")
    wanted = chosen(options, cells)
    found = states(wanted, out)
    if options.list:
        print(_listing(found, out))
        return 0
    if options.print:
        print("\n".join(_command(options, cell, out) for cell, how in found.items() if how != "finished"))
        return 0
    if strays := suite.strays(out, cells):
        print(f"{len(strays)} runs in {out} are not of this suite, such as {strays[0]}; they stay.", file=sys.stderr)
    waiting = [cell for cell, how in found.items() if how != "finished"]
    storage = Storage(options.storage) if options.storage else None
    if storage:
        _check_storage(storage, waiting)
    engine = options.open_engine()
    for cell in waiting:
        if found[cell] == "waiting":
            cell.write_settings(out)
    return stoppable(engine, lambda: _run(engine, waiting, len(wanted), out, options.progress, storage))


def _check_storage(storage: Storage, cells: list[Cell]) -> None:
    """Raise `ValueError` if the storage holds one of the runs with other settings."""
    for cell in cells:
        there = storage.settings(cell.name)
        if there is not None and cell.config.differences(type(cell.config).from_json(there)):
            raise ValueError(f"--storage {storage.url} holds {cell.id} with other settings: name another place.")


class Progress:
    """The bar of a sweep: how many cells are done, how many run, how many failed, and the time left."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self._bar = tqdm(total=total, initial=done, unit="run", disable=not shown)
        self._shown = ""
        self.failed: list[str] = []

    def show(self, running: list[Path]) -> None:
        """Show how many run now."""
        text = f"{len(running)} running, {len(self.failed)} failed"
        if text != self._shown:
            self._bar.set_postfix_str(text)
            self._shown = text

    def end(self) -> None:
        """Count a run that has ended."""
        self._bar.update(1)

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        self._bar.close()


def _run(
    engine: Engine, cells: list[Cell], total: int, out: Path, progress: bool, storage: Storage | None = None
) -> int:
    by_folder = {out / cell.name: cell for cell in cells}
    waiting = deque(by_folder)
    places: dict[Path, Path] = {}
    tries: Counter[Path] = Counter()
    bar = Progress(total, total - len(cells), progress)
    try:
        while waiting or engine.running():
            while engine.has_room() and (folder := _next(waiting)):
                tries[folder] += 1
                _failure(folder).unlink(missing_ok=True)
                cell = by_folder[folder]
                if storage:
                    if storage.settings(cell.name) is None:
                        storage.put(cell.name, folder, {})
                    place, work = storage.scratch(cell.name), storage.work(cell.name, cell.config.kind)
                else:
                    place, work = folder, partial(run_cell, folder.resolve(), cell.config.kind)
                places[place] = folder
                engine.start(place, work)
            bar.show(engine.running())
            time.sleep(0.1)
            for place, code in engine.ended().items():
                folder = places[place]
                if storage:
                    storage.get(by_folder[folder].name, folder)
                if code == 0:
                    bar.end()
                elif code == BUSY:
                    tries[folder] -= 1
                    waiting.append(folder)
                elif code != WRONG_INPUT and tries[folder] < TRIES:
                    waiting.append(folder)
                else:
                    bar.failed.append(by_folder[folder].id)
                    bar.end()
                    told = _told(folder, code)
                    _failure(folder).write_text(told + "\n", encoding="utf-8")
                    tqdm.write(f"{by_folder[folder].id} failed: {told}", file=sys.stderr)
    finally:
        bar.close()
    if bar.failed:
        print(f"{len(bar.failed)} of {total} runs failed: {', '.join(bar.failed)}", file=sys.stderr)
        return 1
    return 0


def _next(waiting: deque[Path]) -> Path | None:
    """Take the first cell that is not running in another sweep; None if there is none."""
    for _ in range(len(waiting)):
        folder = waiting.popleft()
        if not FolderLock(folder).is_taken():
            return folder
        waiting.append(folder)
    return None


def _told(folder: Path, code: int, count: int = 3) -> str:
    """Return the last lines that a failed run printed, or the signal that killed it."""
    if code < 0:
        why = " (perhaps for want of memory: try fewer --jobs)" if -code == signal.SIGKILL else ""
        return f"killed by signal {signal.Signals(-code).name}{why}"
    log = log_file(folder)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-count:]) or f"exit code {code}"


def _listing(found: dict[Cell, str], out: Path) -> str:
    width = max((len(cell.id) for cell in found), default=0)
    lines = [
        f"{cell.id:{width}}  {how}{_reached(cell, out) if how not in ('waiting', 'finished') else ''}"
        for cell, how in found.items()
    ]
    counts = ", ".join(f"{count} {how}" for how, count in Counter(found.values()).items())
    return "\n".join([*lines, f"{len(found)} runs in {out}: {counts}"])


def _reached(cell: Cell, out: Path) -> str:
    """Return how many trajectories a run has behind it, as far as it was evaluated."""
    metrics = cell.folder(out).metrics
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return f" after {json.loads(lines[-1])['trajectories']:,} trajectories" if lines else ""


def _command(options: Options, cell: Cell, out: Path) -> str:
    """Return a command that does one cell, from wherever it is."""
    own = dataclasses.replace(options, print=False, only=(cell.id,), shard="", jobs=1, out=str(out))
    usual, words = Options(), ["python", "agents/sweep.py", *([own.suite] if own.suite else [])]
    for field in dataclasses.fields(Options):
        value = getattr(own, field.name)
        if field.name not in ("suite", "progress") and value != getattr(usual, field.name):
            words += ["--" + field.name.replace("_", "-"), *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join([*words, "--no-progress"])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (a run failed), 2 (wrong input), 130 (stopped)."""
    arguments = sys.argv[1:] if argv is None else argv
    text = HELP.format(suites=", ".join(suite.names()))
    with command.cause_last():
        options = tyro.cli(Options, args=arguments, prog="python agents/sweep.py", description=text)
    with command.sigterm_as_ctrl_c():
        return command.told(lambda: sweep(options))
