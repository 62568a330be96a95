"""A run of the command line leaves what it promises, and what goes wrong later leaves its last checkpoint."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from run_files import (
    BASE,
    DRAWN,
    GRIDS,
    PAGE,
    RUN_FILES,
    SCRIPT,
    SHORT,
    assert_same_run,
    contents,
    metrics_of,
    start,
    state_of,
)

from agents.runs.train import main
from agents.trainer import Trainer

PROMISED_METRICS = {
    "trajectories", "seconds", "iterations_per_second", "loss", "backward_loss", "l1_empirical", "l1_exact",
    "total_variation_exact", "kl_exact", "log_z_estimate", "log_z_error", "mean_reward", "unique_states",
}  # fmt: skip


def test_a_script_run_from_any_folder_leaves_everything_promised(tmp_path: Path) -> None:
    (tmp_path / "my_grids.py").write_text(GRIDS)
    process = start("--env", "my_grids:my/Grid-v0", "--trajectories", 96, *BASE[2:], "--out", "here", cwd=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    folder = tmp_path / "here"
    assert set(contents(folder)) == RUN_FILES | DRAWN | {PAGE}
    rows = metrics_of(folder)
    assert [row["trajectories"] for row in rows] == [48, 96]
    assert rows[0].keys() >= PROMISED_METRICS - {"loss", "backward_loss"}, "16 batches are collected first"
    assert rows[1].keys() >= PROMISED_METRICS
    for name in DRAWN:
        height, width, _ = imread(folder / name, format="png").shape
        assert height > 300
        assert width > 600
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["l1_exact"] == rows[-1]["l1_exact"]
    assert (summary["agent"], summary["backward"], summary["seed"]) == ("mdqn", "tlm", 0)
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["env"], settings["trajectories"], settings["network.width"]) == ("my_grids:my/Grid-v0", 96, 8)
    lines = output.splitlines()
    header = next(i for i, line in enumerate(lines) if "L1 empirical" in line)
    assert [line.split()[0] for line in lines[header + 1 : header + 3]] == ["48", "96"]


@pytest.mark.slow
def test_a_script_run_from_the_root_equals_a_call_in_process(tmp_path: Path, no_pictures: None) -> None:
    process = start(*SHORT, "--out", tmp_path / "run", cwd=SCRIPT.parents[1])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert main([*SHORT, "--out", str(tmp_path / "twin")]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "twin")


def test_without_out_the_folder_names_environment_agent_approach_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--seed", "3"]) == 0
    assert (tmp_path / "runs/gfn-Hypergrid-v0/tb-uniform-seed3/summary.json").exists()


def test_files_hold_strict_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    evaluate = Trainer.evaluate

    def with_infinity(self: Trainer) -> dict[str, float]:
        metrics = evaluate(self)
        metrics["kl_exact"] = math.inf
        return metrics

    monkeypatch.setattr(Trainer, "evaluate", with_infinity)
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    assert metrics_of(tmp_path)[0]["kl_exact"] is None
    assert json.loads((tmp_path / "summary.json").read_text())["kl_exact"] is None


def test_threads_are_set(tmp_path: Path, no_pictures: None) -> None:
    threads = torch.get_num_threads()
    try:
        assert main([*SHORT, "--threads", "2", "--out", str(tmp_path)]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_progress_bar_is_shown_unless_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    assert "traj" not in capsys.readouterr().err
    assert (
        main([*[argument for argument in SHORT if argument != "--no-progress"], "--out", str(tmp_path), "--overwrite"])
        == 0
    )
    assert "traj" in capsys.readouterr().err


# What fails later


@pytest.mark.parametrize(
    ("value", "named"),
    [("NaN", "log_reward is nan"), ("-Infinity", "the reward is 0"), ("3e38", "loss is no longer finite")],
)
def test_a_reward_or_loss_that_fails_later_leaves_the_last_checkpoint(
    value: str, named: str, my_grids: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    kwargs = f'{{"after": 17, "value": {value}}}'
    settings = [*SHORT[2:], "--eval.max-exact-edges", "0", "--env-kwargs", kwargs]
    assert main(["--env", my_grids, *settings, "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert named in message
    assert "Traceback" not in message
    state = state_of(tmp_path / "run")
    assert state["iteration"] == 12
    assert all(weights.isfinite().all() for weights in state["network"].values())
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_signal_does_not_save_a_loss_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    step = Trainer.step

    def poisoned(self: Trainer) -> None:
        step(self)
        if self.iteration == 17:
            self._means.add({"loss": torch.tensor(math.nan)})
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", poisoned)
    assert main([*SHORT, "--out", str(tmp_path)]) == 1
    assert state_of(tmp_path)["iteration"] == 12
