"""Read back finished runs of agents and baselines, and group those that differ only in the seed."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from agents.config import RunSettings, read_values, with_values
from agents.evaluation.metric import Column
from agents.evaluation.settings import EvaluationSettings
from agents.runs.folder import RunFileError, RunFolder
from agents.runs.kinds import Learned, RunKind, find_kind
from gfn_envs.registry import find, load

_NO_MATTER = ("seed", "threads", "device", "eval_every", "trajectories", "steps", "metrics")
"""Settings in which runs of one row may differ, besides the settings of the evaluation."""


@dataclass(frozen=True)
class SharedSettings(RunSettings):
    """The settings that finished runs of every kind have and that a comparison reads.

    They can be read without importing the modules of the run's choices.
    """

    env: str = ""
    env_kwargs: str = "{}"
    seed: int = 0
    device: str = "auto"
    eval: EvaluationSettings = field(default_factory=EvaluationSettings)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        shared = cls().flat()
        if missing := [name for name in ("env", "env_kwargs", "seed") if name not in values]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return with_values(cls(), {k: v for k, v in values.items() if k in shared or k.startswith("eval.")})


@dataclass(frozen=True)
class FinishedRun:
    """One run: its folder, its kind, its settings and its metrics."""

    path: Path
    kind: RunKind
    name: str
    config: SharedSettings
    values: dict[str, Any]
    """All settings by dotted name."""
    history: list[dict[str, float]]
    columns: dict[str, Column]
    """How the metrics are shown, by name."""

    def at(self, reward_calls: int) -> dict[str, float]:
        """Return the metrics of the evaluation nearest to `reward_calls`."""
        return min(self.history, key=lambda row: abs(row["reward_calls"] - reward_calls))

    def settings(self) -> dict[str, Any]:
        """Return the settings that all runs of a row have in common, by dotted name."""
        return {k: v for k, v in self.values.items() if k not in _NO_MATTER and not k.startswith("eval.")}

    def environment(self) -> tuple[str, str]:
        """Return the DAG's class and all its arguments with defaults; they are equal exactly for equal environments."""
        dag, defaults = find(self.config.env)
        signature = {k: p.default for k, p in inspect.signature(load(dag)).parameters.items()}
        given = {**signature, **defaults, **self.config.parsed_env_kwargs()}
        return dag, json.dumps({k: v for k, v in given.items() if k not in _SAME_ENVIRONMENT}, sort_keys=True)


_SAME_ENVIRONMENT = ("device", "reward_workers")
"""Arguments that do not change what an environment is: where it is computed."""


class UnusableError(ValueError):
    """A folder cannot be compared; the message says why, and what to do."""


def folders(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of runs among `paths`; a folder without a run stands for all folders in it, at any depth.

    A folder in which there is no run at all is returned as well, so that it can be told.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
        for child in [path] if (path / "config.json").exists() or not inside else inside:
            found += sorted(file.parent for file in child.rglob("config.json")) or [child]
    return list(dict.fromkeys(found))


def read(path: Path) -> FinishedRun:
    """Return the run in a folder; `UnusableError` if it is not a finished run with metrics.

    The folder is enough: the modules of the agent, backward policy, network and metrics are not imported. The module
    of the environment is.
    """
    if not path.is_dir():
        raise UnusableError("no such folder")
    try:
        text = (path / "config.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UnusableError("holds no run (no config.json)") from None
    except ValueError as error:
        raise UnusableError(f"config.json is damaged ({error})") from None
    try:
        name, values = read_values(text)
        columns = RunFolder(path, find_kind(name).settings).read_columns()
        run = finished_run(path, name, values, [], columns)
    except RunFileError as error:
        raise UnusableError(str(error)) from None
    except json.JSONDecodeError as error:
        raise UnusableError(f"config.json is damaged ({error})") from None
    except KeyError as error:
        raise UnusableError(f"config.json cannot be used: it lacks {error}") from None
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"config.json cannot be used: {error}") from None
    history = _history(path)
    if not (path / "summary.json").exists():
        raise UnusableError(f"is not finished (no summary.json): go on with --resume {path}")
    return dataclasses.replace(run, history=history)


def finished_run(
    path: Path, kind_name: str, values: dict[str, Any], history: list[dict[str, float]], columns: dict[str, Column]
) -> FinishedRun:
    """Return the run with these settings by dotted name and these metrics; `ValueError` for wrong settings."""
    kind = find_kind(kind_name)
    _check_known(kind, values)
    config, row = SharedSettings.from_flat(values), kind.row(values)
    config.parsed_env_kwargs()
    find(config.env)
    return FinishedRun(path, kind, row, config, values, history, columns)


def _check_known(kind: RunKind, values: Mapping[str, Any]) -> None:
    """Raise `ValueError` for settings of a newer version; settings that belong to a choice are not checked."""
    known = [field.name for field in dataclasses.fields(kind.settings)]
    if unknown := sorted(name for name in values if "." not in name and name not in known):
        raise ValueError(f"unknown settings: {', '.join(unknown)}")


def _history(path: Path) -> list[dict[str, float]]:
    """Return the rows of `metrics.jsonl`, without values that are not numbers (null)."""
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows: list[dict[str, float]] = [
            {k: v for k, v in json.loads(line).items() if isinstance(v, int | float)} for line in lines
        ]
    except FileNotFoundError:
        raise UnusableError("has no metrics.jsonl") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise UnusableError(f"metrics.jsonl is damaged ({error})") from None
    for row in rows:
        if "trajectories" not in row or "seconds" not in row:
            raise UnusableError("metrics.jsonl has rows without trajectories or seconds")
        # Older runs lack this metric; in them every trajectory was one call of the reward.
        row.setdefault("reward_calls", row["trajectories"])
    if not rows:
        raise UnusableError("metrics.jsonl is empty: no evaluation yet")
    return rows


def group(runs: list[FinishedRun]) -> tuple[dict[str, list[FinishedRun]], list[tuple[Path, str]]]:
    """Return the runs by row, sorted by seed, and the runs left out as second copies of another run, with the reason.

    Agents come first, and otherwise rows keep the order of `runs`. If rows have the same name, their names also show
    the settings that differ.
    """
    rows: dict[str, dict[int, FinishedRun]] = {}
    copies: list[tuple[Path, str]] = []
    for run in sorted(runs, key=lambda run: run.config.seed):
        row = rows.setdefault(json.dumps([run.name, run.settings()], sort_keys=True), {})
        if run.config.seed in row:
            other = row[run.config.seed].path
            copies.append((run.path, f"has the same settings and seed as {other}: it would count one result twice"))
        else:
            row[run.config.seed] = run
    lists = [list(row.values()) for row in rows.values()]
    named: dict[str, list[FinishedRun]] = {}
    order = {run.path: (run.kind.yardstick, place) for place, run in enumerate(runs)}
    for members in sorted(lists, key=lambda members: min(order[run.path] for run in members)):
        alike = [other[0].settings() for other in lists if other[0].name == members[0].name]
        own = members[0].settings()
        differing = [k for k, v in own.items() if any(other.get(k) != v for other in alike)]
        suffix = ", ".join(f"{key}={own[key]}" for key in differing)
        named[members[0].name + (f" ({suffix})" if suffix else "")] = members
    return named, copies


def learned_distribution(run: FinishedRun) -> Learned:
    """Return the distribution that a run learned; `ValueError` if a file or module for it is missing or damaged."""
    try:
        return run.kind.learned(run.path)
    except ModuleNotFoundError as error:
        raise UnusableError(str(error)) from None
