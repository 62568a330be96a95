"""A target over words that stands in a table: rewards, log Z and exact samples by look-up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor


class Table:
    """The log rewards of all words of one length, in alphabetical order.

    Args:
        log_rewards: float64 `[letters^length]`, natural logs.
        device: where it lives.
    """

    def __init__(self, log_rewards: Tensor, device: torch.device) -> None:
        self.log_z = float(log_rewards.logsumexp(0)) if log_rewards.device.type != "meta" else 0.0
        self._log_rewards = log_rewards.float().to(device)
        self._cumulative = (log_rewards - self.log_z).exp().cumsum(0).to(device)

    def log_reward(self, index: Tensor) -> Tensor:
        """Return the log rewards of words `index [B]`, float32 `[B]`."""
        return self._log_rewards[index]

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return `n` words drawn in proportion to their reward, int64 `[n]`."""
        uniform = torch.rand(n, dtype=torch.float64, device=self._cumulative.device, generator=generator)
        return torch.searchsorted(self._cumulative, uniform * self._cumulative[-1], right=True)


def separated_best(rewards: np.ndarray, length: int, letters: int, count: int) -> np.ndarray:
    """Return the `count` best words of which no two differ at one place only, chosen greedily, int64 `[count]`.

    Args:
        rewards: `[letters^length]`, of all words in alphabetical order; among equals the first one is chosen.
        length: number of places.
        letters: number of letters.
        count: how many are wanted; fewer are returned where there are no more.
    """
    powers = letters ** np.arange(length)
    free, chosen = np.ones(len(rewards), dtype=bool), []
    for word in np.argsort(-rewards, kind="stable"):
        if free[word] and len(chosen) < count:
            chosen.append(word)
            digits = word // powers % letters
            neighbours = word + (np.arange(letters)[:, None] - digits) * powers
            free[neighbours] = False
    return np.array(chosen, dtype=np.int64)
