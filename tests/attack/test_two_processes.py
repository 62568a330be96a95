"""A folder belongs to one process: of two that start together one goes on, and the other is told who it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from attack import complaint, fork, left_over, number
from run_files import assert_same_run, metrics_of
from test_kills import AGENT, MOST, SMALL, whole

from agents.runs import sweep, train

ARGUMENTS = [*AGENT, *SMALL, "--trajectories", "400"]
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
    for i in range(number(8)):
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
    record_property("count", f"{number(8)} pairs, {together} refused")


@pytest.mark.parametrize("i", range(number(6)))
def test_two_sweeps_share_a_folder(i: int, tmp_path: Path) -> None:
    arguments = ["--methods", "tb+uniform", "random", "--seeds", "0", "--trajectories", "200", "--evaluations", "2"]
    arguments += ["--env-kwargs", '{"dim": 2, "side": 4}', "--jobs", "1", "--no-progress"]
    arguments += ["--out", str(tmp_path / "out")]
    processes = [fork(sweep.main, arguments, tmp_path / f"{i}.log") for i in range(2)]
    assert [process.wait(2 * MOST) for process in processes] == [0, 0], [process.told() for process in processes]
    runs = [file.parent for file in (tmp_path / "out").rglob("config.json")]
    assert len(runs) == 2
    for run in runs:
        counts = [row["trajectories"] for row in metrics_of(run)]
        assert counts == sorted(set(counts))
        assert (run / "summary.json").exists()
    assert left_over(tmp_path / "out") == []
