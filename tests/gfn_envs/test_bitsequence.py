"""Bit sequences against plain loops over strings, and against the published modes and test set."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from true_flows import brute_force

import gfn_envs
from gfn_envs import BitSequence, check_dag, enumerate_dag

SMALL = [
    {"n": 8, "k": 2, "modes": 3},
    {"n": 6, "k": 3, "modes": ["000000", "110011"], "exponent": 0.5},
    {"n": 4, "k": 1, "modes": ["0110"], "exponent": 3},
    {"n": 3, "k": 3, "modes": ["101", "010", "101"]},
]
ORDERS = ["any", "autoregressive"]


def _hamming(one: str, two: str) -> int:
    return sum(a != b for a, b in zip(one, two, strict=True))


def _states(dag: BitSequence, strings: list[str]) -> torch.Tensor:
    return dag.from_bits(torch.tensor([[int(bit) for bit in string] for string in strings]))


def _strings(dag: BitSequence, states: torch.Tensor) -> list[str]:
    return [line.replace(" ", "") for line in dag.describe(states)]


def _random_strings(n: int, count: int) -> list[str]:
    generator = random.Random(n)
    return ["".join(generator.choice("01") for _ in range(n)) for _ in range(count)]


@pytest.mark.parametrize("settings", [{}, {"exponent": 0.1}, *SMALL])
@pytest.mark.parametrize("order", ORDERS)
def test_rewards_distances_and_modes_hit_equal_a_loop_over_strings(settings: dict, order: str) -> None:
    dag = BitSequence(**settings, order=order)
    strings = _random_strings(dag.n, 40) + dag.modes[:20]
    states = _states(dag, strings)
    wanted = torch.tensor([[float(_hamming(string, mode)) for mode in dag.modes] for string in strings])
    assert torch.equal(dag.distances(states), wanted)
    torch.testing.assert_close(dag.log_reward(states), -settings.get("exponent", 2.0) * wanted.min(1).values)
    assert torch.equal(dag.modes_hit(states), wanted <= dag.n // 4)


@pytest.mark.parametrize("settings", [{"exponent": 0.1}, *SMALL])
@pytest.mark.parametrize("order", ORDERS)
def test_the_potential_is_the_reward_on_the_words_that_are_set(settings: dict, order: str) -> None:
    dag = BitSequence(**settings, order=order)
    states = dag.reset(50)
    generator = torch.Generator().manual_seed(0)
    for t in range(dag.num_words + 1):
        wanted = []
        for row in states.tolist():
            bits = "".join(f"{word - 1:0{dag.k}b}" if word else "?" * dag.k for word in row)
            unlike = [sum(a not in ("?", b) for a, b in zip(bits, mode, strict=True)) for mode in dag.modes]
            wanted.append(-settings.get("exponent", 2.0) * float(min(unlike)))
        torch.testing.assert_close(dag.log_potential(states), torch.tensor(wanted))
        if t < dag.num_words:
            legal = dag.action_mask(states).float()
            states, _ = dag.step(states, torch.multinomial(legal, 1, generator=generator)[:, 0])
    torch.testing.assert_close(dag.log_potential(states), dag.log_reward(states))


def test_of_an_own_reward_nothing_is_decided_before_the_end() -> None:
    dag = BitSequence(4, 2, reward=lambda states: 1.0 + states.sum(1))
    states = torch.tensor([[0, 0], [0, 3], [1, 0], [2, 3]])
    torch.testing.assert_close(dag.log_potential(states), torch.tensor([0.0, 0.0, 0.0, math.log(6)]))


@pytest.mark.parametrize("distance", [0, 1, 5, 8])
def test_modes_are_hit_within_the_distance_given(distance: int) -> None:
    dag = BitSequence(8, 2, modes=4, mode_distance=distance)
    strings = ["".join(bits) for bits in itertools.product("01", repeat=8)]
    wanted = [[_hamming(string, mode) <= distance for mode in dag.modes] for string in strings]
    assert dag.modes_hit(_states(dag, strings)).tolist() == wanted


def test_the_published_modes() -> None:
    dag = BitSequence()
    assert dag.num_modes == len(dag.modes) == len(set(dag.modes)) == 60
    assert dag.modes[0].startswith("00001111001111001111000000111100")
    distances = [_hamming(one, two) for one, two in itertools.combinations(dag.modes, 2)]
    assert (min(distances), round(sum(distances) / len(distances), 1), max(distances)) == (28, 57.6, 84)
    assert dag.mode_distance == 30
    assert dag.exponent == 2


def test_the_published_test_set_flips_every_number_of_bits_of_every_mode() -> None:
    dag = BitSequence()
    states = dag.test_states()
    strings = _strings(dag, states)
    assert len(strings) == 7200
    for i, string in enumerate(strings):
        assert _hamming(string, dag.modes[i // 120]) == i % 120
    assert torch.equal(states, dag.test_states())
    assert not torch.equal(states, dag.test_states(seed=1))


@pytest.mark.parametrize("seed", [0, 1])
def test_other_seeds_give_other_modes_of_the_same_blocks(seed: int) -> None:
    one, two = BitSequence(20, 4, modes_seed=seed), BitSequence(20, 4, modes_seed=42)
    assert one.modes != two.modes
    for mode in one.modes:
        assert all(mode[i : i + 8] in ("00000000", "11111111", "11110000", "00001111", "00111100") for i in (0, 8))
        assert mode[16:] in ("0000", "1111", "0011")
    assert one.modes == BitSequence(20, 4, modes_seed=seed).modes


def test_modes_may_be_given_or_counted_by_any_integer() -> None:
    assert BitSequence(2, 1, modes=("01", "11")).modes == ["01", "11"]
    assert BitSequence(8, 2, modes=np.int64(3)).modes == BitSequence(8, 2, modes=3).modes  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", SMALL)
@pytest.mark.parametrize("order", ORDERS)
def test_both_orders_obey_the_law_and_have_the_stated_sizes(settings: dict, order: str) -> None:
    dag = BitSequence(**settings, order=order)
    check_dag(dag, num_trajectories=32)
    check_dag(BitSequence(**settings, order=order, device="meta"))
    exact, words, values = enumerate_dag(dag), dag.n // dag.k, 2**dag.k
    free, tree = (values + 1) ** words, sum(values**length for length in range(words + 1))
    assert exact.num_states == (free if order == "any" else tree)
    assert len(exact.terminal) == 2**dag.n
    assert dag.max_steps == words
    assert dag.nvec == (values + 1,) * words
    assert (dag.num_actions, dag.num_backward_actions) == ((words * values, words) if order == "any" else (values, 1))


@pytest.mark.parametrize("order", ORDERS)
def test_the_default_sizes_obey_the_law(order: str) -> None:
    dag = BitSequence(order=order)
    check_dag(dag, num_trajectories=2)
    assert (dag.num_actions, dag.max_steps, dag.nvec) == (3840 if order == "any" else 256, 15, (257,) * 15)


@pytest.mark.parametrize("settings", SMALL[:2])
@pytest.mark.parametrize("order", ORDERS)
def test_the_partition_function_is_the_sum_over_all_strings(settings: dict, order: str) -> None:
    dag = BitSequence(**settings, order=order)
    z = math.fsum(
        math.exp(-dag.exponent * min(_hamming("".join(bits), mode) for mode in dag.modes))
        for bits in itertools.product("01", repeat=dag.n)
    )
    assert enumerate_dag(dag).log_z == pytest.approx(math.log(z), abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_numbers_of_trajectories_equal_brute_force_counting(order: str) -> None:
    dag = BitSequence(6, 2, modes=1, order=order)
    depth, edges = brute_force(dag)
    counts = dict.fromkeys(depth, 0) | {tuple(dag.reset(1)[0].tolist()): 1}
    for state, _, child, _ in sorted(edges, key=lambda edge: depth[edge[0]]):
        counts[child] += counts[state]
    wanted = torch.tensor([math.log(count) for count in counts.values()])
    torch.testing.assert_close(dag.log_num_trajectories(torch.tensor(list(counts))), wanted)


def test_steps_on_a_hand_written_table() -> None:
    free, row = BitSequence(6, 2, modes=1), torch.tensor([[0, 3, 0]])
    # Action 8 + 1 writes 01 at position 2; words are kept as 1 + value.
    assert [x.tolist() for x in free.step(row, torch.tensor([9]))] == [[[0, 3, 2]], [2]]
    assert [x.tolist() for x in free.backward_step(row, torch.tensor([1]))] == [[[0, 0, 0]], [4 + 2]]
    assert free.action_mask(row).int().tolist() == [[1] * 4 + [0] * 4 + [1] * 4]
    assert free.backward_action_mask(row).int().tolist() == [[0, 1, 0]]
    assert free.describe(row) == [".. 10 .."]
    left, row = BitSequence(6, 2, modes=1, order="autoregressive"), torch.tensor([[4, 3, 0]])
    assert [x.tolist() for x in left.step(row, torch.tensor([1]))] == [[[4, 3, 2]], [0]]
    assert [x.tolist() for x in left.backward_step(row, torch.tensor([0]))] == [[[4, 0, 0]], [2]]
    assert left.action_mask(row).tolist() == [[True] * 4]
    assert left.action_mask(torch.tensor([[4, 3, 1]])).tolist() == [[False] * 4]


@pytest.mark.parametrize(("n", "k"), [(120, 8), (16, 16), (6, 3), (5, 1)])
def test_bits_survive_the_way_to_states_and_back(n: int, k: int) -> None:
    dag, strings = BitSequence(n, k, modes=1), _random_strings(n, 20)
    states = _states(dag, strings)
    assert _strings(dag, states) == strings
    assert [len(word) for word in dag.describe(states)[0].split()] == [k] * (n // k)
    assert bool(dag.is_terminal(states).all())
    bits = torch.tensor([[bit == "1" for bit in string] for string in strings])
    assert torch.equal(dag.from_bits(bits), states)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (torch.zeros(2, 5), r"bits must have shape \[B, 6\], got \[2, 5\]"),
        (torch.zeros(6), r"bits must have shape \[B, 6\], got \[6\]"),
        (torch.full((1, 6), 2), "bits must be 0 or 1"),
        (torch.full((1, 6), 0.5), "bits must be 0 or 1"),
        (torch.full((1, 6), math.nan), "bits must be 0 or 1"),
    ],
)
def test_bits_that_are_none_are_named(bits: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitSequence(6, 3, modes=1).from_bits(bits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"n": 12.0}, r"n must be an integer of at least 1, got 12\.0"),
        ({"n": 9}, "n must be a multiple of k, got n = 9, k = 2"),
        ({"k": 0}, "k must be an integer of at least 1, got 0"),
        ({"k": 3}, "n must be a multiple of k, got n = 8, k = 3"),
        ({"n": 17, "k": 17}, "k must be at most 16 .*, got 17"),
        ({"exponent": 0}, "exponent must be a positive, finite number, got 0"),
        ({"exponent": -2.0}, r"exponent must be a positive, finite number, got -2\.0"),
        ({"exponent": math.nan}, "exponent must be a positive, finite number, got nan"),
        ({"exponent": math.inf}, "exponent must be a positive, finite number, got inf"),
        ({"exponent": "2"}, "exponent must be a positive, finite number, got '2'"),
        ({"modes": 0}, "modes must be an integer of at least 1, got 0"),
        ({"modes": 2.5}, r"modes must be an integer of at least 1, got 2\.5"),
        ({"modes": True}, "modes must be an integer of at least 1, got True"),
        ({"modes": None}, "modes must be an integer of at least 1, got None"),
        ({"modes": {}}, "modes must be an integer of at least 1, got {}"),
        ({"modes": []}, r"modes must be a number or a list of bit strings, got \[\]"),
        ({"modes": "01010101"}, "modes must be a number or a list of bit strings, got '01010101'"),
        ({"modes": ["0101010"]}, "modes must be strings of 8 characters 0 and 1, got '0101010'"),
        ({"modes": ["0" * 8, "0101010x"]}, "modes must be strings of 8 characters 0 and 1, got '0101010x'"),
        ({"modes": [[0] * 8]}, r"modes must be strings of 8 characters 0 and 1, got \[0, 0"),
        ({"modes_seed": -1}, "modes_seed must be an integer of at least 0, got -1"),
        ({"modes_seed": 2**32}, r"modes_seed must be less than 2\^32, got 4294967296"),
        ({"mode_distance": -1}, "mode_distance must be an integer of at least 0, got -1"),
        ({"mode_distance": 1.5}, r"mode_distance must be an integer of at least 0, got 1\.5"),
        ({"order": "left"}, "Unknown order 'left'. Known, closest first: "),
        ({"order": "autoregresive"}, "Unknown order 'autoregresive'. Known, closest first: autoregressive, any"),
        ({"order": "Any"}, "Unknown order 'Any'. Known, closest first: any, autoregressive"),
    ],
)
def test_bad_arguments_are_named_with_their_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitSequence(**{"n": 8, "k": 2, "modes": 3, **arguments})


def test_make_passes_settings_and_device_on() -> None:
    dag = gfn_envs.make("gfn/BitSequence-v0", device="meta", n=8, k=2, modes=3, order="autoregressive")
    assert isinstance(dag, BitSequence)
    assert (dag.n, dag.num_actions, dag.device.type) == (8, 4, "meta")
    assert dag.test_states().is_meta


def _words(axes) -> list[list[float]]:
    return axes.images[0].get_array().tolist()


def test_draw_shows_bits_empty_words_and_differences_from_the_nearest_mode() -> None:
    dag = BitSequence(6, 2, modes=["111111", "000010"])
    path = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 3, 1]])
    for length, words, different, title in [
        (1, [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], [], "nearest mode 0: 0 bits differ"),
        (3, [[1, 1], [0.5, 0.5], [1, 1]], [[0, 2]], "nearest mode 1: 1 bit differs"),
        (4, [[1, 1], [0, 1], [1, 1]], [[0, 1], [0, 2]], "nearest mode 1: 2 bits differ"),
    ]:
        axes = Figure().subplots()
        dag.draw(path[:length], axes)
        assert _words(axes) == words
        assert axes.collections[0].get_offsets().tolist() == different
        assert axes.get_title() == title


@pytest.mark.parametrize("settings", [{}, *SMALL])
@pytest.mark.parametrize("order", ORDERS)
def test_every_picture_has_something_in_it(settings: dict, order: str) -> None:
    dag = BitSequence(**settings, order=order)
    end = _states(dag, _random_strings(dag.n, 1))
    part = dag.backward_step(end, torch.zeros(1, dtype=torch.int64))[0]
    for state in (dag.reset(1), part, end):
        figure = Figure()
        canvas, axes = FigureCanvasAgg(figure), figure.subplots()
        dag.draw(torch.cat([dag.reset(1), state]), axes)
        canvas.draw()
        assert np.asarray(canvas.buffer_rgba()).std() > 10
        assert axes.get_title().startswith("nearest mode ")
        assert all(float(tick).is_integer() for tick in (*axes.get_xticks(), *axes.get_yticks()))
