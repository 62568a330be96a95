"""Metrics of runs that build molecules: separated modes, diversity, and shares of valid and of novel ones."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from gfn_envs.dag import DAG
from gfn_envs.envs.molecules import chem

MOLECULE_MODES = "modes_from_"
"""The metric's name, before the threshold."""
LATEST = 1000
"""Molecules looked at for validity and novelty: the newest distinct ones."""


def separated_modes(metrics: Iterable[str]) -> dict[str, str]:
    """Return the names of `metrics` that count separated modes, from the lowest threshold on, with their headings."""
    found = {float(name.removeprefix(MOLECULE_MODES)): name for name in metrics if name.startswith(MOLECULE_MODES)}
    return {name: f"modes r >= {threshold:g}" for threshold, name in sorted(found.items())}


class MoleculeMetrics:
    """Takes note of each distinct molecule that a run samples.

    Args:
        dag: offers `to_smiles(states)` and `mode_thresholds`, and perhaps `is_novel(states)`.
    """

    def __init__(self, dag: DAG) -> None:
        self.dag = dag
        self.modes = chem.SeparatedModes(dag.mode_thresholds)  # type: ignore[attr-defined]
        self.latest = torch.zeros(0, dag.state_dim, dtype=torch.int64)
        self._novel(self.latest)  # so that a damaged file of known molecules shows at once

    def smiles(self, states: Tensor) -> list[str]:
        """Return the molecules `[B, d]` as SMILES."""
        return self.dag.to_smiles(states.to(self.dag.device))  # type: ignore[attr-defined]

    def add(self, states: Tensor, rewards: Tensor) -> None:
        """Take distinct molecules `[B, d]` not seen before, with their rewards `[B]`, into account."""
        good = rewards >= min(self.modes.thresholds, default=math.inf)
        self.modes.add(self.smiles(states[good]), rewards[good].tolist())
        self.latest = torch.cat([self.latest, states[-LATEST:].cpu()])[-LATEST:]

    def evaluate(self, best: Tensor) -> dict[str, float]:
        """Return the metrics by name; `best [N, d]` are the molecules of highest reward so far."""
        result = {
            f"{MOLECULE_MODES}{threshold:g}": float(count)
            for threshold, count in zip(self.modes.thresholds, self.modes.counts(), strict=True)
        }
        result["top_diversity"] = chem.diversity(self.smiles(best))
        if len(self.latest):
            valid = chem.valid(self.smiles(self.latest))
            result["valid_share"] = sum(valid) / len(valid)
            novel = self._novel(self.latest)
            if novel is not None:
                result["novel_share"] = float(novel.double().mean())
        return result

    def _novel(self, states: Tensor) -> Tensor | None:
        """Return bool `[B]`, which of `states [B, d]` are new to the literature; None where the DAG cannot tell."""
        return self.dag.is_novel(states.to(self.dag.device)) if self.dag.offers("is_novel") else None  # type: ignore[attr-defined]

    def state_dict(self) -> dict:
        """Return the modes and the latest molecules."""
        return {"modes": self.modes.state_dict(), "latest": self.latest.clone()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.modes.load_state_dict(state["modes"])
        self.latest = state["latest"]
