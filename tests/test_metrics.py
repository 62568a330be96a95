"""Distances have their defining values and bounds; the window of recent samples keeps exactly the latest."""

import io
import math

import pytest
import torch

from gfn_envs.metrics import RecentSamples, jensen_shannon, kl, l1, total_variation


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
