"""What a backward policy has to do with the loss: the slack between the divergence over trajectories and over objects.

`KL(P_F(tau) || P_B(tau)) = KL(P_T || R/Z) + slack`, `slack = E_x KL(P_F(tau | x) || P_B(tau | x))`, where P_T is the
distribution of the objects that P_F ends in. P_B touches the slack alone. The slack under the uniform P_B is the most
that any other P_B could gain for the P_F of that moment.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agents.evaluation.estimates import log_likelihood, log_probs
from agents.evaluation.gflownet import FixedPolicy, GFlowNet
from agents.evaluation.metric import Column, Context, CostlyMetric
from agents.sampling.random_state import get_state, make_generator, set_state
from agents.sampling.rollout import rollout
from gfn_envs.exact import Enumeration

PANEL = "slack that P_B leaves (nats a trajectory)"


class SlackMetrics(CostlyMetric):
    """The slack under the run's own P_B and under the uniform one, and the entropy of P_B relative to the uniform's.

    It is exact where the DAG is enumerated. Elsewhere it is estimated from fresh trajectories, as rarely as the
    correlation on a test set: log P_T(x) comes from backward rollouts and is a lower bound in expectation, so that the
    estimates are upper bounds.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # Random numbers of its own, so that the other estimates are what they are without it.
        self.generator = make_generator(context.dag.device, 0)

    def columns(self) -> dict[str, Column]:
        about = "E KL(P_F(tau | x) || P_B(tau | x)), what P_B adds to the divergence that the losses see; 0 is perfect"
        return {
            "slack": Column("slack", "{:.3f}", PANEL, "under its own P_B", compared=400, curve=False, meaning=about),
            "slack_uniform": Column(
                "slack of uniform P_B", "{:.3f}", PANEL, "under the uniform P_B", in_table=False, dashed=True
            ),
            "backward_entropy": Column("entropy of P_B / uniform's", "{:.3f}", in_table=False),
        }

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        if gflownet is None or not gflownet.stochastic:
            return {}
        if self.context.enumeration:
            return exact_slack(self.context.enumeration, gflownet)
        return self._estimated(gflownet) if self.due(last) and self.context.settings.slack_objects else {}

    def _estimated(self, gflownet: GFlowNet) -> dict[str, float]:
        """Return the figures of fresh trajectories; `log P_T(x)` of each object is estimated by backward rollouts."""
        dag, settings, generator = self.context.dag, self.context.settings, self.generator
        batch = rollout(dag, gflownet.policy(), dag.reset(settings.slack_objects), generator)
        log_pt = log_likelihood(gflownet, batch.terminal_states, settings.test_rollouts, generator)
        # P_F counts actions by slot, and so the probability of the class by |Aut| more.
        log_pt = log_pt + dag.log_symmetry(batch.terminal_states)
        log_pf, log_pb = log_probs(gflownet, batch)
        _, log_uniform = log_probs(FixedPolicy(dag, gflownet.policy(), stochastic=True), batch)
        return {
            "slack": float((log_pf - log_pb - log_pt).mean()),
            "slack_uniform": float((log_pf - log_uniform - log_pt).mean()),
        }

    def state_dict(self) -> dict:
        return {**super().state_dict(), "generator": get_state(self.generator)}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        set_state(self.generator, state["generator"])


def exact_slack(enumeration: Enumeration, gflownet: GFlowNet) -> dict[str, float]:
    """Return the slack under the policy's own and under the uniform P_B, and the entropy of P_B, by name."""
    log_pf = enumeration.edge_log_probs(gflownet.policy())
    log_pb = enumeration.edge_log_probs(gflownet.backward_policy(), backward=True)
    uniform = enumeration.uniform_backward()
    mass = enumeration.state_probabilities(log_pf)
    flow = mass[enumeration.parents] * log_pf.exp()
    ends = mass[enumeration.terminal]
    # Renamed slots: an edge counts for every action, and P_B takes an object apart in |Aut| ways that look the same.
    entropy = -float(torch.where(ends > 0, ends * (ends.log() + enumeration.log_symmetry), 0.0).sum())

    def slack(log_backward: Tensor) -> float:
        return float(torch.where(flow > 0, flow * (log_pf - log_backward), 0.0).sum()) + entropy

    own = -float(torch.where(flow > 0, flow * log_pb, 0.0).sum())
    most = -float(torch.where(flow > 0, flow * uniform, 0.0).sum())
    result = {"slack": slack(log_pb), "slack_uniform": slack(uniform)}
    if most > 0:
        result["backward_entropy"] = own / most
    return {name: value for name, value in result.items() if math.isfinite(value)}
