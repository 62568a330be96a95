"""Settings that come nearer to the target than the published ones: on grids in the same time, on bags and molecules
with the same trajectories. `agents/tune.py` and some trials found them; elsewhere they are the usual ones.

Each is for one agent on one environment. docs/results.md ("Settings that were searched") says what they are worth.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

_GRIDS = ("gfn/Hypergrid-v0", "gfn/HypergridHard-v0")
_GRID_TRAJECTORIES, _GRID_BATCH = 440_000, 64
_GRID: dict[str, Any] = {
    "trajectories": _GRID_TRAJECTORIES,
    "batch_size": _GRID_BATCH,
    "agent.lr": 1e-2,
    "agent.lr_decay": 0.01 ** (_GRID_BATCH / _GRID_TRAJECTORIES),  # to a hundredth, so that the end does not hover
}
TUNED: dict[tuple[str, str], dict[str, Any]] = {
    **{(env, agent): _GRID for env in _GRIDS for agent in ("db", "subtb")},
    ("gfn/Bag-v0", "mdqn"): {"batch_size": 8, "agent.lr": 3.4e-3},
    ("gfn/SEH-v0", "tb"): {"agent.lr": 3e-3},
    ("gfn/QM9-v0", "tb"): {"agent.lr": 2e-3},
}


def tuned(choice: Choice) -> dict[str, Any]:
    """Return the settings that were found for a run's environment and agent; none where nothing was searched."""
    found = TUNED.get((choice.env, choice.agent), {})
    narrow = choice.env in _GRIDS and choice.network == "mlp" and found
    return {**found, **({"network.width": 96} if narrow else {})}
