"""Kinds of runs: a folder says how it is read, and `--config` takes the settings of one from a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from finished_runs import GRID, agent, baseline, row, write_run

from agents.config import Config
from agents.runs import finished, kinds, train
from agents.runs.folder import RunFolder
from baselines import train as baselines_train
from baselines.config import BaselineConfig
from baselines.run_kind import BaselineRun


@pytest.mark.parametrize(("config", "kind"), [(agent(), kinds.AgentRun), (baseline(), BaselineRun)])
def test_a_folder_says_how_it_is_read(
    config: Config | BaselineConfig, kind: type[kinds.RunKind], tmp_path: Path
) -> None:
    run = finished.read(write_run(tmp_path / "run", config, [row(10)]))
    assert type(run.kind) is kind
    assert run.values == {**config.flat(), "metrics": []}
    shared = (run.config.env, run.config.env_kwargs, run.config.seed, run.config.eval)
    assert shared == (config.env, config.env_kwargs, config.seed, config.eval)
    with pytest.raises(ValueError, match="settings of another kind of run"):
        (BaselineConfig if kind is kinds.AgentRun else Config).from_json(config.to_json())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("antigravity:fly", "no kind of run of this project"),
        ("agents", "no kind of run of this project"),
        ("baselines.run_kind:NoSuchKind", "no kind of run of this project"),
        ("RunKind", "no kind of run of this project"),
        ("agents.runs.kinds:load_policy", "no kind of run of this project"),
        (["agents"], "does not say of which kind of run"),
        (None, "does not say of which kind of run"),
    ],
)
def test_a_folder_cannot_choose_what_is_imported(kind: object, reason: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", agent(), [row(10)])
    values = {**json.loads((path / "config.json").read_text()), "kind": kind}
    (path / "config.json").write_text(json.dumps(values))
    with pytest.raises(finished.UnusableError, match=reason):
        finished.read(path)
    assert "antigravity" not in sys.modules


def test_a_kind_is_read_back_wherever_its_package_stood(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", agent(), [row(10)])
    values = json.loads((path / "config.json").read_text())
    for written in ("AgentRun", "agents.runs.kinds:AgentRun", "gfn_agents.runs.kinds:AgentRun"):
        (path / "config.json").write_text(json.dumps({**values, "kind": written}))
        assert type(finished.read(path).kind) is kinds.AgentRun
        assert RunFolder(path, Config).read_config() == agent()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"seed": "a"}, "--seed must be of type int"),
        ({"env_kwargs": "{"}, "--env-kwargs is not JSON"),
        ({"env": "gfn/Hypergird-v0"}, "Unknown environment id"),
        ({"eval.window": 2.5}, "--eval.window must be of type int"),
        ({"seed": ...}, "it lacks seed"),
        ({"agent": ...}, "it lacks 'agent'"),
    ],
)
def test_settings_that_a_comparison_reads_are_checked(changed: dict[str, object], reason: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", agent(), [row(10)])
    values = {**json.loads((path / "config.json").read_text()), **changed}
    (path / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
    with pytest.raises(finished.UnusableError, match=reason):
        finished.read(path)


def test_a_choice_of_ones_own_is_read_back_without_its_module(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", agent(), [row(10)])
    values = {**json.loads((path / "config.json").read_text()), "agent": "no_such_module:mine", "agent.power": 2}
    (path / "config.json").write_text(json.dumps(values))
    run = finished.read(path)
    assert run.name == "mine + tlm"
    assert run.settings()["agent.power"] == 2
    with pytest.raises(ValueError, match=r"no policy\.safetensors"):
        finished.learned_distribution(run)


@pytest.mark.parametrize(
    ("method", "algo", "mode"),
    [
        ("ppo", "ppo", "reward"),
        ("ppo:soft", "ppo", "soft"),
        ("toy_algorithms:toy", "toy_algorithms:toy", "reward"),
        ("toy_algorithms:toy:reward", "toy_algorithms:toy", "reward"),
    ],
)
def test_a_sweep_names_an_algorithm_its_module_and_a_reward_mode(method: str, algo: str, mode: str) -> None:
    task = kinds.Task("gfn/Hypergrid-v0", GRID, "default", (), trajectories=100, evaluations=3, seed=5)
    config = BaselineRun().planned(method, task)
    assert (config.algo, config.reward_mode, config.seed, config.eval_every) == (algo, mode, 5, 34)
    with pytest.raises(ValueError, match="has no effect with --algo toy_algorithms:toy"):
        BaselineRun().planned("toy_algorithms:toy:soft", task)


@pytest.mark.parametrize(
    ("method", "sampler", "network", "row"),
    [
        ("tb+tlm", "on-policy", "mlp", "tb + tlm"),
        ("tb+tlm+replay", "replay", "mlp", "tb + tlm + replay"),
        ("vargrad+naive+mlp+local-search", "local-search", "mlp", "vargrad + naive + local-search"),
        ("tb+tlm+random-stop+mlp+replay", "random-stop+replay", "mlp", "tb + tlm + random-stop+replay"),
    ],
)
def test_a_sweep_names_a_sampler_and_a_network_in_any_order(method: str, sampler: str, network: str, row: str) -> None:
    task = kinds.Task("gfn/Hypergrid-v0", GRID, "default", (), trajectories=100, evaluations=3, seed=5)
    config = kinds.AgentRun().planned(method, task)
    assert (config.sampler, config.network) == (sampler, network)
    assert kinds.AgentRun().row(config.flat()) == row


def test_what_is_neither_a_sampler_nor_a_network_is_told() -> None:
    task = kinds.Task("gfn/Hypergrid-v0", GRID, "default", (), trajectories=100, evaluations=3, seed=5)
    with pytest.raises(ValueError, match="'rplay' is neither a sampler nor a network"):
        kinds.AgentRun().planned("tb+tlm+rplay", task)
    with pytest.raises(ValueError, match="--sampler replay\\+replay names replay twice"):
        kinds.AgentRun().planned("tb+tlm+replay+replay", task)
    with pytest.raises(ValueError, match="Unknown network 'mlp\\+graph'"):
        kinds.AgentRun().planned("tb+tlm+mlp+graph", task)


GIVEN = {"agent": "tb", "backward": "uniform", "agent.lr": 0.01, "env_kwargs": GRID, "trajectories": 48}


def test_settings_come_from_a_file_and_flags_change_single_ones(tmp_path: Path) -> None:
    given = [part for name, value in GIVEN.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    config = train.parse(given).config
    file = tmp_path / "settings.json"
    file.write_text(config.to_json())
    from_file = train.parse(["--config", str(file)]).config
    assert from_file == config
    changed = train.parse(["--config", str(file), "--seed", "3", "--agent.lr", "0.02", "--network", "auto"]).config
    assert changed.differences(config) == {"seed": (3, 0), "agent.lr": (0.02, 0.01)}
    assert train.main(["--config", str(file), "--out", str(tmp_path / "run"), "--no-progress"]) == 0
    assert RunFolder(tmp_path / "run", Config).read_config() == config

    ppo = baselines_train.parse(["--algo", "ppo", "--reward-mode", "soft", "--steps", "30"]).config
    file.write_text(ppo.to_json())
    assert baselines_train.parse(["--config", str(file)]).config == ppo
    changed = baselines_train.parse(["--config", str(file), "--trajectories", "5"]).config
    assert changed.differences(ppo) == {"trajectories": (5, 0)}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--config", "tb.json", "--agent", "mdqn"], "has the settings of --agent tb: leave out --agent"),
        (["--config", "tb.json", "--backward", "tlm"], "has the settings of --backward uniform"),
        (["--config", "tb.json", "--network", "transformer"], "has the settings of --network mlp"),
        (["--config", "tb.json", "--preset", "paper"], "has the settings of --preset default"),
        (["--config", "tb.json", "--agent.lr", "-1"], "--agent.lr must lie in"),
        (["--config", "ppo.json"], "another kind of run"),
        (["--config", "missing.json"], "--config missing.json cannot be read: No such file"),
        (["--config", "."], "cannot be read: Is a directory"),
        (["--config", "torn.json"], "--config torn.json cannot be used: Expecting"),
        (["--config", "old.json"], "written by gfn-envs 0.1"),
        (["--config", "tb.json", "--resume", "run"], "leave out --config"),
    ],
)
def test_a_file_of_settings_that_does_not_do_is_refused_and_nothing_is_written(
    given: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tb = train.parse(["--agent", "tb", "--backward", "uniform"]).config
    files = {"tb": tb.to_json(), "ppo": baseline().to_json(), "torn": '{"format"', "old": '{"agent": "tb"}'}
    for name, text in files.items():
        Path(f"{name}.json").write_text(text)
    write_run(Path("run"), tb, [])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train.main([*given, "--no-progress"]) == 2
    assert reason in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_algorithm_of_a_file_of_settings_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ppo.json"
    file.write_text(baseline().to_json())
    assert baselines_train.main(["--config", str(file), "--algo", "dqn"]) == 2
    assert "has the settings of --algo ppo: leave out --algo" in capsys.readouterr().err
