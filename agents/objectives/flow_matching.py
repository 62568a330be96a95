"""Flow matching: what flows into a state flows out of it.

Source: Bengio et al. 2021 (arXiv 2106.04399), equation 12.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents import distributed
from agents.backward import Backward
from agents.networks.base import Network
from agents.objectives.base import Agent, AgentSettings
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.categorical import masked
from agents.sampling.rollout import Policy
from gfn_envs.dag import DAG


class FlowMatching(Agent):
    """The network's forward logits are log F(s, a); `(log inflow - log outflow)^2` at every state but s0 of a batch.

    The outflow of a terminal state is R(x). P_B takes no part in it.
    """

    def __init__(self, dag: DAG, network: Network, backward: Backward, optimizer: Optimizer) -> None:
        super().__init__(dag, network, backward)
        self.optimizer = optimizer

    def policy(self, network: Network | None = None) -> Policy:
        return (network or self.network).sampler()

    @torch.no_grad()
    def log_z(self) -> Tensor:
        return self.log_outflow(self.dag.reset(1))[0]

    def log_outflow(self, states: Tensor) -> Tensor:
        """Return `log sum F(s, a)` over the legal actions at `states [M, d]`, `[M]`."""
        return masked(self.network(states).forward_logits, self.dag.action_mask(states)).logsumexp(1)

    def log_inflow(self, states: Tensor) -> Tensor:
        """Return `log sum F(p, a)` over the edges into `states [M, d]`, `[M]`; very negative at s0."""
        num = self.dag.num_backward_actions
        mask = self.dag.backward_action_mask(states)
        children = states.repeat_interleave(num, 0)
        parents, actions = self.dag.backward_step(children, torch.arange(num, device=states.device).repeat(len(states)))
        legal = mask.flatten()
        parents = torch.where(legal.unsqueeze(1), parents, children)
        actions = torch.where(legal, actions, 0)
        flows = self.network(parents).forward_logits.gather(1, actions.unsqueeze(1)).view(-1, num)
        return masked(flows, mask).logsumexp(1)

    def residuals(self, buffer: RolloutBuffer) -> Tensor:
        """Return log inflow less log outflow of the rows of the newest batch, `[M]`; 0 where there is no parent."""
        rows = buffer.newest.rows
        outflow = torch.where(rows.has_action, self.log_outflow(rows.states), rows.log_reward)
        return torch.where(rows.has_parent, self.log_inflow(rows.states) - outflow, 0.0)

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        count = distributed.mean(buffer.newest.rows.has_parent.sum())
        loss = self.residuals(buffer).square().sum() / count
        self.optimizer.minimise(loss)
        return {"loss": loss.detach()}


@dataclass(frozen=True)
class FlowMatchingSettings(AgentSettings):
    """Flow matching: inflow equals outflow at every state; P_B takes no part in it, so naive is refused."""

    teaches_backward = False

    def build(self, parts: Parts, backward: Backward) -> Agent:
        network = parts.network
        optimizer = self.optimizer(network, network.parameters_of("forward"))
        return FlowMatching(parts.dag, network, backward, optimizer)
