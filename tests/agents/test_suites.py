"""Suites: what a file says becomes cells, and what is wrong in it is told."""

from __future__ import annotations

import fnmatch
import json
import shlex
from pathlib import Path

import pytest
import tyro

from agents.build import build_trainer
from agents.config import Config
from agents.runs import suite, sweep
from agents.runs.kinds import AgentRun
from agents.runs.suite import Cell
from gfn_envs import DAG, make

GRID = """
agents = ["db", "mdqn"]
backward = ["uniform", "tlm"]
samplers = ["on-policy", "replay"]
methods = ["random", "tb+naive"]
skip = ["*/mdqn+*+replay/*"]
seeds = [0, 7]
trajectories = 320
evaluations = 4

[envs.small]
id = "gfn/Hypergrid-v0"
kwargs = { dim = 2, side = 4 }

[envs.bits]
id = "gfn/BitSequence-v0"
kwargs = { n = 8, k = 2 }
network = "mlp"
trajectories = 640

[[overrides]]
cells = "*/*+tlm*/*"
settings = { "backward.lr" = 1e-3, batch_size = 32 }

[[overrides]]
cells = "bits/db+tlm/7"
trajectories = 960
settings = { "backward.lr" = 2e-3 }
"""


def cells_of(tmp_path: Path, text: str = GRID) -> list[Cell]:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return suite.cells(*suite.read(str(file)))


