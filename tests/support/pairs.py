"""Settings of small, fast runs of every pair of an agent and a backward policy."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import gfn_envs
from agents.build import build_trainer
from agents.config import CHOICES, Config, usual, with_values
from agents.evaluation.settings import EvaluationSettings
from agents.model import make_dag
from agents.objectives.dqn import SoftDQNSettings
from agents.objectives.sac import SoftActorCriticSettings
from agents.registry import AGENTS, BACKWARD, SAMPLERS
from agents.settings import field_types
from agents.trainer import Trainer

LAWFUL = [
    (agent, backward)
    for agent in AGENTS.names()
    for backward in BACKWARD.names()
    if backward != "naive" or AGENTS.find(agent).teaches_backward
]
"""Every agent with every backward policy that it accepts."""
_MANY = ("db", "mdqn")
PAIRS = [pytest.param(*pair, marks=() if pair[0] in _MANY or pair[1] == "tlm" else pytest.mark.slow) for pair in LAWFUL]
"""The same for `parametrize`: every agent and every backward policy is among the quick ones."""
POTENTIAL = ("fl-db", "fl-subtb", "mdb")
"""The agents that need an environment with `log_potential`."""
STOPPING = ("mdb",)
"""The agents that need a stop action that is always legal."""


def without(*agents: str) -> list[Any]:
    """Return `PAIRS` without those of some agents."""
    return [pair for pair in PAIRS if pair.values[0] not in agents]


DQNS = [name for name in AGENTS.names() if issubclass(AGENTS.find(name), SoftDQNSettings)]
REPLAYING = [*DQNS, *(name for name in AGENTS.names() if issubclass(AGENTS.find(name), SoftActorCriticSettings))]
"""The agents that learn from replayed transitions unless told otherwise."""

_ANYWHERE = itertools.cycle(gfn_envs.registered())
_SOMEWHERE = itertools.cycle(["gfn/BayesNet-v0", "gfn/Hypergrid-v0"])
_EACH_SAMPLER = itertools.cycle([*SAMPLERS.names(), "teacher+replay"])
_NEED_STOP = ("random-stop",)
"""The samplers that need a stop action, as both of `_SOMEWHERE` have."""
EVERYWHERE = [
    (agent, backward, next(_SOMEWHERE if agent in POTENTIAL or sampler in _NEED_STOP else _ANYWHERE), sampler)
    for (agent, backward), sampler in zip(LAWFUL, _EACH_SAMPLER, strict=False)
]
"""Every pair, in turn on each environment at its default size and with each sampler."""


def unmeasured(agent: str, backward: str, env: str, sampler: str = "on-policy", **values: Any) -> Config:
    """Return the settings of a run with the environment's defaults that enumerates and estimates nothing."""
    off = {"eval.max_exact_edges": 0, "eval.elbo_samples": 0, "eval.slack_objects": 0, "learning_starts": 0}
    if agent in DQNS:
        off["agent.on_policy"] = True
    return with_values(usual(env, agent, backward, sampler=sampler), {"batch_size": 16, **off, **values})


def owned(kind: str, name: str) -> set[str]:
    """Return the settings that the choice `name` of a kind owns, by dotted name."""
    return {f"{kind}.{setting}" for setting in field_types(CHOICES[kind].find(name))}


def every_setting() -> set[str]:
    """Return the dotted names of the settings of all runs and of all choices."""
    plain = {field.name for field in dataclasses.fields(Config)} - {"eval", *(f"{kind}_settings" for kind in CHOICES)}
    evaluation = {f"eval.{name}" for name in field_types(EvaluationSettings)}
    return (plain | evaluation).union(*(owned(kind, name) for kind in CHOICES for name in CHOICES[kind].names()))


def config(agent: str = "db", backward: str = "uniform", **values: Any) -> Config:
    """Return the settings of a run of seconds on a small grid.

    Choices are given by name, settings by their dotted names, whose dots may be written as two underscores.
    """
    given = {name.replace("__", "."): value for name, value in values.items()}
    chosen = {name: given.pop(name) for name in ("env", "network", "preset", "sampler") if name in given}
    settings = usual(**chosen, agent=agent, backward=backward)
    small = {
        "env_kwargs": '{"dim": 2, "side": 5}',
        "network.width": 16,
        "trajectories": 16 * 12,
        "learning_starts": 0,
        "eval.max_exact_edges": 0,
    }
    if agent in REPLAYING and not given.get("agent.on_policy"):
        small |= {"agent.replay_batch": 32, "agent.replay_capacity": 400}
    return with_values(settings, small | given)


def built(settings: Config) -> Trainer:
    """Build a trainer, on the CPU."""
    return build_trainer(settings, make_dag(dataclasses.replace(settings, device="cpu")))


def trained(settings: Config) -> Trainer:
    """Build a trainer, run it to the end and return it."""
    trainer = built(settings)
    assert trainer.train(lambda metrics: None, lambda: False, progress=False)
    return trainer


def weights(trainer: Trainer) -> Tensor:
    """Return all learned numbers as one vector."""
    parameters = (*trainer.network.parameters(), *trainer.agent.own.parameters())
    return torch.cat([p.detach().flatten() for p in parameters])
