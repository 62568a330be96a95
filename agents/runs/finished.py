"""Finished runs read back, of agents and of baselines alike, and grouped: same settings, different seeds."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from agents import build
from agents.config import Config
from agents.evaluation.exact import ExactMetrics
from agents.evaluation.metric import Column
from agents.model import make_dag
from agents.runs.folder import Run, RunFileError, RunFolder
from baselines.config import BaselineConfig, preset
from gfn_envs.exact import Enumeration
from gfn_envs.registry import find, load


@dataclass(frozen=True)
class Kind:
    """What `config.json` of this kind of run has in it, and how to tell such runs apart by a short name."""

    settings: type[Config] | type[BaselineConfig]
    name_of: Any


def _agent_name(config: Config) -> str:
    return f"{config.agent} + {config.backward}"


def _baseline_name(config: BaselineConfig) -> str:
    usual = preset(config.env, config.algo).reward_mode
    return config.algo if config.reward_mode == usual else f"{config.algo} ({config.reward_mode})"


KINDS = {"agent": Kind(Config, _agent_name), "algo": Kind(BaselineConfig, _baseline_name)}
"""The key that tells whose settings a `config.json` holds -> how to read them."""

_NO_MATTER = ("seed", "threads", "device", "eval_every", "trajectories", "steps")
"""Settings that do not set two runs of one row apart; nor does what is evaluated."""


@dataclass(frozen=True)
class FinishedRun:
    """One run: its folder, settings and figures."""

    path: Path
    config: Config | BaselineConfig
    name: str
    history: list[dict[str, float]]
    columns: dict[str, Column]
    """How the figures are shown, by name."""

    def at(self, reward_calls: int) -> dict[str, float]:
        """Return the metrics of the evaluation nearest to that number of reward calls."""
        return min(self.history, key=lambda row: abs(row["reward_calls"] - reward_calls))

    def settings(self) -> dict[str, Any]:
        """Return what all runs of a row have in common, by dotted name."""
        values = self.config.flat()
        return {k: v for k, v in values.items() if k not in _NO_MATTER and not k.startswith("eval.")}

    def environment(self) -> tuple[str, str]:
        """Return the DAG's class and all its arguments, defaults filled in: equal exactly for equal environments."""
        dag, defaults = find(self.config.env)
        signature = {k: p.default for k, p in inspect.signature(load(dag)).parameters.items() if k != "device"}
        return dag, json.dumps({**signature, **defaults, **self.config.parsed_env_kwargs()}, sort_keys=True)


class UnusableError(ValueError):
    """A folder cannot be compared; the message says why and what to do."""


def folders(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders among `paths`; a folder without a run stands for all the folders in it."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
        found += [path] if (path / "config.json").exists() or not inside else inside
    return list(dict.fromkeys(found))


def read(path: Path) -> FinishedRun:
    """Return the run in a folder; `UnusableError` if it is not a finished run with metrics."""
    if not path.is_dir():
        raise UnusableError("no such folder")
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnusableError("holds no run (no config.json)") from None
    except ValueError as error:
        raise UnusableError(f"config.json is damaged ({error})") from None
    key = next((key for key in KINDS if isinstance(values, dict) and key in values), "")
    if not key:
        raise UnusableError(f"config.json has none of {', '.join(KINDS)}: not of this project")
    kind = KINDS[key]
    folder = RunFolder(path, kind.settings)
    try:
        config = folder.read_config()
        find(config.env)
        columns = folder.read_columns()
    except (RunFileError, ValueError) as error:
        raise UnusableError(str(error)) from None
    history = _history(path)
    if not folder.summary.exists():
        raise UnusableError(f"is not finished (no summary.json): go on with --resume {path}")
    return FinishedRun(path, config, kind.name_of(config), history, columns)


def _history(path: Path) -> list[dict[str, float]]:
    """Return `metrics.jsonl`, without what was not a number (null)."""
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows: list[dict[str, float]] = [
            {k: v for k, v in json.loads(line).items() if isinstance(v, int | float)} for line in lines
        ]
    except FileNotFoundError:
        raise UnusableError("has no metrics.jsonl") from None
    except (ValueError, AttributeError) as error:
        raise UnusableError(f"metrics.jsonl is damaged ({error})") from None
    for row in rows:
        if "trajectories" not in row or "seconds" not in row:
            raise UnusableError("metrics.jsonl has rows without trajectories or seconds")
        # Before this metric was written, every trajectory was one call of the reward.
        row.setdefault("reward_calls", row["trajectories"])
    if not rows:
        raise UnusableError("metrics.jsonl is empty: no evaluation yet")
    return rows


def group(runs: list[FinishedRun]) -> tuple[dict[str, list[FinishedRun]], list[tuple[Path, str]]]:
    """Return the runs by row, sorted by seed, and those left out as a second copy of the same run, with the reason.

    Agents come first, else rows stand in the order of `runs`; rows of one name are told apart by settings that differ.
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
    order = {run.path: (not isinstance(run.config, Config), place) for place, run in enumerate(runs)}
    for members in sorted(lists, key=lambda members: min(order[run.path] for run in members)):
        alike = [other[0].settings() for other in lists if other[0].name == members[0].name]
        own = members[0].settings()
        differing = [k for k, v in own.items() if any(other.get(k) != v for other in alike)]
        suffix = ", ".join(f"{key}={own[key]}" for key in differing)
        named[members[0].name + (f" ({suffix})" if suffix else "")] = members
    return named, copies


def learned_distribution(run: FinishedRun) -> tuple[Enumeration | None, Tensor, str]:
    """Return the enumeration, the distribution `[X]` that a run learned, and what it is of: its policy or its samples.

    The enumeration is None where the DAG is too large for one.
    """
    opened = _opened(run)
    RunFolder(run.path, type(run.config)).load(opened)
    gflownet, exact = opened.gflownet(), cast(ExactMetrics, opened.evaluator.metrics["exact"])
    return exact.enumeration, exact.learned(gflownet), "samples" if gflownet is None else "policy"


def _opened(run: FinishedRun) -> Run:
    """Return the run as it was before its first step."""
    if isinstance(run.config, Config):
        return build.build_trainer(run.config, make_dag(run.config))
    from baselines.build import build_session

    return build_session(run.config)
