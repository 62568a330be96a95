"""The interface of agents: a sampling policy, an update, an estimate of log Z."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from agents.backward import Backward
from agents.networks.base import Heads, Network
from agents.optimizer import DecayingAdamSettings, Optimizer
from agents.parts import Parts
from agents.sampling.buffer import Keeps, RolloutBuffer
from agents.sampling.rollout import Policy
from gfn_envs.dag import DAG


class Agent(ABC):
    """A forward policy that learns; it asks `backward.log_prob` for P_B and nothing else.

    Attributes:
        optimizer: the optimizer that `update` uses.
        own: a module with the agent's own parameters and buffers, those not in the network, such as log Z. They are
            saved with the policy.
        keeps: what `update` needs the buffer to keep.
    """

    optimizer: Optimizer
    keeps: Keeps = Keeps()
    stochastic: bool = True
    """See `agents.evaluation.gflownet.GFlowNet`; every agent is one."""

    def __init__(self, dag: DAG, network: Network, backward: Backward) -> None:
        self.dag, self.network, self.backward = dag, network, backward
        self.own = nn.Module()

    @abstractmethod
    def policy(self, network: Network | None = None) -> Policy:
        """Return P_F as a function of states with the current weights, for rollouts and exact evaluation.

        `network` is a slow copy with the same heads, whose P_F it is then.
        """

    @abstractmethod
    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        """Take one learning step and return its metrics by name, scalar tensors without gradient.

        The loss is called `"loss"`. Each metric appears in the run's metrics, table and curves, as a mean over the
        steps since the previous evaluation.
        """

    def observe(self, buffer: RolloutBuffer) -> None:  # noqa: B027  (most agents keep nothing)
        """Take note of the newest batch without learning from it; does nothing unless overridden."""

    @abstractmethod
    def log_z(self) -> Tensor:
        """Return the agent's estimate of log Z, a scalar tensor."""

    def backward_policy(self) -> Policy:
        """Return P_B as a function from states to logits of the backward actions `[B, num_backward_actions]`."""
        return self.backward.logits

    @torch.no_grad()
    def log_pb(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Return log P_B `[B]` of `backward_actions [B]` at `states [B, d]`; any finite value at s0."""
        return self.backward.log_prob(self.network(states), backward_actions)

    def state_dict(self) -> dict:
        """Return the agent's own state; the trainer saves the network."""
        return {"optimizer": self.optimizer.state_dict(), "own": self.own.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.own.load_state_dict(state["own"])


@dataclass(frozen=True)
class AgentSettings(DecayingAdamSettings, ABC):
    """The settings of an agent and of its optimizer; `build` makes the agent.

    A subclass is a frozen dataclass and is registered with `agents.register_agent`.
    """

    teaches_backward: ClassVar[bool] = True
    """Whether the loss has a gradient with respect to P_B; a naive P_B learns from that gradient."""

    def heads(self, dag: DAG) -> Heads:
        """Return the network heads that the agent reads; only P_F's unless overridden."""
        return {"forward": "forward"}

    @abstractmethod
    def build(self, parts: Parts, backward: Backward) -> Agent:
        """Return the agent that learns with `backward` as its P_B."""
