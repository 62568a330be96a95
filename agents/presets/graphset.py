"""Settings for sets of nodes of one graph; the default is a short run that suits a graph of some twenty nodes.

Source: Zhang et al. 2023 (arXiv 2305.17010), the published code's learning rate, batch and size of network. There the
network reads many graphs; here it is a transformer over the nodes of one.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

ALL: dict[str, Any] = {"trajectories": 128_000, "batch_size": 64, "epsilon": 0.05, "agent.lr": 1e-3}
AGENT: dict[str, dict[str, Any]] = {"softdqn": {"learning_starts": 16}, "mdqn": {"learning_starts": 16}}
NETWORK: dict[str, dict[str, Any]] = {"transformer": {"network.layers": 2}}

PAPER_NETWORK: dict[str, dict[str, Any]] = {
    name: {"network.width": 256, "network.layers": 5} for name in ("transformer", "mlp")
}


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose."""
    return ALL | AGENT.get(choice.agent, {}) | NETWORK.get(choice.network, {})


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published size changes besides."""
    return PAPER_NETWORK.get(choice.network, {})
