"""Random policies on small DAGs for the tests of samplers, and settings of runs of a second."""

import math
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from agents.build import build_trainer
from agents.config import Config, usual, with_values
from agents.model import make_dag
from agents.networks.base import Network
from agents.parts import Parts
from agents.sampling.categorical import log_prob
from agents.sampling.rollout import Policy
from agents.trainer import Trainer
from gfn_envs import DAG, enumerate_dag
from gfn_envs.metrics import total_variation

NO_NETWORK = cast(Network, None)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """Return how many standard deviations Pearson's statistic of `counts` lies above its mean."""
    assert float(expected.min()) > 5
    free = len(counts) - 1
    return (float(((counts - expected) ** 2 / expected).sum()) - free) / math.sqrt(2 * free)


class Wanderer:
    """A random P_F and P_B on a small DAG, which treat slots alike; the more `sharp`, the surer of their actions."""

    def __init__(self, dag: DAG, seed: int = 0, sharp: float = 1.0) -> None:
        self.dag, self.enumeration = dag, enumerate_dag(dag)
        draw = generator(seed)
        self.forward = sharp * torch.randn(self.enumeration.num_states, dag.num_actions, generator=draw)
        self.backward = sharp * torch.randn(self.enumeration.num_states, dag.num_backward_actions, generator=draw)
        self.of_item = sharp * torch.randn(max(dag.nvec), generator=draw)

    def policy(self, network: Network | None = None) -> Policy:
        return lambda states: self.forward[self.enumeration.index(states)]

    def backward_policy(self) -> Policy:
        if self.dag.renames_slots:
            return lambda states: self.of_item[states]
        return lambda states: self.backward[self.enumeration.index(states)]

    def log_pb(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        return log_prob(self.backward_policy()(states), self.dag.backward_action_mask(states), backward_actions)


def parts_of(dag: DAG) -> Parts:
    return cast(Parts, SimpleNamespace(dag=dag))


def small(sampler: str, agent: str = "db", backward: str = "tlm", **values: Any) -> Config:
    """Return the settings of a run of a second; dots in names are written as two underscores."""
    given = {name.replace("__", "."): value for name, value in values.items()}
    usually = {
        "env_kwargs": '{"dim": 2, "side": 5}',
        "network.width": 16,
        "trajectories": 16 * 12,
        "epsilon": 0.1,
        "learning_starts": 0,
        "eval.max_exact_edges": 0,
        "device": "cpu",
    }
    return with_values(usual("gfn/Hypergrid-v0", agent, backward, sampler=sampler), usually | given)


def built(config: Config) -> Trainer:
    return build_trainer(config, make_dag(config))


def distances(trainer: Trainer, iterations: int) -> tuple[float, float]:
    """Train, and return the exact total variation between policy and target before and after."""
    e = enumerate_dag(trainer.dag)

    def now() -> float:
        return total_variation(e.terminal_distribution(trainer.agent.policy()), e.target)

    start = now()
    for _ in range(iterations):
        trainer.step()
    return start, now()
