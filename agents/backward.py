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

from agents import distributed
from agents.networks.base import Heads, Network, Outputs
from agents.optimizer import AdamSettings, DecayingAdamSettings, Optimizer
from agents.parts import Parts
from agents.sampling.buffer import Keeps, RolloutBuffer
from agents.sampling.categorical import log_prob
from agents.sampling.rollout import Policy, Trajectories
from agents.settings import Bounds, Settings
from gfn_envs.abilities import CountsTrajectories
from gfn_envs.dag import DAG


class Backward(ABC):
    """A backward policy: it gives the forward loss its P_B, and it may learn.

    Attributes:
        learned_by_agent: heads that the agent's optimizer trains with the gradient of the forward loss.
        keeps: what `update` needs the buffer to keep.
    """

    learned_by_agent: tuple[str, ...] = ()
    keeps: Keeps = Keeps()

    def __init__(self, dag: DAG, *optimizers: Optimizer) -> None:
        self.dag, self._optimizers = dag, optimizers

    @abstractmethod
    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        """Return log P_B `[B]` of `backward_actions [B]` at the states of `outputs`; any finite value at s0.

        `outputs` belong to the agent's network. They are computed only when they are read, so a backward policy that
        does not read them costs no pass.
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Return unnormalised log P_B of all backward actions, `[B, num_backward_actions]`, without gradient."""

    def watch(self, policy: Callable[[], Policy]) -> None:  # noqa: B027  (most do not look at P_F)
        """Be told, once and before anything else, what returns the agent's current P_F; ignored unless overridden."""

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        """Take one learning step and return its metrics by name, scalar tensors without gradient.

        By custom the loss is called `"backward_loss"`. The default learns nothing and returns no metrics.
        """
        return {}

    def state_dict(self) -> list[dict]:
        """Return the state of its own optimizers; the trainer saves the network and its slow copies."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, saved in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(saved)


class Uniform(Backward):
    """P_B = 1 / number of parents (the number of legal backward actions)."""

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        return -self.dag.backward_action_mask(outputs.states).sum(1).clamp(min=1).log()

    def logits(self, states: Tensor) -> Tensor:
        return torch.zeros(len(states), self.dag.num_backward_actions, device=states.device)


class ExactMaxent(Backward):
    """P_B(s|s') = n(s)/n(s'), with n(s) from the DAG's own `log_num_trajectories`.

    Args:
        count: function from states `[B, d]` to log n(s) `[B]`.
    """

    def __init__(self, dag: DAG, count: Callable[[Tensor], Tensor]) -> None:
        super().__init__(dag)
        self.count = count

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        parents, _ = self.dag.backward_step(outputs.states, backward_actions)
        # Where the action is illegal, as at s0 and in padding, stay there, so that the result is 0.
        legal = self.dag.backward_action_mask(outputs.states).gather(1, backward_actions.unsqueeze(1))
        parents = torch.where(legal, parents, outputs.states)
        return self.count(parents) - self.count(outputs.states)

    def logits(self, states: Tensor) -> Tensor:
        num = self.dag.num_backward_actions
        mask = self.dag.backward_action_mask(states)
        expanded = states.repeat_interleave(num, 0)
        parents, _ = self.dag.backward_step(expanded, torch.arange(num, device=states.device).repeat(len(states)))
        parents = torch.where(mask.reshape(-1, 1), parents, expanded)
        return self.count(parents).view(-1, num)


class Naive(Backward):
    """P_B is a head of the network and learns from the gradient of the forward loss.

    With DQN that gradient flows through log P_B in the target.
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
    """P_B learns by maximum likelihood of trajectories, L = - sum_t log P_B(s_t-1 | s_t), with its own optimizer.

    `tlm` learns from the newest batch at a decaying learning rate, and the forward loss reads a slow copy of P_B.
    `pessimistic` learns from one of the last batches at a constant rate, and the forward loss reads the network itself.
    The forward loss sends no gradient into either.

    Args:
        seen: the network that the forward loss reads.
        batch: function that picks the batch to learn from out of the buffer.
        keeps: what `batch` needs the buffer to keep.
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
    """P_B(s|s') = n(s)/n(s') where n has no closed form: the network learns P_B and log n together.

    It minimises (log n(s') + log P_B(s|s') - log n(s))^2 over the steps of the newest batch, with log n(s0) = 0. At
    zero loss n(s') P_B(s|s') = n(s). Summed over the parents s this gives n(s') = sum n(s), the number of trajectories.
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
        loss = torch.where(edges, residual, 0.0).square().sum() / distributed.mean(edges.sum())
        self.optimizer.minimise(loss)
        return {"backward_loss": loss.detach()}


def _log_pb(dag: DAG, outputs: Outputs, backward_actions: Tensor) -> Tensor:
    return log_prob(outputs.backward_logits, dag.backward_action_mask(outputs.states), backward_actions)


class BackwardSettings(Settings, ABC):
    """The settings of a backward policy; `build` makes the policy.

    A subclass is a frozen dataclass and is registered with `agents.register_backward`.
    """

    def heads(self, dag: DAG) -> Heads:
        """Return the network heads that the backward policy reads; none unless overridden."""
        return {}

    @abstractmethod
    def build(self, parts: Parts) -> Backward:
        """Return the backward policy."""


@dataclass(frozen=True)
class UniformSettings(BackwardSettings):
    """P_B = 1 / number of parents; it learns nothing."""

    def build(self, parts: Parts) -> Backward:
        return Uniform(parts.dag)


@dataclass(frozen=True)
class LearnedSettings(BackwardSettings):
    """The settings that all backward policies with a network have in common."""

    zero_init: bool = True
    """Zero the last layer of P_B at the start, so that P_B starts uniform over the parents."""

    def heads(self, dag: DAG) -> Heads:
        return {"backward": "backward"}

    def start(self, network: Network) -> Network:
        """Return the network, after making its P_B uniform if `zero_init` asks for it."""
        if self.zero_init:
            network.zero("backward")
        return network


@dataclass(frozen=True)
class NaiveSettings(LearnedSettings):
    """P_B learns from the gradient of the forward loss."""

    def build(self, parts: Parts) -> Backward:
        return Naive(parts.dag, self.start(parts.network))


@dataclass(frozen=True)
class LikelihoodSettings(LearnedSettings):
    """The settings that the backward policies which maximise the likelihood of trajectories have in common."""

    learn_from: Literal["on-policy", "all"] = "on-policy"
    """The trajectories that P_F has just sampled, as the theory asks, or the whole batch, replayed ones included."""


@dataclass(frozen=True)
class TLMSettings(LikelihoodSettings, DecayingAdamSettings):
    """Trajectory likelihood maximisation: P_B learns from the newest trajectories, at a decaying rate."""

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
    """P_B maximises the likelihood of one of the last batches of trajectories, at a constant rate."""

    past_batches: Annotated[int, Bounds(1, 10**6)] = 20
    """Number of past iterations from which the batch is drawn."""

    def build(self, parts: Parts) -> Backward:
        network = self.start(parts.network)
        optimizer = self.optimizer(network, network.parameters_of("backward"))
        keeps = Keeps(batches=self.past_batches)
        part = attrgetter("fresh" if self.learn_from == "on-policy" else "all")
        return MaximumLikelihood(parts.dag, network, optimizer, network, lambda buffer: part(buffer.past()), keeps)


@dataclass(frozen=True)
class MaximumEntropySettings(LearnedSettings, AdamSettings):
    """P_B = n(s)/n(s'), n the number of trajectories to a state: exact if the DAG counts them, otherwise learned."""

    exact: bool = True
    """Use the DAG's closed form of n(s) if it has one; otherwise learn log n(s)."""

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
