"""Distances between distributions over terminal states, and the empirical distribution of recent samples."""

from __future__ import annotations

import torch
from torch import Tensor


def l1(p: Tensor, q: Tensor) -> float:
    """Return sum |p - q|, in 0..2."""
    return float((p - q).abs().sum())


def total_variation(p: Tensor, q: Tensor) -> float:
    """Return 1/2 sum |p - q|, in 0..1."""
    return l1(p, q) / 2


def kl(p: Tensor, q: Tensor) -> float:
    """Return KL(p || q) = sum p log(p/q) in nats, >= 0; `inf` where q lacks mass that p has."""
    return float(torch.where(p > 0, p * (p / q).log(), 0.0).sum())


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Return the Jensen-Shannon divergence in nats, in 0..log 2."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


class RecentSamples:
    """The last `window` sampled terminal states, as ranks among an enumeration's terminal states."""

    def __init__(self, num_terminal: int, window: int) -> None:
        self.num_terminal, self.window = num_terminal, window
        self._ranks = torch.zeros(window, dtype=torch.int32)
        self.total = 0

    def add(self, ranks: Tensor) -> None:
        """Append ranks `[B]` among the terminal states."""
        ranks = ranks[-self.window :].to("cpu", torch.int32)
        at = (torch.arange(len(ranks)) + self.total) % self.window
        self._ranks[at] = ranks
        self.total += len(ranks)

    def frequencies(self) -> Tensor:
        """Return the empirical distribution of the samples kept, float64 `[X]` (zeros before the first sample)."""
        kept = self._ranks[: min(self.total, self.window)]
        return torch.bincount(kept, minlength=self.num_terminal).double() / max(len(kept), 1)

    def state_dict(self) -> dict:
        """Return the samples kept and their number so far."""
        return {"ranks": self._ranks, "total": self.total}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self._ranks.copy_(state["ranks"])
        self.total = state["total"]
