"""The agent's own estimate of log Z, and bounds on log Z from both sides."""

from __future__ import annotations

import math
from functools import cached_property

from torch import Tensor

from agents.evaluation.estimates import elbo, eubo
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Metric
from agents.sampling.random_state import get_state, make_generator, set_state
from gfn_envs.abilities import SamplesTarget


class BoundMetrics(Metric):
    """The estimate of log Z, and the mean of log R - log P_F + log P_B: ELBO of fresh trajectories, EUBO of exact ones.

    The EUBO walks back by P_B from objects drawn from R/Z, where the environment can draw them. They are drawn once. It
    sees what the policy misses; the ELBO sees only what the policy finds.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # Random numbers of its own, so that the other estimates are what they are without it.
        self.generator = make_generator(context.dag.device, 0)

    def columns(self) -> dict[str, Column]:
        return {
            "log_z_estimate": Column("log Z", "{:.3f}", in_table=False),
            "elbo": Column("ELBO", "{:.3f}"),
            "eubo": Column("EUBO", "{:.3f}", in_table=False),
        }

    @cached_property
    def _exact(self) -> Tensor | None:
        """Terminal states drawn from R/Z, `[elbo_samples, d]`, or None where that cannot be done."""
        dag, generator = self.context.dag, make_generator(self.context.dag.device, 1)
        if dag.renames_slots or generator is None or not isinstance(dag, SamplesTarget):
            return None
        return dag.sample_target(self.context.settings.elbo_samples, generator)

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        result: dict[str, float] = {}
        if gflownet is None:
            return result
        log_z, samples = float(gflownet.log_z()), self.context.settings.elbo_samples
        if not math.isnan(log_z):
            result["log_z_estimate"] = log_z
        if samples and gflownet.stochastic:
            result["elbo"] = float(elbo(gflownet, samples, self.context.generator))
            if self._exact is not None:
                result["eubo"] = float(eubo(gflownet, self._exact, self.generator))
        return result

    def state_dict(self) -> dict:
        return {"generator": get_state(self.generator)}

    def load_state_dict(self, state: dict) -> None:
        set_state(self.generator, state["generator"])
