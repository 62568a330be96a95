"""Samplers keep the best, replay by P_B, leave R/Z alone where they say so, ask for rewards as often as they tell, and
resume."""

import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_dags import Bag, Subsets
from true_flows import SMALL, sample, uniform_policy
from wanderers import NO_NETWORK, Wanderer, built, chi_square, generator, parts_of, small

from agents.build import build_trainer
from agents.config import Config, with_values
from agents.policy import load, to_bytes
from agents.registry import SAMPLERS
from agents.sampling import local_search
from agents.sampling.buffer import Batch, Keeps, RolloutBuffer
from agents.sampling.categorical import log_prob
from agents.sampling.local_search import LocalSearch, back_and_forth
from agents.sampling.mcmc import MCMC
from agents.sampling.paths import log_probs
from agents.sampling.random_state import make_generator
from agents.sampling.replay import ObjectStore, Replay
from agents.sampling.rollout import Trajectories, rollout
from agents.sampling.samplers import Collected
from gfn_envs import DAG, Enumeration, Hypergrid, enumerate_dag, make
from gfn_envs.dag import LogRewards

RENAMING = {"bag": lambda: Bag(n=3, k=3)}
"""A DAG that renames its slots."""


def replay(dag: DAG, batch: int = 16, share: float = 0.5, capacity: int = 100, top: float = 0.1) -> Replay:
    return Replay(parts_of(dag), batch, NO_NETWORK, share, ObjectStore(dag, capacity), top)


def search(
    who: Wanderer, states: Tensor, rewards: LogRewards, metropolis: bool, depth: int = 2, seed: int = 0
) -> tuple[Tensor, LogRewards]:
    return back_and_forth(who.dag, who, who.policy(), states, rewards, depth, metropolis, generator(seed))


def chains(dag: DAG, number: int, batch: int = 16, share: float = 0.5, rounds: int = 3, depth: int = 2) -> MCMC:
    return MCMC(parts_of(dag), batch, NO_NETWORK, share, number, rounds, depth)


# --- Parts of trajectories --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [False, True])
def test_a_walk_of_a_few_steps_stops_where_it_is(backward: bool) -> None:
    who = Wanderer(SMALL["skips"](), sharp=1e6)
    dag, e = who.dag, who.enumeration
    # Every state starts a walk, those that are complete already among them; a sharp policy does not hear the noise.
    policy, start = (who.backward_policy(), e.states[e.terminal]) if backward else (who.policy(), e.states)
    start = start.repeat(9, 1)
    whole = rollout(dag, policy, start, generator(), backward=backward)
    for steps in (0, 1, 2, 4, 100):
        part = rollout(dag, policy, start, generator(), backward=backward, max_steps=steps)
        assert torch.equal(part.lengths, whole.lengths.clamp(max=steps))
        at = whole.lengths - part.lengths if backward else part.lengths
        far = whole.states.gather(1, at.view(-1, 1, 1).expand(-1, 1, 2))[:, 0]
        assert torch.equal(part.states[:, 0], far if backward else start)
        assert torch.equal(part.terminal_states, start if backward else far)
        assert torch.equal(part.log_reward, dag.log_reward(part.terminal_states))


def test_rewards_that_are_known_are_handed_on_and_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    dag = SMALL["grid"]()
    monkeypatch.setattr(dag, "log_rewards", None)
    known = LogRewards(torch.arange(3.0), torch.arange(3.0, 6.0))
    start = torch.tensor([[1, 2, 1], [0, 0, 1], [4, 4, 1]])
    walks = rollout(dag, lambda s: torch.zeros(len(s), 3), start, generator(), backward=True, rewards=known)
    assert torch.equal(walks.log_reward, known.log_reward)
    assert torch.equal(walks.log_raw_reward, known.log_raw_reward)


