"""Runs that build molecules: their metrics, pictures, samples, and resuming, on every id that gives SMILES."""

import csv
import dataclasses
import functools
import json
import math
import sys
from typing import TypeVar

import pytest
import torch
from pairs import POTENTIAL, without

import gfn_envs
from agents.build import build_trainer
from agents.config import Config, usual, with_values
from agents.evaluation.correlation import CorrelationMetrics
from agents.evaluation.estimates import log_likelihood
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.metric import Metric, Objects
from agents.evaluation.molecules import MoleculeMetrics
from agents.evaluation.samples import SampleMetrics
from agents.model import make_dag
from agents.runs.train import main
from agents.sampling.rollout import rollout
from gfn_envs import DAG
from gfn_envs.abilities import CountsTrajectories
from gfn_envs.envs.molecules import chem
from gfn_envs.metrics import pearson, spearman

SMALL = {"gfn/QM9-v0": '{"max_atoms": 7}', "gfn/SEH-v0": '{"max_fragments": 3}'}
IDS = [id for id in gfn_envs.registered() if id in SMALL]


M = TypeVar("M", bound=Metric)


def settings(env: str, agent: str = "db", backward: str = "tlm") -> Config:
    changes = {
        "env_kwargs": SMALL[env],
        "trajectories": 96,
        "batch_size": 16,
        "eval_every": 2,
        "network.width": 16,
        "network.layers": 1,
        "eval.test_every": 1,
        "eval.test_objects": 6,
        "eval.test_rollouts": 2,
        "eval.samples": 20,
        "eval.elbo_samples": 4,
        "eval.slack_objects": 4,
        "eval.max_exact_edges": 0,
    }
    return with_values(usual(env, agent, backward), changes)


def flags(config: Config, *others: str) -> list[str]:
    names = "trajectories batch_size eval_every network.width network.layers"
    names += " eval.test_every eval.test_objects eval.test_rollouts eval.samples eval.elbo_samples eval.max_exact_edges"
    values = config.flat()
    given = ["--env", config.env, "--env-kwargs", config.env_kwargs, "--agent", config.agent, "--backward", "tlm"]
    for name in names.split():
        given += ["--" + name.replace("_", "-"), str(values[name])]
    return [*given, "--no-progress", *others]


def part(evaluator: Evaluator, kind: type[M], name: str) -> M:
    """Return a metric of an evaluator."""
    metric = evaluator.metrics[name]
    assert isinstance(metric, kind)
    return metric


def molecules_of(evaluator: Evaluator) -> MoleculeMetrics:
    return part(evaluator, MoleculeMetrics, "molecules")


def correlation_of(evaluator: Evaluator) -> CorrelationMetrics:
    return part(evaluator, CorrelationMetrics, "correlation")


@pytest.mark.parametrize("symmetry", ["exact", "reference"])
@pytest.mark.parametrize("env", IDS)
def test_rewards_of_metrics_are_r_whatever_is_trained_on(env, symmetry) -> None:
    dag = gfn_envs.make(env, symmetry=symmetry)
    evaluator = Evaluator(dag, settings(env).eval)
    states = dag.test_states()
    states = states[dag.log_symmetry(states).argsort(descending=True)[:40]]
    evaluator.add_objects(states, dag.log_rewards(states), torch.ones(len(states)))
    found, r = evaluator.evaluate(None), dag.rewards(states).double()
    assert float(dag.log_symmetry(states).max()) > 0
    assert found["mean_reward"] == pytest.approx(float(r.mean()), rel=1e-5)
    assert found["mean_log_reward"] == pytest.approx(float(r.log().mean()), rel=1e-5)
    assert found["best_reward"] == pytest.approx(float(r.max()), rel=1e-5)
    assert found["top_reward"] == pytest.approx(float(r.mean()), rel=1e-5)
    assert found["top_log_reward"] == pytest.approx(float(r.log().mean()), rel=1e-5)


