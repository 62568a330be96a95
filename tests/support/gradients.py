"""The gradients of a learning step on a given batch, for comparing processes and devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from agents import distributed
from agents.sampling.buffer import Batch, RolloutBuffer, Transitions
from agents.sampling.rollout import Trajectories, rollout
from agents.trainer import Trainer


def a_batch(run: Trainer, num: int = 16) -> Trajectories:
    """Return trajectories of different lengths, by the policy and random actions; `run` is on the CPU."""
    generator = torch.Generator().manual_seed(5)
    return rollout(run.dag, run.agent.policy(), run.dag.reset(num), generator, 0.5)


def _drawn(buffer: RolloutBuffer, n: int) -> tuple[Transitions, Tensor, Tensor]:
    """Stand in for a draw from the ring: its edges in turn, this process's share of them."""
    edges = buffer.priorities.nonzero().squeeze(1)
    at = edges[(torch.arange(n, device=edges.device) + n * distributed.rank()) % len(edges)]
    return Transitions(**{name: field[at] for name, field in buffer.ring.items()}), at, torch.ones_like(at.float())


def gradients(
    run: Trainer, batch: Trajectories, own: Callable[[Trajectories], Trajectories] = lambda batch: batch
) -> list[Tensor]:
    """Return the gradients of P_B's step and then of P_F's, on the CPU, where no step changes weights.

    `own` takes this process's share of the batch; the whole of it enters the ring of transitions.
    """
    found: list[Tensor] = []

    def average(parameters: list[Tensor]) -> None:
        averaged(parameters)
        found.extend(torch.zeros(1) if each.grad is None else each.grad.cpu().clone() for each in parameters)

    averaged = distributed.average_gradients
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "average_gradients", average)
        patch.setattr(torch.optim.Adam, "step", lambda self: None)
        patch.setattr(RolloutBuffer, "sample_transitions", _drawn)
        run.buffer.add(Batch.of(batch))
        run.agent.observe(run.buffer)
        patch.setattr(type(run.agent), "observe", lambda self, buffer: None)
        run.buffer.add(Batch.of(own(batch)))
        run.backward.update(run.buffer)
        run.agent.update(run.buffer)
    return found
