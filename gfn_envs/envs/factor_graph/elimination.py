"""Exact sums over all assignments of a factor graph, and exact samples, by eliminating one variable after another.

Source: Dechter 1999, "Bucket elimination" (Artificial Intelligence 113, 41).
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gfn_envs.envs.factor_graph.instances import Factor

_Table = tuple[tuple[int, ...], Tensor]
"""Variables, and a table with an axis for each of them."""


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
        self._conditionals: list[_Conditional] = []
        of: list[dict[int, _Table]] = [{} for _ in sizes]  # the tables that read a variable, by number
        numbers = itertools.count()

        def add(variables: tuple[int, ...], table: Tensor) -> None:
            number = next(numbers)
            for each in variables:
                of[each][number] = (variables, table)

        order = self._order([variables for variables, _ in factors], most)
        for variables, table in factors:
            add(variables, torch.as_tensor(table, dtype=torch.float64))
        total = 0.0
        for variable in order:
            joint, given = self._joined(variable, list(of[variable].values()))
            for number, (variables, _) in list(of[variable].items()):
                for each in variables:
                    del of[each][number]
            message = joint.logsumexp(-1)
            summed = (joint - message.unsqueeze(-1)).exp().cumsum(-1)
            self._conditionals.append(_Conditional(variable, given, summed.to(device)))
            if given:
                add(given, message)
            else:
                total += float(message)
        self.log_z = total
        """The log of the sum over all assignments."""

    def _order(self, scopes: list[tuple[int, ...]], most: int) -> list[int]:
        """Return the variables in the order of elimination: the next one makes the smallest table.

        Raises `ValueError`, before any table is made, if one would have more than `most` entries.
        """
        near: list[set[int]] = [set() for _ in self.sizes]  # the variables in one table with a variable, it included
        for scope in scopes:
            for each in scope:
                near[each].update(scope)
        size = [self._table_size(scope) for scope in near]
        heap = sorted((entries, each) for each, entries in enumerate(size))
        order: list[int] = []
        while heap:
            entries, variable = heapq.heappop(heap)
            if entries != size[variable]:  # the variable is gone, or has another size by now
                continue
            if entries > most:
                raise ValueError(
                    f"exact sums over these factors take a table of more than {most:,} entries: too large."
                )
            order.append(variable)
            size[variable] = 0
            given = near[variable] - {variable}
            for each in given:
                near[each] |= given
                near[each].discard(variable)
                if size[each] != (entries := self._table_size(near[each])):
                    size[each] = entries
                    heapq.heappush(heap, (entries, each))
        return order

    def _table_size(self, scope: set[int]) -> int:
        """Return the number of entries of a table of these variables."""
        return math.prod(self.sizes[each] for each in scope)

    def _joined(self, variable: int, factors: list[_Table]) -> tuple[Tensor, tuple[int, ...]]:
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
