"""The policies that come with the project load without running code, and are what the index says."""

from __future__ import annotations

import csv
import pickle
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from pages import ROOT, text

import agents
import gfn_envs
from agents import pretrained
from agents.pretrained import make
from agents.runs import evaluate, sample

OURS = [env for env in gfn_envs.registered() if env.startswith("gfn/")]
GRID = "gfn/RandomDAG-v0"


def test_every_environment_has_one_and_the_index_says_how_it_was_trained() -> None:
    index = pretrained.read_index()
    assert set(index) == set(make.RECIPES) == set(OURS)
    for env, row in index.items():
        recipe = make.RECIPES[env]
        assert {name: row[name] for name in asdict(recipe)} == {**asdict(recipe), "settings": recipe.all_settings()}
        assert {"metrics", "licence", "command", "cpu_seconds"} <= set(row)
    files = {path.name for path in pretrained.FOLDER.glob("*.safetensors")}
    assert files == {pretrained.file_of(env) for env in index}
    assert sum(path.stat().st_size for path in pretrained.FOLDER.iterdir() if path.is_file()) < 5_000_000


@pytest.mark.parametrize("env", pretrained.read_index())
def test_it_is_for_the_environments_default_arguments_and_samples(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gfn_envs.make(env)  # the published files of one environment are pickled, and are read with care
    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, None)
    policy = agents.load(f"pretrained:{env}")
    assert (policy.config.env, policy.config.parsed_env_kwargs()) == (env, {})
    row = pretrained.read_index()[env]
    assert policy.trajectories >= row["trajectories"]
    assert {name: policy.config.flat()[name] for name in row["settings"]} == row["settings"]
    samples = policy.sample(8, seed=1)
    assert bool(policy.dag.is_terminal(samples.states).all())
    assert bool(samples.log_reward.isfinite().all())


def test_the_metrics_of_the_index_are_those_of_the_file() -> None:
    told = pretrained.read_index()[GRID]["metrics"]
    measured = agents.load(f"pretrained:{GRID}").evaluate()
    for name in ("total_variation_exact", "log_z_error", "elbo"):
        assert measured[name] == pytest.approx(told[name], rel=1e-2, abs=1e-4)
    assert told["total_variation_exact"] < 0.01  # a policy that takes each legal action equally often has 0.61


def test_the_page_shows_the_index() -> None:
    page = text(ROOT / "docs" / "pretrained.md")
    shown = re.search(r"<!-- pretrained -->(.*?)<!-- end of pretrained -->", page, re.DOTALL)
    assert shown
    assert shown[1].strip() == make.table().strip()


def test_an_unknown_id_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"Unknown pretrained policy 'gfn/QM8-v0'\. Known.* first: gfn/QM9-v0, "):
        agents.load("pretrained:gfn/QM8-v0")
    for main in (sample.main, evaluate.main):
        assert main(["pretrained:gfn/QM8-v0"]) == 2
        assert "closest first: gfn/QM9-v0" in capsys.readouterr().err


def test_a_file_that_is_not_the_one_of_the_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    here = pretrained.FOLDER
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    name = pretrained.file_of(GRID)
    with pytest.raises(ValueError, match=r"is missing or damaged .*: reinstall gfn-envs"):
        agents.load(f"pretrained:{GRID}")
    shutil.copy(here / pretrained.file_of("gfn/GraphSet-v0"), tmp_path / name)  # a whole policy, but another one
    with pytest.raises(ValueError, match="its SHA-256 is"):
        agents.load(f"pretrained:{GRID}")
    shutil.copy(here / name, tmp_path / name)
    assert agents.load(f"pretrained:{GRID}").config.env == GRID


def test_molecules_come_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    out = tmp_path / "molecules.csv"
    torch.set_num_threads(2)
    assert sample.main(["pretrained:gfn/QM9-v0", "--num", "100", "--out", str(out), "--no-progress"]) == 0
    assert torch.get_num_threads() == 1  # as in training: on a busy machine two wait for each other
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 100
    assert all(row["object"] and float(row["r"]) > 0 for row in rows)


def test_a_command_line_of_the_recipes_takes_known_ids_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert make.parse([]) == list(make.RECIPES)
    assert make.parse([GRID]) == [GRID]
    with pytest.raises(SystemExit):
        make.parse(["gfn/QM8-v0"])
    assert "gfn/QM8-v0" in capsys.readouterr().err
