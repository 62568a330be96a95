"""A reward of the user's own, for any environment: a callable that is asked about each object once, in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gfn_envs.dag import DAG
from gfn_envs.errors import RewardError, choose
from gfn_envs.registry import import_user_module

CACHE_SIZE = 100_000
"""Rewards of a user's callable that are remembered; the oldest are forgotten first."""

Texts = Callable[[Tensor], list[str]]
"""How terminal states `[B, d]` are written for a callable that takes texts."""


def own_reward(
    dag: DAG,
    reward: str | Callable[..., Any],
    built_in: Iterable[str],
    texts: Texts | None = None,
    objects: str = "objects",
) -> OwnReward | None:
    """Return the user's reward on the objects of `dag`, or None where `reward` is one of the names `built_in`.

    Args:
        dag: the environment. Its `is_terminal`, `canonical` and what `texts` needs are used once it is constructed.
        reward: a built-in name, a callable, or a callable named as `"module:function"`.
        built_in: the names of the environment's own rewards.
        texts: what writes states for the callable; None for a callable that takes the states themselves.
        objects: what error messages call the objects.

    Raises `ValueError` for an unknown name, and for what cannot be loaded or called.
    """
    if callable(reward):
        return OwnReward(dag, reward, getattr(reward, "__qualname__", type(reward).__name__), texts, objects)
    if not isinstance(reward, str) or ":" not in reward:
        choose("reward", reward, dict.fromkeys([*built_in, "module:function"]))
        return None
    return OwnReward(dag, _loaded(reward), reward, texts, objects)


def _loaded(reward: str) -> Callable[..., Any]:
    """Return the function that `"module:function"` names."""
    module, _, name = reward.partition(":")
    try:
        function = getattr(import_user_module(module, f"reward {reward!r}"), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"reward {reward!r}: cannot load it ({error}). Write 'module:function'; the module must be installed, or "
            "lie in the current folder."
        ) from error
    if not callable(function):
        raise ValueError(f"reward {reward!r} is not a function but of type {type(function).__name__}.")
    return function


class OwnReward:
    """A user's callable on distinct terminal objects that it was not asked about before, all of a batch in one call.

    Reading the states, it waits for the device: an environment with such a reward does not run on device `"meta"`.

    Args:
        dag: the environment.
        function: takes `n` objects and returns their rewards, `n` positive numbers that are finite as float32.
        name: what error messages call the function.
        texts: writes the objects as the list of texts that the function takes. None gives it canonical terminal states,
            int64 `[n, d]` on the DAG's device.
        objects: what error messages call the objects.
    """

    def __init__(self, dag: DAG, function: Callable[..., Any], name: str, texts: Texts | None, objects: str) -> None:
        self.dag, self.function, self.name, self.texts, self.objects = dag, function, name, texts, objects
        self.num_asked = 0
        """Number of objects that the function was asked about so far."""
        self._known: dict[Any, float] = {}

    def __call__(self, states: Tensor) -> Tensor:
        """Return the rewards of `states [B, d]`, float32 `[B]`; 1 where they are not terminal."""
        complete = self.dag.is_terminal(states)
        found = torch.ones(len(states), device=states.device)
        found[complete] = torch.tensor(self._look_up(states[complete]), device=states.device)
        return found

    def _look_up(self, states: Tensor) -> list[float]:
        canonical = self.dag.canonical(states)
        keys = self.texts(canonical) if self.texts else [tuple(row) for row in canonical.tolist()]
        rows = {key: row for row, key in enumerate(keys) if key not in self._known}
        new = dict(zip(rows, self._ask(canonical, keys, list(rows.values())), strict=True))
        found = [new[key] if key in new else self._known[key] for key in keys]
        self._known |= new
        for key in list(islice(self._known, max(len(self._known) - CACHE_SIZE, 0))):
            del self._known[key]
        return found

    def _ask(self, canonical: Tensor, keys: list[Any], rows: list[int]) -> list[float]:
        """Return the function's rewards of the objects in `rows`, checked."""
        if not rows:
            return []
        shown = [repr(keys[row]) if self.texts else f"state {list(keys[row])}" for row in rows]
        try:
            result = self.function([keys[row] for row in rows] if self.texts else canonical[rows])
        except (Exception, SystemExit) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise RewardError(
                f"The reward {self.name} failed on {len(rows)} {self.objects}, of which the first is {shown[0]} "
                f"({told})."
            ) from error
        self.num_asked += len(rows)
        wanted = (
            f"The reward {self.name} must return {len(rows)} positive, finite numbers for {len(rows)} {self.objects}, "
            f"of which the first is {shown[0]}"
        )
        try:
            rewards = torch.as_tensor(result, dtype=torch.float32, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{wanted}; it returned {type(result).__name__}: {error}.") from error
        if rewards.shape != (len(rows),):
            raise ValueError(f"{wanted}; it returned shape {tuple(rewards.shape)}.")
        for text, value in zip(shown, rewards.tolist(), strict=True):
            if not 0 < value < math.inf:
                raise ValueError(f"{wanted}; it returned {value} (as float32) for {text}.")
        return rewards.tolist()
