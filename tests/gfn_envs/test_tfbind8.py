"""TFBind8 against the published figures and the measurements themselves."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import gfn_envs
from gfn_envs import TFBind8, check_dag, enumerate_dag
from gfn_envs.envs.sequences.orders import ORDERS
from gfn_envs.envs.tfbind8 import table
from gfn_envs.envs.tfbind8.make.make_table import Settings, main, read_scores

SOURCE = Path(__file__).parents[3] / "shared" / "data" / "tfbind8_SIX6_REF_R1_8mers.txt"
needs_source = pytest.mark.skipif(not SOURCE.is_file(), reason=f"{SOURCE} is missing")


def every_word(dag: TFBind8) -> torch.Tensor:
    """Return all 65,536 terminal states in alphabetical order."""
    return dag.from_index(torch.arange(4**8))


def test_log_z_and_the_mean_reward_are_the_published_ones() -> None:
    dag = TFBind8()
    r = dag.log_reward(every_word(dag)).double().exp()
    assert float(r.sum().log()) == pytest.approx(11.462147, abs=1e-6)
    assert float((r * r).sum() / r.sum()) == pytest.approx(3.319955, abs=1e-5)
    assert dag.log_partition() == pytest.approx(11.462147, abs=5e-7)
    assert (float(r.min()), float(r.max())) == pytest.approx((1e-3, 10))


@pytest.mark.parametrize(
    ("order", "states", "edges"),
    [("prepend_append", 87_381, 174_756), ("left_to_right", 87_381, 87_380), ("insert", 87_381, 524_288)],
)
def test_sizes_and_the_exact_target_of_each_order(order: str, states: int, edges: int) -> None:
    dag = TFBind8(order)
    exact = enumerate_dag(dag)
    assert (exact.num_states, len(exact.parents), len(exact.terminal)) == (states, edges, 4**8)
    assert exact.log_z == pytest.approx(dag.log_partition(), abs=1e-6)


@pytest.mark.slow
def test_sizes_of_any_order() -> None:
    exact = enumerate_dag(TFBind8())
    assert (exact.num_states, len(exact.parents), len(exact.terminal)) == (390_625, 2_500_000, 4**8)


@pytest.mark.parametrize("order", ORDERS)
def test_the_law_holds(order: str) -> None:
    check_dag(TFBind8(order), num_trajectories=32)
    check_dag(TFBind8(order, device="meta"))


@functools.cache
def chains(word: str) -> int:
    """Return in how many ways a word loses a letter each, down to nothing, told apart by the words on the way."""
    return sum(chains(part) for part in {word[:i] + word[i + 1 :] for i in range(len(word))}) if word else 1


def test_a_uniform_backward_policy_is_the_maximum_entropy_one_except_for_insert() -> None:
    for order in ("any", "prepend_append", "left_to_right"):
        dag = TFBind8(order)
        states = every_word(dag)[::97]
        steps = torch.zeros(len(states))
        for _ in range(8):  # along any way back, log n(s) is the sum of the logs of the numbers of parents
            mask = dag.backward_action_mask(states)
            steps += mask.sum(1).log()
            states = dag.backward_step(states, mask.int().argmax(1))[0]
        torch.testing.assert_close(steps, dag.log_num_trajectories(every_word(dag)[::97]))
    insert = TFBind8("insert")
    words = ["AAAAAAAA", "AAAACCCC", "ACACACAC", "ACGTACGT"]
    assert [chains(word) for word in words] == [1, math.comb(8, 4), 7936, 32_256]  # 7936 is a tangent number
    counts = insert.log_num_trajectories(insert.from_words(words)).exp()
    assert counts.tolist() == pytest.approx([chains(word) for word in words], rel=1e-5)


@needs_source
def test_the_packed_scores_are_the_measured_ones(tmp_path: Path) -> None:
    scores = {}
    for line in SOURCE.read_text().splitlines()[1:]:
        word, other, score, *_ = line.split("\t")
        scores[word] = scores[other] = float(score)
    dag = TFBind8()
    words = dag.words(every_word(dag))
    assert set(words) == set(scores)
    measured = torch.tensor([scores[word] for word in words], dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(table.load_scores() * table.UNIT), measured, rtol=0, atol=1e-9)
    z = (measured - measured.min()) / (measured.max() - measured.min())
    torch.testing.assert_close(dag.binding(every_word(dag)), z.float())
    assert (round(float(measured.min()), 5), round(float(measured.max()), 5)) == (-0.47907, 0.49105)
    main(Settings(SOURCE, tmp_path / "again.npz"))
    with np.load(tmp_path / "again.npz") as again, np.load(table.SCORES) as packed:  # bytes depend on NumPy's release
        assert set(again) == set(packed)
        for name in packed:
            np.testing.assert_array_equal(again[name], packed[name])


def test_a_word_and_its_reverse_complement_have_one_score() -> None:
    dag = TFBind8()
    words = dag.words(every_word(dag))
    other = [word[::-1].translate(str.maketrans("ACGT", "TGCA")) for word in words]
    assert [words[i] for i in table.reverse_complements(np.arange(4**8))] == other
    assert torch.equal(dag.log_reward(every_word(dag)), dag.log_reward(dag.from_words(other)))


def test_modes_are_high_apart_and_hit_by_themselves_alone() -> None:
    dag = TFBind8()
    hit = dag.modes_hit(every_word(dag))
    assert dag.num_modes == 328 == round(0.005 * 4**8)
    assert hit.sum(0).tolist() == [1] * 328
    modes = every_word(dag)[hit.any(1)]
    apart = (modes.unsqueeze(1) != modes).sum(2)
    assert int((apart + 8 * torch.eye(328, dtype=torch.int64)).min()) == 2
    assert float(dag.binding(modes).min()) > 0.889
    best = dag.binding(every_word(dag)).topk(1_100).indices
    covered = (every_word(dag)[best].unsqueeze(1) != modes).sum(2).amin(1) <= 1
    assert bool(covered.all()), "a word as good as a mode is one, or lies next to one"


def test_samples_follow_the_target() -> None:
    dag = TFBind8()
    samples = dag.sample_target(100_000, torch.Generator().manual_seed(0))
    r = dag.log_reward(every_word(dag)).double().exp()
    group = torch.arange(4**8) % 64 + 64 * (r > 1).long()  # by the last three letters, and whether R is large
    expected = torch.zeros(128, dtype=torch.float64).index_add_(0, group, r / r.sum()) * len(samples)
    seen = torch.bincount(group[dag.index(samples)], minlength=128)
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    assert chi_square < 181.99  # exceeded once in a thousand times at 127 degrees of freedom
    assert float(dag.log_reward(samples).exp().mean()) == pytest.approx(3.319955, abs=0.05)


def test_the_exponent_is_that_of_z() -> None:
    dag = TFBind8(exponent=1)
    states = every_word(dag)
    wanted = (10 * dag.binding(states)).clamp(min=1e-3)
    torch.testing.assert_close(dag.log_reward(states).exp(), wanted, rtol=1e-5, atol=1e-7)


def test_of_a_reward_of_ones_own_neither_modes_nor_log_z_are_claimed() -> None:
    dag = TFBind8(reward=lambda words: [1 + word.count("G") for word in words])
    check_dag(dag, num_trajectories=16)
    assert (dag.num_modes, dag.metrics, dag.log_partition()) == (0, (), None)
    assert dag.modes_hit(every_word(dag)[:3]).shape == (3, 0)
    assert dag.table.log_z == pytest.approx(math.log(3 * 4**8), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "backwards"}, "Unknown order 'backwards'. Known, closest first: "),
        ({"exponent": 0}, "exponent must be a positive, finite number, got 0"),
        ({"exponent": math.nan}, "exponent must be a positive, finite number, got nan"),
        ({"reward": "SIX6"}, "Unknown reward 'SIX6'. Known, closest first: SIX6_REF_R1, module:function"),
        ({"reward": "math:gcd", "exponent": 2.0}, "exponent belongs to the reward SIX6_REF_R1: .* math:gcd"),
    ],
)
def test_bad_arguments_are_named_with_their_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TFBind8(**arguments)


def test_a_damaged_table_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scores.npz").write_bytes(table.SCORES.read_bytes()[:1000])
    for name in ("scores.npz", "missing.npz"):
        monkeypatch.setattr(table, "SCORES", tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}, the binding scores, is missing or damaged .*: reinstall"):
            gfn_envs.make("gfn/TFBind8-v0")


def test_packing_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    scores = table.load_scores()
    scores[1] += 1
    with pytest.raises(ValueError, match="reverse complement must have one score"):
        table.pack(scores)
    source = tmp_path / "short.txt"
    source.write_text("8-mer\t8-mer\tE-score\nAAAAAAAA\tTTTTTTTT\t0.1\n")
    with pytest.raises(ValueError, match="has no score for 65534 of the 65536 words"):
        read_scores(source)
