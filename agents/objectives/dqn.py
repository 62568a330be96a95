"""Soft DQN and Munchausen DQN: Q-learning on the entropy-regularised problem whose optimum is the GFlowNet's P_F.

Source: Tiapkin et al. 2024 (arXiv 2310.12934), section 4; Vieillard et al. 2020 (arXiv 2007.14430) for the Munchausen
term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from agents import distributed
from agents.backward import Backward
from agents.networks.base import Heads, Network, Outputs
from agents.objectives.base import Agent, AgentSettings
from agents.objectives.losses import huber, munchausen_target, munchausen_term, value_ahead
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import Keeps, RolloutBuffer, Transitions
from agents.sampling.categorical import log_prob, soft_value
from agents.sampling.rollout import Policy
from agents.settings import Bounds
from gfn_envs.dag import DAG


@dataclass(frozen=True)
class SoftDQNSettings(AgentSettings):
    """Soft Q-learning with a target network, on prioritised replay or on-policy."""

    on_policy: bool = False
    """Learn from the newest batch of trajectories, with all edges weighted equally, instead of prioritised replay."""
    replay_capacity: Annotated[int, Bounds(1, 2**24 - 1)] = 100_000
    """Transitions kept for replay."""
    replay_batch: Annotated[int, Bounds(1, 10**7)] = 256
    """Transitions per update."""
    priority_alpha: Annotated[float, Bounds(0, 1)] = 0.5
    """Exponent on the TD loss in the replay priorities; 0 draws uniformly."""
    priority_beta: Annotated[float, Bounds(0, 10)] = 0.0
    """Exponent of the importance weights that correct the bias of the priorities; 0 does not correct it."""
    target_rate: Annotated[float, Bounds(0, 1)] = 0.25
    """Share of the new weights in each update of the target network."""
    target_every: Annotated[int, Bounds(1, 10**9)] = 1
    """Iterations between two updates of the target network."""
    leaf_weight: Annotated[float, Bounds(0, 1e6)] = 1.0
    """Loss weight of edges into terminal states."""
    steps: Annotated[int, Bounds(1, 1000)] = 1
    """Steps that the target looks ahead before it reads a value of the target network."""
    dueling: bool = False
    """Compute Q = V + tau log softmax(A / tau), with V from the flow head and A from the P_F head, not Q from P_F's."""

    def unread(self) -> frozenset[str]:
        replay = frozenset({"replay_capacity", "replay_batch", "priority_alpha", "priority_beta"})
        return replay if self.on_policy else frozenset()

    def heads(self, dag: DAG) -> Heads:
        return {"forward": "forward", "flow": "scalar"} if self.dueling else {"forward": "forward"}

    def munchausen(self) -> tuple[float, float]:
        """Return the weight alpha of the Munchausen term and the lower bound l0 on its log-policy."""
        return 0.0, 0.0

    def build(self, parts: Parts, backward: Backward) -> Agent:
        network = parts.network
        optimizer = self.optimizer(network, network.parameters_of(*self.heads(parts.dag), *backward.learned_by_agent))
        target = parts.targets.get(self.target_rate, self.target_every)
        return DQN(parts.dag, network, target, backward, optimizer, self)


@dataclass(frozen=True)
class MunchausenDQNSettings(SoftDQNSettings):
    """Soft Q-learning that adds a share of the policy's own log-probability to the reward."""

    alpha: Annotated[float, Bounds(0, 0.999)] = 0.15
    """Weight of the Munchausen term; the temperature is 1 / (1 - alpha)."""
    l0: Annotated[float, Bounds(-1e30, 0)] = -100.0
    """Lower bound on the log-policy in the Munchausen term."""

    def munchausen(self) -> tuple[float, float]:
        return self.alpha, self.l0


