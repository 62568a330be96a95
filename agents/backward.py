"""Five ways of choosing the backward policy P_B.

Source: TLM and its stabilisers, Gritsaev et al. 2025 (arXiv 2410.15474), Algorithm 1; pessimistic, Jang et al. 2024
(arXiv 2405.16012); maximum entropy, Mohammadpour et al. 2024 (arXiv 2312.14331).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.networks.base import Evaluation, Network
from agents.networks.target import Targets
from agents.objectives.losses import log_prob
from agents.optimizer import Optimizer
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.rollout import Trajectories
from gfn_envs.dag import DAG


@dataclass(frozen=True)
class BackwardSettings:
    """Settings of the learned backward approaches that have an optimizer of their own (tlm, pessimistic, maxent)."""

    lr: float = 1e-3
    """Learning rate of P_B."""
    lr_decay: float = 0.999
    """Factor on that rate after every iteration (tlm)."""
    target_rate: float = 0.25
    """kappa: share of the new weights in the slow copy of P_B that the forward loss sees (tlm)."""
    zero_init: bool = True
    """Zero the last layer of P_B at the start, so that it starts uniform over the parents."""
    past_batches: int = 20
    """Number of past iterations that pessimistic draws its batch from."""
    weight_decay: float = 0.0
    """L2 penalty on the weights in P_B's own steps (tlm, pessimistic, maxent where learned)."""
    max_grad_norm: float = 0.0
    """Gradients of P_B's own steps are scaled down to this norm; 0 leaves them."""
    exact_maxent: bool = True
    """Use the DAG's closed form of n(s) for maxent where it has one; otherwise learn log n(s)."""


class Backward(ABC):
    """A backward policy: what the forward loss takes for P_B, and how it learns.

    `learned_by_agent`: heads whose parameters the agent's optimizer steps, by the forward loss's gradient.
    """

    learned_by_agent: tuple[str, ...] = ()

    def __init__(self, dag: DAG, *optimizers: Optimizer) -> None:
        self.dag, self._optimizers = dag, optimizers

    @abstractmethod
    def log_prob(self, here: Evaluation, backward_actions: Tensor) -> Tensor:
        """Return log P_B `[B]` of `backward_actions [B]` at the states of `here`; any finite value at s0.

        `here` is the agent's network at those states: an approach that needs it reads it, and no pass is made
        otherwise.
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Return unnormalised log P_B of all backward actions `[B, num_backward_actions]`, without gradient."""

    def update(self, buffer: RolloutBuffer) -> Tensor:
        """Take one learning step and return its loss, a scalar tensor; nothing to learn unless overridden."""
        return torch.zeros((), device=buffer.newest.log_reward.device)

    def state_dict(self) -> list[dict]:
        """Return the state of its own optimizers (the network and its slow copies are saved by the trainer)."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, saved in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(saved)


class Uniform(Backward):
    """P_B = 1 / number of parents (of legal backward actions)."""

    def log_prob(self, here: Evaluation, backward_actions: Tensor) -> Tensor:
        return -self.dag.backward_action_mask(here.states).sum(1).clamp(min=1).log()

    def logits(self, states: Tensor) -> Tensor:
        return torch.zeros(len(states), self.dag.num_backward_actions, device=states.device)


class ExactMaxent(Backward):
    """P_B(s|s') = n(s)/n(s') from the DAG's own `log_num_trajectories`."""

    def log_prob(self, here: Evaluation, backward_actions: Tensor) -> Tensor:
        count = self.dag.log_num_trajectories  # type: ignore[attr-defined]
        parents, _ = self.dag.backward_step(here.states, backward_actions)
        # At s0 there is no parent: step nowhere, and say 0.
        parents = torch.where(self.dag.backward_action_mask(here.states).any(1, keepdim=True), parents, here.states)
        return count(parents) - count(here.states)

    def logits(self, states: Tensor) -> Tensor:
        count, num = self.dag.log_num_trajectories, self.dag.num_backward_actions  # type: ignore[attr-defined]
        mask = self.dag.backward_action_mask(states)
        expanded = states.repeat_interleave(num, 0)
        parents, _ = self.dag.backward_step(expanded, torch.arange(num, device=states.device).repeat(len(states)))
        parents = torch.where(mask.view(-1, 1), parents, expanded)
        return count(parents).view(-1, num)


class Naive(Backward):
    """P_B is the network's, learned by the forward loss's own gradient.

    With DQN that gradient goes through log P_B in the target.
    """

    learned_by_agent = ("pb",)

    def __init__(self, dag: DAG, network: Network) -> None:
        super().__init__(dag)
        self.network = network

    def log_prob(self, here: Evaluation, backward_actions: Tensor) -> Tensor:
        return _log_pb(self.dag, here, backward_actions)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        return self.network.at(states).backward_logits


