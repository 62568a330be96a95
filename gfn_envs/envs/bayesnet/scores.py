"""Scores of Bayesian networks: the log marginal likelihood of data, a sum over the variables, each with its parents.

Source: BGe, Geiger and Heckerman 1994 (arXiv 1302.6808), as Kuipers, Moffa and Heckerman 2014 (arXiv 1402.6863) correct
it; linear-Gaussian with known noise, as in Deleu et al. 2024 (arXiv 2402.10309).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Scores = Callable[[Tensor, float], Tensor]
"""Data, float64 `[N, d]`, and the variance of the noise -> the scores of all families, float64 `[d, 2^d]`."""


def parent_sets(d: int) -> Tensor:
    """Return bool `[2^d, d]`: whether bit `i` is set in each number, that is whether `i` is in each set of parents."""
    return (torch.arange(2**d).unsqueeze(1) >> torch.arange(d) & 1).bool()


def log_minors(matrix: Tensor) -> Tensor:
    """Return log det of every principal submatrix of a positive definite `matrix [d, d]`, float64 `[2^d]`.

    Bit `i` of the index tells whether row and column `i` are in it. Row by row, each matrix is split into itself
    without the row, and its Schur complement, whose determinants are those with the row divided by the pivot.
    """
    logs, rest = matrix.new_zeros(1), matrix.unsqueeze(0)
    for _ in range(len(matrix)):
        pivot, column, without = rest[:, :1, :1], rest[:, 1:, :1], rest[:, 1:, 1:]
        logs = torch.cat([logs, logs + pivot.flatten().log()])
        rest = torch.cat([without, without - column * column.transpose(1, 2) / pivot])
    return logs


def bge(data: Tensor, noise_variance: float) -> Tensor:
    """Return the BGe score of each variable with each set of parents, float64 `[d, 2^d]`; the noise is unknown to it.

    The prior is normal-Wishart with `alpha_mu = 1`, `alpha_w = d + 2`, mean 0 and the scale matrix `t I`,
    `t = alpha_mu (alpha_w - d - 1) / (alpha_mu + 1)`. Where a variable is its own parent, the number means nothing.
    """
    (n, d), alpha_mu = data.shape, 1.0
    alpha_w = d + 2.0
    t = alpha_mu * (alpha_w - d - 1) / (alpha_mu + 1)
    mean = data.mean(0)
    scatter = (data - mean).T @ (data - mean)
    scale = t * torch.eye(d, dtype=data.dtype) + scatter + n * alpha_mu / (n + alpha_mu) * torch.outer(mean, mean)
    sets, minors = parent_sets(d), log_minors(scale)
    k = sets.sum(1).double()
    constant = (
        0.5 * math.log(alpha_mu / (n + alpha_mu))
        + torch.lgamma((n + alpha_w - d + k + 1) / 2)
        - torch.lgamma((alpha_w - d + k + 1) / 2)
        - n / 2 * math.log(math.pi)
        + (alpha_w - d + 2 * k + 1) / 2 * math.log(t)
    )
    with_variable = minors[torch.arange(2**d) | 1 << torch.arange(d).unsqueeze(1)]
    return constant + (n + alpha_w - d + k) / 2 * minors - (n + alpha_w - d + k + 1) / 2 * with_variable


def linear_gaussian(data: Tensor, noise_variance: float) -> Tensor:
    """Return `log N(x_j; 0, s2 I + X_P X_P^T)` of each variable j with each set P of parents, float64 `[d, 2^d]`.

    The weights have standard normal priors, and the noise has the variance `s2`. By Sylvester's formula and a Schur
    complement it takes the minors of `s2 I + X^T X` alone. Where a variable is its own parent, the number means
    nothing.
    """
    n, d = data.shape
    minors = log_minors(noise_variance * torch.eye(d, dtype=data.dtype) + data.T @ data)
    k = parent_sets(d).sum(1).double()
    with_variable = minors[torch.arange(2**d) | 1 << torch.arange(d).unsqueeze(1)]
    squares = ((with_variable - minors).exp() - noise_variance) / noise_variance
    return -0.5 * (n * math.log(2 * math.pi) + (n - k) * math.log(noise_variance) + minors + squares)


SCORES: dict[str, Scores] = {"bge": bge, "linear_gaussian": linear_gaussian}
"""By name, the built-in scores."""


def best_total(scores: Tensor) -> float:
    """Return the highest sum of `scores [d, 2^d]` of any graph without a cycle.

    Some node of a graph has no children, and so the best graph on a set of nodes adds a node, with its best parents
    among the others, to the best graph on these. Source: Silander and Myllymaki 2006 (UAI).
    """
    d = len(scores)
    best = scores  # with parents in the set, instead of these parents
    for i in range(d):
        without, with_i = best.unflatten(1, (-1, 2, 2**i)).unbind(2)
        best = torch.stack([without, torch.maximum(without, with_i)], 2).flatten(1)
    sets = parent_sets(d)
    sizes, totals = sets.sum(1), scores.new_full((2**d,), -math.inf)
    totals[0] = 0
    for size in range(d):
        here = (sizes == size).nonzero().squeeze(1)
        for j in range(d):
            rows = here[~sets[here, j]]
            joined = rows | 1 << j
            totals[joined] = torch.maximum(totals[joined], totals[rows] + best[j, rows])
    return float(totals[-1])
