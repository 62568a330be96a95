"""Attacks run on their own, by `make attack`; each says how many there were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attack import SEED, SHARE
from run_files import SHORT

from agents.runs import report, train
from baselines import train as baseline

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.attack)


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of each kind here, so that forked processes find every module imported; return the agent's folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda folder, run: [])
        assert train.main([*SHORT, "--out", str(folder / "run")]) == 0
        for algo in ("maskable_ppo", "dqn"):
            arguments = ["--algo", algo, "--env-kwargs", '{"dim": 2, "side": 4}', "--trajectories", "40"]
            assert baseline.main([*arguments, "--no-progress", "--out", str(folder / algo)]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw no pictures, and compute with one thread, as forked processes must."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(report, "draw", lambda folder, run: [])
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of all attacks."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {value}"
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == "count"
    ]
    if lines:
        terminalreporter.section(f"attacks (share {SHARE:g}, seed {SEED})")
        terminalreporter.write_line("\n".join(lines))