class Likelihood(Backward):
    """P_B by maximum likelihood of trajectories, L = - sum_t log P_B(s_t-1 | s_t), with an optimizer of its own.

    tlm: the newest batch, a decaying learning rate, a slow copy in the forward loss. pessimistic: one of the last
    batches, a constant rate, the network itself in the forward loss, without gradient.

    Args:
        seen: the network that the forward loss reads.
        batch: what to learn from.
    """

    def __init__(
        self,
        dag: DAG,
        network: Network,
        optimizer: Optimizer,
        seen: Network,
        batch: Callable[[RolloutBuffer], Trajectories],
    ) -> None:
        super().__init__(dag, optimizer)
        self.network, self.optimizer, self.seen, self.batch = network, optimizer, seen, batch

    def log_prob(self, here: Evaluation, backward_actions: Tensor) -> Tensor:
        return _log_pb(self.dag, here.under(self.seen), backward_actions).detach()

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        return self.seen.at(states).backward_logits

    def update(self, buffer: RolloutBuffer) -> Tensor:
        rows = self.batch(buffer).rows
        log_pb = _log_pb(self.dag, self.network.at(rows.states), rows.backward_actions)
        loss = -torch.where(rows.has_parent, log_pb, 0.0).sum() / rows.shape[0]
        self.optimizer.minimise(loss)
        return loss.detach()


class LearnedMaxent(Backward):
    """P_B(s|s') = n(s)/n(s') where no closed form of n exists: P_B and log n learned together.

    Minimises (log n(s') + log P_B(s|s') - log n(s))^2 over the steps of the newest batch, with log n(s0) = 0. At zero
    loss, summing n(s') P_B(s|s') = n(s) over the parents gives n(s') = sum n(s), the number of trajectories.
    """

    def __init__(self, dag: DAG, network: Network, optimizer: Optimizer) -> None:
        super().__init__(dag, optimizer)
        self.network, self.optimizer = network, optimizer

    def log_prob(self, here: Evaluation, backward_actions: Tensor) -> Tensor:
        return _log_pb(self.dag, here, backward_actions).detach()

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        return self.network.at(states).backward_logits

    def update(self, buffer: RolloutBuffer) -> Tensor:
        rows = buffer.newest.rows
        here = self.network.at(rows.states)
        log_count = torch.where(rows.has_parent, here.log_count, 0.0)
        log_pb = _log_pb(self.dag, here, rows.backward_actions)
        residual = log_count[1:] + log_pb[1:] - log_count[:-1]
        edges = rows.has_action[:-1]
        loss = torch.where(edges, residual, 0.0).square().sum() / edges.sum()
        self.optimizer.minimise(loss)
        return loss.detach()


def _log_pb(dag: DAG, here: Evaluation, backward_actions: Tensor) -> Tensor:
    return log_prob(here.backward_logits, dag.backward_action_mask(here.states), backward_actions)


def _optimizer(network: Network, settings: BackwardSettings, *heads: str, decay: float = 1.0) -> Optimizer:
    groups = [(network.parameters_of(*heads), settings.lr)]
    return Optimizer(network, groups, settings.weight_decay, settings.max_grad_norm, decay)


def uniform(dag: DAG, network: Network, targets: Targets, settings: BackwardSettings) -> Backward:
    """1 / number of parents."""
    return Uniform(dag)


def maxent(dag: DAG, network: Network, targets: Targets, settings: BackwardSettings) -> Backward:
    """n(s)/n(s'), exact where the DAG counts its trajectories, learned elsewhere."""
    if settings.exact_maxent and dag.offers("log_num_trajectories"):
        return ExactMaxent(dag)
    return LearnedMaxent(dag, network, _optimizer(network, settings, "pb", "count"))


def naive(dag: DAG, network: Network, targets: Targets, settings: BackwardSettings) -> Backward:
    """Learned by the forward loss."""
    return Naive(dag, network)


def tlm(dag: DAG, network: Network, targets: Targets, settings: BackwardSettings) -> Backward:
    """Trajectory likelihood maximisation on the newest batch."""
    optimizer = _optimizer(network, settings, "pb", decay=settings.lr_decay)
    return Likelihood(dag, network, optimizer, targets.get(settings.target_rate), lambda buffer: buffer.newest)


def pessimistic(dag: DAG, network: Network, targets: Targets, settings: BackwardSettings) -> Backward:
    """Likelihood of one of the last batches."""
    optimizer = _optimizer(network, settings, "pb")
    return Likelihood(dag, network, optimizer, network, RolloutBuffer.past)
