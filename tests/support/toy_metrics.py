"""A metric of one's own, such as a user writes it."""

from __future__ import annotations

from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Metric, Objects
from agents.registry import register_metric


class Longest(Metric):
    """The most steps that an object took."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.longest = 0

    def columns(self) -> dict[str, Column]:
        return {"longest": Column("most steps", "{:.0f}", compared=50)}

    def add(self, objects: Objects) -> None:
        self.longest = max(self.longest, int(objects.lengths.max()))

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        return {"longest": self.longest}

    def state_dict(self) -> dict:
        return {"longest": self.longest}

    def load_state_dict(self, state: dict) -> None:
        self.longest = state["longest"]


register_metric("longest", "toy_metrics:Longest")
