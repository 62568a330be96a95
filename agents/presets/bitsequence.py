"""The paper's settings for bit sequences.

Source: Gritsaev et al. 2025 (arXiv 2410.15474), appendix on experimental details.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

ALL: dict[str, Any] = {"trajectories": 800_000, "epsilon": 1e-3}
_DQN: dict[str, Any] = {
    "agent.target_rate": 1.0,
    "agent.target_every": 5,
    "agent.priority_alpha": 0.9,
    "agent.priority_beta": 0.1,
    "agent.leaf_weight": 5.0,
}
_DECAY = {"agent.weight_decay": 1e-5}
AGENT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("db", "tb", "subtb", "vargrad", "fm", "pg", "ent-ppo", "sac"), _DECAY),
    "softdqn": {**_DECAY, **_DQN},
    "mdqn": {**_DECAY, **_DQN, "agent.l0": -25.0},
}
BACKWARD: dict[str, dict[str, Any]] = {
    "maxent": {"backward.weight_decay": 1e-5},
    "tlm": {"backward.weight_decay": 1e-5, "backward.lr_decay": 0.9999, "backward.target_rate": 0.1},
    "pessimistic": {"backward.weight_decay": 1e-5},
}
NETWORK: dict[str, dict[str, Any]] = {"mlp": {"network.width": 64, "network.layers": 3}}
"""The transformer has the published size by default."""


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings for a run's choices."""
    parts = (AGENT.get(choice.agent, {}), BACKWARD.get(choice.backward, {}), NETWORK.get(choice.network, {}))
    return ALL | parts[0] | parts[1] | parts[2]
