"""Settings for sets, bags and random graphs; those for sets are published, but for random actions.

Source: Pan et al. 2023 (arXiv 2302.01687) and its code for sets: 10,000 iterations of batch 16, learning rate 1e-3, two
layers of 256 units; Shen et al. 2023 (arXiv 2305.07170) and its code for bags.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

_WARM_UP = {"learning_starts": 16}
AGENT: dict[str, dict[str, Any]] = {"softdqn": _WARM_UP, "mdqn": _WARM_UP}
SET: dict[str, Any] = {"trajectories": 160_000}
BAG: dict[str, Any] = {"trajectories": 320_000, "batch_size": 32, "epsilon": 0.1}
PAPER_BAG: dict[str, Any] = {"trajectories": 64_000, "agent.lr": 1e-4, "agent.max_grad_norm": 10.0}
PAPER_BAG_AGENT: dict[str, dict[str, Any]] = {"tb": {"agent.log_z_lr": 1e-2}}
PAPER_BAG_NETWORK: dict[str, dict[str, Any]] = {"mlp": {"network.width": 16}}
RANDOM: dict[str, Any] = {"trajectories": 160_000}


def default_set(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose on sets."""
    return SET | AGENT.get(choice.agent, {})


def default_bag(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose on bags."""
    return BAG | AGENT.get(choice.agent, {})


def paper_bag(choice: Choice) -> dict[str, Any]:
    """Return what the published setting on bags changes besides."""
    return PAPER_BAG | PAPER_BAG_AGENT.get(choice.agent, {}) | PAPER_BAG_NETWORK.get(choice.network, {})


def default_random(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose on random graphs."""
    return RANDOM | AGENT.get(choice.agent, {})
