"""Settings for words whose rewards are measured or computed: TFBind8, QM9Blocks, RNABinding.

Source: rates and exploration by default, and the number of words of `--preset paper` on TFBind8: the baselines of gfnx
(github.com/d-tiapkin/gfnx). `--preset paper` on the others: Kim et al. 2025 (arXiv 2410.01432), by their published
code, of which the half of each batch that is sampled from the policy is taken.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

ALL: dict[str, Any] = {
    "trajectories": 320_000,
    "epsilon": 1.0,
    "epsilon_trajectories": 160_000,
    "eval_every": 2_000,
    "eval.max_exact_edges": 2_500_000,
}
_ADAM: dict[str, Any] = {"agent.lr": 5e-4}
_DQN: dict[str, Any] = {**_ADAM, "learning_starts": 16}
AGENT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("db", "subtb", "vargrad", "fm", "pg", "ent-ppo"), _ADAM),
    "tb": {**_ADAM, "agent.log_z_lr": 5e-2},
    **dict.fromkeys(("softdqn", "mdqn", "sac"), _DQN),
}
BACKWARD: dict[str, dict[str, Any]] = {name: {"backward.lr": 5e-4} for name in ("maxent", "tlm", "pessimistic")}
"""Backward policies with an optimizer of their own."""
NETWORK: dict[str, dict[str, Any]] = {"transformer": {"network.layers": 2}}
"""The perceptron has the size published for TFBind8 by default."""

_PAPER: dict[str, Any] = {"batch_size": 32, "epsilon": 0.01, "epsilon_trajectories": 0, "agent.lr": 1e-4}
PAPER_ENV: dict[str, dict[str, Any]] = {
    "gfn/TFBind8-v0": {"trajectories": 16_000_000, "epsilon_trajectories": 800_000},
    "gfn/QM9Blocks-v0": {**_PAPER, "trajectories": 32_000, "eval_every": 250},
    "gfn/RNABinding-v0": {**_PAPER, "trajectories": 64_000, "eval_every": 500},
}
PAPER_WIDTH: dict[str, int] = {"gfn/QM9Blocks-v0": 1024, "gfn/RNABinding-v0": 128}
"""Units of the two layers of the published perceptron, where that is not the default."""


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose."""
    parts = (AGENT.get(choice.agent, {}), BACKWARD.get(choice.backward, {}), NETWORK.get(choice.network, {}))
    return ALL | parts[0] | parts[1] | parts[2]


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published size changes besides."""
    values = PAPER_ENV[choice.env]
    if choice.env not in PAPER_WIDTH:
        return values
    log_z = {"agent.log_z_lr": 1e-2} if choice.agent == "tb" else {}
    width = {"network.width": PAPER_WIDTH[choice.env]} if choice.network == "mlp" else {}
    return values | log_z | width
