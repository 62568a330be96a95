"""Settings for words whose rewards are measured or computed: TFBind8.

Source: the baselines of gfnx (github.com/d-tiapkin/gfnx), rates and exploration for TFBind8. A run there has 16,000,000
words, here 320,000 unless `--preset paper` is given.
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
AGENT: dict[str, dict[str, Any]] = {
    "db": _ADAM,
    "tb": {**_ADAM, "agent.log_z_lr": 5e-2},
    "subtb": _ADAM,
    "softdqn": _ADAM,
    "mdqn": _ADAM,
}
BACKWARD: dict[str, dict[str, Any]] = {name: {"backward.lr": 5e-4} for name in ("maxent", "tlm", "pessimistic")}
"""Backward policies with an optimizer of their own."""
NETWORK: dict[str, dict[str, Any]] = {"transformer": {"network.layers": 2}}
"""The perceptron has the published size by default."""

PAPER: dict[str, Any] = {"trajectories": 16_000_000, "epsilon_trajectories": 800_000}


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings of what a run chose."""
    parts = (AGENT.get(choice.agent, {}), BACKWARD.get(choice.backward, {}), NETWORK.get(choice.network, {}))
    return ALL | parts[0] | parts[1] | parts[2]


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published size changes besides."""
    return PAPER