def test_batches_join_and_part_without_a_change_to_their_trajectories() -> None:
    dag = SMALL["skips"]()
    long, short = sample(dag, 7), rollout(dag, uniform_policy(dag), dag.reset(5), generator(3), max_steps=2)
    assert long.mask.shape[1] > short.mask.shape[1]
    for batches in ((long, short), (short, long), (short,)):
        joined = Trajectories.cat(*batches)
        singles = [batch.every(len(batch.mask), i) for batch in batches for i in range(len(batch.mask))]
        for i, one in enumerate(singles):
            n = int(one.lengths)
            assert int(joined.lengths[i]) == n
            assert torch.equal(joined.states[i, : n + 1], one.states[0, : n + 1])
            for name in ("actions", "backward_actions"):
                assert torch.equal(getattr(joined, name)[i, :n], getattr(one, name)[0, :n])
            assert joined.log_reward[i] == one.log_reward[0]
            assert joined.log_raw_reward[i] == one.log_raw_reward[0]
        assert torch.equal(joined.terminal_states, torch.cat([batch.terminal_states for batch in batches]))
        # The padding of states is a state of the DAG.
        enumerate_dag(dag).index(joined.states.flatten(0, 1))
    assert torch.equal(long.every(3, 1).actions, long.actions[[1, 4]])


@pytest.mark.parametrize("dag", [*SMALL, *RENAMING])
def test_log_probabilities_of_paths_and_of_their_stretches_equal_the_loop(dag: str) -> None:
    who = Wanderer((SMALL | RENAMING)[dag]())
    ends = sample(who.dag, 20).terminal_states
    for steps in (1, 2, 100):
        walks = rollout(who.dag, who.backward_policy(), ends, generator(), backward=True, max_steps=steps)
        forward, backward = log_probs(who.dag, who.policy(), who.log_pb, walks)
        for i in range(len(ends)):
            pf = pb = 0.0
            for t in range(int(walks.lengths[i])):
                here, there = walks.states[i, t][None], walks.states[i, t + 1][None]
                pf += float(log_prob(who.policy()(here), who.dag.action_mask(here), walks.actions[i, t][None]))
                pb += float(who.log_pb(there, walks.backward_actions[i, t][None]))
            assert float(forward[i]) == pytest.approx(pf, abs=1e-5)
            assert float(backward[i]) == pytest.approx(pb, abs=1e-5)


def test_a_batch_keeps_what_is_fresh_when_it_is_saved() -> None:
    dag = SMALL["grid"]()
    fresh, old = sample(dag, 4), sample(dag, 3, seed=1)
    for batch in (Batch(fresh, fresh), Batch(Trajectories.cat(fresh, old), fresh)):
        buffer, copy = (RolloutBuffer(dag, Keeps()) for _ in range(2))
        buffer.add(batch)
        copy.load_state_dict(buffer.state_dict())
        for one, two in ((buffer.newest, copy.newest), (buffer.newest_fresh, copy.newest_fresh)):
            assert all(torch.equal(field, two.tensors()[name]) for name, field in one.tensors().items())
        assert (copy.newest is copy.newest_fresh) is (batch.all is batch.fresh)
        assert len(copy.newest_fresh.mask) == 4


# --- The store of objects ---------------------------------------------------------------------------------------------


def _batches(dag: DAG, seed: int) -> Iterator[tuple[Tensor, LogRewards]]:
    """Yield batches of objects; an object's rewards are random numbers of its own."""
    of_object: dict[tuple[int, ...], float] = {}
    draw = generator(seed)
    for i in range(12):
        states = sample(dag, int(torch.randint(1, 12, (), generator=draw)), seed=100 * seed + i).terminal_states
        names = [tuple(row) for row in dag.canonical(states).tolist()]
        for name in names:
            of_object.setdefault(name, float(torch.randn((), generator=draw)))
        log_reward = torch.tensor([of_object[name] for name in names])
        yield states, LogRewards(log_reward, log_reward * 2 + 1)


STORED = {
    "grid": lambda: Hypergrid(dim=2, side=5),
    "subsets": lambda: Subsets(n=6, k=3),
    "bag": lambda: Bag(n=3, k=4),
    "qm9": lambda: make("gfn/QM9-v0", max_atoms=3),
}


@pytest.mark.parametrize("capacity", [1, 4, 7, 1000])
@pytest.mark.parametrize("dag", STORED)
def test_the_store_keeps_the_best_distinct_objects_best_first(dag: str, capacity: int) -> None:
    graph = STORED[dag]()
    for seed in range(3):
        store, best = ObjectStore(graph, capacity), {}
        for states, rewards in _batches(graph, seed):
            store.add(states, rewards)
            for row, reward in zip(graph.canonical(states).tolist(), rewards.log_reward.tolist(), strict=True):
                best[tuple(row)] = reward
            best = dict(sorted(best.items(), key=lambda item: -item[1])[:capacity])
            kept = store.state_dict()
            assert [tuple(row) for row in kept["states"].tolist()] == list(best)
            assert kept["log_reward"].tolist() == list(best.values())
            assert torch.equal(kept["log_raw_reward"], kept["log_reward"] * 2 + 1)


