"""Forced stops come at every number of steps alike, follow P_F otherwise, and leave the balance as it is."""

import math

import pytest
import torch
from torch import Tensor
from toy_dags import Skips, Subsets
from true_flows import SMALL, Flow
from wanderers import NO_NETWORK, Wanderer, built, chi_square, distances, generator, parts_of, small

from agents.sampling.paths import log_probs
from agents.sampling.random_stop import RandomStop
from agents.sampling.rollout import Trajectories
from agents.sampling.samplers import OnPolicy
from gfn_envs import DAG, Hypergrid


class EvenStops(Skips):
    """A line up which one goes by one or two, and stops at even places alone; the last place is even."""

    stop_action = 2

    def action_mask(self, states: Tensor) -> Tensor:
        mask = super().action_mask(states)
        mask[:, 2] &= states[:, 0] % 2 == 0
        return mask


STOPPING = {
    "grid": SMALL["grid"],
    "cube": SMALL["cube"],
    "even": lambda: EvenStops(n=7),
}


def forced(dag: DAG, share: float = 0.5, batch: int = 16) -> RandomStop:
    return RandomStop(parts_of(dag), batch, NO_NETWORK, share)


def collected(sampler: RandomStop, who: Wanderer, seed: int = 0, epsilon: float = 0.0) -> Trajectories:
    """Return the forced trajectories of an iteration."""
    return sampler.collect(who, epsilon, generator(seed)).batch.all.every(1, sampler.batch_size)


def number_of(sampler: RandomStop, who: Wanderer, seed: int, epsilon: float = 0.0) -> int:
    """Return the number of steps that `collected` draws with this seed."""
    drawn = generator(seed)
    sampler.fresh(who, epsilon, drawn)
    return int(torch.randint(who.dag.max_steps, (), generator=drawn))


def _can_go_on(dag: DAG, states: Tensor) -> Tensor:
    mask = dag.action_mask(states)
    mask[:, dag.stop_action] = False
    return mask.any(1)


@pytest.mark.parametrize(("batch", "share", "number"), [(16, 0.5, 16), (16, 0.125, 2), (14, 0.125, 2), (16, 0.0, 0)])
def test_fresh_trajectories_are_as_without_and_the_share_of_forced_ones_is_the_stated_one(
    batch: int, share: float, number: int
) -> None:
    who = Wanderer(SMALL["grid"]())
    alone = OnPolicy(parts_of(who.dag), batch, NO_NETWORK).collect(who, 0.1, generator()).batch.all
    both, calls = forced(who.dag, share, batch).collect(who, 0.1, generator())
    assert torch.equal(both.fresh.states, alone.states)
    assert len(both.all.mask) == calls == batch + number
    assert (both.all is both.fresh) is (number == 0)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_all_of_an_iteration_stop_at_one_number_of_steps_and_all_numbers_are_as_likely(epsilon: float) -> None:
    dag = Hypergrid(dim=2, side=3)
    who, sampler, lengths = Wanderer(dag, sharp=3.0), forced(dag, batch=4), []
    for seed in range(250):
        walks = collected(sampler, who, seed, epsilon)
        assert len(walks.lengths.unique()) == 1
        lengths.append(int(walks.lengths[0]))
    counts = torch.bincount(torch.tensor(lengths) - 1, minlength=dag.max_steps).double()
    assert len(counts) == dag.max_steps == 5
    assert abs(chi_square(counts, torch.full((5,), 50.0).double())) < 4
    # P_F itself stops at other numbers.
    own = OnPolicy(parts_of(dag), 250, NO_NETWORK).collect(who, epsilon, generator()).batch.all.lengths
    assert abs(chi_square(torch.bincount(own - 1, minlength=5).double(), torch.full((5,), 50.0).double())) > 10


