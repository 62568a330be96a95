"""Suites: which methods run with which seeds on which environments, read from a TOML file or made from a few options.

A cell of a suite is one run. A suite says nothing about where and when its cells run: `agents.runs.sweep` does that.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agents.config import Config, RunSettings
from agents.runs.folder import RunFolder, write_atomically
from agents.runs.kinds import AGENT, BASELINE, RunKind, Task, find_kind
from agents.runs.lock import FolderLock
from gfn_envs.errors import choose
from gfn_envs.registry import find, load

SHIPPED = Path(__file__).resolve().parents[1] / "suites"
"""The folder of the project's own suites."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a suite file; an unknown name in it, or a value of a wrong type, is refused."""


class Environment(Table, frozen=True):
    """An environment of a suite."""

    id: str
    """Id of the environment."""
    kwargs: dict[str, Any] = {}
    """Its keyword arguments."""
    network: str = "auto"
    """Network of the agents' runs where a method names none."""
    trajectories: int | None = None
    """Trajectories of each run; None for the suite's number."""


class Override(Table, frozen=True):
    """What some cells do differently; of several that match a cell, the last decides."""

    cells: str
    """Which cells: a pattern of their names, such as `"*/mdqn+*"`."""
    trajectories: int | None = None
    """Trajectories of each run; None for no other number."""
    settings: dict[str, Any] = {}
    """Settings of the run by dotted name, such as `{"agent.lr" = 1e-4}`."""


class Suite(Table, frozen=True):
    """What to run: every method with every seed on every environment."""

    envs: dict[str, Environment]
    """The environments, each by the name that it has in the suite."""
    base: str | None = None
    """Another suite, by name or by its file beside this one, that says what this one does not."""
    about: str = ""
    """What the suite is for, for its page of results."""
    conditions: str = ""
    """Where and beside what the shipped results ran, for that page."""
    agents: tuple[str, ...] = ()
    """Agents; each runs with every one of `backward` and `samplers`."""
    backward: tuple[str, ...] = ()
    """Backward policies."""
    samplers: tuple[str, ...] = (Config.sampler,)
    """Samplers."""
    methods: tuple[str, ...] = ()
    """Further methods: AGENT+BACKWARD[+SAMPLER...][+NETWORK], or an --algo of baselines/run.py, with :REWARD_MODE if
    that is not the default."""
    skip: tuple[str, ...] = ()
    """Patterns of the names of cells that there are not."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each method."""
    trajectories: int = 48_000
    """Trajectories of each run."""
    evaluations: int = 6
    """Evaluations of each run."""
    preset: str = "default"
    """Named defaults of the agents' runs."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the usual ones."""
    shown: tuple[str, ...] = ()
    """The figures whose curves are kept in the results; the first is compared and drawn."""
    until: float | None = None
    """A value of the first of these figures: the results tell after how many trajectories a run reaches it."""
    larger_is_better: bool = False
    """Whether the first of these figures is better where it is larger."""
    device: str = "cpu"
    """Where the agents compute: cpu or cuda."""
    overrides: tuple[Override, ...] = ()
    """What some cells do differently."""

    def all_methods(self) -> tuple[str, ...]:
        """Return the methods as a sweep names them: the products first, then the further ones."""
        product = itertools.product(self.agents, self.backward, self.samplers)
        return (*("+".join([a, b, *([] if s == Config.sampler else [s])]) for a, b, s in product), *self.methods)


@dataclass(frozen=True)
class Cell:
    """One run of a suite: its name, its kind and its settings.

    Its folder is its name below the suite's folder: `ENVIRONMENT/METHOD/SEED`. Its id is the same below the suite's
    name. Beside the folder, `SEED.json` has the settings that it starts from, and `SEED.log` what it prints.
    """

    suite: str
    name: str
    kind: RunKind
    config: RunSettings

    @property
    def id(self) -> str:
        """The id of the cell, such as `tiny/hypergrid-8x8/db+tlm/0`."""
        return f"{self.suite}/{self.name}"

    def folder(self, out: Path) -> RunFolder:
        """Return the folder of the run, which need not be there yet."""
        return RunFolder(out / self.name, self.kind.settings)

    def write_settings(self, out: Path) -> None:
        """Write the settings from which the run starts beside its folder."""
        file = settings_file(out / self.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (self.config.to_json() + "\n").encode())


def settings_file(folder: Path) -> Path:
    """Return the file beside a cell's folder with the settings from which the run starts."""
    return folder.with_name(folder.name + ".json")


def log_file(folder: Path) -> Path:
    """Return the file beside a cell's folder with what the run prints."""
    return folder.with_name(folder.name + ".log")


WRONG_INPUT = 2
"""The exit code of a run whose settings are wrong: it would end like this again."""
BUSY = os.EX_TEMPFAIL
"""The exit code of a run that another sweep has."""