def test_renamed_slots_are_one_object() -> None:
    dag = STORED["bag"]()
    states = torch.tensor([[1, 2, 2, 3], [3, 2, 1, 2], [2, 1, 3, 2], [1, 1, 1, 1]])
    store = ObjectStore(dag, 9)
    store.add(states, dag.log_rewards(states))
    assert sorted(store.state_dict()["states"].tolist()) == sorted([[3, 2, 2, 1], [1, 1, 1, 1]])


def test_objects_of_equal_reward_are_all_kept_and_the_first_object_may_be_all_zeros() -> None:
    dag = Subsets(n=6, k=3)
    states = torch.cat([torch.zeros(1, 6, dtype=torch.int64), torch.eye(6, dtype=torch.int64)])
    store = ObjectStore(dag, 10)
    for _ in range(2):
        store.add(states, LogRewards(torch.zeros(7), torch.ones(7)))
    assert sorted(store.state_dict()["states"].tolist()) == sorted(states.tolist())


def _filled(n: int, capacity: int = 50) -> ObjectStore:
    store = ObjectStore(Hypergrid(dim=1, side=60), capacity)
    states = torch.stack([torch.arange(n), torch.ones(n, dtype=torch.int64)], 1)
    store.add(states, LogRewards(-torch.arange(n).float(), torch.arange(n).float() / 7))
    return store


