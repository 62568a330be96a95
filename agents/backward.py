"""Five ways of choosing the backward policy P_B, and the settings that build them.

Source: TLM and its stabilisers, Gritsaev et al. 2025 (arXiv 2410.15474), Algorithm 1; pessimistic, Jang et al. 2024
(arXiv 2405.16012); maximum entropy, Mohammadpour et al. 2024 (arXiv 2312.14331).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Literal

import torch
from torch import Tensor

from agents.networks.base import Heads, Network, Outputs
from agents.optimizer import AdamSettings, DecayingAdamSettings, Optimizer
from agents.parts import Parts
from agents.sampling.buffer import Keeps, RolloutBuffer
from agents.sampling.categorical import log_prob
from agents.sampling.rollout import Trajectories
from agents.settings import Bounds, Settings
from gfn_envs.abilities import CountsTrajectories
from gfn_envs.dag import DAG


class Backward(ABC):
    """A backward policy: what the forward loss takes for P_B, and how P_B learns.

    Attributes:
        learned_by_agent: heads that the agent's optimizer steps, by the gradient of the forward loss.
        keeps: what `update` needs the buffer to keep.
    """

    learned_by_agent: tuple[str, ...] = ()
    keeps: Keeps = Keeps()

    def __init__(self, dag: DAG, *optimizers: Optimizer) -> None:
        self.dag, self._optimizers = dag, optimizers

    @abstractmethod
    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        """Return log P_B `[B]` of `backward_actions [B]` at the states of `outputs`; any finite value at s0.

        `outputs` are those of the agent's network. They are computed when they are read, so that a policy that does
        not read them costs no pass.
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Return unnormalised log P_B of all backward actions `[B, num_backward_actions]`, without gradient."""

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        """Take one learning step and return its metrics by name, scalar tensors without gradient.

        By custom the loss is called `"backward_loss"`. Unless overridden, there is nothing to learn and to tell.
        """
        return {}

    def state_dict(self) -> list[dict]:
        """Return the state of its own optimizers (the network and its slow copies are saved by the trainer)."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, saved in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(saved)


class Uniform(Backward):
    """P_B = 1 / number of parents (of legal backward actions)."""

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        return -self.dag.backward_action_mask(outputs.states).sum(1).clamp(min=1).log()

    def logits(self, states: Tensor) -> Tensor:
        return torch.zeros(len(states), self.dag.num_backward_actions, device=states.device)


class ExactMaxent(Backward):
    """P_B(s|s') = n(s)/n(s') from the DAG's own `log_num_trajectories`.

    Args:
        count: states `[B, d]` -> log n(s) `[B]`.
    """

    def __init__(self, dag: DAG, count: Callable[[Tensor], Tensor]) -> None:
        super().__init__(dag)
        self.count = count

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        parents, _ = self.dag.backward_step(outputs.states, backward_actions)
        # At s0 there is no parent: step nowhere, and say 0.
        has_parent = self.dag.backward_action_mask(outputs.states).any(1, keepdim=True)
        parents = torch.where(has_parent, parents, outputs.states)
        return self.count(parents) - self.count(outputs.states)

    def logits(self, states: Tensor) -> Tensor:
        num = self.dag.num_backward_actions
        mask = self.dag.backward_action_mask(states)
        expanded = states.repeat_interleave(num, 0)
        parents, _ = self.dag.backward_step(expanded, torch.arange(num, device=states.device).repeat(len(states)))
        parents = torch.where(mask.view(-1, 1), parents, expanded)
        return self.count(parents).view(-1, num)


class Naive(Backward):
    """P_B is the network's, learned by the forward loss's own gradient.

    With DQN that gradient goes through log P_B in the target.
    """

    learned_by_agent = ("backward",)

    def __init__(self, dag: DAG, network: Network) -> None:
        super().__init__(dag)
        self.network = network

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        return _log_pb(self.dag, outputs, backward_actions)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        return self.network(states).backward_logits


class MaximumLikelihood(Backward):
    """P_B by maximum likelihood of trajectories, L = - sum_t log P_B(s_t-1 | s_t), with an optimizer of its own.

    tlm: the newest batch, a decaying learning rate, a slow copy in the forward loss. pessimistic: one of the last
    batches, a constant rate, the network itself in the forward loss, without gradient.

    Args:
        seen: the network that the forward loss reads.
        batch: what to learn from.
        keeps: what that needs the buffer to keep.
    """

    def __init__(
        self,
        dag: DAG,
        network: Network,
        optimizer: Optimizer,
        seen: Network,
        batch: Callable[[RolloutBuffer], Trajectories],
        keeps: Keeps,
    ) -> None:
        super().__init__(dag, optimizer)
        self.network, self.optimizer, self.seen, self.batch, self.keeps = network, optimizer, seen, batch, keeps

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        return _log_pb(self.dag, outputs.of(self.seen), backward_actions).detach()

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        return self.seen(states).backward_logits

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        rows = self.batch(buffer).rows
        log_pb = _log_pb(self.dag, self.network(rows.states), rows.backward_actions)
        loss = -torch.where(rows.has_parent, log_pb, 0.0).sum() / rows.shape[0]
        self.optimizer.minimise(loss)
        return {"backward_loss": loss.detach()}


