"""TensorBoard and Weights & Biases get every evaluation once, and what they lack is named before a run begins."""

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from run_files import SHORT, contents, metrics_of, refused

from agents.runs.train import main


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_logger_whose_package_is_missing_says_how_to_install_it(
    package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install 'gfn-envs[{package}]'" in refused(capsys, *SHORT, f"--{package}", "--out", tmp_path / "run")
    assert contents(tmp_path) == {}


def test_tensorboard_gets_every_evaluation_once_also_after_a_resume(tmp_path: Path, no_pictures: None) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*SHORT, "--tensorboard", "--out", str(tmp_path)]) == 0
    assert main(["--resume", str(tmp_path), "--trajectories", "144", "--tensorboard", "--no-progress"]) == 0
    events = EventAccumulator(str(tmp_path)).Reload()
    rows = metrics_of(tmp_path)
    assert [event.step for event in events.Scalars("l1_exact")] == [48, 96, 144]
    assert [event.value for event in events.Scalars("l1_exact")] == pytest.approx([row["l1_exact"] for row in rows])


def test_tensorboard_gets_the_pictures_of_each_evaluation(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*SHORT, "--tensorboard", "--out", str(tmp_path / "with")]) == 0
    events = EventAccumulator(str(tmp_path / "with")).Reload()
    assert set(events.Tags()["images"]) == {"learning_curve", "distribution", "trajectories"}
    assert [event.step for event in events.Images("distribution")] == [48, 96]
    assert main([*SHORT, "--tensorboard", "--no-pictures", "--out", str(tmp_path / "without")]) == 0
    assert EventAccumulator(str(tmp_path / "without")).Reload().Tags()["images"] == []


def test_wandb_gets_settings_and_every_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    calls: list[Any] = []
    fake: Any = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    run = types.SimpleNamespace(log=lambda metrics, step: calls.append(step), finish=lambda: calls.append("finished"))
    fake.init = lambda project, dir, config: calls.append((project, config["seed"])) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert main([*SHORT, "--wandb", "--out", str(tmp_path)]) == 0
    assert calls == [("gfn-envs", 0), 48, 96, "finished"]
