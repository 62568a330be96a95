"""Factor graphs: give each of some discrete variables a value, in any order.

Source: Buesing et al. 2020 (arXiv 1910.06862), section 5.1; as a GFlowNet problem Deleu et al. 2024 (arXiv 2402.10309).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from gfn_envs.dag import DAG
from gfn_envs.envs.factor_graph.elimination import Elimination
from gfn_envs.envs.factor_graph.instances import INSTANCES, Factor
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.rewards import Asking, own_reward
from gfn_envs.views import TokenView

FACTORS = "factors"
"""Name of the built-in reward."""

NUM_VARIABLES = 6
"""Variables of a named graph, unless another number is given."""

MOST_VARIABLES = 100_000
"""A named graph of more variables would take minutes to build."""

MOST_ENTRIES = 2**24
"""Tables of exact sums are not made larger than this."""


class ExactSums(Protocol):
    """What exact sums over all assignments tell."""

    log_z: float

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return `n` exact samples, int64 `[n, D]`, each value from 0."""
        ...


Given = Sequence[tuple[Any, Any]] | Mapping[Any, Any]
"""Factors as a user gives them: pairs of variables and table, or a mapping from the one to the other."""


class FactorGraph(DAG):
    """An assignment of `D` discrete variables, each unset until it is given a value, in any order.

    State: int64 `[B, D]`: 0 where the variable is unset, `1 + value` where it is set.
    Actions: `variable * V + value` sets an unset variable, `V` the largest number of values of a variable.
    Backward actions: `variable` unsets a set variable.
    Terminal states: no unset variable.
    Reward: `log R(x) = sum over factors f of theta_f[x_f]`, natural log, `x_f` the values of the factor's variables, or
    a reward of the user's own. `log_potential` is the sum over the factors all of whose variables are set.
    Size: `prod (V_i + 1)` states, `prod V_i` terminal; every trajectory has `D` steps. With the default arguments
    15,625 and 4,096.
    Source: Buesing et al. 2020 (arXiv 1910.06862); Deleu et al. 2024 (arXiv 2402.10309).

    Args:
        factors: one of the named random graphs `"chain"`, `"permuted_chain"`, `"factor_graph1"`, `"factor_graph2"`, or
            factors of your own: a list of `(variables, table)`, or a dictionary `{variables: table}`. The variables are
            numbered from 0; the table has an axis for each of them and holds the logs of the factor, finite numbers.
        variables: number of variables of a named graph.
        values: number of values of each of its variables; None takes 4, and for `"factor_graph2"` 2.
        seed: of a named graph.
        reward: `"factors"`, the formula above, a callable, or a callable named as `"module:function"`. A callable takes
            distinct terminal states, int64 `[n, D]` on the DAG's device, and returns their rewards, `n` positive finite
            numbers. `gfn_envs.rewards` says how often it is asked.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        factors: str | Given = "chain",
        variables: int = NUM_VARIABLES,
        values: int | None = None,
        seed: int = 0,
        reward: str | Callable[..., Any] = FACTORS,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        if isinstance(factors, str):
            generate = choose("factors", factors, INSTANCES)
            variables = integer_at_least("variables", variables, 2)
            if variables > MOST_VARIABLES:
                raise ValueError(f"variables must be at most {MOST_VARIABLES:,}, got {variables:,}.")
            values = integer_at_least(
                "values", (2 if factors == "factor_graph2" else 4) if values is None else values, 2
            )
            made = generate(variables, values, np.random.default_rng(integer_at_least("seed", seed, 0)))
        elif (variables, values, seed) != (NUM_VARIABLES, None, 0):
            raise ValueError("variables, values and seed belong to named graphs: factors of your own say how many.")
        else:
            made = factors
        self.factors = checked_factors(made)
        self.sizes = _sizes(self.factors)
        self.num_values = max(self.sizes)
        self.nvec = tuple(size + 1 for size in self.sizes)
        self.num_actions = self.num_values * len(self.sizes)
        self.num_backward_actions = self.max_steps = len(self.sizes)
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        self.own_reward = own_reward(self, reward, [FACTORS], asking=asking)
        of_place = torch.tensor(self.sizes).unsqueeze(1)
        self._has_value = (torch.arange(self.num_values) < of_place).flatten().to(self.device)
        self._uneven = len(set(self.sizes)) > 1
        self._tables, self._places, self._strides = self._flattened()

    def _flattened(self) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Return one table of all factors' logs, and by number of variables where the factors look things up.

        A factor's part of the table has an entry 0 for every assignment that leaves one of its variables unset.
        """
        flat, start = [], 0
        rows: dict[int, list[tuple[tuple[int, ...], list[int], int]]] = {}
        for variables, table in self.factors:
            padded = np.pad(table, [(1, 0)] * table.ndim)
            strides = [math.prod(padded.shape[i + 1 :]) for i in range(padded.ndim)]
            rows.setdefault(len(variables), []).append((variables, strides, start))
            flat.append(padded.ravel())
            start += padded.size
        places, strides = [], []
        for of_size in rows.values():
            variables, steps, starts = (torch.tensor(part, device=self.device) for part in zip(*of_size, strict=True))
            places.append(variables)
            strides.append((steps, starts))
        return torch.from_numpy(np.concatenate(flat)).to(self.device), places, strides

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.max_steps, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.div(actions, self.num_values, rounding_mode="floor")
        values = actions % self.num_values + 1
        return states.scatter(1, places.unsqueeze(1), values.unsqueeze(1)), places

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        places = backward_actions.unsqueeze(1)
        values = (states.gather(1, places).squeeze(1) - 1).clamp(min=0)
        return states.scatter(1, places, 0), backward_actions * self.num_values + values

    def action_mask(self, states: Tensor) -> Tensor:
        mask = (states == 0).repeat_interleave(self.num_values, 1)
        return mask & self._has_value if self._uneven else mask

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states > 0

    def log_weights(self, states: Tensor) -> Tensor:
        """Return the sum of the factors all of whose variables are set at `states [B, D]`, float64 `[B]`."""
        total = torch.zeros(len(states), dtype=torch.float64, device=states.device)
        for places, (strides, starts) in zip(self._places, self._strides, strict=True):
            entries = starts.expand(len(states), -1)
            for axis in range(places.shape[1]):
                entries = entries + states[:, places[:, axis]] * strides[:, axis]
            total += self._tables[entries].sum(1)
        return total

    def log_reward(self, states: Tensor) -> Tensor:
        return self.own_reward(states).log() if self.own_reward else self.log_weights(states).float()

    def log_potential(self, states: Tensor) -> Tensor:
        """Return the sum of the factors that are decided at `states [B, D]`, float32 `[B]`.

        Of a reward of the user's own nothing is decided before the last step.
        """
        return self.log_reward(states)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) `[B]`: the variables that are set, in any order."""
        return torch.lgamma((states > 0).sum(1).float() + 1)

    @cached_property
    def _exact(self) -> ExactSums | None:
        """Exact sums over all assignments; None where they are too large, and for a reward of the user's own."""
        if self.own_reward:
            return None
        try:
            return self.exact_sums()
        except ValueError:
            return None

    def exact_sums(self) -> ExactSums:
        """Return log Z of the factors and exact samples; `ValueError` where that takes too large tables."""
        return Elimination(self.factors, self.sizes, MOST_ENTRIES, self.device)

    def log_partition(self) -> float | None:
        """Return log Z by exact summation; None where that is too large, and for a reward of the user's own."""
        return self._exact.log_z if self._exact else None

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` exact samples of R/Z, int64 `[n, D]`; None where `log_partition` needs sums that are too large."""
        return self._exact.sample(n, generator) + 1 if self._exact else None

    def token_view(self) -> TokenView:
        """Return the variables as tokens."""
        return TokenView(self.max_steps, self.num_values + 1, self.num_values, places=True)

    def describe(self, states: Tensor) -> list[str]:
        return [" ".join(str(value - 1) if value else "." for value in row) for row in states.tolist()]


def checked_factors(factors: Given) -> list[Factor]:
    """Return factors as pairs of variables and float64 table; `ValueError` for what is none."""
    pairs = list(factors.items()) if isinstance(factors, Mapping) else factors
    if not isinstance(pairs, Sequence) or not pairs or isinstance(pairs, str):
        raise ValueError(f"factors must be a list of pairs (variables, table) that is not empty, got {factors!r}.")
    return [_checked_factor(number, pair) for number, pair in enumerate(pairs)]


def _checked_factor(number: int, pair: Any) -> Factor:
    """Return factor `number` as variables and float64 table, or raise `ValueError`."""
    try:
        variables, table = pair
        scope = tuple(integer_at_least("a variable", each, 0) for each in _several(variables))
        logs = np.array(table.tolist() if isinstance(table, Tensor) else table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"factor {number} must be a pair (variables, table), got {pair!r}: {error}") from None
    if len(set(scope)) < len(scope) or logs.ndim != len(scope) or not scope:
        raise ValueError(
            f"the table of factor {number} must have one axis for each of its variables, all different: got variables "
            f"{list(scope)} and a table of shape {list(logs.shape)}."
        )
    if not np.isfinite(logs).all():
        raise ValueError(f"the table of factor {number} must hold finite logs, got {logs[~np.isfinite(logs)][0]}.")
    return scope, logs


def _several(variables: Any) -> Sequence[Any]:
    return list(variables) if isinstance(variables, Sequence | np.ndarray) else [variables]


def _sizes(factors: list[Factor]) -> tuple[int, ...]:
    """Return the number of values of each variable, or raise `ValueError` where the tables do not agree on them."""
    sizes: dict[int, tuple[int, int]] = {}
    for number, (variables, table) in enumerate(factors):
        for variable, size in zip(variables, table.shape, strict=True):
            first, known = sizes.setdefault(variable, (number, size))
            if size != known:
                raise ValueError(
                    f"variable {variable} has {known} values in factor {first} and {size} in factor {number}."
                )
    if missing := sorted(set(range(max(sizes) + 1)) - set(sizes)):
        raise ValueError(
            f"variable {missing[0]} is in no factor: give it one, such as a table of zeros, or number the variables "
            "without gaps."
        )
    for variable, (number, size) in sizes.items():
        if size < 1:
            raise ValueError(f"variable {variable} has no value in factor {number}: its table is empty.")
    return tuple(size for _, (_, size) in sorted(sizes.items()))