class LearnedMaxent(Backward):
    """P_B(s|s') = n(s)/n(s') where no closed form of n exists: P_B and log n learned together.

    Minimises (log n(s') + log P_B(s|s') - log n(s))^2 over the steps of the newest batch, with log n(s0) = 0. At zero
    loss, summing n(s') P_B(s|s') = n(s) over the parents gives n(s') = sum n(s), the number of trajectories.
    """

    def __init__(self, dag: DAG, network: Network, optimizer: Optimizer) -> None:
        super().__init__(dag, optimizer)
        self.network, self.optimizer = network, optimizer

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        return _log_pb(self.dag, outputs, backward_actions).detach()

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        return self.network(states).backward_logits

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        rows = buffer.newest.rows
        outputs = self.network(rows.states)
        log_count = torch.where(rows.has_parent, outputs.scalar("count"), 0.0)
        log_pb = _log_pb(self.dag, outputs, rows.backward_actions)
        residual = log_count[1:] + log_pb[1:] - log_count[:-1]
        edges = rows.has_action[:-1]
        loss = torch.where(edges, residual, 0.0).square().sum() / edges.sum()
        self.optimizer.minimise(loss)
        return {"backward_loss": loss.detach()}


def refuse_naive(agent: str, backward: Backward) -> None:
    """Raise `ValueError` for a P_B that learns by the agent's gradient, where the agent has none to give."""
    if backward.learned_by_agent:
        raise ValueError(f"--agent {agent} gives P_B no gradient to learn by: take another --backward, such as tlm.")


def _log_pb(dag: DAG, outputs: Outputs, backward_actions: Tensor) -> Tensor:
    return log_prob(outputs.backward_logits, dag.backward_action_mask(outputs.states), backward_actions)


class BackwardSettings(Settings, ABC):
    """The settings of a backward policy, which build it.

    A subclass is a frozen dataclass registered by `agents.register_backward`.
    """

    def heads(self, dag: DAG) -> Heads:
        """Return the heads of the network that the policy reads; none unless overridden."""
        return {}

    @abstractmethod
    def build(self, parts: Parts) -> Backward:
        """Return the backward policy."""


@dataclass(frozen=True)
class UniformSettings(BackwardSettings):
    """1 / number of parents; nothing to learn."""

    def build(self, parts: Parts) -> Backward:
        return Uniform(parts.dag)


@dataclass(frozen=True)
class LearnedSettings(BackwardSettings):
    """What every P_B that a network gives has in common."""

    zero_init: bool = True
    """Zero the last layer of P_B at the start, so that it starts uniform over the parents."""

    def heads(self, dag: DAG) -> Heads:
        return {"backward": "backward"}

    def start(self, network: Network) -> Network:
        """Return the network, its P_B uniform where the settings say so."""
        if self.zero_init:
            network.zero("backward")
        return network


@dataclass(frozen=True)
class NaiveSettings(LearnedSettings):
    """Learned by the forward loss's own gradient."""

    def build(self, parts: Parts) -> Backward:
        return Naive(parts.dag, self.start(parts.network))


@dataclass(frozen=True)
class LikelihoodSettings(LearnedSettings):
    """What every P_B has in common that maximises the likelihood of trajectories."""

    learn_from: Literal["on-policy", "all"] = "on-policy"
    """The trajectories that P_F has just sampled, as the theory asks, or all of a batch, replayed ones included."""


@dataclass(frozen=True)
class TLMSettings(LikelihoodSettings, DecayingAdamSettings):
    """Trajectory likelihood maximisation: the likelihood of the newest trajectories, at a decaying rate."""

    lr_decay: Annotated[float, Bounds(0, 1)] = 0.999
    """Factor on the learning rate after every iteration."""
    target_rate: Annotated[float, Bounds(0, 1)] = 0.25
    """kappa: share of the new weights in the slow copy of P_B that the forward loss sees."""

    def build(self, parts: Parts) -> Backward:
        network = self.start(parts.network)
        optimizer = self.optimizer(network, network.parameters_of("backward"))
        seen = parts.targets.get(self.target_rate)
        newest = attrgetter("newest_fresh" if self.learn_from == "on-policy" else "newest")
        return MaximumLikelihood(parts.dag, network, optimizer, seen, newest, Keeps())


@dataclass(frozen=True)
class PessimisticSettings(LikelihoodSettings, AdamSettings):
    """The likelihood of one of the last batches of trajectories, at a constant rate."""

    past_batches: Annotated[int, Bounds(1, 10**6)] = 20
    """Number of past iterations that the batch is drawn from."""

    def build(self, parts: Parts) -> Backward:
        network = self.start(parts.network)
        optimizer = self.optimizer(network, network.parameters_of("backward"))
        keeps = Keeps(batches=self.past_batches)
        part = attrgetter("fresh" if self.learn_from == "on-policy" else "all")
        return MaximumLikelihood(parts.dag, network, optimizer, network, lambda buffer: part(buffer.past()), keeps)


@dataclass(frozen=True)
class MaximumEntropySettings(LearnedSettings, AdamSettings):
    """n(s)/n(s'), n the number of trajectories to a state: exact where the DAG counts them, learned elsewhere."""

    exact: bool = True
    """Use the DAG's closed form of n(s) where it has one; otherwise learn log n(s)."""

    def heads(self, dag: DAG) -> Heads:
        return {} if self._count(dag) else {"backward": "backward", "count": "scalar"}

    def _count(self, dag: DAG) -> Callable[[Tensor], Tensor] | None:
        return dag.log_num_trajectories if self.exact and isinstance(dag, CountsTrajectories) else None

    def build(self, parts: Parts) -> Backward:
        count = self._count(parts.dag)
        if count:
            return ExactMaxent(parts.dag, count)
        network = self.start(parts.network)
        return LearnedMaxent(parts.dag, network, self.optimizer(network, network.parameters_of("backward", "count")))