def test_every_id_that_gives_smiles_is_tested_here() -> None:
    assert list(SMALL) == IDS


@pytest.mark.parametrize("env", ["gfn/QM9-v0", pytest.param("gfn/SEH-v0", marks=pytest.mark.slow)])
def test_a_run_leaves_molecules_metrics_and_pictures_and_can_be_resumed(env, tmp_path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(flags(settings(env), "--out", str(whole))) == 0
    half = with_values(settings(env), {"trajectories": 64})
    assert main(flags(half, "--out", str(cut))) == 0
    assert main(["--resume", str(cut), "--trajectories", "96", "--no-progress"]) == 0
    rows = [[json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (whole, cut)]
    for one, other in zip(*(part[-1:] for part in rows), strict=True):
        timed = {key for key in one if "second" in key}
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    dag = make_dag(settings(env))
    thresholds = dag.mode_thresholds  # type: ignore[attr-defined]
    last = rows[0][-1]
    assert last["valid_share"] == 1
    assert 0 < last["top_diversity"] <= 1
    counts = [last[f"modes_from_{threshold:g}"] for threshold in thresholds]
    assert counts == sorted(counts, reverse=True)
    with (whole / "samples.csv").open() as file:
        samples = list(csv.DictReader(file))
    assert list(samples[0]) == ["smiles", "r", "log_p"]
    assert len(samples) == 20
    assert all(chem.valid([row["smiles"] for row in samples]))
    rewards = [float(row["r"]) for row in samples]
    assert rewards == sorted(rewards, reverse=True)
    assert all(math.isfinite(float(row["log_p"])) for row in samples)
    for name in ("top_molecules.png", "correlation.png", "learning_curve.png", "trajectories.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")
    with (whole / "top_molecules.csv").open() as file:
        best = [(row["smiles"], float(row["r"])) for row in csv.DictReader(file)]
    assert best == sorted(best, key=lambda pair: -pair[1])
    assert len({smiles for smiles, _ in best}) == len(best) <= 100
    assert best[0][1] == pytest.approx(last["best_reward"], rel=1e-5)
    assert main(flags(settings(env), "--out", str(whole), "--overwrite", "--eval.samples", "0")) == 0
    assert not (whole / "samples.csv").exists()


def sampled(env: str) -> tuple[Evaluator, list]:
    """Return an evaluator after some batches, and these batches."""
    trainer = build_trainer(settings(env), make_dag(settings(env)))
    batches = [trainer.collect().all for _ in range(5)]
    evaluator = Evaluator(trainer.dag, settings(env).eval)
    for batch in batches:
        evaluator.add(batch)
        evaluator.flush()
    return evaluator, batches


@pytest.mark.parametrize("env", IDS)
def test_each_molecule_counts_once_and_with_its_own_reward(env: str) -> None:
    evaluator, batches = sampled(env)
    dag, samples, molecules = evaluator.dag, part(evaluator, SampleMetrics, "samples"), molecules_of(evaluator)
    states = torch.cat([batch.terminal_states for batch in batches])
    keys = [tuple(row) for row in dag.canonical(states).tolist()]
    assert samples.unique == len(set(keys))
    rewards = dag.rewards(states).tolist()  # type: ignore[attr-defined]
    best = sorted(dict(zip(keys, rewards, strict=True)).values(), reverse=True)[:100]
    assert samples.best.log_reward.exp().tolist() == pytest.approx(best, rel=1e-4)
    assert list(molecules.top().values()) == pytest.approx(best, rel=1e-4)
    assert samples.sums["reward"] == pytest.approx(sum(rewards), rel=1e-4)
    fresh = Evaluator(dag, evaluator.settings)
    expected, seen = chem.SeparatedModes([0.2]), set()
    molecules = molecules_of(fresh)
    molecules.modes = chem.SeparatedModes([0.2])
    for batch in batches:
        fresh.add(batch)
        fresh.flush()
        smiles, values = [], []
        for state in dag.canonical(batch.terminal_states):
            if tuple(state.tolist()) not in seen:
                seen.add(tuple(state.tolist()))
                smiles += dag.to_smiles(state[None])  # type: ignore[attr-defined]
                values += dag.rewards(state[None]).tolist()  # type: ignore[attr-defined]
        expected.add(smiles, values)
    assert molecules.modes.counts() == expected.counts()
    assert expected.counts()[0] > 0


def test_molecules_go_on_after_loading_as_if_never_saved() -> None:
    config = with_values(settings("gfn/QM9-v0"), {"env_kwargs": '{"max_atoms": 7, "mode_thresholds": [0.2, 0.9]}'})
    trainer = build_trainer(config, make_dag(config))
    one, two = (Evaluator(trainer.dag, config.eval) for _ in range(2))
    batches = [trainer.collect().all for _ in range(4)]
    for batch in batches[:2]:
        one.add(batch)
    one.evaluate(trainer.agent)
    two.load_state_dict(one.state_dict())
    for evaluator in (one, two):
        for batch in batches[2:]:
            evaluator.add(batch)
    rows = [evaluator.evaluate(trainer.agent, last=True) for evaluator in (one, two)]
    timed = {"test_seconds"}
    assert {k: v for k, v in rows[0].items() if k not in timed} == {k: v for k, v in rows[1].items() if k not in timed}
    assert rows[0]["modes_from_0.2"] > 0
    assert molecules_of(one).top() == molecules_of(two).top()


def _old_ones_too(metric: MoleculeMetrics, objects: Objects) -> None:
    MoleculeMetrics_add(metric, dataclasses.replace(objects, new=torch.arange(len(objects.states))))


def _by_log_r(metric: MoleculeMetrics, objects: Objects) -> None:
    MoleculeMetrics_add(metric, dataclasses.replace(objects, log_raw_reward=objects.log_reward))


MoleculeMetrics_add = MoleculeMetrics.add


@pytest.mark.parametrize("mutant", [_old_ones_too, _by_log_r])
def test_a_wrong_count_of_molecules_is_noticed(mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MoleculeMetrics, "add", mutant)
    evaluator, batches = sampled("gfn/QM9-v0")
    latest = molecules_of(evaluator).latest
    best = molecules_of(evaluator).best.log_reward
    r = torch.cat([batch.log_raw_reward for batch in batches])
    assert len(latest.unique(dim=0)) < len(latest) or not torch.isclose(best[0], r.max())


@functools.cache
def made(env: str, device: str) -> DAG:
    return gfn_envs.make(env, device=device, **json.loads(SMALL[env]))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("env", IDS)
@pytest.mark.parametrize(("agent", "backward"), without(*POTENTIAL))
def test_every_pair_takes_steps_and_never_waits_for_the_host(agent, backward, env, device) -> None:
    dag = made(env, device)
    # Tensors on `meta` have no values: reading one, and mixing in a CPU tensor, raises.
    trainer = build_trainer(with_values(settings(env, agent, backward), {"batch_size": 4}), dag)
    before = [p.clone() for p in trainer.network.parameters()]
    for _ in range(2):
        trainer.step()
    assert trainer.agent.log_z().device.type == device
    if device == "cpu":
        assert all(bool(p.isfinite().all()) for p in trainer.network.parameters())
        assert any(not torch.equal(p, old) for p, old in zip(trainer.network.parameters(), before, strict=True))


def test_the_learned_maxent_policy_of_molecules_has_a_head_of_its_own() -> None:
    # No closed form of n(s) for atom graphs; for fragment trees there is one.
    assert not isinstance(made("gfn/QM9-v0", "cpu"), CountsTrajectories)
    assert issubclass(gfn_envs.SEH, CountsTrajectories)
    trainer = build_trainer(settings("gfn/QM9-v0", "db", "maxent"), made("gfn/QM9-v0", "cpu"))
    count = [p.clone() for p in trainer.network.head("count").parameters()]
    trainer.step()
    after = list(trainer.network.head("count").parameters())
    assert any(not torch.equal(p, old) for p, old in zip(after, count, strict=True))


@pytest.mark.parametrize("symmetry", ["exact", "reference"])
def test_the_correlation_is_with_the_law_that_is_sampled(symmetry: str) -> None:
    kwargs = {"max_atoms": 7, "symmetry": symmetry}
    given = {"env_kwargs": json.dumps(kwargs), "eval.test_objects": 60, "eval.test_rollouts": 2}
    config = with_values(settings("gfn/QM9-v0"), given)
    trainer = build_trainer(config, make_dag(config))
    dag, correlation = trainer.dag, correlation_of(trainer.evaluator)
    trainer.evaluator.add(rollout(dag, trainer.agent.policy(), dag.reset(64), torch.Generator().manual_seed(0)))
    result = trainer.evaluator.evaluate(trainer.agent)
    test_set = correlation.test_set
    states = test_set["states"]
    law = 10 * dag.rewards(states).log()  # type: ignore[attr-defined]
    if symmetry == "reference":
        law = law - dag.log_symmetry(states)
    torch.testing.assert_close(test_set["log_reward"], law, rtol=1e-4, atol=1e-4)
    assert result["pearson"] == pytest.approx(pearson(test_set["log_p"], law), abs=1e-4)
    atoms = (states[:, :7] > 0).sum(1)
    own = atoms == 7  # nearly all random molecules have as many atoms as there may be
    assert 10 <= int(own.sum()) < len(states)
    assert result["spearman_own_size"] == pytest.approx(spearman(test_set["log_p"][own], law[own]), abs=1e-4)
    assert result["pearson_own_size"] == pytest.approx(pearson(test_set["log_p"][own], law[own]), abs=1e-4)
    assert 0 < result["log_p_error"] < math.inf
    boxes = correlation.pictures(None)["offsets"]().axes[0]
    assert [label.get_text() for label in boxes.get_xticklabels()] == [str(size) for size in atoms.unique().tolist()]


def test_estimated_likelihoods_are_those_of_the_enumeration() -> None:
    config = with_values(settings("gfn/QM9-v0"), {"env_kwargs": '{"max_atoms": 3}', "eval.max_exact_edges": 10**5})
    trainer = build_trainer(config, make_dag(config))
    e = trainer.evaluator.enumeration
    assert e is not None
    exact = e.terminal_distribution(trainer.agent.policy())
    found = log_likelihood(trainer.agent, e.states[e.terminal], 100, torch.Generator().manual_seed(0)).exp()
    assert float((found - exact).abs().sum()) < 0.06  # counted by slot it would be far more
    assert float(exact.sum()) == pytest.approx(1)


def test_without_rdkit_a_run_trains_and_says_what_is_missing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    assert main(flags(settings("gfn/QM9-v0"), "--out", str(tmp_path))) == 0
    said = capsys.readouterr().err
    assert "metric molecules is left out: " in said
    assert "pip install 'gfn-envs[molecules]'" in said
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert "mean_reward" in last
    assert not any(key.startswith("modes_from_") for key in last)
    assert not (tmp_path / "samples.csv").exists()
    assert (tmp_path / "learning_curve.png").exists()
    assert not (tmp_path / "trajectories.png").exists()  # of molecules


def test_a_small_instance_that_no_test_object_fits_has_no_correlation() -> None:
    config = with_values(settings("gfn/QM9-v0"), {"env_kwargs": '{"max_atoms": 2}'})
    trainer = build_trainer(config, make_dag(config))
    assert len(trainer.dag.test_states()) == 0  # type: ignore[attr-defined]
    assert "pearson" not in trainer.evaluator.evaluate(trainer.agent)