def run_cell(folder: Path, kind: str) -> int:
    """Start the run whose settings lie beside `folder`, or go on with it; return its exit code.

    It is `BUSY` where another sweep has the run, or took it up meanwhile.
    """
    config, summary = folder / "config.json", folder / "summary.json"
    if summary.exists():
        return 0
    begun = config.exists()
    where = ["--resume", str(folder)] if begun else ["--config", str(settings_file(folder)), "--out", str(folder)]
    code = load(find_kind(kind).main)([*where, "--no-progress", "--no-pictures"])
    others = summary.exists() or config.exists() > begun or FolderLock(folder).is_taken()
    return BUSY if code == WRONG_INPUT and others else code


def plain(name: str) -> str:
    """Return a name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", name)


def names() -> list[str]:
    """Return the names of the project's own suites."""
    return sorted(file.stem for file in SHIPPED.glob("*.toml"))


def read(suite: str) -> tuple[str, Suite]:
    """Return the name and the content of a suite: one of the project's own by name, or a TOML file by its path.

    Raises `ValueError` for an unknown name and for a file that is none.
    """
    file = _file_of(suite)
    try:
        return file.stem, msgspec.convert(_content(file), Suite)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"the suite {file} cannot be used: {str(error).removesuffix('.')}.") from None


def _file_of(suite: str, folder: Path = Path()) -> Path:
    """Return the file of a suite that is called by its name, or by a path in `folder`."""
    own = {name: SHIPPED / f"{name}.toml" for name in names()}
    return folder / suite if suite.endswith(".toml") else choose("suite", suite, own)


def _content(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a suite's file says, and what its base says that it does not; `above` are the files it is base of."""
    if file in above:
        raise ValueError(f"{file} is its own base")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    base = content.get("base")
    return {**_content(_file_of(base, file.parent), (*above, file)), **content} if isinstance(base, str) else content


def of_one_environment(env: str, env_kwargs: dict[str, Any], **content: Any) -> Suite:
    """Return a suite of one environment, which is called by its id in it."""
    return Suite(envs={env.split("/")[-1]: Environment(env, env_kwargs)}, **content)


def cells(name: str, suite: Suite) -> list[Cell]:
    """Return the cells of a suite: all of one seed before the next seed.

    Raises `ValueError` for an unknown name, a wrong value, and a pattern that matches no cell.
    """
    for environment in suite.envs.values():
        find(environment.id)
    places = list(itertools.product(suite.seeds, suite.envs, suite.all_methods()))
    called = [f"{plain(env)}/{plain(method)}/{seed}" for seed, env, method in places]
    if twice := [cell for cell, count in Counter(called).items() if count > 1]:
        raise ValueError(f"a run is named twice: {', '.join(twice)}.")
    for pattern in (*suite.skip, *(override.cells for override in suite.overrides)):
        if not fnmatch.filter(called, pattern):
            raise ValueError(f"the pattern {pattern!r} fits no cell; they are called like {' '.join(called[:1])}.")
    return [
        Cell(name, cell, *_planned(suite, cell, *place))
        for cell, place in zip(called, places, strict=True)
        if not any(fnmatch.fnmatchcase(cell, pattern) for pattern in suite.skip)
    ]


def _planned(suite: Suite, cell: str, seed: int, env: str, method: str) -> tuple[RunKind, RunSettings]:
    """Return the kind of a run and its settings; `ValueError` for an unknown name or a wrong value."""
    environment = suite.envs[env]
    overrides = [override for override in suite.overrides if fnmatch.fnmatchcase(cell, override.cells)]
    budgets = [suite.trajectories, environment.trajectories, *(override.trajectories for override in overrides)]
    task = Task(
        env=environment.id,
        env_kwargs=json.dumps(environment.kwargs),
        network=environment.network,
        preset=suite.preset,
        metrics=suite.metrics,
        trajectories=[budget for budget in budgets if budget is not None][-1],
        evaluations=suite.evaluations,
        seed=seed,
        device=suite.device,
        settings={name: value for override in overrides for name, value in override.settings.items()},
    )
    kind = find_kind(AGENT if "+" in method else BASELINE)
    try:
        return kind, kind.planned(method, task)
    except (ValueError, ModuleNotFoundError) as error:
        raise ValueError(f"{cell}: {error}") from error


def only(wanted: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Return the cells whose id fits one of the patterns, all of them without patterns.

    Raises `ValueError` for a pattern that fits none.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(cell.id, pattern) for cell in wanted):
            choose("cell", pattern, {cell.id: cell for cell in wanted})
    return [cell for cell in wanted if not patterns or any(fnmatch.fnmatchcase(cell.id, p) for p in patterns)]


def strays(out: Path, wanted: Sequence[Cell]) -> list[str]:
    """Return the names of runs below `out` that are no cell of the suite."""
    known = {cell.name for cell in wanted}
    found = sorted(file.parent.relative_to(out).as_posix() for file in out.rglob("config.json"))
    return [run for run in found if run not in known]
