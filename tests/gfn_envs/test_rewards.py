"""A reward of one's own: what it is asked, how often, and what an environment then no longer claims."""

import json
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import gfn_envs
from gfn_envs import DAG, BitSequence, Hypergrid, check_dag, enumerate_dag
from gfn_envs.rewards import OwnReward


def by_sum(states: Tensor) -> Tensor:
    """Return a reward of states: 1 + the square of the sum of their components."""
    return 1 + states.sum(1).float() ** 2


def by_ones(bits: list[str]) -> list[int]:
    """Return a reward of bit strings: 1 + the number of ones."""
    return [1 + text.count("1") for text in bits]


class Asked:
    """A reward that keeps what it was asked about, as tuples or texts."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.batches = function, []

    def __call__(self, objects: Any) -> Any:
        self.batches.append(objects if isinstance(objects, list) else [tuple(row) for row in objects.tolist()])
        return self.function(objects)


MADE: dict[str, tuple[Callable[..., DAG], Callable[[Any], Any]]] = {
    "grid": (lambda reward: Hypergrid(2, 4, reward=reward), by_sum),
    "words": (lambda reward: BitSequence(8, 2, modes=2, reward=reward), by_sum),
    "words_from_left": (lambda reward: BitSequence(6, 3, modes=2, reward=reward, order="autoregressive"), by_sum),
    "bits": (lambda reward: BitSequence(8, 2, modes=2, reward=reward, reward_input="bits"), by_ones),
}


@pytest.mark.parametrize("name", MADE)
def test_the_law_holds(name: str) -> None:
    make, reward = MADE[name]
    check_dag(make(reward))


@pytest.mark.parametrize("name", MADE)
def test_each_terminal_object_is_asked_about_once_and_no_other(name: str) -> None:
    make, function = MADE[name]
    reward = Asked(function)
    dag = make(reward)
    exact = enumerate_dag(dag)
    assert len(reward.batches) == 1, "all objects of a batch in one call"
    dag.log_reward(exact.states)
    dag.log_rewards(exact.states[exact.terminal].flip(0))
    (asked,) = reward.batches
    assert len(set(asked)) == len(asked) == len(exact.terminal)
    assert isinstance(dag.own_reward, OwnReward)
    assert dag.own_reward.num_asked == len(asked)


@pytest.mark.parametrize("name", MADE)
def test_log_r_is_the_log_of_the_reward_and_the_target_follows_it(name: str) -> None:
    make, function = MADE[name]
    dag = make(function)
    exact = enumerate_dag(dag)
    states = exact.states[exact.terminal]
    objects = dag.to_bits(states) if name == "bits" else states
    r = torch.as_tensor(function(objects), dtype=torch.float64)
    torch.testing.assert_close(exact.log_reward, r.log(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(exact.target, r / r.sum(), rtol=1e-6, atol=1e-9)
    assert exact.log_z == pytest.approx(math.log(float(r.sum())), abs=1e-6)


@pytest.mark.parametrize("name", MADE)
def test_modes_and_closed_forms_are_not_claimed_of_an_unknown_reward(name: str) -> None:
    make, function = MADE[name]
    dag = make(function)
    states = enumerate_dag(dag).states
    assert dag.num_modes == 0
    assert dag.modes_hit(states).shape == (len(states), 0)
    assert "modes" not in dag.metrics
    if isinstance(dag, Hypergrid):
        assert dag.log_partition() is None
        assert not hasattr(dag, "constants")


def test_they_are_claimed_of_the_built_in_reward() -> None:
    assert (Hypergrid(2, 4).num_modes, Hypergrid(2, 4).metrics) == (4, ("modes",))
    words = BitSequence(8, 2, modes=3)
    assert (words.num_modes, words.metrics) == (3, ("modes", "correlation"))


def test_the_potential_of_the_grid_asks_about_the_objects_that_stopping_here_gives() -> None:
    reward = Asked(by_sum)
    dag = Hypergrid(2, 4, reward=reward)
    states = enumerate_dag(dag).states
    stopped = torch.cat([states[:, :-1], torch.ones(len(states), 1, dtype=torch.int64)], 1)
    wanted = by_sum(stopped).log() - by_sum(torch.tensor([[0, 0, 1]])).log()
    torch.testing.assert_close(dag.log_potential(states), wanted)
    assert {state[-1] for batch in reward.batches for state in batch} == {1}


def test_bit_strings_read_as_the_words_are_written() -> None:
    dag = BitSequence(6, 2, modes=1)
    assert dag.to_bits(torch.tensor([[1, 2, 3], [4, 3, 1]])) == ["000110", "111000"]
    bits = torch.randint(0, 2, (20, 6))
    assert dag.to_bits(dag.from_bits(bits)) == ["".join(map(str, row)) for row in bits.tolist()]


@pytest.mark.parametrize(
    ("id", "arguments"),
    [
        ("gfn/Hypergrid-v0", {"dim": 2, "side": 4, "reward": f"{__name__}:by_sum"}),
        ("gfn/BitSequence-v0", {"n": 8, "k": 2, "reward": f"{__name__}:by_ones", "reward_input": "bits"}),
    ],
)
def test_gymnasium_makes_it_from_settings_written_in_json(id: str, arguments: dict) -> None:
    arguments = json.loads(json.dumps(arguments))
    dag = gfn_envs.make(id, **arguments)
    env, vector = gym.make(id, **arguments), gym.make_vec(id, num_envs=2, **arguments)
    _, info = env.reset()
    _, infos = vector.reset()
    for _ in range(dag.max_steps):
        action = int(info["action_mask"].nonzero()[0][-1])
        observation, reward, terminated, _, info = env.step(action)
        observations, rewards, all_terminated, _, infos = vector.step(infos["action_mask"].argmax(1) * 0 + action)
        if terminated:
            break
    assert terminated
    assert all_terminated.all()
    expected = float(dag.log_reward(torch.from_numpy(observation)[None]))
    assert reward == pytest.approx(expected)
    assert rewards.tolist() == pytest.approx([expected] * 2)
    assert (observations == observation).all()


@pytest.mark.parametrize("id", ["gfn/Hypergrid-v0", "gfn/BitSequence-v0"])
def test_gymnasium_makes_it_from_a_callable(id: str) -> None:
    env = gym.make(id, reward=by_sum)
    env.reset()
    assert env.unwrapped.dag.own_reward.function is by_sum


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Hypergrid(reward=by_sum, R0=0.1, R2=1.0),
            "R0, R2 replace constants of a built-in reward: .* together with a reward of your own, by_sum",
        ),
        (lambda: Hypergrid(reward="math:pi"), "reward 'math:pi' is not a function but of type float"),
        (lambda: Hypergrid(reward="no_such_module:f"), "reward 'no_such_module:f': cannot import 'no_such_module'"),
        (lambda: Hypergrid(reward=3), "Unknown reward 3"),
        (lambda: Hypergrid(reward="module:function"), "cannot import 'module'"),
        (
            lambda: BitSequence(reward=by_sum, exponent=3.0),
            "exponent and mode_distance belong to the reward hamming: .* your own, by_sum",
        ),
        (lambda: BitSequence(reward=by_sum, mode_distance=3), "exponent and mode_distance belong to the reward hamm"),
        (
            lambda: BitSequence(reward="haming"),
            "Unknown reward 'haming'. Known, closest first: hamming, module:function",
        ),
        (lambda: BitSequence(reward_input="bit"), "Unknown reward_input 'bit'. Known, closest first: bits, states"),
    ],
)
def test_bad_arguments_are_named_with_their_value(make: Callable[[], DAG], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Hypergrid(1, 2, reward=lambda states: states[:, 0].float()),
            r"returned 0\.0 \(as float32\) for state \[0, 1\]",
        ),
        (
            lambda: Hypergrid(1, 2, reward=lambda states: torch.ones(1)),
            r"2 positive, finite numbers for 2 objects, of which the first is state \[0, 1\]; it returned shape \(1,\)",
        ),
        (
            lambda: BitSequence(2, 1, modes=1, reward=lambda bits: [1e-60] * len(bits), reward_input="bits"),
            r"returned 0\.0 \(as float32\) for '00'",
        ),
        (lambda: BitSequence(2, 1, modes=1, reward=lambda states: None), "returned NoneType"),
    ],
)
def test_bad_rewards_name_the_object_and_what_is_wanted(make: Callable[[], DAG], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enumerate_dag(make())


@pytest.mark.parametrize("name", MADE)
def test_every_picture_can_be_drawn(name: str) -> None:
    make, function = MADE[name]
    dag = make(function)
    states = enumerate_dag(dag).states
    axes = Figure().subplots()
    dag.draw(states[:1], axes)
    dag.draw(torch.cat([states[:1], states[-1:]]), axes)
    assert len(axes.images) == 2
    assert axes.get_title() == ""
