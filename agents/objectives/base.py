"""What every agent offers to the trainer: a sampling policy, an update, an estimate of log Z."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from agents.backward import Backward
from agents.networks.base import Network
from agents.optimizer import Optimizer
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.rollout import Policy
from gfn_envs.dag import DAG


class Agent(ABC):
    """A forward policy that learns; it asks `backward.log_prob` for P_B and nothing else."""

    optimizer: Optimizer

    def __init__(self, dag: DAG, network: Network, backward: Backward) -> None:
        self.dag, self.network, self.backward = dag, network, backward

    @abstractmethod
    def policy(self) -> Policy:
        """Return P_F as a function of states with the present weights, for rollouts and exact evaluation."""

    @abstractmethod
    def update(self, buffer: RolloutBuffer) -> Tensor:
        """Take one learning step and return its loss, a scalar tensor."""

    def observe(self, buffer: RolloutBuffer) -> None:  # noqa: B027  (most agents keep nothing)
        """Take note of the newest batch without learning from it; nothing unless overridden."""

    @abstractmethod
    def log_z(self) -> Tensor:
        """Return the agent's estimate of log Z, a scalar tensor."""

    def state_dict(self) -> dict:
        """Return what the agent itself keeps (the network is saved by the trainer)."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
