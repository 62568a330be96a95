"""Trajectory balance: its log Z is learned, or the mean over the batch, as it is in the log-partition variance.

Source: Malkin et al. 2022 (arXiv 2201.13259); Zhang et al. 2023 (arXiv 2302.05446) and Richter et al. 2020 (arXiv
2010.10436) for the variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from agents import distributed
from agents.backward import Backward
from agents.networks.base import Network, Outputs
from agents.objectives import losses
from agents.objectives.balance import Balance, BalanceSettings, Loss
from agents.objectives.base import Agent
from agents.optimizer import Optimizer
from agents.parts import Parts
from agents.sampling.buffer import RolloutBuffer
from agents.settings import Bounds
from gfn_envs.dag import DAG

_MOMENTUM = 0.9
"""Share of the old estimate of log Z that is kept at each step; the estimate is told, and not learned from."""


class ConstantFlow(nn.Module):
    """log Z as one parameter, for losses that read the flow only at s0."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.log_z = nn.Parameter(torch.zeros((), device=device))

    def forward(self, outputs: Outputs) -> Tensor:
        return self.log_z.expand(len(outputs.states))


class BatchPartition(Balance):
    """A loss of `log R + sum log P_B - sum log P_F` that takes its mean over the batch for log Z.

    `flow.log_z` is a running mean of these, which no loss reads.
    """

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
class TrajectoryBalanceSettings(BalanceSettings):
    """Trajectory balance: the flow must balance along the whole trajectory; log Z is one number."""

    log_z_from: Literal["gradient", "batch"] = "gradient"
    """Learn log Z by the gradient, which moves it by log_z_lr a step, or take the mean estimate of each batch."""
    log_z_lr: Annotated[float, Bounds(0, 1e3)] = 1e-1
    """Learning rate of log Z where it is learned by the gradient (--agent.log-z-from gradient)."""

    def unread(self) -> frozenset[str]:
        return frozenset({"log_z_lr"}) if self.log_z_from == "batch" else frozenset()

    def loss(self) -> Loss:
        if self.log_z_from == "batch":
            return self._loss(partial(losses.log_partition_variance, through_mean=False))
        return self._loss(losses.trajectory_balance)

    def build(self, parts: Parts, backward: Backward) -> Agent:
        network = parts.network
        weights = network.parameters_of("forward", *backward.learned_by_agent)
        if self.log_z_from == "batch":
            return BatchPartition(parts.dag, network, backward, self.loss(), self.optimizer(network, weights))
        flow = ConstantFlow(parts.dag.device)
        optimizer = self.optimizer(network, weights, (flow.parameters(), self.log_z_lr))
        return Balance(parts.dag, network, backward, flow, self.loss(), False, optimizer)


@dataclass(frozen=True)
class LogPartitionVarianceSettings(BalanceSettings):
    """Log-partition variance: trajectory balance with the batch mean for log Z."""

    def loss(self) -> Loss:
        return self._loss(losses.log_partition_variance)

    def build(self, parts: Parts, backward: Backward) -> Agent:
        network = parts.network
        weights = network.parameters_of("forward", *backward.learned_by_agent)
        return BatchPartition(parts.dag, network, backward, self.loss(), self.optimizer(network, weights))
