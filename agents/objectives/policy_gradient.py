"""Policy gradients of the soft problem: actor-critic with generalised advantages, and entropic PPO.

Source: the problem that pays log P_B and log R, Tiapkin et al. 2024 (arXiv 2310.12934); generalised advantages,
Schulman et al. 2016 (arXiv 1506.02438); entropic PPO, arXiv 2606.15793; clipping, Schulman et al. 2017 (arXiv
1707.06347).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from agents import distributed
from agents.backward import Backward
from agents.networks.base import Heads, Outputs
from agents.objectives.balance import Balance, NetworkFlow
from agents.objectives.base import Agent, AgentSettings
from agents.objectives.losses import advantages, detailed_balance
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.categorical import masked
from agents.sampling.rollout import Trajectories
from agents.settings import Bounds
from gfn_envs.dag import DAG


class PolicyGradient(Balance):
    """`-A log P_F` for P_F and `(log F - (A + log F))^2 / 2` for the value log F, on fresh trajectories only.

    `settings` say how the advantages A look ahead (`advantages`), and what the value's loss weighs.
    """

    def __init__(
        self, parts: Parts, backward: Backward, optimizer: Optimizer, settings: PolicyGradientSettings
    ) -> None:
        super().__init__(parts.dag, parts.network, backward, NetworkFlow(), detailed_balance, True, optimizer)
        self.gae_lambda, self.value_weight = settings.gae_lambda, settings.value_weight

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        log_flow, log_pf, log_pb, mask = self.terms(buffer.newest_fresh)
        gained = advantages(log_flow.detach(), log_pf.detach(), log_pb.detach(), mask, self.gae_lambda)
        policy_loss = -torch.where(mask, log_pf * gained, 0.0).sum() / distributed.mean(mask.sum())
        value_loss = self.value_loss(log_flow, log_flow[:, :-1].detach() + gained, mask)
        loss = policy_loss + self.value_weight * value_loss
        self.optimizer.minimise(loss)
        return {"loss": loss.detach(), "value_loss": value_loss.detach()}

    def value_loss(self, log_flow: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of `(log F(s_t) - wanted_t)^2 / 2` over the edges, of `log_flow [B, T + 1]`."""
        return torch.where(mask, log_flow[:, :-1] - wanted, 0.0).square().sum() / (2 * distributed.mean(mask.sum()))


class EntropicPPO(PolicyGradient):
    """`KL(P_F || P_F of before) - min(rho A, clip(rho) A)`, in several passes over the fresh trajectories.

    rho is the ratio of the new to the old P_F.
    """

    def __init__(self, parts: Parts, backward: Backward, optimizer: Optimizer, settings: EntropicPPOSettings) -> None:
        super().__init__(parts, backward, optimizer, settings)
        self.epochs, self.minibatches, self.clip = settings.epochs, settings.minibatches, settings.clip

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        batch = buffer.newest_fresh
        # The trajectories of a batch are alike, so that every other one is as good a part as random ones.
        parts = [batch.every(self.minibatches, i) for i in range(min(self.minibatches, len(batch.mask)))]
        with torch.no_grad():
            before = [self._before(part) for part in parts]
        told = torch.zeros(2, device=self.dag.device)
        for _ in range(self.epochs):
            for part, old in zip(parts, before, strict=True):
                told = told + self._step(part, *old)
        loss, value_loss = (told / (self.epochs * len(parts))).unbind()
        return {"loss": loss, "value_loss": value_loss}

    def _before(self, part: Trajectories) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log P_F, advantages and wanted values `[B, T]`, and log-probabilities of all actions `[M, A]`."""
        outputs = self.network(part.rows.states)
        log_flow, log_pf, log_pb, mask = self.terms(part, outputs)
        gained = advantages(log_flow, log_pf, log_pb, mask, self.gae_lambda)
        return log_pf, gained, log_flow[:, :-1] + gained, self._log_probs(outputs)

    def _log_probs(self, outputs: Outputs) -> Tensor:
        return masked(outputs.forward_logits, self.dag.action_mask(outputs.states)).log_softmax(1)

    def _step(self, part: Trajectories, old: Tensor, gained: Tensor, wanted: Tensor, old_all: Tensor) -> Tensor:
        """Take one step on a part of the batch, and return its loss and the value's, `[2]`."""
        outputs = self.network(part.rows.states)
        log_flow, log_pf, _, mask = self.terms(part, outputs)
        ratio = torch.where(mask, log_pf - old, 0.0).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        count = distributed.mean(mask.sum())
        gain = torch.where(mask, torch.minimum(ratio * gained, clipped * gained), 0.0).sum() / count
        now = self._log_probs(outputs)
        moved = torch.where(part.rows.has_action.unsqueeze(1), now.exp() * (now - old_all), 0.0)
        value_loss = self.value_loss(log_flow, wanted, mask)
        loss = moved.sum() / count - gain + self.value_weight * value_loss
        self.optimizer.minimise(loss)
        return torch.stack((loss, value_loss)).detach()


@dataclass(frozen=True)
class PolicyGradientSettings(AgentSettings):
    """Policy gradient with generalised advantages in the soft problem; it refuses naive, for it gives no gradient."""

    teaches_backward = False

    gae_lambda: Annotated[float, Bounds(0, 1)] = 0.7
    """lambda of the generalised advantages: 0 looks one step ahead, 1 to the end."""
    value_weight: Annotated[float, Bounds(0, 1e6)] = 1.0
    """Weight of the value's loss."""

    def heads(self, dag: DAG) -> Heads:
        return {"forward": "forward", "flow": "scalar"}

    def _optimizer(self, parts: Parts) -> Optimizer:
        return self.optimizer(parts.network, parts.network.parameters_of("forward", "flow"))

    def build(self, parts: Parts, backward: Backward) -> Agent:
        return PolicyGradient(parts, backward, self._optimizer(parts), self)


@dataclass(frozen=True)
class EntropicPPOSettings(PolicyGradientSettings):
    """Entropic proximal policy optimisation in the soft problem; it refuses naive, for it gives no gradient."""

    epochs: Annotated[int, Bounds(1, 1000)] = 4
    """Passes over a batch."""
    minibatches: Annotated[int, Bounds(1, 10**6)] = 2
    """Parts that a batch is cut into in each pass."""
    clip: Annotated[float, Bounds(0, 10)] = 0.2
    """How far the ratio of the new to the old policy may move from 1."""

    def build(self, parts: Parts, backward: Backward) -> Agent:
        return EntropicPPO(parts, backward, self._optimizer(parts), self)
