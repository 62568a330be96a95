"""Backward policies to compare the learned ones with, exact, where the environment can be enumerated.

`--backward agents.references:posterior` names one on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from agents.backward import Backward, BackwardSettings
from agents.networks.base import Outputs
from agents.parts import Parts
from agents.registry import register_backward
from agents.sampling.buffer import RolloutBuffer
from agents.sampling.rollout import Policy
from agents.settings import Bounds
from gfn_envs.dag import DAG
from gfn_envs.exact import enumerate_dag


class Posterior(Backward):
    """`P_B(s|s') = F(s) P_F(s'|s) / F(s')`, with F(s) the probability that a trajectory of P_F passes through s.

    This is what TLM comes to where P_F stands still: `P_B(tau|x) = P_F(tau|x)` for every trajectory, which makes P_F's
    trajectories as likely as any P_B can. It is also the P_B of least variance: given x, `log P_F(tau) - log P_B(tau)`
    is the same for all tau, and the slack `E_x KL(P_F(tau|x) || P_B(tau|x))` is zero.

    Args:
        dag: the environment, small enough to enumerate, and without renamed slots.
        every: updates between two looks at P_F.
    """

    def __init__(self, dag: DAG, every: int = 1) -> None:
        super().__init__(dag)
        if dag.renames_slots:
            raise ValueError(
                f"--backward posterior cannot serve {type(dag).__name__}, whose slots are renamed: one state stands "
                "for several there."
            )
        self.every, self._updates = every, 0
        self._enumeration = enumerate_dag(dag)
        self._log_pb: Tensor | None = None
        self._forward: Callable[[], Policy] | None = None

    def watch(self, policy: Callable[[], Policy]) -> None:
        self._forward = policy

    def log_prob(self, outputs: Outputs, backward_actions: Tensor) -> Tensor:
        return self.logits(outputs.states).gather(1, backward_actions.unsqueeze(1)).squeeze(1)

    def logits(self, states: Tensor) -> Tensor:
        table = self._computed() if self._log_pb is None else self._log_pb
        return table[self._enumeration.index(states)]

    def update(self, buffer: RolloutBuffer) -> dict[str, Tensor]:
        if self._updates % self.every == 0:
            self._computed()
        self._updates += 1
        return {}

    @torch.no_grad()
    def _computed(self) -> Tensor:
        """Look at P_F; return log P_B of all backward actions in all states, float32 `[S, num_backward_actions]`."""
        assert self._forward is not None, "an agent tells its P_F by watch()"
        e = self._enumeration
        log_pf = e.edge_log_probs(self._forward())
        log_flow = e.state_probabilities(log_pf).clamp(min=torch.finfo(torch.float64).tiny).log()
        table = log_flow.new_full((e.num_states, self.dag.num_backward_actions), -torch.inf)
        table[e.children, e.backward_actions] = log_flow[e.parents] + log_pf
        table[0] = 0.0  # s0 has no parent
        self._log_pb = table.log_softmax(1).clamp(min=torch.finfo(torch.float32).min).float()
        return self._log_pb

    def state_dict(self) -> list[dict]:
        return [{"log_pb": self._log_pb, "updates": self._updates}]

    def load_state_dict(self, state: list[dict]) -> None:
        self._updates = state[0]["updates"]
        self._log_pb = None if state[0]["log_pb"] is None else state[0]["log_pb"].to(self.dag.device)


@dataclass(frozen=True)
class PosteriorSettings(BackwardSettings):
    """The exact posterior of P_F, which TLM approaches: for small environments, to compare with."""

    every: Annotated[int, Bounds(1, 10**9)] = 1
    """Iterations between two looks at P_F; each pushes it through the whole graph."""

    def build(self, parts: Parts) -> Backward:
        return Posterior(parts.dag, self.every)


register_backward("posterior", "agents.references:PosteriorSettings")
