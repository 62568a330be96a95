"""Discrete soft actor-critic on the soft problem, with P_B in the reward.

Source: Haarnoja et al. 2018 (arXiv 1801.01290); its discrete form, Christodoulou 2019 (arXiv 1910.07207).
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
from agents.objectives.losses import huber
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import Keeps, RolloutBuffer, Transitions
from agents.sampling.categorical import masked
from agents.sampling.rollout import Policy
from agents.settings import Bounds
from gfn_envs.dag import DAG


class SoftActorCritic(Agent):
    """Two Q-functions regressed on `log P_B + V(s')`, and a policy that follows softmax(min Q).

    `V(s) = sum_a P_F(a|s) (min Q(s, a) - log P_F(a|s))` with the Q of a slow copy; log R at terminal states.
    """

    def __init__(
        self,
        dag: DAG,
        network: Network,
        target: Network,
        backward: Backward,
        optimizer: Optimizer,
        settings: SoftActorCriticSettings,
    ) -> None:
        super().__init__(dag, network, backward)
        self.target, self.optimizer = target, optimizer
        self.replay_batch = distributed.share(settings.replay_batch, "--agent.replay-batch")
        self.keeps = Keeps(transitions=settings.replay_capacity)

    def policy(self, network: Network | None = None) -> Policy:
        return (network or self.network).sampler()

    @torch.no_grad()
    def log_z(self) -> Tensor:
        start = self.dag.reset(1)
        outputs = self.network(start)
        return self._value(outputs, outputs, self.dag.action_mask(start))[0]

    def _value(self, actor: Outputs, critic: Outputs, mask: Tensor) -> Tensor:
        """Return V `[B]`; 0 where no action is legal."""
        log_pi = masked(actor.forward_logits, mask).log_softmax(1)
        q = torch.minimum(critic.head("q1"), critic.head("q2"))
        return torch.where(mask, log_pi.exp() * (q - log_pi), 0.0).sum(1)

    def losses(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Return the losses of the Q-functions and of the policy, each `[B]`."""
        here, there = self.network(batch.states), self.network(batch.next_states)
        mask, next_mask = self.dag.action_mask(batch.states), self.dag.action_mask(batch.next_states)
        with torch.no_grad():
            value = self._value(there, there.of(self.target), next_mask)
        # With gradient where P_B has one, as in the target of DQN.
        log_pb = self.backward.log_prob(there, batch.backward_actions)
        wanted = log_pb + torch.where(batch.done, batch.log_reward, value)
        taken = batch.actions.unsqueeze(1)
        critic = huber(here.head("q1").gather(1, taken).squeeze(1) - wanted)
        critic = critic + huber(here.head("q2").gather(1, taken).squeeze(1) - wanted)
        log_pi = masked(here.forward_logits, mask).log_softmax(1)
        q = torch.minimum(here.head("q1"), here.head("q2")).detach()
        return critic, torch.where(mask, log_pi.exp() * (log_pi - q), 0.0).sum(1)

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        self.observe(buffer)
        batch, _, _ = buffer.sample_transitions(self.replay_batch)
        critic, actor = (loss.mean() for loss in self.losses(batch))
        self.optimizer.minimise(critic + actor)
        return {"loss": critic.detach(), "actor_loss": actor.detach()}

    @torch.no_grad()
    def observe(self, buffer: RolloutBuffer) -> None:
        """Put the newest batch into the ring; all edges are drawn alike."""
        real = buffer.newest.rows.has_action[:-1]
        buffer.add_transitions(Transitions.of(buffer.newest), real.float())


@dataclass(frozen=True)
class SoftActorCriticSettings(AgentSettings):
    """Discrete soft actor-critic with two Q-functions, on replayed transitions."""

    replay_capacity: Annotated[int, Bounds(1, 2**24 - 1)] = 100_000
    """Transitions kept for replay."""
    replay_batch: Annotated[int, Bounds(1, 10**7)] = 256
    """Transitions in an update."""
    target_rate: Annotated[float, Bounds(0, 1)] = 0.05
    """Share of the new weights that the slow copy of the Q-functions takes over."""

    def heads(self, dag: DAG) -> Heads:
        return {"forward": "forward", "q1": "forward", "q2": "forward"}

    def build(self, parts: Parts, backward: Backward) -> Agent:
        network = parts.network
        weights = network.parameters_of("forward", "q1", "q2", *backward.learned_by_agent)
        target = parts.targets.get(self.target_rate)
        return SoftActorCritic(parts.dag, network, target, backward, self.optimizer(network, weights), self)
