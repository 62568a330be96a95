"""A run whose reward is asked in worker processes is the same run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from own_modules import own_modules
from run_files import SHORT, assert_same, metrics_of, state_of, untimed

from agents.runs.finished import read
from agents.runs.train import main

REWARD = """
def f(words):
    return [1 / (1 + word.count("1")) for word in words]
def picky(words):
    assert not words[0].startswith("11")
    return f(words)
"""


def train(folder: Path, trajectories: int, **kwargs: object) -> Path:
    """Train on words of six bits with a reward of one's own."""
    arguments = json.dumps({"n": 6, "k": 2, "reward": "my_reward:f", "reward_input": "bits", **kwargs})
    rest = ["--trajectories", str(trajectories), "--out", str(folder), "--no-pictures", "--eval-every", "24"]
    assert main([*SHORT, "--env", "gfn/BitSequence-v0", "--env-kwargs", arguments, *rest]) == 0
    return folder


def assert_equal_training(one: Path, other: Path) -> None:
    """Assert that two runs have the same metrics and the same state to the last bit, but for the clock."""
    assert untimed(metrics_of(one)) == untimed(metrics_of(other))
    states = state_of(one), state_of(other)
    for state in states:
        del state["seconds"]
        state["history"] = untimed(state["history"])
    assert_same(*states)


def test_workers_change_no_bit_of_a_run_nor_of_one_resumed(tmp_path: Path) -> None:
    with own_modules(tmp_path, my_reward=REWARD):
        whole = train(tmp_path / "whole", 24)
        asked = train(tmp_path / "asked", 24, reward_workers=2, reward_timeout=60)
        for folder in (whole, asked):
            assert main(["--resume", str(folder), "--trajectories", "48", "--no-progress", "--no-pictures"]) == 0
    assert_equal_training(asked, whole)


@pytest.mark.filterwarnings("ignore:The reward my_reward.picky failed on 1 objects")
def test_a_run_reports_failures_and_goes_on_counting_when_it_is_resumed(tmp_path: Path) -> None:
    with own_modules(tmp_path, my_reward=REWARD):
        run = train(tmp_path / "run", 24, reward="my_reward:picky", reward_floor=1e-3)
        assert main(["--resume", str(run), "--trajectories", "48", "--no-progress", "--no-pictures"]) == 0
    first, *_, last = metrics_of(run)
    assert (first["objects_asked"], first["objects_failed"]) == (64, 16), "all words, for the exact distribution"
    assert (last["objects_asked"], last["objects_failed"]) == (128, 32), "all again after the resumption"


def test_runs_that_differ_in_workers_are_of_one_environment(tmp_path: Path) -> None:
    with own_modules(tmp_path, my_reward=REWARD):
        run = read(train(tmp_path, 24))
    changed = [
        replace(run, config=replace(run.config, env_kwargs=json.dumps(run.config.parsed_env_kwargs() | more)))
        for more in ({"reward_workers": 3}, {"reward_floor": 0.5})
    ]
    assert [each.environment() == run.environment() for each in changed] == [True, False]
