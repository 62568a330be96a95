"""The exact posterior of P_F is the P_B that makes its trajectories most likely, and it leaves no slack."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pairs import built, config
from run_files import assert_same_run
from torch import Tensor
from true_flows import SMALL, Table

import agents
from agents.backward import Backward
from agents.runs.train import main
from gfn_envs import make
from gfn_envs.dag import DAG
from gfn_envs.exact import Enumeration, enumerate_dag

POSTERIOR = "agents.references:posterior"
GRID = ["--backward", POSTERIOR, "--env-kwargs", '{"dim": 2, "side": 4}', "--batch-size", "4", "--network.width", "8"]


def _random_policy(dag: DAG) -> tuple[Enumeration, Table]:
    e = enumerate_dag(dag)
    generator = torch.Generator().manual_seed(0)
    return e, Table(e, torch.randn(e.num_states, dag.num_actions, generator=generator, dtype=torch.float64))


def _posterior(dag: DAG, policy: Callable[[Tensor], Tensor]) -> Backward:
    from agents.references import Posterior  # it registers itself, which other tests must not see

    posterior = Posterior(dag)
    posterior.watch(lambda: policy)
    return posterior


def _walks(e: Enumeration) -> list[list[int]]:
    """Return every trajectory as a list of edges, found one edge at a time."""
    leaving: dict[int, list[int]] = {}
    for edge, parent in enumerate(e.parents.tolist()):
        leaving.setdefault(parent, []).append(edge)
    done: list[list[int]] = []
    unfinished: list[tuple[int, list[int]]] = [(0, [])]
    while unfinished:
        state, walk = unfinished.pop()
        if state not in leaving:
            done.append(walk)
        unfinished += [(int(e.children[edge]), [*walk, edge]) for edge in leaving.get(state, [])]
    return done


@pytest.mark.parametrize("dag", SMALL)
def test_given_the_object_every_trajectory_is_as_likely_backwards_as_forwards(dag: str) -> None:
    e, policy = _random_policy(SMALL[dag]())
    log_pf = e.edge_log_probs(policy)
    log_pb = e.edge_log_probs(_posterior(e.dag, policy).logits, backward=True)
    ends: dict[int, list[tuple[float, float]]] = {}
    for walk in _walks(e):
        ends.setdefault(int(e.children[walk[-1]]), []).append((float(log_pf[walk].sum()), float(log_pb[walk].sum())))
    for walks in ends.values():
        forward, backward = torch.tensor(walks, dtype=torch.float64).T
        torch.testing.assert_close(backward, forward - forward.logsumexp(0), rtol=0, atol=1e-5)
        # The difference, which the balance losses see, has no variance left.
        assert float((forward - backward).max() - (forward - backward).min()) < 1e-5


@pytest.mark.parametrize("dag", ["grid", "cube", "subsets", "skips"])
def test_no_other_p_b_makes_the_trajectories_of_p_f_more_likely(dag: str) -> None:
    """The expectation of log P_B(tau) under P_F is what TLM maximises."""
    e, policy = _random_policy(SMALL[dag]())
    log_pf = e.edge_log_probs(policy)
    passing = e.state_probabilities(log_pf)[e.parents] * log_pf.exp()
    posterior = _posterior(e.dag, policy)

    def likelihood(shift: Tensor) -> float:
        def moved(states: Tensor) -> Tensor:
            return posterior.logits(states).double() + shift[e.index(states)]

        return float((passing * e.edge_log_probs(moved, backward=True)).sum())

    width = e.num_states, e.dag.num_backward_actions
    best = likelihood(torch.zeros(width))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        assert likelihood(0.1 * torch.randn(width, generator=generator, dtype=torch.float64)) < best - 1e-5


def test_log_prob_is_that_of_the_logits_and_the_network_is_not_asked() -> None:
    e, policy = _random_policy(SMALL["grid"]())
    posterior = _posterior(e.dag, policy)
    outputs = type("Outputs", (), {"states": e.states[e.children]})()
    expected = e.edge_log_probs(posterior.logits, backward=True).float()
    torch.testing.assert_close(posterior.log_prob(outputs, e.backward_actions), expected)


def test_it_follows_p_f_every_so_many_updates() -> None:
    settings = config("db", POSTERIOR, backward__every=3)
    trainer = built(settings)
    tables = []
    for _ in range(7):
        trainer.step()
        tables.append(trainer.backward.state_dict()[0]["log_pb"].clone())
    assert [torch.equal(one, two) for one, two in itertools.pairwise(tables)] == [
        True, True, False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("agent", ["tb", "db", "mdqn"])
def test_a_run_has_no_slack_and_learns(agent: str) -> None:
    settings = config(
        agent,
        POSTERIOR,
        env_kwargs='{"dim": 2, "side": 3}',
        network__width=32,
        trajectories=16 * 250,
        eval__max_exact_edges=1000,
        epsilon=0.1,
        agent__lr=1e-2,
        agent__lr_decay=0.99,
    )
    trainer = built(settings)
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    assert trainer.history[-1]["total_variation_exact"] < 0.1
    assert abs(trainer.history[-1]["slack"]) < 1e-3


@pytest.mark.parametrize("sampler", ["on-policy", "replay"])
def test_a_run_goes_on_to_the_bit_and_its_policy_is_whole(sampler: str, tmp_path: Path, no_pictures: None) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = [*GRID, "--agent", "db", "--sampler", sampler, "--backward.every", "2", "--no-progress"]
    arguments += ["--eval-every", "5"]
    assert main([*arguments, "--trajectories", "60", "--out", str(whole)]) == 0
    assert main([*arguments, "--trajectories", "40", "--out", str(parts)]) == 0
    assert main(["--resume", str(parts), "--trajectories", "60", "--no-progress"]) == 0
    assert_same_run(parts, whole)
    policy = agents.load(whole)
    objects = policy.sample(20).states
    one, many = policy.log_prob(objects, rollouts=1), policy.log_prob(objects, rollouts=20)
    torch.testing.assert_close(one, many, msg="a single backward walk tells log P exactly")


@pytest.mark.parametrize(
    ("env", "kwargs", "words"),
    [
        ("gfn/QM9-v0", '{"max_atoms": 2}', "slots are renamed"),
        ("gfn/Hypergrid-v0", '{"dim": 6, "side": 20}', "too large to enumerate"),
    ],
)
def test_where_it_cannot_be_had_it_says_so(
    env: str, kwargs: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ["--env", env, "--env-kwargs", kwargs, "--backward", POSTERIOR, "--out", str(tmp_path)]
    assert main(given) == 2
    assert words in capsys.readouterr().err


def test_underflow_gives_a_distribution_all_the_same() -> None:
    dag = make("gfn/Hypergrid-v0", dim=1, side=400)
    posterior = _posterior(dag, lambda states: torch.tensor([-9.0, 0.0]).expand(len(states), 2))
    e = enumerate_dag(dag)
    log_pb = e.edge_log_probs(posterior.logits, backward=True)
    assert bool(log_pb.isfinite().all())
