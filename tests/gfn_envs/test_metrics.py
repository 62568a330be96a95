"""Distances and correlations have their defining values and bounds; the collections of samples keep what they say."""

import io
import math

import pytest
import torch
from scipy import stats

from agents.evaluation.collectors import BestStates, RecentSamples
from gfn_envs.metrics import jensen_shannon, kl, l1, pearson, spearman, total_variation


def _distributions(seed: int, n: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))
    p[:3] = 0
    return p / p.sum(), q / q.sum()


def test_distances_of_two_coins() -> None:
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.9, 0.1]).double()
    assert l1(p, q) == pytest.approx(0.8)
    assert total_variation(p, q) == pytest.approx(0.4)
    assert kl(p, q) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    middle = (0.7, 0.3)
    halves = [sum(a * math.log(a / m) for a, m in zip(x.tolist(), middle, strict=True)) for x in (p, q)]
    assert jensen_shannon(p, q) == pytest.approx(sum(halves) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_zero_only_at_equality_and_bounded(seed: int) -> None:
    p, q = _distributions(seed)
    for distance in (l1, total_variation, kl, jensen_shannon):
        assert distance(p, p) == 0
        assert distance(p, q) > 0
    assert l1(p, q) == pytest.approx(2 * total_variation(p, q))
    assert total_variation(p, q) == pytest.approx(float((p - q).clamp(min=0).sum()))
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert 2 * total_variation(p, q) ** 2 <= kl(p, q), "Pinsker's inequality"


def test_disjoint_distributions_are_farthest_apart() -> None:
    p, q = torch.eye(2, dtype=torch.float64)
    assert (l1(p, q), total_variation(p, q), kl(p, q)) == (2.0, 1.0, math.inf)
    assert jensen_shannon(p, q) == pytest.approx(math.log(2))


@pytest.mark.parametrize("sizes", [[3, 3, 3], [7, 1, 2], [10], [25, 4], [0, 5, 0], [1] * 23])
def test_the_window_keeps_exactly_the_latest_samples(sizes: list[int]) -> None:
    window, recent, drawn = 7, RecentSamples(6, 7), torch.empty(0, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        ranks = torch.randint(6, (size,), generator=generator)
        recent.add(ranks)
        drawn = torch.cat([drawn, ranks])[-window:]
        expected = torch.bincount(drawn, minlength=6).double() / max(len(drawn), 1)
        assert torch.equal(recent.frequencies(), expected)
    assert float(recent.frequencies().sum()) == pytest.approx(1.0 if len(drawn) else 0.0)


def test_before_the_first_sample_all_frequencies_are_zero() -> None:
    assert RecentSamples(4, 10).frequencies().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("before", [0, 4, 7, 18])
def test_the_window_goes_on_after_loading_as_if_never_saved(before: int) -> None:
    ranks = torch.randint(6, (40,), generator=torch.Generator().manual_seed(1))
    one, two = RecentSamples(6, 7), RecentSamples(6, 7)
    one.add(ranks[:before])
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    for i in range(before, 40, 3):
        assert torch.equal(one.frequencies(), two.frequencies())
        for recent in (one, two):
            recent.add(ranks[i : i + 3])


def test_correlations_of_a_hand_example() -> None:
    x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 100.0])
    # Ranks 1 3 2 4: 1 - 6 (0 + 1 + 1 + 0) / (4 * 15) = 0.8. Deviations of x: -1.5 -0.5 0.5 1.5, and y has mean 26.5.
    assert spearman(x, y) == pytest.approx(0.8)
    covariance = -1.5 * -25.5 - 0.5 * -23.5 + 0.5 * -24.5 + 1.5 * 73.5
    spread = math.sqrt(5.0 * (25.5**2 + 23.5**2 + 24.5**2 + 73.5**2))
    assert pearson(x, y) == pytest.approx(covariance / spread)


@pytest.mark.parametrize("seed", range(5))
def test_correlations_equal_those_of_the_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(50, generator=generator) for _ in range(2))
    y = (x + noise).round()  # with ties
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        assert ours(x, y) == pytest.approx(float(theirs(x.numpy(), y.numpy()).statistic), abs=1e-6)  # type: ignore[attr-defined]
        assert ours(x, y) == pytest.approx(ours(y, x))
        assert -1 <= ours(x, y) <= 1
    deviations = x - x.mean(), y - y.mean()
    by_hand = (deviations[0] * deviations[1]).sum() / (deviations[0].norm() * deviations[1].norm())
    assert pearson(x, y) == pytest.approx(float(by_hand), abs=1e-5)
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert spearman(x, -x.exp()) == pytest.approx(-1)
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert pearson(x, x.exp()) < 0.99


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [2.0, 0.1, math.nan])
def test_correlations_with_a_constant_are_not_a_number(value: float) -> None:
    x, constant = torch.arange(5.0), torch.full((5,), value)
    for correlation in (pearson, spearman):
        assert math.isnan(correlation(x, constant))
        assert math.isnan(correlation(constant, x))


def _stream(seed: int, batches: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of states with many repetitions, and equal log rewards of different states."""
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randint(4, (int(torch.randint(9, (), generator=generator)), 3), generator=generator)]
    while len(states) < batches:
        states.append(torch.randint(4, (7, 3), generator=generator))
    return [(x, -(x * torch.tensor([3, 1, 1])).sum(1).float()) for x in states]


@pytest.mark.parametrize("count", [1, 5, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_states_are_the_first_distinct_ones_of_a_sorted_stream(seed: int, count: int) -> None:
    best, seen = BestStates(3, count), {}
    for states, log_reward in _stream(seed):
        best.add(states, log_reward)
        for state, value in zip(states.tolist(), log_reward.tolist(), strict=True):
            seen.setdefault(tuple(state), value)
        wanted = sorted(seen.items(), key=lambda item: -item[1])[:count]
        assert best.states.tolist() == [list(state) for state, _ in wanted]
        assert best.log_reward.tolist() == [value for _, value in wanted]
        if wanted:
            assert best.mean_log_reward() == pytest.approx(sum(value for _, value in wanted) / len(wanted))


def test_diversity_is_the_mean_share_of_components_in_which_two_states_differ() -> None:
    best = BestStates(3, 20)
    for n, batch in enumerate(_stream(7)):
        best.add(*batch)
        rows = best.states.tolist()
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[:i]]
        if not pairs:
            assert math.isnan(best.diversity())
            continue
        wanted = sum(sum(x != y for x, y in zip(a, b, strict=True)) / 3 for a, b in pairs) / len(pairs)
        assert best.diversity() == pytest.approx(wanted), n
    empty = BestStates(3)
    assert math.isnan(empty.diversity())
    assert math.isnan(empty.mean_log_reward())


@pytest.mark.parametrize("before", [0, 1, 6])
def test_the_best_states_go_on_after_loading_as_if_never_saved(before: int) -> None:
    one, two, stream = BestStates(3, 8), BestStates(3, 8), _stream(3)
    for batch in stream[:before]:
        one.add(*batch)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    for batch in stream[before:]:
        for best in (one, two):
            best.add(*batch)
        assert torch.equal(one.states, two.states)
        assert torch.equal(one.log_reward, two.log_reward)
