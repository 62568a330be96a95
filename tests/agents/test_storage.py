"""Runs kept under a URL: machines that share no disk hand a run on, to the bit, and no copy is half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from run_files import metrics_of, untimed

from agents.runs import sweep
from agents.runs.storage import SCRATCH, Storage, run_stored_cell
from agents.runs.suite import log_file, settings_file

GRID = ["--env-kwargs", '{"dim": 2, "side": 8}', "--seeds", "0", "--no-progress", "--jobs", "2"]
GIVEN = ["--methods", "db+tlm", "random", *GRID, "--trajectories", "1600", "--evaluations", "5"]


def rows(metrics: Path) -> list[dict[str, float]]:
    """Return the metrics of a run without those that are times; a baseline has one more of these."""
    return [{k: v for k, v in row.items() if k != "steps_per_second"} for row in untimed(metrics_of(metrics.parent))]


@pytest.fixture
def url() -> str:
    """A place in memory that no other test uses."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine works on runs."""
    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def written(folder: Path) -> dict[str, bytes]:
    """Write a run's files, and one that is half written; return them by name, but not that one."""
    files = {"config.json": b"{}", "metrics.jsonl": b"1\n", "checkpoint.pt": b"c" * 999, "summary.json": b"{}"}
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / ".checkpoint.pt.12").write_bytes(b"half")
    (folder / "events").mkdir()
    (folder / "events" / "one").write_bytes(b"event")
    settings_file(folder).write_text('{"seed": 0}')
    log_file(folder).write_text("told\n")
    return {**files, "events/one": b"event"}


def test_what_is_put_is_got(url: str, tmp_path: Path) -> None:
    here, there, kept = tmp_path / "a" / "0", tmp_path / "b" / "0", Storage(url)
    files = written(here)
    assert kept.settings("bag/db+tlm/0") is None
    kept.get("bag/db+tlm/0", there)
    assert not there.parent.exists()
    kept.put("bag/db+tlm/0", here, {})
    (there / "old.png").parent.mkdir(parents=True)
    (there / "old.png").write_bytes(b"own")
    kept.get("bag/db+tlm/0", there)
    found = {file.relative_to(there).as_posix(): file.read_bytes() for file in there.rglob("*") if file.is_file()}
    assert found == {**files, "old.png": b"own"}
    assert settings_file(there).read_text() == kept.settings("bag/db+tlm/0") == '{"seed": 0}'
    assert log_file(there).read_text() == "told\n"
    kept.get("bag/db+tl", tmp_path / "c" / "0")
    assert not (tmp_path / "c").exists(), "another run's name that begins alike"


def test_only_what_changed_is_copied_and_the_summary_at_the_end(url: str, tmp_path: Path) -> None:
    here, kept, done = tmp_path / "0", Storage(url), dict[str, tuple[int, int]]()
    written(here)
    kept.put("0", here, done, finished=False)
    kept.get("0", tmp_path / "b")
    assert (tmp_path / "b" / "checkpoint.pt").exists()
    assert not (tmp_path / "b" / "summary.json").exists()
    copied: list[str] = []
    put_file = kept._files.put_file
    kept._files.put_file = lambda local, remote: (copied.append(Path(local).name), put_file(local, remote))
    (here / "checkpoint.pt").write_bytes(b"d" * 1000)
    kept.put("0", here, done)
    assert copied == ["checkpoint.pt", "summary.json"]


def test_a_copy_that_broke_off_is_not_taken(url: str, tmp_path: Path) -> None:
    here, kept = tmp_path / "a" / "0", Storage(url)
    files = written(here)
    kept.put("0", here, {})
    put_file = kept._files.put_file

    def broken(local: str, remote: str) -> None:
        Path(local).write_bytes(b"h")
        put_file(local, remote)
        raise OSError("the line is down")

    (here / "checkpoint.pt").write_bytes(b"new")
    kept._files.put_file = broken
    with pytest.raises(OSError, match="the line is down"):
        kept.put("0", here, {})
    kept.get("0", tmp_path / "b" / "0")
    assert (tmp_path / "b" / "0" / "checkpoint.pt").read_bytes() == files["checkpoint.pt"]


@pytest.mark.usefixtures("machine")
def test_a_sweep_is_the_same_with_a_storage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept, plain = tmp_path / "kept", tmp_path / "plain"
    given = [*GIVEN, "--storage", f"file://{tmp_path / 'store'}"]
    assert sweep.main([*given, "--out", str(kept)]) == 0, capfd.readouterr().err
    assert sweep.main([*GIVEN, "--out", str(plain)]) == 0
    found = sorted(file.relative_to(plain) for file in plain.rglob("metrics.jsonl"))
    assert len(found) == 2
    for file in found:
        assert rows(kept / file) == rows(plain / file)
    assert sweep.main([*given, "--out", str(tmp_path / "again")]) == 0
    assert rows(tmp_path / "again" / found[0]) == rows(plain / found[0])
    changed = [*given[:-2], "--trajectories", "3200", *given[-2:]]
    capfd.readouterr()
    assert sweep.main([*changed, "--out", str(tmp_path / "other")]) == 2
    assert "with other settings: name another place" in capfd.readouterr().err


DYING = """
import sys
from agents.runs import storage
storage.EVERY = 0.05
storage.run_stored_cell(*sys.argv[1:])
"""


@pytest.mark.slow
def test_a_machine_that_dies_hands_its_run_on(machine: Path, tmp_path: Path) -> None:
    methods = ["--methods", "db+tlm", *GRID, "--trajectories", "4800", "--evaluations", "15"]
    (cell,) = sweep.plan(sweep_options(methods))
    url, first = f"file://{tmp_path / 'store'}", tmp_path / "first"
    cell.write_settings(tmp_path / "out")
    Storage(url).put(cell.name, tmp_path / "out" / cell.name, {})
    command = [sys.executable, "-c", DYING, url, cell.name, cell.config.kind]
    dying = subprocess.Popen(command, env={**os.environ, SCRATCH: str(first)}, stdout=subprocess.DEVNULL)
    stored = tmp_path / "store" / cell.name
    end = time.monotonic() + 120
    while not (stored / "checkpoint.pt").exists():
        assert time.monotonic() < end
        assert dying.poll() is None
        time.sleep(0.02)
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    assert not (stored / "summary.json").exists()
    assert run_stored_cell(url, cell.name, cell.config.kind) == 0
    assert len(list(machine.rglob("summary.json"))) == 1
    assert not list(first.rglob("summary.json"))
    assert (stored / "summary.json").exists()
    assert sweep.main([*methods, "--out", str(tmp_path / "plain")]) == 0
    assert rows(stored / "metrics.jsonl") == rows(tmp_path / "plain" / cell.name / "metrics.jsonl")


def sweep_options(words: list[str]) -> sweep.Options:
    """Return the options of a command line."""
    import tyro

    return tyro.cli(sweep.Options, args=words)


@pytest.mark.parametrize(
    ("place", "told"), [("nix://x", "Protocol not known: nix"), ("file:///dev/null/x", "it cannot be written")]
)
def test_a_place_that_cannot_be_used_is_told(
    place: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main([*GIVEN, "--storage", place, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