class DQN(Agent):
    """Regression of Q(s, a) on log P_B + V_target(s') + alpha clip(tau log pi_target(a|s)), tau = 1 / (1 - alpha).

    V(s) = tau logsumexp Q(s, .)/tau, and V(x) = log R(x) at terminal states. pi = softmax(Q / tau) is P_F, so sampling,
    target and Munchausen term share one temperature. With alpha = 0 this is soft DQN. The loss is Huber's, on
    prioritised transitions or, on-policy, on the transitions of the newest batch.
    """

    def __init__(
        self,
        dag: DAG,
        network: Network,
        target: Network,
        backward: Backward,
        optimizer: Optimizer,
        settings: SoftDQNSettings,
    ) -> None:
        super().__init__(dag, network, backward)
        self.target, self.optimizer, self.settings = target, optimizer, settings
        self.alpha, self.l0 = settings.munchausen()
        self.temperature = 1 / (1 - self.alpha)
        self.replay_batch = (
            0 if settings.on_policy else distributed.share(settings.replay_batch, "--agent.replay-batch")
        )
        self.keeps = Keeps(transitions=0 if settings.on_policy else settings.replay_capacity)

    def policy(self, network: Network | None = None) -> Policy:
        return (network or self.network).sampler(1 / self.temperature)

    @torch.no_grad()
    def log_z(self) -> Tensor:
        start = self.dag.reset(1)
        return self._value(self.network(start), self.dag.action_mask(start))[0]

    def td_errors(self, batch: Transitions) -> Tensor:
        """Return Q(s, a) minus its target, `[B]`, with gradient through Q, and through log P_B if that has one.

        The batch holds `B * steps` edges: each edge is followed by the next ones of its trajectory, and behind the end
        of that by any edges.
        """
        steps = self.settings.steps
        here, there = self.network(batch.states), self.network(batch.next_states)
        first = batch.every(steps)
        at_first = here if steps == 1 else self.network(first.states)
        q = self._taken(at_first, self.dag.action_mask(first.states), first.actions)
        return q - self._target(*(piece.view(-1, steps) for piece in self._pieces(batch, here, there)))

    def _pieces(self, batch: Transitions, here: Outputs, there: Outputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log P_B, V of the next state, log pi of the action and whether it is the last, of each edge, `[B]`.

        V and pi are the slow copy's. `here` and `there` are the network's outputs at the states and at the next states.
        """
        mask, next_mask = self.dag.action_mask(batch.states), self.dag.action_mask(batch.next_states)
        log_pb = self.backward.log_prob(there, batch.backward_actions)
        with torch.no_grad():
            slow, slow_next = here.of(self.target), there.of(self.target)
            value = torch.where(batch.done, batch.log_reward, self._value(slow_next, next_mask))
            log_pi = log_prob(slow.forward_logits / self.temperature, mask, batch.actions)
        return log_pb, value, log_pi, batch.done

    def _target(self, log_pb: Tensor, value: Tensor, log_pi: Tensor, done: Tensor) -> Tensor:
        """Return the target of the first of `steps` edges, `[B]`, given the `_pieces [B, steps]` of all of them."""
        rule = (self.alpha, self.l0, self.temperature)
        gains = log_pb if log_pb.shape[1] == 1 else log_pb + munchausen_term(log_pi, *rule)
        ahead = value_ahead(gains, value, log_pi, done, self.temperature)
        return munchausen_target(log_pb[:, 0], ahead, log_pi[:, 0], *rule)

    def _taken(self, here: Outputs, mask: Tensor, actions: Tensor) -> Tensor:
        """Return Q(s, a) `[B]` of `actions [B]`."""
        if self.settings.dueling:
            return here.log_flow + self.temperature * log_prob(here.forward_logits / self.temperature, mask, actions)
        return here.forward_logits.gather(1, actions.unsqueeze(1)).squeeze(1)

    def _value(self, here: Outputs, mask: Tensor) -> Tensor:
        """Return V(s) `[B]` from soft Q-values; it is finite even if no action is legal."""
        if self.settings.dueling:
            return here.log_flow
        return soft_value(here.forward_logits, mask, self.temperature)

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        loss = self._on_policy_loss(buffer) if self.settings.on_policy else self._replay_loss(buffer)
        return {"loss": loss.detach()}

    def _on_policy_loss(self, buffer: RolloutBuffer) -> Tensor:
        losses, edges = self._newest_losses(buffer)
        real = buffer.newest.rows.has_action[:-1]
        loss = torch.where(real, losses * self._weights(edges), 0.0).sum() / distributed.mean(real.sum())
        self.optimizer.minimise(loss)
        return loss

    def _replay_loss(self, buffer: RolloutBuffer) -> Tensor:
        self.observe(buffer)
        batch, slots, probabilities = buffer.sample_transitions(self.replay_batch)
        edges = batch if self.settings.steps == 1 else buffer.following(slots, self.settings.steps)
        losses = huber(self.td_errors(edges))
        # Importance weights (N p)^-beta, scaled so that the largest is 1; N cancels.
        importance = (probabilities / probabilities.min()) ** -self.settings.priority_beta
        loss = (losses * self._weights(batch) * importance).mean()
        self.optimizer.minimise(loss)
        buffer.set_priorities(slots, self._priority(losses.detach()))
        return loss

    @torch.no_grad()
    def observe(self, buffer: RolloutBuffer) -> None:
        """Put the newest batch into the ring with priorities from its current TD errors; on-policy, do nothing."""
        if self.settings.on_policy:
            return
        losses, edges = self._newest_losses(buffer)
        real = buffer.newest.rows.has_action[:-1]
        buffer.add_transitions(edges, torch.where(real, self._priority(losses), 0.0))

    def _newest_losses(self, buffer: RolloutBuffer) -> tuple[Tensor, Transitions]:
        """Return the loss of each row's edge to the next row of the newest batch, `[M - 1]`, and these edges."""
        edges, rows = Transitions.of(buffer.newest), buffer.newest.rows
        # Every state but the first is also a next state, so one pass over the rows serves both ends of the edges.
        at = self.network(rows.states)
        here, there = at.rows(slice(0, -1)), at.rows(slice(1, None))
        q = self._taken(here, self.dag.action_mask(edges.states), edges.actions)
        steps = torch.arange(self.settings.steps, device=q.device)
        # What lies behind the last edge is behind the end of its trajectory.
        window = (torch.arange(len(q), device=q.device).unsqueeze(1) + steps).clamp(max=len(q) - 1)
        pieces = self._pieces(edges, here, there)
        return huber(q - self._target(*(piece[window] for piece in pieces))), edges

    def _weights(self, batch: Transitions) -> Tensor:
        return torch.where(batch.done, self.settings.leaf_weight, 1.0)

    def _priority(self, losses: Tensor) -> Tensor:
        # NaN cannot be drawn from, so it is replaced. The loss still shows the NaN, and the trainer stops on it.
        return ((losses + 1e-8) ** self.settings.priority_alpha).nan_to_num(nan=1.0, posinf=1e30)
