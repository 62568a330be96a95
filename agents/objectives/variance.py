"""Log-partition variance: trajectory balance whose log Z is the mean over the batch.

Source: Zhang et al. 2023 (arXiv 2302.05446); Richter et al. 2020 (arXiv 2010.10436).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents import distributed
from agents.backward import Backward
from agents.networks.base import Network
from agents.objectives import losses
from agents.objectives.balance import Balance, BalanceSettings, ConstantFlow, Loss
from agents.objectives.base import Agent
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import RolloutBuffer
from gfn_envs.dag import DAG

_MOMENTUM = 0.9
"""Share of the old estimate of log Z that is kept at each step; the estimate is told, and not learned from."""


class LogPartitionVariance(Balance):
    """The variance over a batch of `log R + sum log P_B - sum log P_F`; `flow.log_z` is a running mean of these."""

    def __init__(self, dag: DAG, network: Network, backward: Backward, loss: Loss, optimizer: Optimizer) -> None:
        self.mean = ConstantFlow(dag.device)
        self.mean.log_z.requires_grad_(False)
        super().__init__(dag, network, backward, self.mean, loss, False, optimizer)
        self.updates = torch.zeros((), device=dag.device)
        self.mean.register_buffer("updates", self.updates)

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        log_flow, log_pf, log_pb, mask = self.terms(buffer.newest)
        loss = self.loss(log_flow, log_pf, log_pb, mask).mean()
        self.optimizer.minimise(loss)
        with torch.no_grad():
            estimates = losses.log_partition_estimates(log_pf, log_pb, buffer.newest.log_reward, mask)
            mean = distributed.mean(estimates.mean())
            keep = _MOMENTUM * (self.updates > 0)
            self.mean.log_z.copy_(keep * self.mean.log_z + (1 - keep) * mean)
            self.updates.add_(1)
        return {"loss": loss.detach()}


@dataclass(frozen=True)
class LogPartitionVarianceSettings(BalanceSettings):
    """Log-partition variance: trajectory balance with the batch mean for log Z."""

    def loss(self) -> Loss:
        return self._loss(losses.log_partition_variance)

    def build(self, parts: Parts, backward: Backward) -> Agent:
        network = parts.network
        weights = network.parameters_of("forward", *backward.learned_by_agent)
        return LogPartitionVariance(parts.dag, network, backward, self.loss(), self.optimizer(network, weights))