@pytest.mark.parametrize(("top", "best"), [(0.1, 2), (0.25, 5), (0.0, 1), (0.5, 10)])
def test_half_of_the_drawn_objects_come_from_the_best_share_and_half_from_the_rest(top: float, best: int) -> None:
    n = 20_001
    states, rewards = _filled(20).draw(n, top, generator())
    ranks = states[:, 0]
    assert torch.equal(rewards.log_reward, -ranks.float())
    assert torch.equal(rewards.log_raw_reward, ranks.float() / 7)
    counts = torch.bincount(ranks, minlength=20).double()
    assert int(counts[:best].sum()) == (n + 1) // 2
    expected = torch.cat([torch.full((best,), (n + 1) / 2 / best), torch.full((20 - best,), (n // 2) / (20 - best))])
    assert abs(chi_square(counts, expected.double())) < 5 + (best == 1)


@pytest.mark.parametrize("top", [0.0, 0.1, 1.0])
def test_a_store_of_one_or_only_of_the_best_is_drawn_from_as_well(top: float) -> None:
    assert _filled(1).draw(9, top, generator())[0].tolist() == [[0, 1]] * 9
    if top == 1:
        assert set(_filled(3).draw(300, top, generator())[0][:, 0].tolist()) == {0, 1, 2}


# --- Replay -----------------------------------------------------------------------------------------------------------


def _counted(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each call for rewards appends its number of objects."""
    counts, ask = [], dag.log_rewards

    def asked(states: Tensor) -> LogRewards:
        counts.append(len(states))
        return ask(states)

    monkeypatch.setattr(dag, "log_rewards", asked)
    return counts


@pytest.mark.parametrize(("batch", "share", "old"), [(16, 0.5, 16), (16, 0.0, 0), (8, 0.75, 24), (10, 0.3, 4)])
def test_replay_adds_old_trajectories_in_the_stated_share(batch: int, share: float, old: int) -> None:
    who = Wanderer(SMALL["cube"]())
    collected = replay(who.dag, batch, share).collect(who, 0.0, generator()).batch
    assert len(collected.fresh.mask) == batch
    assert len(collected.all.mask) == batch + old
    assert (collected.all is collected.fresh) is (old == 0)
    head = collected.all.every(1, 0)
    n = collected.fresh.mask.shape[1]
    assert torch.equal(head.mask[:batch, :n], collected.fresh.mask)
    assert torch.equal(head.states[:batch, : n + 1], collected.fresh.states)
    assert torch.equal(head.actions[:batch, :n], collected.fresh.actions)


@pytest.mark.parametrize("dag", [*SMALL, "bag", "qm9"])
def test_replayed_trajectories_are_lawful_and_lead_to_their_objects_with_their_rewards(
    dag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = (STORED | SMALL)[dag]()
    who = Wanderer(graph)
    if graph.renames_slots:
        who.backward_policy = lambda: lambda states: torch.zeros(len(states), graph.num_backward_actions)
    sampler = replay(graph, 16, 0.75)
    asked = _counted(graph, monkeypatch)
    for _ in range(3):
        collected = sampler.collect(who, 0.1, generator())
    assert asked == [16] * 3
    monkeypatch.undo()
    every = collected.batch.all
    old = every.every(1, 16)
    kept = {tuple(row) for row in sampler.store.state_dict()["states"].tolist()}
    assert {tuple(row) for row in old.terminal_states.tolist()} <= kept
    rewards = graph.log_rewards(every.terminal_states)
    torch.testing.assert_close(every.log_reward, rewards.log_reward)
    torch.testing.assert_close(every.log_raw_reward, rewards.log_raw_reward)
    assert torch.equal(old.states[:, 0], graph.reset(len(old.mask)))
    assert bool(graph.is_terminal(old.terminal_states).all())
    for t in range(old.mask.shape[1]):
        real = old.mask[:, t]
        here, there = old.states[real, t], old.states[real, t + 1]
        assert bool(graph.action_mask(here).gather(1, old.actions[real, t][:, None]).all())
        reached, _ = graph.step(here, old.actions[real, t])
        assert torch.equal(graph.canonical(reached), graph.canonical(there))
        assert torch.equal(graph.backward_step(there, old.backward_actions[real, t])[0], here)


def _law(who: Wanderer, replayed: Trajectories) -> float:
    """Return the deviation of the frequencies of trajectories from P_B, all being to one object."""
    actions = torch.where(replayed.mask, replayed.actions, -1)
    distinct, place, counts = actions.unique(dim=0, return_inverse=True, return_counts=True)
    first = torch.stack([(place == i).nonzero()[0, 0] for i in range(len(distinct))])
    _, log_pb = log_probs(who.dag, who.policy(), who.log_pb, replayed)
    probabilities = log_pb[first].double().exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5), "every trajectory was seen"
    return chi_square(counts.double(), probabilities * len(actions))


@pytest.mark.parametrize(("dag", "end"), [("subsets", [1, 0, 1, 1, 0]), ("skips", [4, 1]), ("grid", [2, 1, 1])])
def test_replayed_trajectories_follow_the_law_of_p_b(dag: str, end: list[int]) -> None:
    who = Wanderer(SMALL[dag](), seed=2)
    sampler = replay(who.dag, 2, 0.0)
    sampler.num_replayed = 20_000
    state = torch.tensor([end])
    sampler.store.add(state, who.dag.log_rewards(state))
    fresh = Collected(Batch.of(sample(who.dag, 2)), 2)
    replayed = sampler.with_replayed(who, fresh, generator()).batch.all.every(1, 2)
    assert abs(_law(who, replayed)) < 5
    # Uniform backward steps would be found out.
    uniform = rollout(
        who.dag,
        lambda s: torch.zeros(len(s), who.dag.num_backward_actions),
        replayed.terminal_states,
        generator(1),
        backward=True,
    )
    assert _law(who, uniform) > 20


# --- Local search -----------------------------------------------------------------------------------------------------


def _exact(enumeration: Enumeration, n: int, seed: int) -> Tensor:
    """Return `n` independent objects of R/Z."""
    at = torch.multinomial(enumeration.target, n, replacement=True, generator=generator(seed))
    return enumeration.states[enumeration.terminal][at]


@pytest.mark.parametrize("dag", [*SMALL, *RENAMING])
def test_better_never_lowers_a_reward_and_only_moves_to_what_is_better(dag: str) -> None:
    who = Wanderer((SMALL | RENAMING)[dag]())
    states = sample(who.dag, 400).terminal_states
    rewards = who.dag.log_rewards(states)
    for depth in (1, 2, who.dag.max_steps):
        found, new = search(who, states, rewards, False, depth, seed=depth)
        moved = (found != states).any(1)
        assert torch.equal(new.log_reward[~moved], rewards.log_reward[~moved])
        assert bool((new.log_reward > rewards.log_reward)[moved].all())
        expected = who.dag.log_rewards(found)
        torch.testing.assert_close(new.log_reward, expected.log_reward)
        torch.testing.assert_close(new.log_raw_reward, expected.log_raw_reward)
    assert bool(moved.any()) is (len(rewards.log_reward.unique()) > 1)


def test_a_search_takes_apart_no_more_than_its_depth() -> None:
    who = Wanderer(Hypergrid(dim=1, side=9))
    states = torch.tensor([[8, 1]]).repeat(500, 1)
    rewards = LogRewards(torch.full((500,), -torch.inf), torch.zeros(500))
    for depth in (1, 2, 4):
        found, _ = search(who, states, rewards, False, depth)
        assert int(found[:, 0].min()) == 9 - depth


def _from_target(enumeration: Enumeration, states: Tensor) -> float:
    """Return how far the frequencies of terminal `states [n, d]` are from R/Z, over the objects that are likely."""
    rank, expected = enumeration.terminal_rank[enumeration.index(states)], enumeration.target * len(states)
    counts = torch.bincount(rank, minlength=len(expected)).double()
    return chi_square(counts[expected > 6], expected[expected > 6])


INVARIANT = [(dag, depth) for dag in (*SMALL, *RENAMING) if dag != "line" for depth in (1, 2, 3)]


def _deviation(dag: str, depth: int, seed: int = 0) -> float:
    """Return how far objects of R/Z are from R/Z after a round of Metropolis."""
    who = Wanderer((SMALL | RENAMING)[dag](), seed, sharp=2.0)
    e, n = who.enumeration, 30_000
    states = _exact(e, n, seed)
    found, _ = search(who, states, who.dag.log_rewards(states), True, depth, seed + 1)
    return _from_target(e, found)


@pytest.mark.parametrize(("dag", "depth"), INVARIANT)
def test_metropolis_leaves_the_target_as_it_is(dag: str, depth: int) -> None:
    assert _deviation(dag, depth) < 5


def test_metropolis_moves() -> None:
    who = Wanderer(SMALL["subsets"]())
    states = _exact(who.enumeration, 1000, 0)
    found, _ = search(who, states, who.dag.log_rewards(states), True)
    assert 0.05 < float((found != states).any(1).double().mean()) < 0.95


@pytest.mark.parametrize("dag", ["grid", "subsets", "skips", "bag"])
def test_without_the_ratio_of_paths_the_target_would_change(dag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = lambda dag, policy, log_pb, paths: (torch.zeros(len(paths.mask)),) * 2  # noqa: E731
    monkeypatch.setattr(local_search, "log_probs", nothing)
    assert _deviation(dag, 2) > 10


def test_the_store_of_a_search_holds_the_best_of_all_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    who = Wanderer(SMALL["cube"]())
    seen: dict[tuple, float] = {}
    ask = who.dag.log_rewards

    def asked(states: Tensor) -> LogRewards:
        rewards = ask(states)
        seen.update(zip(map(tuple, states.tolist()), rewards.log_reward.tolist(), strict=True))
        return rewards

    monkeypatch.setattr(who.dag, "log_rewards", asked)
    sampler = LocalSearch(parts_of(who.dag), 4, NO_NETWORK, 0.5, ObjectStore(who.dag, 100), 0.1, 3, 2, False)
    batch = sampler.collect(who, 0.0, generator()).batch
    kept = sampler.store.state_dict()
    assert float(kept["log_reward"][0]) == max(seen.values())
    assert {tuple(row) for row in kept["states"].tolist()} <= set(seen)
    fresh = {tuple(row) for row in batch.fresh.terminal_states.tolist()}
    assert fresh < {tuple(row) for row in kept["states"].tolist()}, "the search found objects that were not sampled"


# --- Markov chains ----------------------------------------------------------------------------------------------------


def test_chains_begin_at_fresh_objects_and_move_in_turn() -> None:
    who = Wanderer(SMALL["cube"]())
    sampler = chains(who.dag, 40, batch=16)
    for i in range(6):
        before = sampler.states.clone()
        collected = sampler.collect(who, 0.0, generator(i))
        moved = {(16 * i + j) % 40 for j in range(16)}
        still = [j for j in range(40) if j not in moved]
        assert torch.equal(sampler.states[still], before[still])
        turn = [(16 * i + j) % 40 for j in range(16)]
        replayed = collected.batch.all.every(1, 16)
        assert torch.equal(replayed.terminal_states, sampler.states[turn])
        assert torch.equal(replayed.log_reward, sampler.rewards.log_reward[turn])
        assert torch.equal(replayed.log_raw_reward, sampler.rewards.log_raw_reward[turn])
    torch.testing.assert_close(sampler.rewards.log_reward, who.dag.log_reward(sampler.states))


def test_a_chain_that_accepts_nothing_stays_at_the_fresh_object_that_it_began_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who = Wanderer(SMALL["cube"]())
    impossible = lambda *of: (torch.full((len(of[3].mask),), -torch.inf), torch.tensor(True))  # noqa: E731
    monkeypatch.setattr(local_search, "_log_ratio", impossible)
    sampler = chains(who.dag, 48, batch=16, share=0.6)
    fresh = sampler.collect(who, 0.0, generator()).batch.fresh.terminal_states
    assert torch.equal(sampler.states[:24], torch.cat([fresh, fresh[:8]]))
    begun = sampler.states[:24].clone()
    for i in range(3):
        sampler.collect(who, 0.0, generator(i))
    assert torch.equal(sampler.states[:24], begun)


@pytest.mark.parametrize("dag", ["grid", "subsets", "skips", "bag"])
def test_chains_at_the_target_stay_there_and_what_is_replayed_is_of_it(dag: str) -> None:
    who, n = Wanderer((SMALL | RENAMING)[dag](), sharp=2.0), 8_000
    e = who.enumeration
    sampler = chains(who.dag, 2 * n, n, rounds=2)
    sampler.states.copy_(_exact(e, 2 * n, 0))
    for kept, known in zip(sampler.rewards, who.dag.log_rewards(sampler.states), strict=True):
        kept.copy_(known)
    sampler.iterations = 2
    replayed = [sampler.collect(who, 0.0, generator(i)).batch.all.every(1, n).terminal_states for i in range(2)]
    assert _from_target(e, torch.cat(replayed)) < 5
    # Fresh objects are of another law.
    assert _from_target(e, sample(who.dag, n).terminal_states) > 10


def test_too_few_chains_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(ValueError, match=re.escape("sampler.chains must be at least 24")):
        chains(SMALL["cube"](), 23, batch=16, share=0.6)
    chains(SMALL["cube"](), 24, batch=16, share=0.6)


# --- Every sampler ----------------------------------------------------------------------------------------------------

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SAMPLERS.names()},
    **{f"{name}, slow copy": (name, {"sampler__copy_rate": 0.3}) for name in SAMPLERS.names()},
    "metropolis": ("local-search", {"sampler__accept": "metropolis"}),
    "mixture": ("random-stop+replay", {}),
    "mixture, teacher": ("teacher+replay", {}),
    "mixture, slow copy": ("random-stop+local-search", {"sampler__copy_rate": 0.3}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_number_of_reward_calls_is_the_number_that_was_asked_for(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, values = VARIANTS[variant]
    trainer = built(small(name, **values))
    asked = _counted(trainer.dag, monkeypatch)
    for _ in range(3):
        trainer.step()
    assert trainer.reward_calls == sum(asked)
    assert trainer.trajectories == 48


@pytest.mark.parametrize("agent", ["db", "mdqn"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_run_goes_on_to_the_bit(variant: str, agent: str) -> None:
    name, values = VARIANTS[variant]
    config = small(name, agent, "pessimistic" if "slow" in variant else "tlm", **values)
    whole, file = built(config), io.BytesIO()
    for i in range(12):
        if i == 5:
            torch.save(whole.state_dict(), file)
        whole.step()
    file.seek(0)
    half = built(config)
    half.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(7):
        half.step()
    assert half.reward_calls == whole.reward_calls
    for part in ("network", "targets", "agent", "backward", "sampler", "buffer", "generator"):
        one, two = io.BytesIO(), io.BytesIO()
        torch.save(whole.state_dict()[part], one)
        torch.save(half.state_dict()[part], two)
        assert one.getvalue() == two.getvalue(), part


@pytest.mark.parametrize("agent", ["db", "mdqn", "pg"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_sampler_waits_for_the_host(variant: str, agent: str) -> None:
    name, values = VARIANTS[variant]
    if agent != "db" and "slow" not in variant:
        return
    # Tensors on `meta` have no values: reading one, and mixing in a CPU tensor, raises.
    dag = make("gfn/Hypergrid-v0", device="meta", dim=2, side=3)
    config = small(name, agent, **values)
    fewer = {f"sampler.{each}": 2 for each in ("rounds", "local_search_rounds") if f"sampler.{each}" in config.flat()}
    trainer = build_trainer(with_values(config, fewer), dag)
    for _ in range(2):
        trainer.step()
    assert trainer.buffer.newest.states.is_meta
    assert trainer.buffer.newest_fresh.states.is_meta
    assert all(p.is_meta for p in trainer.network.parameters())


@pytest.mark.parametrize("name", [*SAMPLERS.names(), "random-stop+local-search"])
def test_a_copy_rate_samples_from_the_slow_copy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built(small(name, sampler__copy_rate=0.3, agent__lr=0.1, epsilon=0.0))
    for _ in range(5):
        trainer.step()
    copy = trainer.targets.get(0.3)
    drawn = {}
    for which, network in (("slow", copy), ("fast", trainer.network)):
        draw = make_generator(trainer.dag.device, 5)
        drawn[which] = rollout(trainer.dag, trainer.agent.policy(network), trainer.dag.reset(16), draw)
    asked, policy = [], trainer.agent.policy
    monkeypatch.setattr(trainer.agent, "policy", lambda network=None: (asked.append(network), policy(network))[1])
    collected = trainer.sampler.collect(trainer.agent, 0.0, make_generator(trainer.dag.device, 5)).batch.fresh
    assert set(asked) == {copy}
    assert torch.equal(collected.states, drawn["slow"].states)
    assert collected.states.shape != drawn["fast"].states.shape or not torch.equal(
        collected.states, drawn["fast"].states
    )


def test_a_policy_whose_samples_came_from_a_slow_copy_can_be_loaded(tmp_path: Path) -> None:
    trainer = built(small("replay", sampler__copy_rate=0.3))
    for _ in range(3):
        trainer.step()
    file = tmp_path / "policy.safetensors"
    file.write_bytes(to_bytes(trainer.config, trainer.model, 48))
    states = trainer.dag.reset(1)
    assert torch.equal(load(file, "cpu").gflownet().policy()(states), trainer.agent.policy()(states))


@pytest.mark.parametrize("learn_from", ["on-policy", "all"])
@pytest.mark.parametrize("backward", ["tlm", "pessimistic"])
def test_p_b_learns_from_the_trajectories_that_were_chosen(backward: str, learn_from: str) -> None:
    config = small("replay", "db", backward, backward__learn_from=learn_from, backward__zero_init=False)
    batch = built(config).collect()
    batch = getattr(batch, "batch", batch)
    learned = []
    for given in (batch, Batch(batch.fresh, batch.fresh), Batch(batch.all, batch.all)):
        trainer = built(config)
        trainer.buffer.add(given)
        told = trainer.backward.update(trainer.buffer)["backward_loss"]
        weights = torch.cat([p.detach().flatten() for p in trainer.network.parameters_of("backward")])
        learned.append((float(told), weights))
    same, other = (1, 2) if learn_from == "on-policy" else (2, 1)
    assert learned[0][0] == learned[same][0]
    assert torch.equal(learned[0][1], learned[same][1])
    assert learned[0][0] != learned[other][0]
    assert not torch.equal(learned[0][1], learned[other][1])


OWNED = {
    "share": 0.25,
    "capacity": 3,
    "chains": 16,
    "top": 0.9,
    "rounds": 1,
    "depth": 0.1,
    "accept": "metropolis",
    "copy_rate": 0.3,
    "alpha": 0.5,
    "under_weight": 0.0,
    "lr": 0.2,
    "weight_decay": 5.0,
    "max_grad_norm": 1e-9,
    "log_z_lr": 1.0,
    "epsilon": 0.9,
}


@pytest.mark.parametrize("name", [*SAMPLERS.names(), "random-stop+replay"])
def test_every_setting_of_a_sampler_changes_the_run(name: str) -> None:
    config = small(name, agent__lr=0.05, **({"sampler.lr": 0.05} if name == "teacher" else {}))
    names = {field.name for field in dataclasses.fields(config.sampler_settings)}
    settings = {name: re.sub("^(random_stop|replay)_", "", name) for name in names}
    assert set(settings.values()) <= set(OWNED)

    def behaviour(changed: Config) -> Tensor:
        trainer = built(changed)
        for _ in range(5):
            trainer.step()
        return torch.cat([p.detach().flatten() for p in trainer.network.parameters()])

    usually = behaviour(config)
    assert torch.equal(behaviour(config), usually)
    for setting in sorted(settings):
        changed = with_values(config, {f"sampler.{setting}": OWNED[settings[setting]]})
        assert not torch.equal(behaviour(changed), usually), setting
