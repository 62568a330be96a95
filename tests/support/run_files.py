"""Command lines of short runs, and what their folders hold."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from agents.policy import FILE
from agents.runs.train import main

SCRIPT = Path(__file__).parents[2] / "agents" / "run.py"
TIMES = {"seconds", "iterations_per_second", "test_seconds"}
DRAWN = {"learning_curve.png", "distribution.png", "trajectories.png"}
"""The pictures of a run on a grid."""
RUN_FILES = {"config.json", "metrics.jsonl", "columns.json", "checkpoint.pt", FILE, "files.json", "summary.json"}
"""What a finished run leaves beside its pictures and the page that shows them."""
PAGE = "report.html"

BASE = ["--env-kwargs", '{"dim": 2, "side": 4}', "--batch-size", "4", "--eval-every", "12", "--network.width", "8"]
BASE += ["--no-progress"]
MDQN = [*BASE, "--learning-starts", "3", "--agent.replay-capacity", "150", "--agent.replay-batch", "16"]
SHORT = [*BASE, "--agent", "tb", "--backward", "uniform", "--trajectories", "96"]

GRIDS = """
import importlib.util, math, pathlib, torch
import agents, gfn_envs
from gfn_envs import Hypergrid

class Failing(Hypergrid):
    def __init__(self, after=10**9, value=math.nan, device="cpu"):
        super().__init__(dim=2, side=4, device=device)
        self.calls, self.after, self.value = 0, after, value
    def log_reward(self, states):
        self.calls += 1
        log_reward = super().log_reward(states)
        return log_reward if self.calls <= self.after else torch.full_like(log_reward, self.value)

gfn_envs.register("my/Grid-v0", "my_grids:Failing")

folder = pathlib.Path(agents.__file__).parent
SHADOWED = [
    path.stem
    for path in folder.glob("[!_]*.py")
    if (spec := importlib.util.find_spec(path.stem)) and spec.origin and pathlib.Path(spec.origin).parent == folder
]
assert not SHADOWED, SHADOWED
"""
"""A user's module, whose rewards fail after some calls; its import fails where the script's folder is on the path."""


def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start the command line as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd,
    )  # fmt: skip


def wait_for_evaluation(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    """Wait until the run has written that many evaluations."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "metrics.jsonl").exists() and len(metrics_of(folder)) >= number:
            return
        time.sleep(0.001)
    raise AssertionError(f"ended or hung before evaluation {number}: {process.communicate()}")


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of each evaluation."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics without those of the clock."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in metrics]


def state_of(folder: Path) -> dict[str, Any]:
    """Return the state of a run in its checkpoint."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)["state"]


def policy_of(folder: Path) -> dict[str, Any]:
    """Return what stands in a run's policy file."""
    with safe_open(folder / FILE, framework="pt") as content:
        return {"about": content.metadata(), **{name: content.get_tensor(name) for name in content.keys()}}  # noqa: SIM118


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Assert that two nests of tensors and numbers are equal to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b or (a != a and b != b), where  # NaN


def assert_same_run(a: Path, b: Path) -> None:
    """Assert that two folders hold the same metrics, policy and complete state, but for the clock."""
    assert untimed(metrics_of(a)) == untimed(metrics_of(b))
    one, other = state_of(a), state_of(b)
    for state in (one, other):
        del state["seconds"]
        state["history"] = untimed(state["history"])
    assert_same(one, other)
    assert_same(policy_of(a), policy_of(b), "policy")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the message of a command that must end with code 2 and no traceback."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # tyro's own way to refuse
        code = stop.code
    message = capsys.readouterr().err
    assert code == 2, message
    assert "Traceback" not in message
    return re.sub(r"[\s│]+", " ", message)
