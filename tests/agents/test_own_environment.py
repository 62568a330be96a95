"""A user's environment, registered by a module of theirs, trains and resumes by its name."""

import json
import re
from pathlib import Path

import gymnasium
import pytest
from run_files import SHORT, refused

import gfn_envs
from agents.runs.train import main


def test_a_module_is_imported_for_its_environment(my_grids: str, tmp_path: Path, no_pictures: None) -> None:
    assert main(["--env", my_grids, *SHORT[2:], "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env"] == my_grids
    assert main(["--resume", str(tmp_path / "run"), "--no-progress"]) == 0
    assert isinstance(gfn_envs.make(my_grids), gfn_envs.Hypergrid)
    assert gymnasium.make(my_grids).observation_space.shape == (3,)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ("no_such_module:my/Grid-v0", "cannot import 'no_such_module'"),
        ("my_grids:my/Gird-v0", "Unknown environment id 'my/Gird-v0'. Known, closest first: my/Grid-v0"),
        (":my/Grid-v0", "'' is not the name of a module"),
        (".my_grids:my/Grid-v0", "'.my_grids' is not the name of a module"),
        ("a b:my/Grid-v0", "'a b' is not the name of a module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(
    env: str, named: str, my_grids: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused(capsys, "--env", env, "--out", tmp_path / "run")
    with pytest.raises(ValueError, match=re.escape(named)):
        gfn_envs.make(env)
    assert not (tmp_path / "run").exists()


def test_a_bad_reward_that_enumeration_finds_is_wrong_input(
    my_grids: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--env", my_grids, "--env-kwargs", '{"after": 0}', "--out", tmp_path / "run"]
    assert "log_reward is nan (NaN) at state" in refused(capsys, *settings)
    assert not (tmp_path / "run").exists()
