"""Scripts and `python -m` run from any folder, beside modules that are named like the project's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from finished_runs import GRID

ROOT = Path(__file__).parents[2]
MODULES = {
    "config": "POWER = 0.5\n",
    "trainer": """
from dataclasses import dataclass

import agents
import config
from agents.objectives.trajectory import TrajectoryBalanceSettings

@dataclass(frozen=True)
class Mine(TrajectoryBalanceSettings):
    power: float = config.POWER

agents.register_agent("mine", "trainer:Mine")
""",
    "registry": """
import config
from baselines.algorithms import Sampler
from baselines.registry import ALGORITHMS
from baselines.samplers import MetropolisHastings

MINE = Sampler(MetropolisHastings, {"mean_back": 4 * config.POWER})
ALGORITHMS.register("mine", "registry:MINE")
""",
}
"""Modules of a user. Their names are those of modules in agents/ and baselines/."""

AGENT = ["--agent", "trainer:mine", "--backward", "uniform"]
BASELINE = ["--algo", "registry:mine"]


@pytest.mark.parametrize(
    ("command", "choice", "found"),
    [
        ([str(ROOT / "agents" / "run.py")], AGENT, ("agent.power", 0.5)),
        (["-m", "agents"], AGENT, ("agent.power", 0.5)),
        pytest.param(["-P", str(ROOT / "agents" / "run.py")], AGENT, ("agent.power", 0.5), marks=pytest.mark.slow),
        ([str(ROOT / "baselines" / "run.py")], BASELINE, ("algo", "registry:mine")),
        pytest.param(["-m", "baselines"], BASELINE, ("algo", "registry:mine"), marks=pytest.mark.slow),
    ],
)
def test_neither_our_modules_nor_the_users_are_hidden(
    command: list[str], choice: list[str], found: tuple[str, object], tmp_path: Path
) -> None:
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    given = [*command, *choice, "--env-kwargs", GRID, "--trajectories", "8", "--out", "run", "--no-progress"]
    done = subprocess.run([sys.executable, *given], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()
    name, value = found
    assert json.loads((tmp_path / "run" / "config.json").read_text())[name] == value