def test_a_suite_is_the_product_of_what_it_names(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    methods = [f"db+{b}{s}" for b in ("uniform", "tlm") for s in ("", "+replay")]
    methods += ["mdqn+uniform", "mdqn+tlm", "random", "tb+naive"]
    expected = [f"{env}/{method}/{seed}" for seed in (0, 7) for env in ("small", "bits") for method in methods]
    assert [cell.name for cell in cells] == expected
    assert cells[0].id == "mine/small/db+uniform/0"


def test_each_cell_has_the_settings_that_the_suite_gives_it(tmp_path: Path) -> None:
    configs = {cell.name: cell.config for cell in cells_of(tmp_path)}

    def of(name: str, *settings: str) -> list[object]:
        flat = configs[name].flat()
        return [flat[setting] for setting in settings]

    names = ("env", "env_kwargs", "seed", "trajectories", "batch_size", "eval_every", "network", "threads")
    assert of("small/db+uniform/0", *names) == ["gfn/Hypergrid-v0", '{"dim": 2, "side": 4}', 0, 320, 16, 5, "mlp", 1]
    # Evaluations are spread over the trajectories of that very cell.
    assert of("small/db+tlm/7", "batch_size", "eval_every", "backward.lr", "seed") == [32, 3, 1e-3, 7]
    assert of("bits/db+tlm/7", "trajectories", "eval_every", "backward.lr", "network") == [960, 8, 2e-3, "mlp"]
    assert of("bits/db+tlm/0", "trajectories", "backward.lr") == [640, 1e-3]
    assert of("small/db+uniform+replay/0", "sampler") == ["replay"]
    assert of("bits/random/0", "algo", "trajectories", "eval_every") == ["random", 640, 160]


@pytest.mark.parametrize(
    ("there", "instead", "message"),
    [
        ('agents = ["db", "mdqn"]', 'agents = ["db", "mdqn", "bd"]', "Unknown agent 'bd'. Known, closest first: "),
        ('agents = ["db", "mdqn"]', "agents = 3", "Expected `array`, got `int` - at `$.agents`"),
        ("evaluations = 4", "evaluatoins = 4", "unknown field `evaluatoins`"),
        ("evaluations = 4", "evaluations = 0", "evaluations must be at least 1, got 0"),
        ("evaluations = 4", "evaluations = ", "mine.toml cannot be used"),
        ("gfn/Hypergrid-v0", "gfn/Hypergird-v0", "closest first: gfn/Hypergrid-v0"),
        ("seeds = [0, 7]", "seeds = [0, 0]", "a run is named twice: small/db+uniform/0"),
        ("seeds = [0, 7]", "seeds = [7, -1]", "--seed must lie in 0"),
        ('"backward.lr" = 1e-3', '"backward.rl" = 1e-3', "unknown settings: backward.rl"),
        ('"backward.lr" = 2e-3', '"backward.lr" = -1.0', "--backward.lr must lie in"),
        ("bits/db+tlm/7", "bits/db+tml/7", "the pattern 'bits/db+tml/7' fits no cell; they are called like small/"),
        ('methods = ["random"', 'methods = ["random:soft"', "--reward-mode soft has no effect with --algo random"),
    ],
)
def test_what_is_wrong_in_a_suite_is_told(there: str, instead: str, message: str, tmp_path: Path) -> None:
    assert there in GRID
    with pytest.raises(ValueError) as error:  # noqa: PT011
        cells_of(tmp_path, GRID.replace(there, instead))
    assert message in str(error.value)


def test_a_file_that_is_not_there_and_an_unknown_suite_are_told() -> None:
    with pytest.raises(ValueError, match=r"no-such\.toml cannot be read: No such file"):
        suite.read("no-such.toml")
    with pytest.raises(ValueError, match=r"Unknown suite 'tyni'. Known, closest first: tiny"):
        suite.read("tyni")


def test_a_suite_takes_from_its_base_what_it_does_not_say(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('base = "mine.toml"\nagents = ["tb"]\nmethods = []\nseeds = [3]\noverrides = []\nskip = []\n')
    whole = {cell.name: cell.config for cell in cells_of(tmp_path)}
    cells = suite.cells(*suite.read(str(other)))
    assert {cell.name.split("/")[1].split("+")[0] for cell in cells} == {"tb"}
    assert {cell.name.split("/")[0] for cell in cells} == {name.split("/")[0] for name in whole}
    assert {cell.config.seed for cell in cells} == {3}
    assert suite.read(str(other))[1].evaluations == suite.read(str(tmp_path / "mine.toml"))[1].evaluations == 4
    assert suite.read("tiny-replay")[1].envs == suite.read("tiny")[1].envs


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('"other.toml"', "other.toml is its own base"),
        ('"round.toml"', "other.toml is its own base"),
        ('"tyni"', "Unknown suite 'tyni'. Known, closest first: tiny"),
        ('"none.toml"', "none.toml cannot be read: No such file"),
        ("3", "Expected `str | null`, got `int` - at `$.base`"),
    ],
)
def test_a_base_that_is_none_is_told(base: str, message: str, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(f"base = {base}\n[envs.bag]\nid = 'gfn/Bag-v0'\n")
    (tmp_path / "round.toml").write_text('base = "other.toml"')
    with pytest.raises(ValueError) as error:  # noqa: PT011
        suite.read(str(other))
    assert message in str(error.value)
    assert str(error.value).startswith(f"the suite {other} cannot be used: ")


def test_the_agents_of_tiny_that_need_a_potential_run_where_there_is_one() -> None:
    dags: dict[str, DAG] = {}
    for cell in suite.cells(*suite.read("tiny")):
        env, method, seed = cell.name.split("/")
        if isinstance(cell.config, Config) and method in ("fl-db+tlm", "fl-subtb+tlm", "mdb+tlm") and seed == "0":
            dag = dags.setdefault(env, make(cell.config.env, **json.loads(cell.config.env_kwargs)))
            build_trainer(cell.config, dag)
    assert len(dags) == 7


@pytest.mark.parametrize("name", suite.names())
def test_the_projects_own_suites_can_be_planned(name: str) -> None:
    own = suite.read(name)[1]
    cells = suite.cells(name, own)
    assert cells
    assert own.about
    assert own.shown
    for cell in cells:
        if isinstance(cell.kind, AgentRun):
            assert isinstance(cell.config, Config)
            # A network that a suite does not name may be slow; the settings are still those of that network.
            assert cell.config.network != "auto"


def test_cells_are_chosen_by_patterns_and_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = cells_of(tmp_path)
    given = [str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")]

    def listed(*more: str) -> list[str]:
        assert sweep.main([*given, "--list", *more]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()[:-1]]

    every = [cell.id for cell in cells]
    assert listed() == every
    assert listed("--only", "mine/bits/*", "*/tb+*") == [
        each for each in every if fnmatch.fnmatch(each, "mine/bits/*") or "/tb+" in each
    ]
    parts = [listed("--shard", f"{i}/3") for i in (1, 2, 3)]
    assert sorted(cell for part in parts for cell in part) == sorted(every)
    for more, message in (
        (["--only", "mine/bist/*"], "Unknown cell 'mine/bist/*'. Known, closest first: mine/bits/"),
        (["--shard", "0/3"], "--shard must be like 1/4"),
        (["--shard", "x"], "--shard must be like 1/4"),
        (["--env", "gfn/Bag-v0"], "--env: a suite says that itself"),
        (["--address", "auto"], "--address and --gpus-per-cell are for --engine ray"),
    ):
        assert sweep.main([*given, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_printed_command_does_its_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = cells_of(tmp_path)
    assert sweep.main([str(tmp_path / "mine.toml"), "--print", "--out", "o u t", "--only", "*/tb+*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum("/tb+" in cell.id for cell in cells) > 1
    for line in lines:
        python, script, *words = shlex.split(line)
        assert (python, script) == ("python", "agents/sweep.py")
        options = tyro.cli(sweep.Options, args=words)
        (one,) = sweep.chosen(options, sweep.plan(options))
        assert f"--only {one.id}" in line
        assert options.out == "o u t"


def test_a_suite_that_has_changed_names_the_runs_of_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for cell in cells_of(tmp_path)[:3]:
        folder = cell.folder(out)
        folder.path.mkdir(parents=True)
        folder.config.write_text(cell.config.to_json())
    given = [str(tmp_path / "mine.toml"), "--out", str(out), "--list"]
    assert sweep.main(given) == 0
    assert "3 stopped" in capsys.readouterr().out
    cells_of(tmp_path, GRID.replace("trajectories = 320", "trajectories = 480"))
    assert sweep.main(given) == 2
    told = capsys.readouterr().err
    assert "small/db+uniform/0 holds a run with trajectories 320 instead of 480" in told
    assert "(and 2 more): name another --out, or remove it." in told
    changed = cells_of(tmp_path, GRID.replace("seeds = [0, 7]", "seeds = [7]"))
    assert suite.strays(out, changed) == [f"small/{m}/0" for m in ("db+tlm", "db+uniform+replay", "db+uniform")]
