"""A disk that fails is told in one line, and the last checkpoint stays whole."""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attack import SEED, complaint, fork, left_over, number
from run_files import assert_same_run
from test_kills import AGENT, MOST, SMALL, whole

from agents.runs import train

ARGUMENTS = [*AGENT, *SMALL]


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Path:
    """Return an uninterrupted run."""
    whole(train.main, ARGUMENTS, tmp_path / "whole")
    return tmp_path / "whole"


def resumed(run: Path, log: Path) -> None:
    """Go on with a run to its end."""
    process = fork(train.main, ["--resume", str(run), "--no-progress"], log)
    assert process.wait(MOST) == 0, process.told()


def test_a_full_disk_keeps_the_last_checkpoint(uninterrupted: Path, tmp_path: Path, record_property: Callable) -> None:
    size, draw = (uninterrupted / "checkpoint.pt").stat().st_size, random.Random(SEED)
    for i in range(number(50)):
        run, log = tmp_path / f"run{i}", tmp_path / f"{i}.log"
        process = fork(train.main, [*ARGUMENTS, "--out", str(run)], log, file=draw.randrange(100, size))
        code = process.wait(MOST)
        assert code == 1, process.told()
        assert complaint(code, process.told()) == ""
        assert left_over(run) == []
        if (run / "config.json").exists():
            resumed(run, log)
            assert_same_run(run, uninterrupted)
    record_property("count", f"{number(50)} full disks")


def test_a_folder_that_goes_away_is_one_line(tmp_path: Path, record_property: Callable) -> None:
    draw = random.Random(SEED)
    for i in range(number(20)):
        run, log = tmp_path / f"run{i}", tmp_path / f"{i}.log"
        process = fork(train.main, [*ARGUMENTS, "--trajectories", "1200", "--out", str(run)], log)
        while not (run / "checkpoint.pt").exists():
            assert process.wait(0.01) is None, process.told()
        time.sleep(draw.uniform(0, 0.3))
        shutil.rmtree(run, ignore_errors=True)
        code = process.wait(MOST)
        assert complaint(code, process.told()) == "", process.told()
    record_property("count", f"{number(20)} folders")


ODD = ["größe 火", "-x", "a'b\"c", "new\nline", "x" * 255, "deep/" * 40 + "run", "link"]
IMPOSSIBLE = ["x" * 256, "d/" * 3000, "file/run", "loop/run", "read-only/run"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_folders_work(name: str, uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    process = fork(train.main, [*ARGUMENTS, f"--out={tmp_path / name}"], tmp_path / "log")
    assert process.wait(MOST) == 0, process.told()
    assert_same_run(tmp_path / name, uninterrupted)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_folders_that_cannot_be_made_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "read-only").mkdir(mode=0o555)
    if name.startswith("read-only") and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    process = fork(train.main, [*ARGUMENTS, "--out", str(tmp_path / name)], tmp_path / "log")
    code = process.wait(MOST)
    assert code in (1, 2), process.told()
    assert complaint(code, process.told()) == ""
