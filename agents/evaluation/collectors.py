"""What a run keeps of the terminal states that it samples: the latest ones and the best ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


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


class BestStates:
    """The `count` distinct terminal states of highest reward seen so far."""

    def __init__(self, state_dim: int, count: int = 100) -> None:
        self.count = count
        self.states = torch.zeros(0, state_dim, dtype=torch.int64)
        self.log_reward = torch.zeros(0)

    def add(self, states: Tensor, log_reward: Tensor) -> None:
        """Take `states [B, d]` with `log_reward [B]` into account."""
        if len(self.states) == self.count:
            better = log_reward > self.log_reward[-1].to(log_reward.device)
            states, log_reward = states[better], log_reward[better]
        states = torch.cat([self.states, states.cpu()])
        log_reward = torch.cat([self.log_reward, log_reward.float().cpu()])
        order = log_reward.sort(descending=True, stable=True).indices
        states, log_reward = states[order], log_reward[order]
        _, first = np.unique(states.numpy(), axis=0, return_index=True)
        kept = torch.from_numpy(np.sort(first)[: self.count])
        self.states, self.log_reward = states[kept], log_reward[kept]

    def mean_log_reward(self) -> float:
        """Return the mean log R of the states kept; NaN before the first."""
        return float(self.log_reward.mean())

    def diversity(self) -> float:
        """Return the mean share of components in which two different states kept differ, in 0..1; NaN below two."""
        n = len(self.states)
        if n < 2:
            return math.nan
        differ = (self.states.unsqueeze(0) != self.states.unsqueeze(1)).double().mean(2)
        return float(differ.sum() / (n * (n - 1)))

    def state_dict(self) -> dict:
        """Return the states kept."""
        return {"states": self.states, "log_reward": self.log_reward}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.states, self.log_reward = state["states"], state["log_reward"]
