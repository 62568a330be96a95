"""A reward of the user's own, for any environment: a callable that is asked about each object once.

It is asked in batches, or in worker processes about one object at a time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gfn_envs.dag import DAG
from gfn_envs.errors import RewardError, choose, integer_at_least
from gfn_envs.registry import import_user_module
from gfn_envs.workers import Failure, Workers, WorkersError, told

CACHE_SIZE = 100_000
"""Rewards of a user's callable that are remembered; the oldest are forgotten first."""

FLOAT32 = torch.finfo(torch.float32)

Texts = Callable[[Tensor], list[str]]
"""How terminal states `[B, d]` are written for a callable that takes texts."""

SHOWN_AFTER = 3.0
"""Seconds after which a batch of objects that are asked about one by one gets a progress line, on a terminal."""


@dataclass(frozen=True)
class Asking:
    """How a reward of the user's own is asked. Every environment that takes one has these arguments.

    By default the callable gets all of a batch in one call. With workers, or with a floor, it gets one object a call: a
    list of one text, or one state, which is on the CPU in workers. Training is the same bit for bit where the answer on
    an object depends on that object alone.

    Args:
        reward_workers: number of processes beside this one that ask the callable; 0 asks it in this process. They start
            with the first objects, and load the callable anew: it must lie in a module, or be picklable by
            `cloudpickle`. Where the environment variable `OMP_NUM_THREADS` is not set, a worker sets it to 1.
        reward_timeout: seconds that a worker may take for one object; None for no limit. After that the worker is
            killed with all that it has started, and has failed on the object.
        reward_floor: reward of an object that the callable fails on: it raises an error, its time is over, or its
            worker dies. Such objects are counted (a run reports how many), and not asked about again. With None a
            failure is an error.

    Raises `ValueError` for values out of range, and for a time limit without workers.
    """

    reward_workers: int = 0
    reward_timeout: float | None = None
    reward_floor: float | None = None

    def __post_init__(self) -> None:
        integer_at_least("reward_workers", self.reward_workers, 0)
        for name in ("reward_timeout", "reward_floor"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and FLOAT32.tiny <= value <= FLOAT32.max):
                raise ValueError(f"{name} must be None or a number, positive and finite as float32, got {value!r}.")
        if self.reward_timeout is not None and not self.reward_workers:
            raise ValueError(
                f"reward_timeout = {self.reward_timeout!r} needs reward_workers of at least 1: a call in this process "
                "cannot be ended."
            )


IN_PROCESS = Asking()
"""All of a batch in one call, in this process."""

NOTHING: Mapping[str, str] = MappingProxyType({})
"""No rewards of an environment's own are asked as a user's is."""


