"""Runs that several files of tests look at."""

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from run_files import GRIDS, SHORT, contents

from agents.runs import report
from agents.runs.train import main
from gfn_envs import registry


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing at the end of a run: that takes longer than the run."""
    monkeypatch.setattr(report, "pictures", lambda run: {})


@pytest.fixture
def my_grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put a user's module into a folder on the path; what it registers is forgotten after the test."""
    (tmp_path / "my_grids.py").write_text(GRIDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_ROWS", dict(registry._ROWS))
    yield "my_grids:my/Grid-v0"
    sys.modules.pop("my_grids", None)
    gymnasium.registry.pop("my/Grid-v0", None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return a finished run's files."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda folder, run: [])
        assert main([*SHORT, "--out", str(folder)]) == 0
    return contents(folder)


@pytest.fixture
def copy_of_run(finished: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that holds a finished run, inside the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    for name, data in finished.items():
        (folder / name).write_bytes(data)
    return folder
