"""The baselines' command line: files, metrics, what it counts, what it refuses, and going on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import gfn_envs
from agents.model import make_dag
from agents.runs import report
from agents.runs.folder import RunFolder
from baselines.algorithms import SB3Algorithm
from baselines.build import build_trainer
from baselines.config import BaselineConfig, usual
from baselines.registry import ALGORITHMS
from baselines.train import main, parse
from baselines.trainer import Trainer

GRID = ["--env-kwargs", '{"dim": 2, "side": 4}']
SMALL = {
    "maskable_ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 1},
    "ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 1},
    "a2c": {"n_steps": 8},
    "trpo": {"n_steps": 16, "batch_size": 32},
    "recurrent_ppo": {"n_steps": 8, "batch_size": 32, "n_epochs": 1,
                      "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}},
    "dqn": {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "target_update_interval": 50},
    "qrdqn": {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "target_update_interval": 50},
}  # fmt: skip
SHARED = {"trajectories", "reward_calls", "seconds", "mean_reward", "modes_found", "unique_states", "top_log_reward",
          "l1_empirical"}  # fmt: skip
OF_SB3 = [name for name in ALGORITHMS.names() if isinstance(ALGORITHMS.find(name), SB3Algorithm)]
TIMES = {"seconds", "steps_per_second", "test_seconds"}


def arguments(algo: str, folder: Path, *more: str) -> list[str]:
    net = {"policy_kwargs": {"net_arch": [8]}} if algo in OF_SB3 else {}
    kwargs = json.dumps({**net, **SMALL.get(algo, {})})
    given = ["--algo", algo, "--algo-kwargs", kwargs, "--num-envs", "4", "--trajectories", "90", "--eval-every", "40"]
    return [*given, "--out", str(folder), "--no-progress", *more]


def trainer_of(config: BaselineConfig) -> Trainer:
    return build_trainer(config, make_dag(config))


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "draw", lambda folder, run: [])


@pytest.mark.parametrize("algo", ALGORITHMS.names())
def test_every_algorithm_leaves_the_files_and_metrics_of_a_run(algo: str, tmp_path: Path) -> None:
    assert main([*arguments(algo, tmp_path), *GRID]) == 0
    rows = metrics_of(tmp_path)
    assert [row["trajectories"] // 40 for row in rows] == [1, 2, 2]
    assert rows[-1]["trajectories"] >= 90
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) >= SHARED
    assert (summary["algo"], summary["reward_calls"]) == (algo, summary["trajectories"])
    assert ("total_variation_exact" in summary) == (algo not in ("mcmc", "recurrent_ppo"))
    assert ("elbo" in summary) == (algo not in ("mcmc", "recurrent_ppo", "dqn", "qrdqn"))
    assert ("invalid_share" in summary) == (algo in OF_SB3)
    assert (tmp_path / "model.zip").exists() == (algo in OF_SB3)
    assert {"config.json", "checkpoint.pt", "learning_curve.png", "distribution.png"} <= {
        file.name for file in tmp_path.iterdir()
    }
    if algo == "maskable_ppo":
        assert summary["invalid_share"] == 0
    elif algo in OF_SB3:
        assert 0 < max(row["invalid_share"] for row in rows) < 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["log_reward", "reward", "soft"])
@pytest.mark.parametrize("algo", ["maskable_ppo", "dqn", "random", "mcmc"])
@pytest.mark.parametrize("env", gfn_envs.registered())
def test_every_environment_and_reward_mode_runs(
    env: str, algo: str, mode: str, tmp_path: Path, no_pictures: None
) -> None:
    if algo in ("random", "mcmc") and mode != usual(env, algo).reward_mode:
        pytest.skip("is paid nothing")
    # An algorithm without masks may come to prefer to stay where it is: steps end the run, too.
    few = [
        "--trajectories",
        "12",
        "--steps",
        "1000",
        "--eval.max-exact-edges",
        "0",
        "--eval.elbo-samples",
        "4",
        "--eval.test-every",
        "0",
    ]
    assert main([*arguments(algo, tmp_path, *few), "--env", env, "--reward-mode", mode]) == 0
    assert math.isfinite(metrics_of(tmp_path)[-1]["mean_log_reward"])


class Counter(BaseCallback):
    """Counts objects, their reward and steps as SB3 itself sees them."""

    def __init__(self, report: Callable[[], bool]) -> None:
        super().__init__()
        self.report, self.rewards, self.steps, self.invalid = report, list[float](), 0, 0

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            self.steps += 1
            self.invalid += bool(info["invalid_action"])
            if done and not info["TimeLimit.truncated"]:
                self.rewards.append(math.exp(info["log_reward"]))
        return self.report()


def test_what_is_counted_is_what_sb3_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = []
    monkeypatch.setattr("baselines.sb3._Callback", lambda report: counters.append(Counter(report)) or counters[-1])
    kwargs = {"algo": "ppo", "env_kwargs": '{"dim": 2, "side": 3}', "trajectories": 200, "num_envs": 5}
    trainer = trainer_of(BaselineConfig(**kwargs, algo_kwargs=json.dumps(SMALL["ppo"])))
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    (counter,), (metrics,) = counters, trainer.history
    assert metrics["trajectories"] == metrics["reward_calls"] == len(counter.rewards)
    assert metrics["mean_reward"] == pytest.approx(np.mean(counter.rewards))
    assert metrics["steps"] == counter.steps
    assert metrics["invalid_share"] == pytest.approx(counter.invalid / counter.steps)
    # Each finished object took its legal steps; those of the five under way are not in the mean.
    legal = counter.steps - counter.invalid
    assert legal - 5 * trainer.dag.max_steps <= metrics["mean_length"] * metrics["trajectories"] <= legal


def test_the_exact_distribution_is_where_the_policy_ends_when_its_actions_are_legal() -> None:
    config = BaselineConfig(algo="ppo", env_kwargs='{"dim": 2, "side": 3}', num_envs=4)
    trainer = trainer_of(config)
    model, dag, exact = trainer.baseline.model, trainer.dag, trainer.evaluator.enumeration
    p = exact.terminal_distribution(trainer.baseline.policy())
    torch.manual_seed(0)
    states = dag.reset(20_000)
    while not (done := dag.is_terminal(states)).all():
        actions = torch.from_numpy(model.predict(states.numpy())[0])  # SB3's own sampling
        legal = dag.action_mask(states).gather(1, actions[:, None])[:, 0]  # the others are no-ops
        states = torch.where((legal & ~done)[:, None], dag.step(states, actions)[0], states)
    counts = torch.bincount(exact.terminal_rank[exact.index(states)], minlength=len(p)) / 20_000
    assert float((counts - p).abs().sum()) < 0.04


@pytest.mark.parametrize("algo", ["dqn", "qrdqn"])
def test_the_exact_distribution_of_a_q_learner_is_its_greedy_object(algo: str) -> None:
    trainer = trainer_of(BaselineConfig(algo=algo, env_kwargs='{"dim": 2, "side": 3}', num_envs=2))
    model, dag, exact = trainer.baseline.model, trainer.dag, trainer.evaluator.enumeration
    p = exact.terminal_distribution(trainer.baseline.policy())
    assert float(p.max()) == pytest.approx(1)
    best = exact.states[exact.terminal[p.argmax()]]
    state = dag.reset(1)
    while not dag.is_terminal(state).all():
        action = int(model.predict(state.numpy(), deterministic=True)[0][0])
        if not dag.action_mask(state)[0, action]:
            break  # SB3's own greedy policy stays here forever
        state = dag.step(state, torch.tensor([action]))[0]
        # The greedy legal policy agrees with it wherever it moves.
        assert (state[0, :2] <= best[:2]).all()


def test_networks_on_renamed_slots_have_no_exact_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_dags import Bag

    gfn_envs.register("my/Bag-v0", "toy_dags:Bag")
    for algo, exact in (("ppo", False), ("random", True)):
        trainer = trainer_of(BaselineConfig(algo=algo, env="my/Bag-v0", num_envs=2, trajectories=40))
        trainer.train(lambda metrics: None, lambda: False, progress=False)
        assert isinstance(trainer.dag, Bag)
        assert ("total_variation_exact" in trainer.history[-1]) == exact


@pytest.mark.parametrize("algo", ["random", "mcmc"])
def test_samplers_go_on_to_the_same_bits(algo: str, tmp_path: Path, no_pictures: None) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*arguments(algo, whole), *GRID, "--trajectories", "160"]) == 0
    assert main([*arguments(algo, parts), *GRID, "--trajectories", "80"]) == 0
    assert main(["--resume", str(parts), "--trajectories", "160", "--no-progress"]) == 0
    rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in metrics_of(at)] for at in (whole, parts)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("algo", ["maskable_ppo", "dqn"])
def test_sb3_goes_on_with_weights_optimizer_and_replay(algo: str, tmp_path: Path, no_pictures: None) -> None:
    assert main([*arguments(algo, tmp_path), *GRID]) == 0
    config = RunFolder(tmp_path, BaselineConfig).read_config()
    loaded = trainer_of(config)
    assert RunFolder(tmp_path, BaselineConfig).load(loaded)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["baseline"]
    again = loaded.baseline.state_dict()
    assert again["counters"] == saved["counters"]
    assert again["counters"]["num_timesteps"] > 0
    assert str(again["parameters"]) == str(saved["parameters"])
    for name, value in saved["replay"].items():
        assert np.array_equal(again["replay"][name], value)
    assert main(["--resume", str(tmp_path), "--trajectories", "140", "--no-progress"]) == 0
    rows = metrics_of(tmp_path)
    assert [row["trajectories"] >= at for row, at in zip(rows, (40, 80, 90, 120, 140), strict=True)] == [True] * 5
    assert rows[-1]["steps"] > rows[-3]["steps"]


def test_the_model_loads_with_sb3_alone(tmp_path: Path, no_pictures: None) -> None:
    assert main([*arguments("ppo", tmp_path), *GRID]) == 0
    model = PPO.load(tmp_path / "model.zip")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["baseline"]["parameters"]["policy"]
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, saved[name])


def test_schedules_follow_the_objects_done() -> None:
    config = BaselineConfig(
        algo="dqn", env_kwargs='{"dim": 2, "side": 4}', trajectories=200, eval_every=50, num_envs=2,
        algo_kwargs=json.dumps({**SMALL["dqn"], "exploration_fraction": 0.5, "exploration_final_eps": 0.1}),
    )  # fmt: skip
    trainer = trainer_of(config)
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    rates = [row["exploration_rate"] for row in trainer.history]
    assert rates == pytest.approx([0.55, 0.1, 0.1, 0.1], abs=0.03)


def test_steps_alone_end_a_run_where_they_are_given_alone(tmp_path: Path, no_pictures: None) -> None:
    assert (
        main(["--algo", "ppo", "--steps", "300", "--num-envs", "4", *GRID, "--out", str(tmp_path), "--no-progress"])
        == 0
    )
    assert metrics_of(tmp_path)[-1]["steps"] == 300
    assert parse(["--steps", "300"]).config.trajectories == 0
    assert parse(["--steps", "300", "--trajectories", "7"]).config.trajectories == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--algo", "pp0"], "Unknown algorithm 'pp0'. Known, closest first: ppo"),
        (["--algo", "sac"], "Unknown algorithm 'sac'"),
        (["--algo", "no_such_module:mine"], "cannot import 'no_such_module'"),
        (["--metrics", "mods"], "Unknown metric 'mods'. Known, closest first: modes"),
        (["--env", "gfn/Hypergird-v0"], "Unknown environment id"),
        (["--env-kwargs", '{"sides": 4}'], "Hypergrid got an unexpected keyword argument 'sides'"),
        (["--env-kwargs", "{"], "--env-kwargs is not JSON"),
        (["--algo-kwargs", '{"n_stepz": 4}'], "Unknown keyword argument of MaskablePPO in --algo-kwargs 'n_stepz'"),
        (["--algo-kwargs", '{"n_steps": "four"}'], "--algo maskable_ppo does not take"),
        (["--algo", "mcmc", "--algo-kwargs", '{"mean_back": 0}'], "mean_back, steps, must be a number of at least 1"),
        (["--algo", "random", "--reward-mode", "soft"], "has no effect with --algo random"),
        (["--reward-mode", "logreward"], "Unknown reward mode 'logreward'. Known, closest first: log_reward"),
        (["--trajectories", "0"], "would never end"),
        (["--num-envs", "0"], "--num-envs must lie in 1"),
        (["--resume", "no/such"], "holds no run"),
    ],
)
def test_wrong_input_is_refused_with_code_2_and_nothing_is_written(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*given, "--no-progress"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"n_steps": 16, "batch_size": -3}])
def test_arguments_that_fail_inside_the_library_are_named(
    wrong: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments("maskable_ppo", tmp_path), "--algo-kwargs", json.dumps(wrong), *GRID]
    assert main(given) in (1, 2)
    error = capsys.readouterr().err
    assert "--algo-kwargs" in error
    assert "Traceback" not in error


def test_random_molecules_are_written_with_their_likelihood(tmp_path: Path, no_pictures: None) -> None:
    given = [*arguments("random", tmp_path), "--env", "gfn/QM9-v0", "--eval.samples", "30", "--eval.test-every", "0"]
    assert main(given) == 0
    lines = (tmp_path / "samples.csv").read_text().splitlines()
    assert lines[0] == "smiles,r,log_p"
    assert len(lines) == 31


def test_a_run_is_not_overwritten_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    run = [*arguments("random", tmp_path), *GRID]
    assert main(run) == 0
    assert main(run) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*run, "--overwrite"]) == 0
    assert main(["--resume", str(tmp_path), "--seed", "3"]) == 2
    assert "leave out --seed" in capsys.readouterr().err
    assert main(["--resume", str(tmp_path), "--trajectories", "5"]) == 2
    assert "behind it" in capsys.readouterr().err
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0  # nothing left to do


def test_tensorboard_gets_every_evaluation(tmp_path: Path, no_pictures: None) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*arguments("maskable_ppo", tmp_path), *GRID, "--tensorboard"]) == 0
    events = EventAccumulator(str(tmp_path)).Reload()
    assert len(events.Scalars("total_variation_exact")) == len(metrics_of(tmp_path))


@pytest.mark.parametrize("given", [[], ["--algo", "pp0"], ["--resume", "no/such"]])
def test_help_lists_what_there_is_also_with_a_mistake(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*given, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in (*ALGORITHMS.names(), *gfn_envs.registered(), "ent_coef", "mean_back"):
        assert name in text


def test_every_setting_is_used_by_some_run() -> None:
    base = {"env_kwargs": '{"dim": 2, "side": 4}', "trajectories": 60, "eval_every": 30, "num_envs": 4}
    base |= {"reward_mode": "reward"}

    def outcome(**changed: Any) -> list[dict[str, float]]:
        algo_kwargs = json.dumps({**SMALL["maskable_ppo"], "policy_kwargs": {"net_arch": [8]}})
        trainer = trainer_of(BaselineConfig(**{"algo_kwargs": algo_kwargs, **base, **changed}))
        trainer.train(lambda metrics: None, lambda: False, progress=False)
        return [{k: v for k, v in row.items() if k not in TIMES} for row in trainer.history]

    changes = {
        "algo": "random", "env": "gfn/HypergridHard-v0", "env_kwargs": '{"dim": 2, "side": 5}', "reward_mode": "soft",
        "trajectories": 90, "steps": 40, "seed": 1, "num_envs": 3, "eval_every": 20,
        "algo_kwargs": '{"n_steps": 8, "batch_size": 16}', "metrics": ("toy_metrics:longest",),
    }  # fmt: skip
    plain = outcome()
    assert plain == outcome()
    for name, value in changes.items():
        extra = {"algo_kwargs": "{}"} if name == "algo" else {}
        assert outcome(**{name: value, **extra}) != plain, name
    rest = {name for name in BaselineConfig().flat() if not name.startswith("eval.")} - set(changes)
    assert rest == {"device", "threads"}
