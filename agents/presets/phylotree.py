"""Settings for phylogenetic trees; the default has a network and a length that suit a CPU.

Source: forward-looking detailed balance on phylogenetic trees in gfnx (github.com/d-tiapkin/gfnx,
baselines/fldb_phylo.py): Huber loss, exploration and learning rate over 100,000 iterations, a transformer of 6 layers.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

ALL: dict[str, Any] = {
    "trajectories": 320_000,
    "epsilon": 0.3,
    "epsilon_trajectories": 160_000,
}
_BALANCE = {"agent.penalty": "huber"}
_DQN = {"learning_starts": 16}
AGENT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("db", "tb", "subtb", "vargrad", "fl-db", "fl-subtb"), _BALANCE),
    "softdqn": _DQN,
    "mdqn": _DQN,
}

ITERATIONS = 100_000
PAPER: dict[str, Any] = {
    "epsilon": 1.0,
    "batch_size": 32,
    "trajectories": 32 * ITERATIONS,
    "epsilon_trajectories": 16 * ITERATIONS,
    "agent.lr": 3e-4,
    "agent.lr_decay": (1e-5 / 3e-4) ** (1 / ITERATIONS),
}
PAPER_NETWORK: dict[str, dict[str, Any]] = {"slots": {"network.width": 32, "network.layers": 6}}


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose."""
    return ALL | AGENT.get(choice.agent, {})


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published setting changes besides."""
    return PAPER | PAPER_NETWORK.get(choice.network, {})
