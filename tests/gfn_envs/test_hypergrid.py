"""The hypergrid against its formulas, written out a second time with exact fractions and plain loops."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import chi2, norm

import gfn_envs
from gfn_envs import Hypergrid, check_dag, enumerate_dag
from gfn_envs.envs.hypergrid import REWARDS


def _cells(dag: Hypergrid) -> torch.Tensor:
    """Return all terminal states `[side^dim, dim + 1]`, the last coordinate fastest."""
    return torch.tensor([(*cell, 1) for cell in itertools.product(range(dag.side), repeat=dag.dim)])


def _plain_reward(cell: tuple[int, ...], side: int, constants: tuple[float, float, float]) -> Fraction:
    plateau = peak = True
    for coordinate in cell:
        u = abs(Fraction(coordinate, side - 1) - Fraction(1, 2))
        plateau = plateau and Fraction(1, 4) < u
        peak = peak and Fraction(3, 10) < u < Fraction(2, 5)
    return Fraction(constants[0]) + Fraction(constants[1]) * plateau + Fraction(constants[2]) * peak


@pytest.mark.parametrize("side", [2, 3, 5, 6, 8, 11, 16, 20, 21])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("constants", [(1e-3, 0.5, 2.0), (1e-4, 1.0, 3.0), (0.3, 0.0, 7.0)])
def test_rewards_follow_the_formula_exactly_at_the_bounds_too(dim, side, constants) -> None:
    dag = Hypergrid(dim, side, R0=constants[0], R1=constants[1], R2=constants[2])
    wanted = [_plain_reward(c, side, constants) for c in itertools.product(range(side), repeat=dim)]
    torch.testing.assert_close(dag.log_reward(_cells(dag)), torch.tensor([math.log(r) for r in wanted]))
    assert dag.log_partition() == pytest.approx(math.log(sum(wanted)), abs=1e-12)


def _plain_deceptive(cell: tuple[int, ...], side: int) -> float:
    far = ring = True
    for coordinate in cell:
        u = abs(2 * Fraction(coordinate, side - 1) - 1)
        far = far and u > Fraction(1, 5)
        ring = ring and Fraction(3, 5) < u < Fraction(4, 5)
    return 1e-5 + 0.1 - 0.1 * far + 2 * ring


def _plain_cosine(cell: tuple[int, ...], side: int) -> float:
    product = 1.0
    for coordinate in cell:
        a = abs(coordinate / (side - 1) - 0.5)
        product *= (math.cos(50 * a) + 1) * norm.pdf(5 * a)
    return 0.1 + 0.5 * product


def _plain_sparse(cell: tuple[int, ...], side: int) -> float:
    return 1e-12 + all(coordinate in (1, side - 2) for coordinate in cell)


PLAIN = {"deceptive": _plain_deceptive, "cosine": _plain_cosine, "sparse": _plain_sparse}


@pytest.mark.parametrize("side", [4, 5, 8, 11, 16, 21, 41])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", PLAIN)
def test_harder_rewards_follow_their_formulas(name: str, dim: int, side: int) -> None:
    dag = Hypergrid(dim, side, reward=name)
    wanted = [PLAIN[name](cell, side) for cell in itertools.product(range(side), repeat=dim)]
    torch.testing.assert_close(
        dag.log_reward(_cells(dag)), torch.tensor([math.log(r) for r in wanted]), rtol=1e-6, atol=1e-6
    )
    assert dag.log_partition() == pytest.approx(math.log(math.fsum(wanted)), abs=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_enumeration_agrees_on_harder_rewards(name: str) -> None:
    dag = Hypergrid(3, 6, reward=name)
    check_dag(dag)
    check_dag(Hypergrid(3, 6, reward=name, device="meta"))
    exact = enumerate_dag(dag)
    wanted = [PLAIN[name](tuple(row[:-1]), 6) for row in exact.states[exact.terminal].tolist()]
    target = torch.tensor(wanted, dtype=torch.float64) / math.fsum(wanted)
    torch.testing.assert_close(exact.target, target, rtol=1e-5, atol=1e-12)
    assert exact.log_z == pytest.approx(math.log(math.fsum(wanted)), abs=1e-6)


@pytest.mark.parametrize("name", REWARDS)
def test_samples_follow_the_target(name: str) -> None:
    dag = Hypergrid(2, 8, reward=name)
    states = dag.sample_target(20_000, torch.Generator().manual_seed(0))
    assert states is not None
    target = dag.log_reward(_cells(dag)).double().softmax(0)
    seen = torch.bincount(states[:, 0] * 8 + states[:, 1], minlength=64)
    order = target.argsort()
    enough = (order[target[order].cumsum(0) * 20_000 > 5]).flip(0)  # the rarest cells count as one
    expected = torch.cat([target[enough], 1 - target[enough].sum(0, keepdim=True)]) * 20_000
    found = torch.cat([seen[enough], 20_000 - seen[enough].sum(0, keepdim=True)])
    kept = expected > 1e-3
    statistic = float(((found - expected) ** 2 / expected)[kept].sum())
    assert chi2.sf(statistic, int(kept.sum()) - 1) > 1e-3
    assert int(found[~kept].sum()) == 0
    assert Hypergrid(2, 8, reward=lambda states: states.sum(1)).sample_target(3, torch.Generator()) is None


def test_where_the_harder_rewards_are_high() -> None:
    deceptive, sparse = (Hypergrid(2, 16, reward=name) for name in ("deceptive", "sparse"))
    at = {
        name: torch.tensor([[*cell, 1]]) for name, cell in {"middle": (7, 8), "ring": (2, 13), "end": (0, 15)}.items()
    }
    assert deceptive.log_reward(torch.cat(list(at.values()))).exp().tolist() == pytest.approx([0.10001, 2.00001, 1e-5])
    assert deceptive.modes_hit(at["ring"]).tolist() == [[False, False, True, False]]
    assert deceptive.num_modes == sparse.num_modes == 4
    target = torch.tensor([[1, 14, 1]])
    assert sparse.log_reward(target).item() == pytest.approx(0, abs=1e-6)
    assert sparse.modes_hit(target).tolist() == [[False, False, True, False]]
    assert sparse.modes_hit(_cells(sparse)).sum() == 4
    cosine = Hypergrid(2, 17, reward="cosine")
    assert (cosine.num_modes, cosine.metrics) == (0, ())
    assert cosine.log_reward(torch.tensor([[8, 8, 1]])) == cosine.log_reward(_cells(cosine)).max()


def test_a_grid_without_peaks_claims_no_modes() -> None:
    assert Hypergrid(2, 5, reward="deceptive").num_modes == 0  # no coordinate of five lies in the ring
    assert Hypergrid(2, 5).num_modes == 4  # the plateau of the corners is the best there is
    assert Hypergrid(2, 8, R1=0, R2=0).num_modes == 0


@pytest.mark.parametrize("name", ["deceptive", "cosine", "sparse"])
def test_own_constants_replace_those_of_the_harder_rewards(name: str) -> None:
    dag = Hypergrid(1, 8, reward=name, R0=0.5)
    plain = Hypergrid(1, 8, reward=name)
    torch.testing.assert_close(
        dag.log_reward(_cells(dag)).exp() - 0.5,
        plain.log_reward(_cells(dag)).exp() - plain.constants["R0"],
        rtol=1e-4,
        atol=1e-6,
    )


def test_the_grid_of_side_21_has_cells_on_the_bounds() -> None:
    # u = 0.3 and u = 0.4 are 2 / 20 and 4 / 20 from the edge: the open ring keeps only what lies between.
    log_reward = Hypergrid(1, 21).log_reward(torch.tensor([[s, 1] for s in range(6)]))
    expected = torch.tensor([0.501, 0.501, 0.501, 2.501, 0.501, 0.001])
    torch.testing.assert_close(log_reward.exp(), expected)


@pytest.mark.parametrize(("name", "constants"), [("standard", (1e-3, 0.5, 2.0)), ("hard", (1e-4, 1.0, 3.0))])
def test_the_named_rewards_are_those_of_the_literature(name, constants) -> None:
    dag = Hypergrid(2, 4, reward=name)
    assert tuple(dag.constants.values()) == constants


def test_own_constants_replace_the_named_ones_one_by_one() -> None:
    dag = Hypergrid(2, 4, reward="hard", R1=0.25)
    assert dag.constants == {"R0": 1e-4, "R1": 0.25, "R2": 3.0}


@pytest.mark.parametrize(("id", "z"), [("gfn/Hypergrid-v0", 5672), ("gfn/HypergridHard-v0", 10784)])
def test_the_partition_function_of_the_default_grids(id: str, z: int) -> None:
    dag = gfn_envs.make(id)
    assert isinstance(dag, Hypergrid)
    assert (dag.dim, dag.side) == (4, 20)
    assert dag.log_partition() == pytest.approx(math.log(z), abs=1e-9)
    states = torch.cat([torch.cartesian_prod(*[torch.arange(20)] * 4), torch.ones(20**4, 1, dtype=torch.int64)], 1)
    assert float(dag.log_reward(states).double().logsumexp(0)) == pytest.approx(math.log(z), abs=1e-6)


@pytest.mark.parametrize(("dim", "side"), [(1, 6), (2, 5), (3, 4)])
def test_numbers_of_trajectories_equal_brute_force_counting(dim: int, side: int) -> None:
    counts = {(0,) * dim: 1}
    for cell in itertools.product(range(side), repeat=dim):  # the order of cells is topological
        for d in range(dim):
            if cell[d] > 0:
                parent = (*cell[:d], cell[d] - 1, *cell[d + 1 :])
                counts[cell] = counts.get(cell, 0) + counts[parent]
    wanted = torch.tensor([math.log(counts[cell]) for cell in itertools.product(range(side), repeat=dim)])
    dag = Hypergrid(dim, side)
    stopped = _cells(dag)
    for states in (stopped, stopped * torch.tensor([1] * dim + [0])):
        torch.testing.assert_close(dag.log_num_trajectories(states), wanted)


def test_numbers_of_trajectories_stay_exact_on_the_default_grid() -> None:
    corner = torch.tensor([[19, 19, 19, 19, 1]])
    wanted = math.log(math.factorial(76) // math.factorial(19) ** 4)
    assert float(Hypergrid().log_num_trajectories(corner)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("dim", "side"), [(1, 2), (3, 5), (4, 20)])
def test_sizes(dim: int, side: int) -> None:
    dag = Hypergrid(dim, side)
    assert dag.nvec == (side,) * dim + (2,)
    assert dag.state_dim == dag.num_actions == dag.num_backward_actions == dim + 1
    assert dag.max_steps == dim * (side - 1) + 1


def test_masks_on_a_hand_written_table() -> None:
    states = torch.tensor([[0, 0, 0], [2, 0, 0], [2, 2, 0], [1, 0, 1]])
    dag = Hypergrid(2, 3)
    assert dag.action_mask(states).int().tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert dag.backward_action_mask(states).int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert dag.is_terminal(states).tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim must be an integer of at least 1, got 0"),
        ({"dim": True}, "dim must be an integer of at least 1, got True"),
        ({"dim": "4"}, "dim must be an integer of at least 1, got '4'"),
        ({"side": 1}, "side must be an integer of at least 2, got 1"),
        ({"side": 2.5}, r"side must be an integer of at least 2, got 2\.5"),
        ({"R0": 0}, "R0 must be a finite number > 0, got 0"),
        ({"R0": -1e-3}, r"R0 must be a finite number > 0, got -0\.001"),
        ({"R0": math.nan}, "R0 must be a finite number > 0, got nan"),
        ({"R1": -0.5}, r"R1 must be a finite number >= 0, got -0\.5"),
        ({"R2": math.inf}, "R2 must be a finite number >= 0, got inf"),
        ({"R2": "2"}, "R2 must be a finite number >= 0, got '2'"),
        ({"reward": "standrad"}, "Unknown reward 'standrad'. Known, closest first: standard, sparse, "),
        ({"reward": "cosine", "R2": 1.0}, "R2: the reward cosine has the constants R0 and R1 alone"),
        ({"reward": "sparse", "side": 3}, "the reward sparse needs a side of at least 4, got 3"),
        ({"reward": "Herd"}, "Unknown reward 'Herd'. Known, closest first: hard, "),
    ],
)
def test_bad_arguments_are_named_with_their_value(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hypergrid(**arguments)


def test_an_unknown_id_lists_the_known_ones_closest_first() -> None:
    with pytest.raises(ValueError, match=r"Unknown environment id 'gfn/Hypergird-v0'.*first: gfn/Hypergrid-v0, "):
        gfn_envs.make("gfn/Hypergird-v0")


def test_an_unknown_keyword_lists_the_right_ones_closest_first() -> None:
    with pytest.raises(TypeError, match=r"Hypergrid got an unexpected keyword argument 'sides'.*first: side, "):
        gfn_envs.make("gfn/Hypergrid-v0", sides=8)


def test_make_passes_keywords_and_device_on() -> None:
    dag = gfn_envs.make("gfn/HypergridHard-v0", device="meta", side=8)
    assert isinstance(dag, Hypergrid)
    assert (dag.side, dag.constants["R0"], dag.device.type) == (8, 1e-4, "meta")


def test_states_are_described_in_words() -> None:
    assert Hypergrid(2, 4).describe(torch.tensor([[0, 3, 0], [1, 2, 1]])) == ["(0, 3)", "(1, 2) stopped"]


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_draw_marks_the_path_on_the_heat_map(dim: int) -> None:
    dag, axes = Hypergrid(dim, 5), Figure().subplots()
    path = torch.zeros(4, dim + 1, dtype=torch.int64)
    path[:, 0], path[-1, -1] = torch.tensor([0, 1, 2, 2]), 1
    dag.draw(path, axes)
    way, end = axes.lines
    assert list(way.get_xdata()) == [0, 1, 2, 2]
    assert list(way.get_ydata()) == [0, 0, 0, 0]
    assert (end.get_marker(), list(end.get_xdata())) == ("s", [2])
    (image,) = axes.images
    assert image.get_array().shape == ((5, 5) if dim > 1 else (1, 5))


@pytest.mark.parametrize("name", ["hard", "deceptive", "cosine", "sparse"])
def test_the_heat_map_is_the_reward_summed_over_the_other_axes(name: str) -> None:
    dag, axes = Hypergrid(3, 6, reward=name), Figure().subplots()
    dag.draw(dag.reset(1), axes)
    log_reward = dag.log_reward(_cells(dag)).double().reshape(6, 6, 6)
    heat = torch.as_tensor(axes.images[0].get_array())
    torch.testing.assert_close(heat, log_reward.logsumexp(2).T, rtol=1e-5, atol=1e-5)


def test_a_path_not_yet_stopped_ends_in_a_round_mark() -> None:
    dag, axes = Hypergrid(2, 5), Figure().subplots()
    dag.draw(dag.reset(1), axes)
    assert axes.lines[-1].get_marker() == "o"


@pytest.mark.parametrize(("dim", "side", "cells"), [(1, 8, 1), (2, 8, 1), (2, 20, 4), (3, 9, 8), (2, 5, 1)])
def test_every_corner_has_one_mode_of_the_cells_with_the_highest_reward(dim, side, cells):
    dag = gfn_envs.Hypergrid(dim, side)
    exact = gfn_envs.enumerate_dag(dag)
    hit = dag.modes_hit(exact.states[exact.terminal])
    best = exact.log_reward == exact.log_reward.max()
    assert torch.equal(hit.any(1), best)
    assert hit.sum(0).tolist() == [int(best.sum()) // 2**dim] * 2**dim
    assert hit.sum(1).max() == 1
    for state, row in zip(exact.states[exact.terminal], hit, strict=True):
        if row.any():
            corner = sum((int(s) > (side - 1) / 2) << d for d, s in enumerate(state[:-1]))
            assert row[corner]
