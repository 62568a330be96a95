"""The rollout buffer: the newest batch, a past batch, and a prioritised ring of transitions.

Source: Schaul et al. 2016 (arXiv 1511.05952) for prioritised replay.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.sampling.random_state import get_state, make_generator, set_state
from agents.sampling.rollout import Trajectories
from gfn_envs.dag import DAG


@dataclass(frozen=True)
class Transitions:
    """`B` edges: `states` and `next_states` are `[B, d]`, and all other fields are `[B]`.

    `backward_actions` undo `actions`. `done` tells whether the next state is terminal. If so, `log_reward` is that
    state's; otherwise it is arbitrary.
    """

    states: Tensor
    actions: Tensor
    next_states: Tensor
    backward_actions: Tensor
    log_reward: Tensor
    done: Tensor

    @classmethod
    def of(cls, trajectories: Trajectories) -> Transitions:
        """Return each row's edge to the next row, `[M - 1]`; from a row without an action it is not a real edge."""
        rows = trajectories.rows
        return cls(
            states=rows.states[:-1],
            actions=rows.actions[:-1],
            next_states=rows.states[1:],
            backward_actions=rows.backward_actions[1:],
            log_reward=rows.log_reward[:-1],
            done=~rows.has_action[1:],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def every(self, step: int) -> Transitions:
        """Return every `step`-th edge, beginning with the first."""
        return self if step == 1 else Transitions(**{name: field[::step] for name, field in self.tensors().items()})


@dataclass(frozen=True)
class Batch:
    """The trajectories of one iteration."""

    all: Trajectories
    """What the agent learns from."""
    fresh: Trajectories
    """Those among them that the current P_F sampled from s0; the same object as `all` where there are no others."""

    @classmethod
    def of(cls, trajectories: Trajectories) -> Batch:
        """Return the batch of fresh trajectories and no others."""
        return cls(trajectories, trajectories)

    def state_dict(self) -> dict:
        """Return the trajectories as tensors."""
        fresh = {} if self.fresh is self.all else self.fresh.tensors()
        return {"all": self.all.tensors(), "fresh": fresh}

    @classmethod
    def from_state(cls, state: dict, device: torch.device) -> Batch:
        """Return the batch whose `state_dict` it was."""
        everything, fresh = (
            Trajectories(**{k: v.to(device) for k, v in state[name].items()}) if state[name] else None
            for name in ("all", "fresh")
        )
        assert everything is not None
        return cls(everything, fresh or everything)


@dataclass(frozen=True)
class Keeps:
    """What an agent or a backward policy needs the buffer to keep."""

    batches: int = 1
    """Number of batches of trajectories, including the newest."""
    transitions: int = 0
    """Number of transitions for replay."""

    @classmethod
    def all_of(cls, *needs: Keeps) -> Keeps:
        """Return the smallest `Keeps` that satisfies all `needs`."""
        return cls(max(each.batches for each in needs), max(each.transitions for each in needs))


class RolloutBuffer:
    """The newest batches of trajectories, and a prioritised ring of transitions.

    Everything stays on the DAG's device. Some rows of a batch are not real edges: those between two trajectories, and
    on other devices than the CPU also the padding, because dropping it would wait for the device. These rows enter the
    ring with priority zero, so they take up room but are never drawn.
    """

    def __init__(self, dag: DAG, keeps: Keeps, seed: int = 0) -> None:
        self.generator, self.host_generator = make_generator(dag.device, seed), torch.Generator().manual_seed(seed)
        self.batches: deque[Batch] = deque(maxlen=keeps.batches)
        capacity = keeps.transitions
        self.capacity, self.filled, self.at = capacity, 0, 0
        d, device = dag.state_dim, dag.device
        self.ring = {
            "states": torch.zeros(capacity, d, dtype=torch.int64, device=device),
            "actions": torch.zeros(capacity, dtype=torch.int64, device=device),
            "next_states": torch.zeros(capacity, d, dtype=torch.int64, device=device),
            "backward_actions": torch.zeros(capacity, dtype=torch.int64, device=device),
            "log_reward": torch.zeros(capacity, device=device),
            "done": torch.zeros(capacity, dtype=torch.bool, device=device),
        }
        self.priorities = torch.zeros(capacity, device=device)

    def add(self, batch: Batch) -> None:
        """Append the trajectories of an iteration."""
        self.batches.append(batch)

    @property
    def newest(self) -> Trajectories:
        """All trajectories of the batch that was added last."""
        return self.batches[-1].all

    @property
    def newest_fresh(self) -> Trajectories:
        """Those of the newest batch that the current P_F sampled."""
        return self.batches[-1].fresh

    def past(self) -> Batch:
        """Return one of the kept batches, each with equal probability.

        The number is drawn on the host, because the list of batches is there.
        """
        return self.batches[int(torch.randint(len(self.batches), (), generator=self.host_generator))]

    def add_transitions(self, transitions: Transitions, priorities: Tensor) -> None:
        """Append `transitions` with `priorities [B]`, overwriting the oldest; priority zero is never drawn."""
        n = min(len(priorities), self.capacity)
        slots = (torch.arange(n, device=priorities.device) + self.at) % self.capacity
        for name, value in transitions.tensors().items():
            self.ring[name].index_copy_(0, slots, value[-n:])
        self.priorities.index_copy_(0, slots, priorities[-n:])
        self.at = (self.at + n) % self.capacity
        self.filled = min(self.filled + n, self.capacity)

    def sample_transitions(self, n: int) -> tuple[Transitions, Tensor, Tensor]:
        """Draw `n` transitions with probability proportional to priority.

        Returns the transitions, their slots `[n]` (for `set_priorities`) and their probabilities `[n]`.
        """
        priorities = self.priorities[: self.filled]
        slots = torch.multinomial(priorities, n, replacement=True, generator=self.generator)
        probabilities = priorities[slots] / priorities.sum()
        return self.following(slots), slots, probabilities

    def following(self, slots: Tensor, steps: int = 1) -> Transitions:
        """Return the transitions at `slots [n]`, each with those that came after it, `[n * steps]` in all.

        They are those of its trajectory up to its end, because a batch is put in whole, and then others.
        """
        if steps > 1:
            ahead = torch.arange(steps, device=slots.device)
            slots = ((slots.unsqueeze(1) + ahead) % self.capacity).flatten()
        return Transitions(**{name: field[slots] for name, field in self.ring.items()})

    def set_priorities(self, slots: Tensor, priorities: Tensor) -> None:
        """Replace the priorities at `slots [n]`."""
        self.priorities.index_copy_(0, slots, priorities)

    def state_dict(self) -> dict:
        """Return everything kept, as tensors and numbers; as copies, because saving a view saves its whole storage."""
        return {
            "batches": [batch.state_dict() for batch in self.batches],
            "ring": {name: field[: self.filled].clone() for name, field in self.ring.items()},
            "priorities": self.priorities[: self.filled].clone(),
            "at": self.at,
            "generators": [get_state(self.generator), self.host_generator.get_state()],
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.batches.clear()
        device = self.priorities.device
        self.batches.extend(Batch.from_state(kept, device) for kept in state["batches"])
        self.at, self.filled = state["at"], len(state["priorities"])
        self.priorities[: self.filled] = state["priorities"]
        for name, field in self.ring.items():
            field[: self.filled] = state["ring"][name]
        set_state(self.generator, state["generators"][0])
        self.host_generator.set_state(state["generators"][1])
