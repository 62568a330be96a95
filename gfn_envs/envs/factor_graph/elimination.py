"""Exact sums over all assignments of a factor graph, and exact samples, by eliminating one variable after another.

Source: Dechter 1999, "Bucket elimination" (Artificial Intelligence 113, 41).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gfn_envs.envs.factor_graph.instances import Factor


@dataclass(frozen=True)
class _Conditional:
    """The distribution of a variable given those that are eliminated after it."""

    variable: int
    given: tuple[int, ...]
    probabilities: Tensor
    """float64 `[sizes of given ..., size of variable]`, along the last axis summing up to each value."""


class Elimination:
    """The distribution proportional to the exponential of a sum of factors.

    Args:
        factors: variables and logs of the factors; each variable is in one of them at least.
        sizes: number of values of each variable.
        most: raise `ValueError` rather than make a table of more entries.
        device: where samples are drawn.
    """

    def __init__(self, factors: list[Factor], sizes: tuple[int, ...], most: int, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        rest = [(variables, torch.as_tensor(table, dtype=torch.float64)) for variables, table in factors]
        self._conditionals: list[_Conditional] = []
        left = set(range(len(sizes)))
        total = 0.0
        while left:
            variable = min(left, key=lambda each: (self._table_size(each, rest), each))
            if self._table_size(variable, rest) > most:
                raise ValueError(
                    f"exact sums over these factors take a table of more than {most:,} entries: too large."
                )
            left.remove(variable)
            joint, given = self._joined(variable, [part for part in rest if variable in part[0]])
            rest = [part for part in rest if variable not in part[0]]
            message = joint.logsumexp(-1)
            summed = (joint - message.unsqueeze(-1)).exp().cumsum(-1)
            self._conditionals.append(_Conditional(variable, given, summed.to(device)))
            if given:
                rest.append((given, message))
            else:
                total += float(message)
        self.log_z = total
        """The log of the sum over all assignments."""

    def _table_size(self, variable: int, factors: list[tuple[tuple[int, ...], Tensor]]) -> int:
        """Return the number of entries of the table that eliminating `variable` next would make."""
        scope = {each for variables, _ in factors if variable in variables for each in variables}
        return math.prod(self.sizes[each] for each in scope)

    def _joined(self, variable: int, factors: list[tuple[tuple[int, ...], Tensor]]) -> tuple[Tensor, tuple[int, ...]]:
        """Return the sum of `factors` with `variable` on the last axis, and the variables of the other axes."""
        given = tuple(sorted({each for variables, _ in factors for each in variables} - {variable}))
        scope = (*given, variable)
        joint = torch.zeros([self.sizes[each] for each in scope], dtype=torch.float64)
        for variables, table in factors:
            order = sorted(range(len(variables)), key=lambda axis: scope.index(variables[axis]))
            shape = [self.sizes[each] if each in variables else 1 for each in scope]
            joint += table.permute(order).reshape(shape)
        return joint, given

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return `n` assignments, int64 `[n, variables]`, each value from 0."""
        found = torch.zeros(n, len(self.sizes), dtype=torch.int64, device=self.device)
        for each in reversed(self._conditionals):
            summed = each.probabilities[tuple(found[:, i] for i in each.given)]
            uniform = torch.rand(n, 1, dtype=torch.float64, device=self.device, generator=generator)
            values = (summed.expand(n, -1) <= uniform * summed[..., -1:]).sum(1)
            found[:, each.variable] = values.clamp(max=self.sizes[each.variable] - 1)
        return found
