"""Figures over many records: means, interquartile means, differences paired by seed, and their intervals.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A figure with the ends of its 95 % bootstrap interval, which are NaN where there is none."""

    value: float
    low: float
    high: float


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean along an axis."""
    return np.mean(values, axis)


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of the middle half of the values along an axis."""
    return stats.trim_mean(values, 0.25, axis)


def estimate(strata: Sequence[Sequence[float]], statistic: Callable[..., np.ndarray] = mean) -> Estimate:
    """Return `statistic` of all values together with an interval.

    The bootstrap resamples within each stratum: the seeds of one environment are drawn anew among themselves. It has no
    interval where no stratum has two values.
    """
    samples = [np.asarray(values, float) for values in strata if len(values)]
    if not samples:
        return Estimate(math.nan, math.nan, math.nan)
    together = np.concatenate(samples)
    value = float(statistic(together))
    if max(map(len, samples)) < 2:
        return Estimate(value, math.nan, math.nan)
    random = np.random.default_rng(0)
    drawn = np.concatenate([random.choice(each, (RESAMPLES, len(each))) for each in samples], axis=1)
    low, high = np.quantile(statistic(drawn), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def differences(values: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Return value minus other value for each seed that both have."""
    return [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]


def profile(strata: Sequence[Sequence[float]], thresholds: np.ndarray) -> np.ndarray:
    """Return for each threshold the share of values at most as large, with each stratum counting the same."""
    shares = [np.mean(np.asarray(values)[:, None] <= thresholds, axis=0) for values in strata if len(values)]
    return np.mean(shares, axis=0)
