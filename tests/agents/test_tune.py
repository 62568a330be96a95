"""The search for settings: what is searched, that it goes on, and what it leaves."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.config import Config, usual, with_values
from agents.runs import train, tune

optuna = pytest.importorskip("optuna")

GIVEN = ["--agent", "tb", "--backward", "tlm", "--env-kwargs", '{"dim": 2, "side": 4}', "--no-progress"]
GIVEN += ["--trajectories", "320", "--evaluations", "4", "--settings", '{"batch_size": 8}']
SPACE = [
    "--space",
    '{"agent.lr": [1e-9, 1e-2], "agent.penalty": ["squared", "huber"], "sampler.copy_rate": [0.5, 1.0]}',
]


def options(*given: str) -> tune.Options:
    import tyro

    return tyro.cli(tune.Options, args=[*GIVEN, *given])


def test_without_a_space_the_rates_are_searched_around_the_usual_ones() -> None:
    config = tune.base(options())
    places = tune.space(options(), config)
    flat = config.flat()
    assert {name: math.sqrt(low * high) for name, (low, high) in places.items()} == pytest.approx(
        {name: flat[name] for name in ("agent.lr", "agent.log_z_lr", "backward.lr")}
    )
    assert config.batch_size == 8
    assert config.eval_every == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--space", '{"agent.rl": [0, 1]}'], "unknown settings: agent.rl"),
        (["--space", '{"agent.lr": [1, -1]}'], "--agent.lr must lie in"),
        (["--space", '{"agent.lr": [1e-2, 1e-3]}'], "the range of agent.lr must rise"),
        (["--space", '{"agent.lr": 1}'], "needs two ends of a range or a list of choices"),
        (["--space", '{"agent.penalty": ["squared", "none"]}'], "must be one of"),
        (["--space", "[]"], "--space must be a JSON object"),
        (["--settings", '{"agent.l0": 1}'], "unknown settings: agent.l0"),
        (["--agent", "bt"], "Unknown agent 'bt'"),
        (["--trials", "0"], "--trials must be at least 1"),
        (["--address", "auto"], "are for --engine ray"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([*GIVEN, *given, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.log"))


@pytest.mark.slow
def test_a_search_goes_on_and_leaves_the_best_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert tune.main([*GIVEN, *SPACE, "--trials", "3", "--out", str(out)]) == 0
    assert tune.main([*GIVEN, *SPACE, "--trials", "4", "--jobs", "1", "--out", str(out)]) == 0
    assert tune.main([*GIVEN, *SPACE, "--trials", "4", "--out", str(out)]) == 0  # there is nothing left to do
    said = capsys.readouterr().out
    assert said.count("\n4 trials") == 2
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[0]["agent.lr"]) == usual(agent="tb").flat()["agent.lr"]  # the first one is as usual
    best = min((row for row in rows if row["state"] == "COMPLETE"), key=lambda row: float(row["total_variation_exact"]))

    # The best settings are those of the best trial, and training with them gives its figure.
    run = tmp_path / "run"
    assert train.main(["--config", str(out / "best.json"), "--out", str(run), "--no-progress", "--no-pictures"]) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["total_variation_exact"] == float(best["total_variation_exact"])
    config = Config.from_json((out / "best.json").read_text())
    assert str(config.flat()["agent.lr"]) == best["agent.lr"]
    assert config.flat()["agent.penalty"] == best["agent.penalty"]

    # The preset gives the same settings to the same choices, and none to others.
    code = (
        "from agents.config import usual; import sys; print(usual(agent=sys.argv[1], preset='tuned:tuned').to_json())"
    )
    found = {
        agent: subprocess.run(
            [sys.executable, "-c", code, agent],
            cwd=out,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([".", str(Path(tune.__file__).parents[2])])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for agent in ("tb", "db")
    }
    tuned = Config.from_json(found["tb"])
    searched = {name: config.flat()[name] for name in ("agent.lr", "agent.penalty", "sampler.copy_rate")}
    assert tuned == with_values(usual(agent="tb", preset="default"), {**searched, "preset": "tuned:tuned"})
    assert set(Config.from_json(found["db"]).differences(usual(agent="db"))) == {"preset"}


def test_another_search_does_not_go_on_with_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune._begin(tmp_path, options())
    tune._begin(tmp_path, options("--trials", "7", "--jobs", "3"))
    assert tune.main([*GIVEN, *SPACE, "--out", str(tmp_path)]) == 2
    assert "holds a search with other --space: name another --out." in capsys.readouterr().err


def test_an_unknown_metric_is_told_by_the_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([*GIVEN, "--metric", "l3", "--trials", "1", "--out", str(tmp_path)]) == 1
    assert "a worker failed: error: --metric l3 is not measured; there are trajectories" in capsys.readouterr().err


def test_a_trial_that_diverges_or_is_behind_is_pruned() -> None:
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.5))
    given = options("--space", '{"agent.lr": [1e-12, 1e-11]}')  # it learns nothing, so that its figure stays above
    study.optimize(lambda trial: tune.judged(trial, given), n_trials=1)
    assert study.trials[0].state.name == "PRUNED"
    assert list(study.trials[0].intermediate_values) == [1]
