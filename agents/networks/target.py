"""Slow copies of a network (exponential moving averages of its weights)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from agents.networks.base import Network


class Target:
    """A slow copy of a network, without gradient.

    Every `every` updates it moves: theta_bar <- (1 - rate) theta_bar + rate theta. It starts from the network's own
    weights.
    """

    def __init__(self, network: Network, rate: float, every: int = 1) -> None:
        self.copy = copy.deepcopy(network).requires_grad_(False)
        self._source: list[Tensor] = list(network.parameters())
        self._slow: list[Tensor] = list(self.copy.parameters())
        self._move = get_ema_multi_avg_fn(1 - rate)
        self.every, self.updates = every, 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the copy one step towards the network."""
        self.updates += 1
        if self.updates % self.every == 0:
            self._move(self._slow, self._source, self.updates)


class Targets:
    """The slow copies of one network; parts that ask for the same rate share one copy and its passes."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._targets: dict[tuple[float, int], Target] = {}

    def get(self, rate: float, every: int = 1) -> Network:
        """Return the copy that moves at `rate` every `every` updates."""
        if (rate, every) not in self._targets:
            self._targets[rate, every] = Target(self.network, rate, every)
        return self._targets[rate, every].copy

    def copies(self) -> list[Network]:
        """Return the copies, oldest first."""
        return [target.copy for target in self._targets.values()]

    def update(self) -> None:
        """Move every copy one step; the trainer calls this at the end of each iteration."""
        for target in self._targets.values():
            target.update()

    def state_dict(self) -> list[dict]:
        """Return the weights and counters of the copies."""
        return [{"copy": target.copy.state_dict(), "updates": target.updates} for target in self._targets.values()]

    def load_state_dict(self, state: list[dict]) -> None:
        """Restore what `state_dict` returned."""
        for target, saved in zip(self._targets.values(), state, strict=True):
            target.copy.load_state_dict(saved["copy"])
            target.updates = saved["updates"]
