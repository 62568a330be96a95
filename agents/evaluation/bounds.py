"""The agent's own estimate of log Z, and a bound on log Z from fresh samples."""

from __future__ import annotations

import math

from agents.evaluation.estimates import elbo
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Metric


class BoundMetrics(Metric):
    """The estimate of log Z and the ELBO, the mean of log R - log P_F + log P_B over fresh trajectories."""

    def columns(self) -> dict[str, Column]:
        return {
            "log_z_estimate": Column("log Z", "{:.3f}", in_table=False),
            "elbo": Column("ELBO", "{:.3f}"),
        }

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        result: dict[str, float] = {}
        if gflownet is None:
            return result
        log_z, samples = float(gflownet.log_z()), self.context.settings.elbo_samples
        if not math.isnan(log_z):
            result["log_z_estimate"] = log_z
        if samples and gflownet.stochastic:
            result["elbo"] = float(elbo(gflownet, samples, self.context.generator))
        return result
