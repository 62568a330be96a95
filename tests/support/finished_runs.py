"""Folders of finished runs, written by hand, and the report that compares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gfn_envs
from agents.config import Config, RunSettings, usual, with_values
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.metric import Column, run_columns
from agents.evaluation.settings import EvaluationSettings
from agents.runs import compare
from agents.runs.folder import RunFolder
from baselines.config import BaselineConfig
from gfn_envs.dag import DAG

GRID = '{"dim": 2, "side": 4}'
Row = dict[str, float]


def columns_on(dag: DAG) -> dict[str, Column]:
    """Return how the figures of a run on that environment are shown."""
    return run_columns(Evaluator(dag, EvaluationSettings(max_exact_edges=0)).columns())


COLUMNS = columns_on(gfn_envs.BitSequence(8, 2))  # it has modes and a test set


def write_run(path: Path, config: RunSettings, rows: list[Row], columns: dict[str, Column] = COLUMNS) -> Path:
    """Write what a comparison reads of a finished run."""
    path.mkdir(parents=True)
    RunFolder(path, type(config)).write_columns(columns)
    (path / "config.json").write_text(config.to_json())
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "summary.json").write_text(json.dumps(rows[-1] if rows else {}))
    return path


def row(trajectories: int, **more: float) -> Row:
    """Return the metrics of one evaluation."""
    return {"trajectories": trajectories, "reward_calls": trajectories, "seconds": trajectories / 10, **more}


def agent(seed: int = 0, **more: Any) -> Config:
    """Return the settings of an agent's run."""
    return with_values(usual(), {"env_kwargs": GRID, "seed": seed, **more})


def baseline(seed: int = 0, algo: str = "ppo", **more: Any) -> BaselineConfig:
    """Return the settings of a baseline's run."""
    return BaselineConfig(**{"algo": algo, "env_kwargs": GRID, "seed": seed, "reward_mode": "reward", **more})


def report_of(tmp_path: Path, *paths: Path, code: int = 0) -> str:
    """Compare the runs in `paths`, and return the report."""
    out = tmp_path / "report"
    assert compare.main([*map(str, paths), "--out", str(out)]) == code
    return (out / "report.md").read_text() if code == 0 else ""


def cells(report: str, name: str) -> list[str]:
    """Return the cells of a row of the report's table."""
    (line,) = [line for line in report.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]
