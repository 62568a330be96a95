"""A run that was stopped, killed or extended goes on bit for bit, by its own settings."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from run_files import (
    BASE,
    DRAWN,
    MDQN,
    PAGE,
    RUN_FILES,
    SHORT,
    assert_same_run,
    contents,
    metrics_of,
    refused,
    start,
    state_of,
    wait_for_evaluation,
)

from agents.config import Config
from agents.runs import report
from agents.runs.folder import RunFolder
from agents.runs.train import main
from agents.trainer import Trainer

COMBINATIONS = {
    "mdqn+tlm": MDQN,
    "mdqn+pessimistic": [*MDQN, "--backward", "pessimistic", "--agent.target-every", "5"],
    "db+naive": [*BASE, "--agent", "db", "--backward", "naive", "--epsilon", "0.5", "--epsilon-trajectories", "150"],
    "tb+maxent": [*BASE, "--agent", "tb", "--backward", "maxent", "--backward.no-exact"],
    "tb+tlm+teacher+random-stop+replay": [*BASE, "--agent", "tb", "--sampler", "teacher+random-stop+replay"],
}
SLOW = {"tb+tlm+teacher+random-stop+replay"}


@pytest.fixture(
    scope="module", params=[pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in COMBINATIONS]
)
def whole_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Return the arguments and the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = [*COMBINATIONS[request.param], "--trajectories", "240"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda folder, run: [])
        assert main([*arguments, "--out", str(folder)]) == 0
    return arguments, folder


@pytest.mark.parametrize("write", [1, 2, 3, 4, 5, 6, 10, 17])
def test_a_run_that_dies_at_any_write_goes_on_bit_identically(
    whole_run: tuple[list[str], Path], write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    class Killed(BaseException):
        pass

    arguments, whole = whole_run
    replace, writes = os.replace, []

    def dying(source: Path, target: Path) -> None:
        writes.append(target)
        if len(writes) == write + 1:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            main([*arguments, "--out", str(tmp_path)])
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_of_that_iteration_and_the_table(
    whole_run: tuple[list[str], Path],
    number: int,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_pictures: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, whole = whole_run
    step = Trainer.step

    def signalled(self: Trainer) -> None:
        step(self)
        if self.iteration in (17, 29):
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", signalled)
        assert main([*arguments, "--out", str(tmp_path)]) == code
        assert state_of(tmp_path)["iteration"] == 17
        shown = capsys.readouterr()
        assert shown.out.splitlines()[-1].split()[0] == "48"
        assert f"--resume {tmp_path}" in shown.err
        assert not (tmp_path / "summary.json").exists()
        assert main(["--resume", str(tmp_path), "--no-progress"]) == code
        assert state_of(tmp_path)["iteration"] == 29
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    "combination",
    ["mdqn+tlm", *(pytest.param(each, marks=pytest.mark.slow) for each in ("db+naive", "mdqn+pessimistic"))],
)
def test_a_killed_process_goes_on_bit_identically(combination: str, tmp_path: Path, no_pictures: None) -> None:
    arguments = [*COMBINATIONS[combination], "--trajectories", "960"]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    killed, chance = tmp_path / "killed", random.Random(combination)
    process = start(*arguments, "--out", killed)
    wait_for_evaluation(process, killed, chance.randrange(1, 6))
    time.sleep(chance.random() * 0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert len(metrics_of(killed)) < 20
    assert main(["--resume", str(killed), "--no-progress"]) == 0
    assert_same_run(killed, tmp_path / "whole")
    assert set(contents(killed)) == RUN_FILES


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_process_that_gets_a_signal_ends_with_its_code(number: int, code: int, tmp_path: Path) -> None:
    process = start(*MDQN, "--trajectories", 10**6, "--out", tmp_path)
    wait_for_evaluation(process, tmp_path, 2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "L1 empirical" in output
    assert "Traceback" not in errors
    assert state_of(tmp_path)["iteration"] >= 24
    assert set(contents(tmp_path)) == RUN_FILES - {"summary.json"} | DRAWN | {PAGE}


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path, no_pictures: None) -> None:
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    (tmp_path / ".checkpoint.pt.12345").write_bytes(b"half")
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert set(contents(tmp_path)) == RUN_FILES


def test_an_extended_run_equals_a_straight_one(
    whole_run: tuple[list[str], Path], tmp_path: Path, no_pictures: None
) -> None:
    arguments, whole = whole_run
    shorter = [*arguments[:-1], "144"]
    assert main([*shorter, "--out", str(tmp_path)]) == 0
    assert main(["--resume", str(tmp_path), "--trajectories", "240", "--no-progress"]) == 0
    assert_same_run(tmp_path, whole)
    assert RunFolder(tmp_path, Config).read_config().trajectories == 240


def test_a_run_can_be_extended_to_the_default_number_of_trajectories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    monkeypatch.setattr(Trainer, "train", lambda self, *_: self.num_iterations == 250_000)
    assert main(["--resume", str(tmp_path), "--trajectories", "1000000"]) == 0


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, no_pictures: None) -> None:
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    before = contents(tmp_path)
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert_same_run(tmp_path, tmp_path)
    after = contents(tmp_path)
    assert [before[name] for name in ("config.json", "metrics.jsonl")] == [
        after[name] for name in ("config.json", "metrics.jsonl")
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seed", "7"], "--seed"),
        (["--agent", "db"], "--agent"),
        (["--batch-size", "16"], "--batch-size"),
        (["--agent.lr", "0.5"], "--agent.lr"),
        (["--overwrite"], "--overwrite"),
        (["--out", "elsewhere"], "--out"),
    ],
)
def test_resume_refuses_other_settings(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    before = contents(tmp_path)
    assert f"leave out {named}." in refused(capsys, "--resume", tmp_path, *arguments)
    assert contents(tmp_path) == before


def test_resume_refuses_fewer_trajectories_than_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    before = contents(tmp_path)
    assert "--trajectories 48 is less than the 96" in refused(capsys, "--resume", tmp_path, "--trajectories", "48")
    assert contents(tmp_path) == before


def test_resume_refuses_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no run" in refused(capsys, "--resume", tmp_path)
    assert "holds no run" in refused(capsys, "--resume", tmp_path / "absent")
    assert contents(tmp_path) == {}
