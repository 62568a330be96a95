"""The paper's settings for QM9 and sEH; the default preset has a smaller network that suits a CPU.

It also takes log Z of trajectory balance from each batch, which the paper learns.

Source: Gritsaev et al. 2025 (arXiv 2410.15474), appendix on experimental details.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

_HALVED_EVERY_20_000 = 0.5 ** (1 / 20_000)
ALL: dict[str, Any] = {
    "trajectories": 2_560_000,
    "batch_size": 128,
    "eval_every": 100,
    "epsilon": 0.05,
    "epsilon_trajectories": 2_560_000,
    "learning_starts": 0,
}
ENV: dict[str, dict[str, Any]] = {"gfn/SEH-v0": {"batch_size": 64}}
_ADAM: dict[str, Any] = {
    "agent.lr": 5e-4,
    "agent.lr_decay": _HALVED_EVERY_20_000,
    "agent.weight_decay": 1e-8,
    "agent.max_grad_norm": 10.0,
}
_BALANCE = {**_ADAM, "agent.penalty": "huber"}
_DQN = {
    **_ADAM,
    "agent.on_policy": True,
    "agent.dueling": True,
    "agent.target_rate": 0.1,  # the published code keeps 0.9 of the slow copy at every update
    "agent.leaf_weight": 10.0,
}
AGENT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("db", "vargrad"), _BALANCE),
    "tb": {**_BALANCE, "agent.log_z_from": "batch"},  # a rate of 0.1 a step is too slow for a log Z of 17 to 40
    "subtb": {**_BALANCE, "agent.lamda": 1.0},
    **dict.fromkeys(("fm", "pg", "ent-ppo", "sac"), _ADAM),
    "softdqn": _DQN,
    "mdqn": {**_DQN, "agent.l0": -500.0},
}
_LEARNED: dict[str, Any] = {"backward.lr": 5e-5, "backward.weight_decay": 1e-8, "backward.max_grad_norm": 10.0}
BACKWARD: dict[str, dict[str, Any]] = {
    "maxent": _LEARNED,
    "tlm": {**_LEARNED, "backward.lr_decay": _HALVED_EVERY_20_000, "backward.target_rate": 0.1},
    "pessimistic": _LEARNED,
}
NETWORK: dict[str, dict[str, Any]] = {"mlp": {"network.width": 64, "network.layers": 3}}
"""The graph transformer has this size by default."""

PAPER_NETWORK: dict[str, dict[str, Any]] = {
    "graph": {"network.width": 128, "network.layers": 8, "network.attention_heads": 2},
    "mlp": {"network.width": 128, "network.layers": 8},
}
PAPER_AGENT: dict[str, dict[str, Any]] = {"tb": {"agent.log_z_from": "gradient"}}
PAPER_ENV: dict[str, dict[str, Any]] = {
    "gfn/SEH-v0": {"batch_size": 256, "trajectories": 5_120_000, "epsilon_trajectories": 5_120_000}
}


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings for a run's choices."""
    agent, backward = AGENT.get(choice.agent, {}), BACKWARD.get(choice.backward, {})
    return ALL | ENV.get(choice.env, {}) | agent | backward | NETWORK.get(choice.network, {})


def paper(choice: Choice) -> dict[str, Any]:
    """Return the further settings that are published: the size, and that log Z is learned."""
    sizes = PAPER_NETWORK.get(choice.network, {}) | PAPER_ENV.get(choice.env, {})
    return sizes | PAPER_AGENT.get(choice.agent, {})
