"""A folder belongs to one process: of two that start together one goes on, and the other is told who it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from attack import complaint, fork, left_over, number
from run_files import assert_same_run
from test_kills import AGENT, MOST, whole

from agents.runs import train

ARGUMENTS = [*AGENT, "--env-kwargs", '{"dim": 2, "side": 6}', "--trajectories", "1200"]
PAIRS = {
    "new": ("", ""),
    "replaced": ("--overwrite", "--overwrite"),
    "resumed": ("--resume", "--resume"),
    "resumed and replaced": ("--resume", "--overwrite"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_of_two_processes_one_is_refused(name: str, tmp_path: Path, record_property: Callable) -> None:
    whole(train.main, ARGUMENTS, tmp_path / "whole")
    together = 0
    for i in range(number(20)):
        run = tmp_path / f"run{i}"
        if "resumed" in name:  # a run that was stopped at its beginning
            first = fork(train.main, [*ARGUMENTS, "--out", str(run)], tmp_path / "log")
            while not (run / "checkpoint.pt").exists():
                assert first.wait(0.001) is None
            first.kill()
            first.wait(MOST)
        made = {"--resume": ["--no-progress", "--resume", str(run)]}
        made |= {given: [*ARGUMENTS, "--out", str(run), *given.split()] for given in ("", "--overwrite")}
        processes = [fork(train.main, made[given], tmp_path / f"{i}-{j}.log") for j, given in enumerate(PAIRS[name])]
        codes = [process.wait(MOST) for process in processes]
        told = [process.told() for process in processes]
        assert [complaint(code, text) for code, text in zip(codes, told, strict=True)] == ["", ""]
        assert 0 in codes, told
        for j, code in enumerate(codes):
            if code:
                owner = f"is in use by process {processes[1 - j].pid} on"
                assert owner in told[j] or "in use by another process" in told[j] or "already holds a run" in told[j]
                together += 1
        assert_same_run(run, tmp_path / "whole")
        assert left_over(run) == []
    record_property("count", f"{number(20)} pairs, {together} refused")
