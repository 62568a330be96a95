"""What an environment may pay for a step: the reward modes of `gfn_envs.env.DAGEnv`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Edges(NamedTuple):
    """What the reward of a step may depend on."""

    num_parents: np.ndarray
    """int64 `[n]`, the number of parents of the state that is further from s0."""
    ended: np.ndarray
    """bool `[n]`, whether the step completed an object."""
    log_reward: np.ndarray
    """float64 `[n]`, log R where the step completed an object, 0 elsewhere."""


def _object_log_reward(edges: Edges) -> np.ndarray:
    return edges.log_reward


def _object_reward(edges: Edges) -> np.ndarray:
    return np.where(edges.ended, np.exp(edges.log_reward), 0.0)


def _soft_reward(edges: Edges) -> np.ndarray:
    return edges.log_reward - np.log(np.maximum(edges.num_parents, 1))


REWARD_MODES: dict[str, Callable[[Edges], np.ndarray]] = {
    "log_reward": _object_log_reward,
    "reward": _object_reward,
    "soft": _soft_reward,
}
"""By name, the function that gives the rewards of steps, float64 `[n]`; `DAGEnv` describes them."""
