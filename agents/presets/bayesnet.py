"""Settings for Bayesian networks: the published ones, and as the default a shorter run that suits a CPU.

Source: Deleu et al. 2024 (arXiv 2402.10309), appendix on structure learning: the share of random actions falls from 1
to 0.1 in the first half of training, residuals cost Huber's function, replay holds 100,000 transitions, and the target
network is replaced every 1,000 updates.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

ALL: dict[str, Any] = {
    "trajectories": 320_000,
    "batch_size": 32,
    "epsilon": 1.0,
    "epsilon_end": 0.1,
    "epsilon_trajectories": 160_000,
}
_HUBER = {"agent.penalty": "huber"}
AGENT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("db", "tb", "subtb", "vargrad", "mdb", "fl-db", "fl-subtb"), _HUBER),
    "softdqn": {"learning_starts": 16},
    "mdqn": {"learning_starts": 16},
}

PAPER: dict[str, Any] = {
    "trajectories": 12_800_000,
    "batch_size": 128,
    "epsilon_trajectories": 6_400_000,
    "agent.lr": 1e-4,
}
_PAPER_DQN: dict[str, Any] = {"agent.target_rate": 1.0, "agent.target_every": 1000}
PAPER_AGENT: dict[str, dict[str, Any]] = {"softdqn": _PAPER_DQN, "mdqn": _PAPER_DQN}
PAPER_NETWORK: dict[str, dict[str, Any]] = {"graph": {"network.width": 128}, "mlp": {"network.width": 128}}


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose."""
    return ALL | AGENT.get(choice.agent, {})


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published size changes besides."""
    return PAPER | PAPER_AGENT.get(choice.agent, {}) | PAPER_NETWORK.get(choice.network, {})
