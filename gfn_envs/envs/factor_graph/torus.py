"""Exact sums and samples of spins on a torus: Kaufman's formula, and the transfer matrix row by row.

Source: Kaufman 1949 (Physical Review 76, 1232), the finite square lattice; Onsager 1944 (Physical Review 65, 117), the
transfer matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

LARGEST_SIDE = 10
"""A transfer matrix has `2^side` rows and columns; larger tori are refused."""

_LARGE = 300.0  # from here on cosh x = exp(x) / 2, and adding 1 to it changes nothing
_CHUNK = 2**22  # probabilities looked at in one go while sampling


def kaufman_log_z(side: int, coupling: float) -> float:
    """Return log Z of `side^2` spins on a torus with one positive `coupling` K for every bond.

    `Z = 1/2 (2 sinh 2K)^(L^2 / 2) (Y1 + Y2 + Y3 + Y4)`, where Y1, Y2 are the products over r = 0 .. L - 1 of
    `2 cosh (L g_{2r+1} / 2)` and `2 sinh (L g_{2r+1} / 2)`, and Y3, Y4 the same with `g_{2r}`;
    `cosh g_l = cosh 2K coth 2K - cos(pi l / L)`, and `g_0 = 2K + log tanh K`, which is negative where K is small.
    """
    twice = 2 * coupling
    if twice < _LARGE:
        middle = math.cosh(twice) / math.tanh(twice)
        g = [math.acosh(middle - math.cos(math.pi * i / side)) for i in range(2 * side)]
        g[0] = twice + math.log(math.tanh(coupling))
    else:
        g = [twice] * (2 * side)
    halves = [[side * each / 2 for each in g[first::2]] for first in (1, 0)]
    logs = torch.tensor(
        [sum(log_of(x) for x in of_parity) for of_parity in halves for log_of in (_log_2_cosh, _log_2_sinh)],
        dtype=torch.float64,
    )
    signs = torch.tensor([1.0, 1.0, 1.0, math.copysign(1.0, g[0])], dtype=torch.float64)
    top = logs.max()
    total = float(top + (signs * (logs - top).exp()).sum().log())
    return total - math.log(2) + side**2 / 2 * _log_2_sinh(twice)


def _log_2_cosh(x: float) -> float:
    return abs(x) + math.log1p(math.exp(-2 * abs(x)))


def _log_2_sinh(x: float) -> float:
    """Return log |2 sinh x|."""
    return abs(x) + math.log(-math.expm1(-2 * abs(x))) if x else -math.inf


class Torus:
    """The distribution of `side^2` spins on a torus, `log p = sum of K s s' over bonds - log Z`.

    Rows follow one another: with `T_r(s, t)` the weight of row s's bonds to the right and of its bonds down to row t,
    `Z = trace(T_0 T_1 ...)`. A row is drawn given the first one and the one above, from the product of the rows below.

    Args:
        right: couplings K of each spin and the one to its right, float64 `[side, side]`.
        down: couplings of each spin and the one below, likewise.
        device: where samples are drawn.

    Raises `ValueError` for more than `LARGEST_SIDE` rows, and for couplings too strong for double precision.
    """

    def __init__(self, right: Tensor, down: Tensor, device: torch.device) -> None:
        self.side = len(right)
        if self.side > LARGEST_SIDE:
            raise ValueError(f"exact sums over a torus are for sides up to {LARGEST_SIDE}, got {self.side}.")
        columns = torch.arange(self.side - 1, -1, -1)
        spins = 2.0 * (torch.arange(2**self.side).unsqueeze(1) >> columns & 1).double() - 1
        in_row = (spins * spins.roll(-1, 1)) @ right.T
        below = torch.eye(2**self.side, dtype=torch.float64)
        self._below = [below]
        log_scale = 0.0
        for row in range(self.side - 1, -1, -1):
            top = in_row[:, row].max()
            below = (in_row[:, row] - top).exp().unsqueeze(1) * _times_bonds(down[row], below)
            scale = below.max()
            below = below / scale
            log_scale += float(top + down[row].abs().sum() + scale.log())
            self._below.append(below)
        self._below.reverse()
        trace = float(below.trace())
        if not (trace > 0 and math.isfinite(log_scale)):
            raise ValueError("the couplings are too strong: exact sums leave the range of double precision.")
        self.log_z = math.log(trace) + log_scale
        """The log of the sum over all `2^(side^2)` assignments."""
        self._spins, self._down = spins.to(device), down.to(device)
        # Columns are what samples look up, so that they are kept as rows.
        self._below = [each.T.contiguous().to(device) for each in self._below]

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return `n` exact samples, int64 `[n, side^2]`, row by row, 0 for spin -1 and 1 for +1."""
        sizes = [min(_CHUNK >> self.side, n - start) for start in range(0, n, _CHUNK >> self.side)]
        rows = [torch.stack(list(self._rows(size, generator)), 1) for size in sizes]
        spins = self._spins[torch.cat(rows)] if rows else self._spins[:0].reshape(0, self.side, self.side)
        return (spins > 0).long().flatten(1)

    def _rows(self, n: int, generator: Generator) -> Iterator[Tensor]:
        """Yield the number of each row's configuration, int64 `[n]`, from the first row to the last."""
        first = _draw(self._below[0].diagonal().expand(n, -1), generator)
        yield first
        row = first
        for above in range(self.side - 1):
            bonds = (self._spins[row] * self._down[above]) @ self._spins.T
            weights = (bonds - bonds.amax(1, keepdim=True)).exp() * self._below[above + 1][first]
            row = _draw(weights, generator)
            yield row


def _times_bonds(down: Tensor, matrix: Tensor) -> Tensor:
    """Return `exp(sum_c down_c s_c t_c - |down_c|)` as a matrix over rows s, t of spins, times `matrix`.

    It is a Kronecker product of a matrix of two rows for each column, so that it is applied column by column.
    """
    shape = matrix.shape
    for place, coupling in enumerate(down):
        agree, differ = (coupling - coupling.abs()).exp(), (-coupling - coupling.abs()).exp()
        split = matrix.reshape(2**place, 2, -1)
        matrix = agree * split + differ * split.flip(1)
    return matrix.reshape(shape)


def _draw(weights: Tensor, generator: Generator) -> Tensor:
    """Draw a column `[n]` for each row of `weights [n, columns]`, in proportion to them."""
    summed = weights.cumsum(1)
    uniform = torch.rand(len(weights), 1, dtype=weights.dtype, device=weights.device, generator=generator)
    return torch.searchsorted(summed, uniform * summed[:, -1:], right=True).squeeze(1).clamp(max=weights.shape[1] - 1)
