"""How many of the reward's known modes a run has found."""

from __future__ import annotations

import torch

from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Metric, Objects
from gfn_envs.abilities import HasModes

MOST_MODES = 100_000
"""Modes are not counted one by one where there are more."""


class ModeMetrics(Metric):
    """The number of the environment's modes for which a sample so far counts."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        dag = context.dag
        if not isinstance(dag, HasModes):
            raise ValueError(f"the metric modes needs {type(dag).__name__} to have modes_hit (gfn_envs.abilities).")
        self._modes_hit = dag.modes_hit
        self.found = torch.zeros(dag.num_modes if dag.num_modes <= MOST_MODES else 0, dtype=torch.bool)

    def columns(self) -> dict[str, Column]:
        return {"modes_found": Column("modes found", "{:.5g}", "modes found", compared=400, meaning="of all so far")}

    def add(self, objects: Objects) -> None:
        if len(self.found):
            self.found |= self._modes_hit(objects.states).any(0).cpu()

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        return {"modes_found": int(self.found.sum())} if len(self.found) else {}

    def state_dict(self) -> dict:
        return {"found": self.found.clone()}

    def load_state_dict(self, state: dict) -> None:
        self.found.copy_(state["found"])
