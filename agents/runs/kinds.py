"""Kinds of runs: how the settings in a `config.json` are read back, and how a sweep starts a run.

A `config.json` names its kind. The module of the kind is imported when the first such run is read, so a kind costs
nothing without runs of it. The module of a kind imports only what reading settings needs. What building a run needs,
such as another library, is imported by `learned`.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from agents.config import CHOICES, Config, RunSettings, check_config, method_names, usual, with_values
from agents.evaluation.evaluator import enumerate_within
from agents.policy import load as load_policy
from agents.registry import JOINT, bare
from gfn_envs.exact import Enumeration
from gfn_envs.registry import load

Settings = TypeVar("Settings", bound=RunSettings)

AGENT, BASELINE = "AgentRun", "BaselineRun"
KINDS = {AGENT: "agents.runs.kinds:AgentRun", BASELINE: "baselines.run_kind:BaselineRun"}
"""Where each kind is. There are no others, so that a stranger's file cannot choose what is imported."""


@dataclass(frozen=True)
class Task:
    """What all runs of a sweep have in common, and the seed of one run."""

    env: str
    """Id of the environment."""
    env_kwargs: str
    """Keyword arguments of the environment as JSON."""
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
    network: str = "auto"
    """Network of an agent's run where its method names none."""
    device: str = "cpu"
    """Where to compute."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of this run by dotted name."""

    def applied(self, config: Settings, batch_size: Callable[[Settings], int]) -> Settings:
        """Return `config` with the values of the task; `batch_size` tells the trajectories per iteration of a run.

        A sweep has many runs, so each uses one CPU thread. Raises `ValueError` for an unknown name or a wrong value.
        """
        for name in ("trajectories", "evaluations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        own = {name: getattr(self, name) for name in ("env_kwargs", "metrics", "trajectories", "seed", "device")}
        config = with_values(config, {**own, "threads": 1, **self.settings})
        every = -(-self.trajectories // (batch_size(config) * self.evaluations))
        return with_values(config, {"eval_every": every, **self.settings})


class Learned(NamedTuple):
    """The distribution over terminal states that a run learned."""

    enumeration: Enumeration | None
    """Enumeration of the environment; None if it is too large, and then the other fields are empty."""
    distribution: Tensor
    """Probabilities of the terminal states, float64 `[X]`."""
    of: str
    """What the distribution was measured on: `"policy"` or `"samples"`."""


NOTHING = Learned(None, torch.zeros(0), "")


class RunKind(ABC):
    """A kind of run.

    Attributes:
        settings: the class of the run's settings.
        main: the command line that starts or resumes the run, as `"module:function"`.
        yardstick: whether other runs are compared with runs of this kind. If so, they come last and their curves are
            dashed.
    """

    settings: type[RunSettings]
    main: str
    yardstick: bool = False

    @abstractmethod
    def row(self, values: Mapping[str, Any]) -> str:
        """Return the name of a run's row in a comparison, given its settings by dotted name."""

    @abstractmethod
    def planned(self, method: str, task: Task) -> RunSettings:
        """Return the settings for a run of `method`, as a sweep names it; `ValueError` for a wrong name or value."""

    @abstractmethod
    def learned(self, folder: Path) -> Learned:
        """Return the distribution that the finished run in `folder` learned."""


class AgentRun(RunKind):
    """A run of `agents/run.py`; a sweep names it AGENT+BACKWARD, to which +SAMPLER, once or more, and +NETWORK may be
    added."""

    settings = Config
    main = "agents.runs.train:main"

    def row(self, values: Mapping[str, Any]) -> str:
        return " + ".join(method_names(*(str(values[kind]) for kind in ("agent", "backward", "sampler"))))

    def planned(self, method: str, task: Task) -> Config:
        agent, backward, *others = method.split(JOINT)
        chosen = {"network": task.network}
        for kind, names in itertools.groupby(sorted(others, key=_kind_of), _kind_of):
            chosen[kind] = JOINT.join(names)
        config = usual(task.env, agent, backward, preset=task.preset, **chosen)
        config = task.applied(config, lambda config: config.batch_size)
        check_config(config)
        return config

    def learned(self, folder: Path) -> Learned:
        trained = load_policy(folder)
        enumeration = enumerate_within(trained.dag, trained.config.eval.max_exact_edges)
        if enumeration is None:
            return NOTHING
        return Learned(enumeration, enumeration.terminal_distribution(trained.gflownet().policy()), "policy")


def _kind_of(name: str) -> str:
    """Return whether a name is that of a sampler or of a network; `ValueError` if it is neither."""
    kinds = ("sampler", "network")
    for kind in kinds:
        with contextlib.suppress(ValueError):
            CHOICES[kind].find(name)
            return kind
    known = ", ".join(known for kind in kinds for known in CHOICES[kind].names())
    raise ValueError(f"{name!r} is neither a sampler nor a network. There are {known}.")


def find_kind(name: str) -> RunKind:
    """Return the kind of run that a `config.json` names; `ValueError` if there is no such kind.

    Earlier versions wrote the module before the name, which says nothing: where it is, `KINDS` tells.
    """
    if bare(name) not in KINDS:
        raise ValueError(f"{name!r} is no kind of run of this project")
    return load(KINDS[bare(name)])()
