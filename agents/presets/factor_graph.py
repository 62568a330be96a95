"""Settings for factor graphs, Ising spins among them; the default has a network and a length that suit a CPU.

Source: Deleu et al. 2024 (arXiv 2402.10309), the treesample experiments. There an iteration takes one step in each of 8
environments and then learns from 128 transitions; here it samples whole trajectories.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

ALL: dict[str, Any] = {
    "trajectories": 160_000,
    "epsilon": 1.0,
    "epsilon_end": 0.1,
    "epsilon_trajectories": 80_000,
}
AGENT: dict[str, dict[str, Any]] = {"softdqn": {"learning_starts": 16}, "mdqn": {"learning_starts": 16}}

PAPER: dict[str, Any] = {
    "batch_size": 128,
    "trajectories": 12_800_000,
    "epsilon_trajectories": 6_400_000,
    "agent.lr": 1e-4,
}
_DQN: dict[str, Any] = {
    "agent.replay_batch": 128,
    "agent.replay_capacity": 100_000,
    "agent.priority_alpha": 0.0,
    "agent.target_rate": 1.0,
    "agent.target_every": 1000,
}
PAPER_AGENT: dict[str, dict[str, Any]] = {"tb": {"agent.log_z_lr": 1e-2}, "softdqn": _DQN, "mdqn": _DQN}
PAPER_NETWORK: dict[str, dict[str, Any]] = {
    "transformer": {"network.width": 256, "network.layers": 6, "network.attention_heads": 8}
}


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose."""
    return ALL | AGENT.get(choice.agent, {})


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published setting changes besides."""
    return PAPER | PAPER_AGENT.get(choice.agent, {}) | PAPER_NETWORK.get(choice.network, {})
