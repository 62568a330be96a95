"""Runs hold the same memory for as long as they go on.

Three runs go on side by side: a grid, QM9 with a reward of the user's own, and a replay of trajectories. Each is
watched for `MINUTES` after its buffers are full. At full size the test takes four minutes; at a smaller share it is
left out.
`ATTACK_MINUTES=30` watches for half an hour at any share.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attack import SHARE, Process, fork
from own_modules import own_modules

from agents.runs import train

MINUTES = float(os.environ.get("ATTACK_MINUTES", "2.5" if SHARE >= 1 else "0"))
WARM = 1.5
"""Minutes until the buffers are full and the allocator has what it needs."""
MOST = 1.0
"""MiB a minute."""

REWARD = """
def carbons(smiles):
    return [1.0 + text.upper().count("C") for text in smiles]
"""
BASE = ["--no-progress", "--trajectories", "1000000000", "--eval-every", "20", "--eval.test-every", "0"]
BASE += ["--eval.elbo-samples", "8", "--eval.slack-objects", "0", "--eval.samples", "8", "--network.width", "32"]
SMALL = ["--agent.replay-capacity", "1000", "--agent.replay-batch", "16", "--learning-starts", "5"]
RUNS = {
    "grid": ["--env-kwargs", '{"dim": 2, "side": 8}', "--eval.window", "1000", *SMALL],
    "QM9 with an own reward": [
        "--env", "gfn/QM9-v0", "--env-kwargs", '{"max_atoms": 3, "reward": "my_carbons:carbons"}', "--network", "mlp",
        "--agent", "tb", "--backward", "uniform",
    ],
    "replay": [
        "--env-kwargs", '{"dim": 2, "side": 8}', "--sampler", "replay", "--agent", "tb", "--eval.window", "1000",
        "--sampler.capacity", "500",
    ],
}  # fmt: skip


def resident(process: Process) -> float:
    """Return the memory of a process in MiB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(minutes: list[float], mib: list[float]) -> float:
    """Return the growth in MiB a minute: the median of the slopes between all pairs (Theil and Sen)."""
    x, y = np.array(minutes), np.array(mib)
    one, other = np.triu_indices(len(x), 1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one])))


def test_the_slope_is_that_of_a_leak() -> None:
    minutes = np.linspace(0, 3, 90)
    steady = 500 + 4 * (np.arange(90) % 7 == 0)
    assert abs(slope(list(minutes), list(steady))) < 0.1
    assert slope(list(minutes), list(steady + 1.5 * minutes)) > 1.4


@pytest.mark.skipif(MINUTES == 0, reason="it takes minutes: ATTACK_MINUTES=3 runs it at any share")
def test_runs_do_not_grow(tmp_path: Path, record_property: Callable) -> None:
    with own_modules(tmp_path, my_carbons=REWARD):
        processes = {
            name: fork(train.main, [*BASE, *arguments, "--out", str(tmp_path / name)], tmp_path / f"{name}.log")
            for name, arguments in RUNS.items()
        }
        try:
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
            start = time.monotonic()
            while (minutes := (time.monotonic() - start) / 60) < WARM + MINUTES:
                time.sleep(1)
                for name, process in processes.items():
                    assert process.wait(0.01) is None, process.told()
                    if minutes > WARM:
                        seen[name].append((minutes, resident(process)))
            slopes = {name: slope(*map(list, zip(*rows, strict=True))) for name, rows in seen.items()}
        finally:
            for process in processes.values():
                process.kill()
                process.wait(60)
    told = ", ".join(f"{name} {rate:+.2f}" for name, rate in slopes.items())
    record_property("count", f"MiB a minute over {MINUTES:g} minutes: {told}")
    assert max(slopes.values()) < MOST, told
