"""The examples of docs/examples run and show what they promise, here in a short version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT


def _run(cwd: Path, name: str, *arguments: str) -> str:
    """Run an example in another folder and return what it prints."""
    command = [sys.executable, str(ROOT / "docs" / "examples" / name), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_tb_with_tlm_approaches_the_target(tmp_path: Path) -> None:
    distances = [float(word) for word in re.findall(r"variation ([\d.]+)", _run(tmp_path, "tb_tlm.py", "400"))]
    assert distances[0] > 0.8
    assert distances[-1] < 0.3  # a policy that knows three of the four peaks has more than 0.25


def test_sb3_learns_on_the_vector_environment(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    printed = _run(tmp_path, "sb3_vector.py", "2048")
    reward, exact = (float(word) for word in re.findall(r"mean reward ([\d.]+)", printed))
    assert reward > 0.1
    assert exact == pytest.approx(1.745)


def test_the_best_molecules_of_ones_own_reward_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    from PIL import Image

    printed = _run(tmp_path, "qm9_own_reward.py", "64", "best.png")
    molecules = re.findall(r"^[A-Za-z0-9@+\-\[\]()=#]+$", printed, flags=re.MULTILINE)
    assert len(set(molecules)) == 10
    picture = np.asarray(Image.open(tmp_path / "best.png").convert("L"))
    assert picture.shape[1] > picture.shape[0] > 100
    assert (picture < 128).mean() > 0.002  # something is drawn on the white ground


def test_every_example_is_run() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "docs" / "examples").glob("*.py") if f'"{path.name}"' not in here} == set()
