"""What the sampled objects alone tell, whoever drew them."""

from __future__ import annotations

from agents.evaluation.collectors import BestStates
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Metric, Objects

REWARD, LOG_REWARD, BEST = "mean reward", "mean log of the reward", "mean distance between the best 100"
"""Titles of panels."""


class SampleMetrics(Metric):
    """Means over the latest samples, the best ones so far, and how many different ones there were."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.best = BestStates(context.dag.state_dim)
        self.unique = 0
        self.sums = _no_sums()

    def columns(self) -> dict[str, Column]:
        since = "of the samples since the evaluation before"
        return {
            "mean_reward": Column(
                "mean reward", panel=REWARD, label="latest samples", scale="auto", compared=500, meaning=since
            ),
            "mean_log_reward": Column("mean log reward", "{:.3f}", LOG_REWARD, "latest samples"),
            "unique_states": Column("unique states", "{:,.0f}"),
            "mean_length": Column("steps an object", "{:.1f}", in_table=False, compared=800, curve=False),
            "best_reward": Column("best r", in_table=False),
            "top_reward": Column("r of best 100", "{:.3f}", in_table=False),
            "top_log_reward": Column(
                "log R of best 100", "{:.2f}", LOG_REWARD, "best 100 so far", in_table=False, compared=700
            ),
            "top_diversity": Column("their diversity", "{:.2f}", BEST, in_table=False, compared=710, curve=False),
        }

    def add(self, objects: Objects) -> None:
        log_reward = objects.log_raw_reward.double()
        self.best.add(objects.states, log_reward)
        self.unique += len(objects.new)
        self.sums["reward"] += float(log_reward.exp().sum())
        self.sums["log_reward"] += float(log_reward.sum())
        self.sums["length"] += float(objects.lengths.sum())
        self.sums["count"] += len(objects.states)

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        """Return the figures; means are over the objects since the previous call."""
        count = max(self.sums["count"], 1)
        best = self.best.log_reward.exp()
        result: dict[str, float] = {
            "mean_reward": self.sums["reward"] / count,
            "mean_log_reward": self.sums["log_reward"] / count,
            "mean_length": self.sums["length"] / count,
            "best_reward": float(best[:1].mean()),
            "top_reward": float(best.mean()),
            "top_log_reward": self.best.mean_log_reward(),
            "top_diversity": self.best.diversity(),
            "unique_states": self.unique,
        }
        self.sums = _no_sums()
        return result

    def state_dict(self) -> dict:
        return {"best": self.best.state_dict(), "unique": self.unique, "sums": dict(self.sums)}

    def load_state_dict(self, state: dict) -> None:
        self.best.load_state_dict(state["best"])
        self.unique, self.sums = state["unique"], dict(state["sums"])


def _no_sums() -> dict[str, float]:
    return {"reward": 0.0, "log_reward": 0.0, "length": 0.0, "count": 0}
