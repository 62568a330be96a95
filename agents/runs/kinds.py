"""Kinds of runs: whose settings a `config.json` holds, how they are read back, and how a sweep starts them.

A `config.json` names its kind as `"module:Class"`. The module is imported when such a run is met, so that a kind costs
those nothing who have no run of it. A kind's module imports what reading settings takes; what it takes to build a
run, such as another library, is imported by `learned`.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.config import Config, RunSettings, check_config, usual
from agents.evaluation.evaluator import enumerate_within
from agents.policy import load as load_policy
from agents.registry import bare
from gfn_envs.exact import Enumeration
from gfn_envs.registry import load

PACKAGES = ("agents", "baselines")
"""Kinds are looked for in these packages alone: the file of a stranger must not choose what is imported."""

AGENT, BASELINE = "agents.runs.kinds:AgentRun", "baselines.run_kind:BaselineRun"


@dataclass(frozen=True)
class Task:
    """What all runs of a sweep have in common, but for the seed."""

    env: str
    """Id of the environment."""
    env_kwargs: str
    """Its keyword arguments as JSON."""
    preset: str
    """Named defaults of the agents' runs."""
    metrics: tuple[str, ...]
    """Metrics besides the usual ones."""
    trajectories: int
    """Trajectories of each run."""
    evaluations: int
    """Evaluations of each run."""
    seed: int
    """Seed of this run."""

    def values(self, batch_size: int = 1) -> dict[str, Any]:
        """Return the task as settings by name, for a run with `batch_size` trajectories an iteration.

        Runs are many, so each has one thread of the CPU.
        """
        own = {name: getattr(self, name) for name in ("env_kwargs", "metrics", "trajectories", "seed")}
        every = -(-self.trajectories // (batch_size * self.evaluations))
        return {**own, "eval_every": every, "threads": 1, "device": "cpu"}


class Learned(NamedTuple):
    """What a run ends in."""

    enumeration: Enumeration | None
    """The environment's, or None where it is too large for one; then the rest is empty."""
    distribution: Tensor
    """Probabilities of the terminal states, float64 `[X]`."""
    of: str
    """What the distribution is of: `"policy"`, or `"samples"`."""


NOTHING = Learned(None, torch.zeros(0), "")


class RunKind(ABC):
    """A kind of run.

    Attributes:
        settings: the class of its settings.
        script: what starts it, a path in the repository.
        yardstick: whether such runs are there to compare others with; they come last, and their curves are dashed.
    """

    settings: type[RunSettings]
    script: str
    yardstick: bool = False

    @abstractmethod
    def row(self, values: Mapping[str, Any]) -> str:
        """Return the name of a run's row in a comparison, from its settings by dotted name."""

    @abstractmethod
    def planned(self, method: str, task: Task) -> RunSettings:
        """Return the settings of a run of `method`, as a sweep names it; `ValueError` for what is wrong."""

    @abstractmethod
    def learned(self, folder: Path) -> Learned:
        """Return what the finished run in `folder` ends in."""


class AgentRun(RunKind):
    """A run of `agents/run.py`; a sweep names it AGENT+BACKWARD, or AGENT+BACKWARD+NETWORK."""

    settings = Config
    script = "agents/run.py"

    def row(self, values: Mapping[str, Any]) -> str:
        return f"{bare(str(values['agent']))} + {bare(str(values['backward']))}"

    def planned(self, method: str, task: Task) -> Config:
        agent, _, rest = method.partition("+")
        backward, _, network = rest.partition("+")
        config = usual(task.env, agent, backward, network or "auto", task.preset)
        config = dataclasses.replace(config, **task.values(config.batch_size))
        check_config(config)
        return config

    def learned(self, folder: Path) -> Learned:
        trained = load_policy(folder)
        enumeration = enumerate_within(trained.dag, trained.config.eval.max_exact_edges)
        if enumeration is None:
            return NOTHING
        return Learned(enumeration, enumeration.terminal_distribution(trained.gflownet().policy()), "policy")


def find_kind(name: str) -> RunKind:
    """Return the kind of run that `"module:Class"` names.

    Raises `ValueError` for a module outside `PACKAGES`, and for what is no kind of run.
    """
    module, _, thing = name.partition(":")
    if module.partition(".")[0] not in PACKAGES or not thing:
        raise ValueError(f"{name!r} is no kind of run of this project")
    try:
        kind = load(name)
    except (ModuleNotFoundError, ValueError) as error:
        raise ValueError(f"{name!r} is no kind of run that this version knows ({error})") from None
    if not (isinstance(kind, type) and issubclass(kind, RunKind)) or inspect.isabstract(kind):
        raise ValueError(f"{name!r} is no kind of run")
    return kind()
