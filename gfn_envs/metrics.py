"""Distances between distributions over terminal states, and correlations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from scipy import stats
from torch import Tensor


def l1(p: Tensor, q: Tensor) -> float:
    """Return sum |p - q|, in 0..2."""
    return float((p - q).abs().sum())


def total_variation(p: Tensor, q: Tensor) -> float:
    """Return 1/2 sum |p - q|, in 0..1."""
    return l1(p, q) / 2


def kl(p: Tensor, q: Tensor) -> float:
    """Return KL(p || q) = sum p log(p/q) in nats, >= 0; `inf` if q is 0 somewhere that p is not."""
    return float(torch.where(p > 0, p * (p / q).log(), 0.0).sum())


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Return the Jensen-Shannon divergence in nats, in 0..log 2."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def pearson(x: Tensor, y: Tensor) -> float:
    """Return Pearson's correlation of `x [N]` and `y [N]`, in -1..1; NaN if one of them is constant."""
    return _correlation(stats.pearsonr, x, y)


def spearman(x: Tensor, y: Tensor) -> float:
    """Return Spearman's rank correlation of `x [N]` and `y [N]`, in -1..1; NaN if one of them is constant."""
    return _correlation(stats.spearmanr, x, y)


def _correlation(function: Callable[..., Any], x: Tensor, y: Tensor) -> float:
    x, y = x.double().cpu(), y.double().cpu()
    if not (x.max() > x.min() and y.max() > y.min()):
        return math.nan
    return float(function(x.numpy(), y.numpy()).statistic)
