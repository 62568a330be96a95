"""Ising spins against Kaufman's formula, a transfer matrix written out by hand, and all configurations."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

import gfn_envs
from gfn_envs import Ising, check_dag, enumerate_dag
from gfn_envs.envs.factor_graph import torus
from gfn_envs.envs.factor_graph.elimination import Elimination
from gfn_envs.envs.factor_graph.torus import Torus, kaufman_log_z

# Two programs of others agreed on these, one by Kaufman's formula and one by the transfer matrix.
LOG_Z = [
    (4, 0.1, 11.252588),
    (4, 0.2, 11.771470),
    (4, 0.44, 15.504727),
    (4, 1.0, 32.698721),
    (9, 0.2, 59.497050),
    (9, 0.44, 75.863914),
    (10, 0.1, 70.323124),
    (10, 0.2, 73.453098),
    (10, 0.44, 93.509066),
]
GLASSES: list[dict[str, Any]] = [
    {"side": 3, "bonds": "random_signs", "coupling": 1.0, "seed": 1},
    {"side": 3, "bonds": "gaussian", "coupling": 0.7},
    {"side": 2, "bonds": [[[1, 2], [-1, 0]], [[0.5, 1], [2, -3]]], "coupling": 0.5},
    {"side": 3, "coupling": -0.3},
]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _all(side: int) -> Tensor:
    """Return all configurations as terminal states."""
    return torch.tensor(list(itertools.product((1, 2), repeat=side**2)))


def _plain_log_weight(dag: Ising, spins: np.ndarray) -> float:
    """Return K times the sum of J s s' over each spin's bonds to the right and down."""
    total, side = 0.0, dag.side
    for row, column in itertools.product(range(side), repeat=2):
        total += dag.bonds[0, row, column] * spins[row, column] * spins[row, (column + 1) % side]
        total += dag.bonds[1, row, column] * spins[row, column] * spins[(row + 1) % side, column]
    return dag.coupling * total


@pytest.mark.parametrize(("side", "coupling", "log_z"), LOG_Z)
def test_log_z_of_ferromagnets(side: int, coupling: float, log_z: float) -> None:
    dag = Ising(side, coupling)
    assert dag.log_partition() == pytest.approx(log_z, abs=1e-6)
    right, down = torch.from_numpy(coupling * dag.bonds)
    assert Torus(right, down, dag.device).log_z == pytest.approx(dag.log_partition(), rel=1e-13)


@pytest.mark.parametrize("coupling", [0.05, 0.3, math.log(1 + math.sqrt(2)) / 2, 0.9, 3.0])
@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_three_ways_to_log_z_agree(side: int, coupling: float) -> None:
    dag = Ising(side, coupling)
    spins = np.array(list(itertools.product((-1, 1), repeat=side)))
    in_row = (spins * np.roll(spins, -1, 1)).sum(1)
    matrix = np.exp(coupling * (in_row[:, None] + spins @ spins.T))
    by_hand = math.log(np.trace(np.linalg.matrix_power(matrix, side)))
    assert kaufman_log_z(side, coupling) == pytest.approx(by_hand, rel=1e-12)
    assert Elimination(dag.factors, dag.sizes, 2**20, dag.device).log_z == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("settings", GLASSES)
def test_log_z_and_rewards_of_glasses_are_those_of_a_loop_over_all_configurations(settings: dict) -> None:
    dag = Ising(**settings)
    states = _all(dag.side)
    spins = (2 * states - 3).reshape(-1, dag.side, dag.side)
    assert torch.equal(dag.spins(states), spins)
    wanted = torch.tensor([_plain_log_weight(dag, each) for each in spins.numpy()], dtype=torch.float64)
    torch.testing.assert_close(dag.log_weights(states), wanted, rtol=1e-12, atol=1e-12)
    assert dag.log_partition() == pytest.approx(float(wanted.logsumexp(0)), abs=1e-12)


@pytest.mark.parametrize("side", [3, 4])
def test_negative_couplings_equal_positive_ones_where_the_side_is_even(side: int) -> None:
    dag = Ising(side, -0.6)
    right, down = torch.from_numpy(dag.coupling * dag.bonds)
    assert dag.log_partition() == pytest.approx(Torus(right, down, dag.device).log_z, rel=1e-13)
    same = dag.log_partition() == pytest.approx(Ising(side, 0.6).log_partition(), rel=1e-13)
    assert same is (side == 4)
    assert Ising(side, 0.0).log_partition() == pytest.approx(side**2 * math.log(2))


def test_beyond_the_transfer_matrix_kaufmans_formula_alone_answers() -> None:
    assert Ising(32, 0.4).log_partition() == pytest.approx(kaufman_log_z(32, 0.4))
    # Per spin, the infinite lattice at its transition has log 2 / 2 + 2 G / pi with Catalan's constant G.
    critical = math.log(1 + math.sqrt(2)) / 2
    assert kaufman_log_z(1000, critical) / 1e6 == pytest.approx(
        math.log(2) / 2 + 2 * 0.915965594177 / math.pi, abs=1e-6
    )
    for settings in ({"bonds": "random_signs"}, {"coupling": -0.4}):
        dag = Ising(11, **settings)
        assert dag.log_partition() is None
        assert dag.sample_target(1, _generator()) is None
        with pytest.raises(ValueError, match="sides up to 10, got 11"):
            dag.exact_sums()


def test_couplings_beyond_double_precision_are_refused() -> None:
    dag = Ising(4, 1e3, bonds="random_signs")
    assert dag.log_partition() is None
    with pytest.raises(ValueError, match="couplings are too strong"):
        dag.exact_sums()
    assert Ising(4, 1e3).log_partition() == pytest.approx(32e3 + math.log(2))


@pytest.mark.parametrize("settings", GLASSES)
def test_samples_have_the_frequencies_of_the_target(settings: dict) -> None:
    dag, n = Ising(**settings), 20_000
    exact = enumerate_dag(dag)
    assert exact.log_z == pytest.approx(dag.log_partition(), abs=1e-6)
    counts = torch.bincount(
        exact.terminal_rank[exact.index(dag.sample_target(n, _generator(1)))], minlength=len(exact.terminal)
    )
    expected = n * exact.target
    often = expected >= 5
    seen, wanted = counts[often].tolist(), expected[often].tolist()
    if not often.all():
        seen, wanted = [*seen, n - sum(seen)], [*wanted, n - sum(wanted)]
    # A right sampler stays above this with probability 0.999.
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


@pytest.mark.parametrize(("side", "n"), [(6, 4000), (10, 500)])
def test_samples_of_large_tori_have_the_energy_that_log_z_tells(side: int, n: int) -> None:
    step, coupling = 1e-4, 0.35
    dag = Ising(side, coupling)
    energies = dag.log_weights(dag.sample_target(n, _generator())) / coupling
    at = [kaufman_log_z(side, coupling + shift) for shift in (-step, 0, step)]
    mean, variance = (at[2] - at[0]) / (2 * step), (at[2] - 2 * at[1] + at[0]) / step**2
    assert abs(float(energies.mean()) - mean) < 4 * math.sqrt(variance / n)
    # The relative error of a variance from n samples is about sqrt(2 / n).
    assert float(energies.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


def test_samples_of_many_chunks_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torus, "_CHUNK", 2**6)
    dag = Ising(4, 0.2)
    assert dag.sample_target(11, _generator()).shape == (11, 16)
    assert dag.sample_target(0, _generator()).shape == (0, 16)


def test_the_sizes_of_side_3() -> None:
    exact = enumerate_dag(Ising(3))
    assert (exact.num_states, len(exact.terminal)) == (19_683, 512)


@pytest.mark.parametrize("id", ["gfn/Ising-v0", "gfn/SpinGlass-v0"])
def test_the_registered_ones_are_a_ferromagnet_and_a_glass(id: str) -> None:
    dag = gfn_envs.make(id)
    assert isinstance(dag, Ising)
    assert set(dag.bonds.ravel()) == ({1.0} if "Ising" in id else {-1.0, 1.0})
    assert dag.log_partition() == pytest.approx(float(dag.log_weights(_all(4)).logsumexp(0)), abs=1e-12)


def test_the_potential_counts_bonds_between_spins_that_are_set() -> None:
    dag = Ising(3, 0.5)
    states = torch.tensor([[2, 0, 0, 0, 1, 0, 0, 0, 0], [2, 2, 0, 1, 0, 0, 0, 0, 0], [2] * 9])
    torch.testing.assert_close(dag.log_potential(states), torch.tensor([0.0, 0.0, 9.0]))
    assert dag.describe(states) == ["+../.-./...", "++./-../...", "+++/+++/+++"]
    check_dag(dag)


def test_a_reward_of_ones_own_has_no_closed_form() -> None:
    dag = Ising(2, reward=lambda states: 1 + states.sum(1).float())
    check_dag(Ising(2, bonds="gaussian"))
    assert dag.log_partition() is dag.sample_target(1, _generator()) is None
    assert enumerate_dag(dag).log_z == pytest.approx(math.log(sum(math.comb(4, i) * (5 + i) for i in range(5))))


@pytest.mark.parametrize("bonds", ["ferromagnet", "random_signs"])
def test_the_picture_shows_spins_and_crosses_bonds_that_are_not_satisfied(bonds: str) -> None:
    dag, figure = Ising(4, 0.5, bonds=bonds), Figure()
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    path = dag.sample_target(1, _generator(3))
    path[0, 5], path[0, 10] = 0, 3 - path[0, 10]
    dag.draw(path, axes)
    canvas.draw()
    spins = dag.spins(path)[0]
    assert torch.equal(torch.as_tensor(axes.images[0].get_array()), spins)
    unsatisfied = sum(
        bool(dag.bonds[axis, row, column] * spins[row, column] * spins[(row + axis) % 4, (column + 1 - axis) % 4] < 0)
        for axis, row, column in itertools.product((0, 1), range(4), range(4))
    )
    assert len(axes.collections[0].get_segments()) == unsatisfied > 0
    assert axes.get_title().startswith("bonds ")
    assert np.asarray(canvas.buffer_rgba()).std() > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 1}, "side must be an integer of at least 2, got 1"),
        ({"coupling": math.nan}, "coupling must be a finite number, got nan"),
        ({"coupling": "strong"}, "coupling must be a finite number, got 'strong'"),
        ({"coupling": True}, "coupling must be a finite number, got True"),
        ({"bonds": "random"}, "Unknown bonds 'random'. Known, closest first: random_signs, "),
        ({"bonds": np.ones((4, 4))}, r"bonds must have shape \[2, 4, 4\] \(right, then below\), got \[4, 4\]"),
        ({"bonds": np.full((2, 4, 4), math.inf)}, "bonds must be finite numbers, got inf"),
        ({"bonds": [[1, 2], [3]]}, r"bonds must be numbers of shape \[2, 4, 4\]"),
        ({"seed": 3}, "seed 3 has no effect: bonds 'ferromagnet' are not random"),
        ({"seed": 3, "bonds": np.ones((2, 4, 4))}, "seed 3 has no effect with bonds of your own"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ising(**arguments)