def own_reward(
    dag: DAG,
    reward: str | Callable[..., Any],
    built_in: Iterable[str],
    texts: Texts | None = None,
    objects: str = "objects",
    asking: Asking = IN_PROCESS,
    calculated: Mapping[str, str] = NOTHING,
) -> OwnReward | None:
    """Return the user's reward on the objects of `dag`, or None where `reward` is one of the names `built_in`.

    Args:
        dag: the environment. Its `is_terminal`, `canonical` and what `texts` needs are used once it is constructed.
        reward: a built-in name, a callable, or a callable named as `"module:function"`.
        built_in: the names of the environment's own rewards.
        texts: what writes states for the callable; None for a callable that takes the states themselves.
        objects: what error messages call the objects.
        asking: how a user's reward is asked.
        calculated: names of the environment's own rewards that are asked as a user's is, and the functions that they
            are, as `"module:function"`.

    Raises `ValueError` for an unknown name, for what cannot be loaded, called or sent to workers, and for an `asking`
    about a built-in reward.
    """
    if callable(reward):
        return OwnReward(dag, reward, getattr(reward, "__qualname__", type(reward).__name__), texts, objects, asking)
    if isinstance(reward, str) and reward in calculated:
        return OwnReward(dag, _loaded(calculated[reward]), reward, texts, objects, asking)
    if not isinstance(reward, str) or ":" not in reward:
        choose("reward", reward, dict.fromkeys([*built_in, *calculated, "module:function"]))
        if asking != IN_PROCESS:
            raise ValueError(
                "reward_workers, reward_timeout and reward_floor are for a reward of your own: they cannot be given "
                f"together with the reward {reward}."
            )
        return None
    return OwnReward(dag, _loaded(reward), reward, texts, objects, asking)


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
    """A user's callable on distinct terminal objects that it was not asked about before.

    Reading the states, it waits for the device: an environment with such a reward does not run on device `"meta"`.

    Args:
        dag: the environment.
        function: takes `n` objects and returns their rewards, `n` positive numbers that are finite as float32.
        name: what error messages call the function.
        texts: writes the objects as the list of texts that the function takes. None gives it canonical terminal states,
            int64 `[n, d]` on the DAG's device.
        objects: what error messages call the objects.
        asking: whether it is asked in worker processes, and what becomes of objects that it fails on.
    """

    def __init__(
        self,
        dag: DAG,
        function: Callable[..., Any],
        name: str,
        texts: Texts | None,
        objects: str,
        asking: Asking = IN_PROCESS,
    ) -> None:
        self.dag, self.function, self.name, self.texts, self.objects = dag, function, name, texts, objects
        self.asking = asking
        self.num_asked = 0
        """Number of objects that the function was asked about so far."""
        self.num_failed = 0
        """Number of those that got `reward_floor`, as the function failed on them."""
        if asking.reward_floor is not None:
            dag.metrics = (*dag.metrics, "failures")
        self._known: dict[Any, float] = {}
        self._workers: Workers | None = None
        if asking.reward_workers:
            try:
                self._workers = Workers(function, asking.reward_workers, asking.reward_timeout, of_states=texts is None)
            except ValueError as error:
                raise ValueError(f"reward {name}: {error}.") from error

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
        if self._workers is None and self.asking.reward_floor is None:
            result = self._call([keys[row] for row in rows] if self.texts else canonical[rows])
            outcomes, groups = [result], [shown]
        else:
            outcomes, groups = self._one_by_one(canonical, keys, rows), [[each] for each in shown]
        rewards = []
        for outcome, group in zip(outcomes, groups, strict=False):
            self.num_asked += len(group)
            rewards += self._floors(outcome, group) if isinstance(outcome, Failure) else self._checked(outcome, group)
        return rewards

    def _one_by_one(self, canonical: Tensor, keys: list[Any], rows: list[int]) -> list[Any]:
        """Return an outcome for each of `rows`; without a floor the first failure ends the work and the list."""
        if self._workers is None:
            objects = [[keys[row]] if self.texts else canonical[[row]] for row in rows]
            return [self._call(each) for each in self._progress(objects)]
        objects = [keys[row] for row in rows]
        try:
            return self._workers.outcomes(objects, self.asking.reward_floor is None, self._progress)
        except WorkersError as error:
            raise RewardError(f"The reward {self.name} {error}.") from error.__cause__

    def _progress(self, objects: list[Any]) -> Iterable[Any]:
        """Return `objects` with a line on the terminal that shows how many are done, once that takes long."""
        unit = f" {self.objects}"
        return tqdm(objects, f"reward {self.name}", unit=unit, delay=SHOWN_AFTER, leave=False, disable=None)

    def _call(self, objects: Any) -> Any:
        """Return what the function returns for `objects`, or the failure."""
        try:
            return self.function(objects)
        except (Exception, SystemExit) as error:
            return Failure(told(error), error)

    def _floors(self, failure: Failure, shown: list[str]) -> list[float]:
        """Return the floor for objects that the function failed on, or raise the error."""
        failed = f"The reward {self.name} failed on {self._number(shown)} ({failure.reason})."
        floor = self.asking.reward_floor
        if floor is None:
            raise RewardError(failed) from failure.cause
        if not self.num_failed:
            warnings.warn(f"{failed} Its reward is {floor:g}; further failures are only counted.", stacklevel=2)
        self.num_failed += len(shown)
        return [floor] * len(shown)

    def _number(self, shown: list[str]) -> str:
        return f"{len(shown)} {self.objects}, of which the first is {shown[0]}"

    def _checked(self, result: Any, shown: list[str]) -> list[float]:
        """Return what the function returned for the objects `shown`, or raise `ValueError`."""
        number = self._number(shown)
        wanted = f"The reward {self.name} must return {len(shown)} positive, finite numbers for {number}"
        try:
            rewards = torch.as_tensor(result, dtype=torch.float32, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{wanted}; it returned {type(result).__name__}: {error}.") from error
        if rewards.shape != (len(shown),):
            raise ValueError(f"{wanted}; it returned shape {tuple(rewards.shape)}.")
        for text, value in zip(shown, rewards.tolist(), strict=True):
            if not 0 < value < math.inf:
                raise ValueError(f"{wanted}; it returned {value} (as float32) for {text}.")
        return rewards.tolist()
