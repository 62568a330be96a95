"""How many objects a reward of the user's own was asked about, and on how many it failed."""

from __future__ import annotations

from agents import distributed
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Metric
from gfn_envs.rewards import OwnReward


class FailureMetrics(Metric):
    """Counts of a reward with a floor, over all processes and since the run began."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        reward = getattr(context.dag, "own_reward", None)
        if not isinstance(reward, OwnReward):
            raise ValueError(
                f"the metric failures needs a reward of your own, which {type(context.dag).__name__} lacks."
            )
        self.reward = reward
        self._before = (0, 0)

    def columns(self) -> dict[str, Column]:
        return {
            "objects_asked": Column("asked about", "{:,.0f}", in_table=False),
            "objects_failed": Column("failed", "{:,.0f}"),
        }

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        asked, failed = self._counts()
        return {"objects_asked": asked, "objects_failed": failed}

    def _counts(self) -> tuple[int, int]:
        counts = distributed.gathered_objects((self.reward.num_asked, self.reward.num_failed))
        asked, failed = (sum(part) for part in zip(*counts, self._before, strict=True))
        return asked, failed

    def state_dict(self) -> dict:
        return {"counts": list(self._counts())}

    def load_state_dict(self, state: dict) -> None:
        asked, failed = state["counts"]
        self._before = (asked, failed)
