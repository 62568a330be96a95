"""The interface of baselines: each completes objects, and some have a policy to evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from agents.evaluation.metric import Column
from agents.sampling.rollout import Policy
from baselines.config import BaselineConfig
from gfn_envs.dag import DAG


@dataclass(frozen=True)
class Progress:
    """What a baseline did since its last report: it completed `n >= 0` objects, each with one call of the reward."""

    states: Tensor
    """int64 `[n, d]`, terminal."""
    log_reward: Tensor
    """float32 `[n]`: log R."""
    log_raw_reward: Tensor
    """float32 `[n]`: log of the raw reward, which metrics report."""
    lengths: Tensor
    """int64 `[n]`: environment steps that each object took, without invalid steps."""
    steps: int
    """Number of environment steps of all kinds."""


class Baseline(ABC):
    """Something that completes objects of `dag`, and may learn from it.

    Attributes:
        exact: whether the baseline draws objects with `policy()`, so that exact metrics describe it. A class may state
            exceptions.
        stochastic: whether, in addition, log P of an object is meaningful because the policy is not deterministic.
    """

    exact: bool
    stochastic: bool

    def __init__(self, dag: DAG) -> None:
        self.dag = dag

    @abstractmethod
    def run(self, report: Callable[[Progress], bool]) -> None:
        """Run, and call `report` after every step or batch, until it returns False."""

    def policy(self) -> Policy:
        """Return a function from states to logits of the forward actions; only if `exact`."""
        raise NotImplementedError(f"{type(self).__name__} has no policy to evaluate.")

    def schedule(self, done: float) -> None:  # noqa: B027  (most have no schedule)
        """Take note that the share `done`, in 0..1, of the run is complete; called before the next steps."""

    def metrics(self) -> dict[str, float]:
        """Return the baseline's own metrics since the last call, by name."""
        return {}

    def columns(self) -> dict[str, Column]:
        """Return the columns of the baseline's own metrics that belong in tables or curves, by name."""
        return {}

    def save_model(self, folder: Path) -> None:  # noqa: B027
        """Write the model into `folder` in the baseline's own format, if it has one."""

    @abstractmethod
    def state_dict(self) -> dict:
        """Return everything on which the rest of the run depends, as tensors, numbers, lists and dictionaries."""

    @abstractmethod
    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""


class Algorithm(Protocol):
    """What `--algo` names: it builds a baseline. It can be used before the baseline's library is imported."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Default keyword arguments of the baseline, which `--algo-kwargs` replaces one by one."""
        ...

    @property
    def paid(self) -> bool:
        """Whether the baseline reads `--reward-mode`."""
        ...

    def check(self, config: BaselineConfig) -> None:
        """Raise `ValueError` for wrong settings, `ModuleNotFoundError` if the library is missing."""
        ...

    def build(self, config: BaselineConfig, dag: DAG) -> Baseline:
        """Return the baseline."""
        ...
