"""What every baseline offers to the trainer that runs it: objects completed, a policy where it has one."""

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
    """What a baseline did since it last reported: `n >= 0` objects completed, each one call of the reward."""

    states: Tensor
    """int64 `[n, d]`, terminal."""
    log_reward: Tensor
    """float32 `[n]`: log R."""
    log_raw_reward: Tensor
    """float32 `[n]`: log of the raw reward, the one to report."""
    lengths: Tensor
    """int64 `[n]`, environment steps that an object took, invalid ones left out."""
    steps: int
    """Environment steps of all kinds."""


class Baseline(ABC):
    """Something that completes objects of `dag`, and may learn from it.

    Attributes:
        exact: whether `policy()` is what it draws objects by (up to what the class says), so that exact metrics are of
            it.
        stochastic: whether, besides, log P of an object means something: the policy is not deterministic.
    """

    exact: bool
    stochastic: bool

    def __init__(self, dag: DAG) -> None:
        self.dag = dag

    @abstractmethod
    def run(self, report: Callable[[Progress], bool]) -> None:
        """Go on, telling `report` after every step or batch, until it returns False."""

    def policy(self) -> Policy:
        """Return logits of the forward actions as a function of states, where `exact`."""
        raise NotImplementedError(f"{type(self).__name__} has no policy to evaluate.")

    def schedule(self, done: float) -> None:  # noqa: B027  (most have no schedule)
        """Take note that the share `done`, in 0..1, of the run is behind; called before the steps that follow."""

    def metrics(self) -> dict[str, float]:
        """Return its own figures since the last call, by name."""
        return {}

    def columns(self) -> dict[str, Column]:
        """Return how those of its own figures are shown that belong into tables or curves."""
        return {}

    def save_model(self, folder: Path) -> None:  # noqa: B027
        """Write the model into `folder` in the baseline's own format, where it has one."""

    @abstractmethod
    def state_dict(self) -> dict:
        """Return what the rest of the run depends on, as tensors, numbers, lists and dictionaries."""

    @abstractmethod
    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""


class Algorithm(Protocol):
    """What `--algo` names: how a baseline is made. It is known before the library that it comes from is imported."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The keyword arguments that the baseline is made with, which `--algo-kwargs` replaces one by one."""
        ...

    @property
    def paid(self) -> bool:
        """Whether it reads `--reward-mode`."""
        ...

    def check(self, config: BaselineConfig) -> None:
        """Raise `ValueError` for wrong settings, `ModuleNotFoundError` where the library is missing."""
        ...

    def build(self, config: BaselineConfig, dag: DAG) -> Baseline:
        """Return the baseline."""
        ...