@pytest.mark.parametrize("dag", STOPPING)
def test_below_the_number_no_walk_stops_that_can_go_on_and_from_it_each_stops_where_it_may(dag: str) -> None:
    who = Wanderer(STOPPING[dag]())
    sampler, seen = forced(who.dag, batch=64), set()
    for seed in range(30):
        walks = collected(sampler, who, seed)
        number = number_of(sampler, who, seed)
        assert bool(who.dag.is_terminal(walks.terminal_states).all())
        for t in range(walks.mask.shape[1]):
            real = walks.mask[:, t]
            here, stops = walks.states[real, t], walks.actions[real, t] == who.dag.stop_action
            legal = who.dag.action_mask(here)
            assert bool(legal.gather(1, walks.actions[real, t][:, None]).all())
            may_stop = legal[:, who.dag.stop_action]
            assert torch.equal(stops, may_stop if t >= number else ~_can_go_on(who.dag, here))
            seen |= {(t >= number, *each) for each in zip(stops.tolist(), may_stop.tolist(), strict=True)}
    expected = {(True, True, True), (False, False, True)}
    assert seen >= (expected | {(True, False, False)} if dag == "even" else expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("dag", STOPPING)
def test_between_the_stops_the_walk_is_that_of_p_f_and_of_random_actions(dag: str, epsilon: float) -> None:
    who = Wanderer(STOPPING[dag](), seed=3)
    graph, n = who.dag, 6000
    sampler = forced(graph, batch=n)
    seed = next(seed for seed in range(99) if number_of(sampler, who, seed, epsilon) == graph.max_steps - 3)
    walks, number = collected(sampler, who, seed, epsilon), graph.max_steps - 3
    ways: dict[tuple[tuple[int, ...], ...], float] = {}

    def follow(state: Tensor, t: int, actions: tuple[int, ...], probability: float) -> None:
        """Put the probability of each way from `state` into `ways`, one action at a time."""
        legal = graph.action_mask(state)[0].nonzero().flatten().tolist()
        if not legal:
            ways[actions] = probability
            return
        stop = graph.stop_action
        others = [action for action in legal if action != stop]
        allowed = [stop] if stop in legal and (t >= number or not others) else others
        weights = [math.exp(float(who.policy()(state)[0, action])) for action in allowed]
        for action, weight in zip(allowed, weights, strict=True):
            chance = (1 - epsilon) * weight / sum(weights) + epsilon / len(allowed)
            follow(graph.step(state, torch.tensor([action]))[0], t + 1, (*actions, action), probability * chance)

    follow(graph.reset(1), 0, (), 1.0)
    assert sum(ways.values()) == pytest.approx(1)
    counts = dict.fromkeys(ways, 0)
    for row, length in zip(walks.actions.tolist(), walks.lengths.tolist(), strict=True):
        counts[tuple(row[:length])] += 1
    likely = [way for way, probability in ways.items() if probability * n > 6]
    expected = torch.tensor([ways[way] * n for way in likely])
    assert float(expected.sum()) > 0.9 * n
    if len(likely) > 1:
        assert abs(chi_square(torch.tensor([float(counts[way]) for way in likely]), expected)) < 5


@pytest.mark.parametrize("dag", STOPPING)
def test_a_balanced_flow_stays_balanced_on_forced_trajectories(dag: str) -> None:
    flow = Flow.of(STOPPING[dag]())
    graph, e = flow.enumeration.dag, flow.enumeration
    who = Wanderer(graph)
    who.forward, who.backward = flow.forward_logits, flow.backward_logits
    walks = collected(forced(graph), who)
    log_pf, log_pb = log_probs(graph, who.policy(), who.log_pb, walks)
    torch.testing.assert_close(e.log_z + log_pf - log_pb, walks.log_reward.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("agent", ["tb", "db"])
def test_a_small_grid_is_learned_with_forced_stops(agent: str) -> None:
    # Half of the trajectories are forced. An agent that learned their lengths would be far off.
    given = {"env_kwargs": '{"dim": 2, "side": 3}', "network.width": 32, "epsilon": 0.0}
    trainer = built(small("random-stop", agent, "uniform", sampler__share=0.5, agent__lr=0.01, **given))
    start, end = distances(trainer, 300)
    assert end < 0.05 < start / 8


def test_where_no_action_stops_the_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--sampler random-stop needs a stop action, and Subsets has none\.$"):
        forced(Subsets())
