"""Rollouts: walk a batch of states along a policy, forwards to terminal states or backwards to s0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from agents.sampling.categorical import gumbel_noise, host_is_free, sample_actions
from gfn_envs.dag import DAG, LogRewards

Policy = Callable[[Tensor], Tensor]
"""States `[B, d]` -> unnormalised log-probabilities `[B, num_actions]`; illegal actions may have any value."""

Allow = Callable[[Tensor, int], Tensor]
"""`(mask [B, A], t) -> mask [B, A]`: which of the legal actions a walk may take at step `t`; one at least where one is
legal."""

_NOISE_NUMBERS = 2**17
"""Random numbers drawn at a time: enough for many steps of a small batch, or for one step of a large one."""

_SMALL_BATCH = 32
"""Up to this many rows, dropping finished rows costs more than carrying them along."""


@dataclass(frozen=True)
class Trajectories:
    """`B` complete trajectories from s0 to terminal states, padded to the longest, which has `T` steps.

    Step `t` of trajectory `b` is real if `mask[b, t]`. Values in the padding are arbitrary but in range.
    """

    states: Tensor
    """int64 `[B, T + 1, d]`."""
    actions: Tensor
    """int64 `[B, T]`."""
    backward_actions: Tensor
    """int64 `[B, T]`: `backward_actions[:, t]` leads from state `t + 1` back to state `t`."""
    mask: Tensor
    """bool `[B, T]`: whether the step is real."""
    log_reward: Tensor
    """float32 `[B]`: log R of the terminal states."""
    log_raw_reward: Tensor
    """float32 `[B]`: log of the raw reward, which metrics report; see `gfn_envs.dag.LogRewards`."""

    @cached_property
    def lengths(self) -> Tensor:
        """Number of steps, int64 `[B]`."""
        return self.mask.sum(1)

    @cached_property
    def terminal_states(self) -> Tensor:
        """The last states, int64 `[B, d]`."""
        return _last_states(self.states, self.lengths)

    @cached_property
    def rows(self) -> Rows:
        """All states as one batch; see `Rows`."""
        return Rows.of(self)

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def copy(self) -> Trajectories:
        """Return the same trajectories in memory of their own."""
        return Trajectories(**{name: field.clone() for name, field in self.tensors().items()})

    def every(self, step: int, first: int) -> Trajectories:
        """Return every `step`-th trajectory from the one with index `first` on."""
        return Trajectories(**{name: field[first::step] for name, field in self.tensors().items()})

    @classmethod
    def cat(cls, *batches: Trajectories) -> Trajectories:
        """Return the trajectories of several batches as one, padded to the longest."""
        longest = max(batch.mask.shape[1] for batch in batches)

        def padded(batch: Trajectories, name: str) -> Tensor:
            field: Tensor = getattr(batch, name)
            missing = longest - batch.mask.shape[1]
            if field.dim() == 1 or missing == 0:
                return field
            if name == "states":
                return torch.cat([field, field[:, -1:].expand(-1, missing, -1)], 1)
            return functional.pad(field, (0, missing))

        names = cls.__dataclass_fields__
        return cls(**{name: torch.cat([padded(batch, name) for batch in batches]) for name in names})


@dataclass(frozen=True)
class Rows:
    """The states of all trajectories as one batch of `M` rows, so that a network sees them in one pass.

    The rows of a trajectory follow one another: if `has_action[i]`, row `i + 1` is the state after row `i`. On the CPU,
    where padding costs time, the padded states are left out. On other devices they stay, because dropping them would
    make the host wait for the device.
    """

    states: Tensor
    """int64 `[M, d]`."""
    actions: Tensor
    """int64 `[M]`: the action taken in this state; 0 if there is none."""
    backward_actions: Tensor
    """int64 `[M]`: the backward action to the previous state; 0 if there is none."""
    has_action: Tensor
    """bool `[M]`: whether a step leaves this state, which is then real and not terminal."""
    log_reward: Tensor
    """float32 `[M]`: log R of the trajectory's terminal state."""
    index: Tensor
    """int64 `[M]`: place of the row in the flattened padded `[B, T + 1]`."""
    shape: tuple[int, int]
    """`(B, T + 1)`."""

    @cached_property
    def has_parent(self) -> Tensor:
        """bool `[M]`: whether a step reached this state, which is then real and not s0."""
        return functional.pad(self.has_action[:-1], (1, 0))

    @classmethod
    def of(cls, trajectories: Trajectories) -> Rows:
        """Flatten `trajectories`."""
        mask = trajectories.mask
        shape = (mask.shape[0], mask.shape[1] + 1)
        leaves = functional.pad(mask, (0, 1))
        fields = {
            "states": trajectories.states.flatten(0, 1),
            "actions": functional.pad(trajectories.actions, (0, 1)).flatten(),
            "backward_actions": functional.pad(trajectories.backward_actions, (1, 0)).flatten(),
            "has_action": leaves.flatten(),
            "log_reward": trajectories.log_reward.unsqueeze(1).expand(shape).flatten(),
        }
        if host_is_free(mask.device):
            index = functional.pad(mask, (1, 0), value=True).flatten().nonzero().squeeze(1)
            fields = {name: field[index] for name, field in fields.items()}
        else:
            index = torch.arange(shape[0] * shape[1], device=mask.device)
        return cls(**fields, index=index, shape=shape)

    def pad(self, values: Tensor) -> Tensor:
        """Put `values [M]` back into `[B, T + 1]`, with zeros in the padding that was left out."""
        padded = torch.zeros(self.shape[0] * self.shape[1], dtype=values.dtype, device=values.device)
        return padded.index_copy(0, self.index, values).view(self.shape)


def _last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the state `[B, d]` that each row of `states [B, T + 1, d]` reaches after `lengths [B]` steps."""
    return states.gather(1, lengths.view(-1, 1, 1).expand(-1, 1, states.shape[2])).squeeze(1)


@torch.no_grad()
def rollout(
    dag: DAG,
    policy: Policy,
    start: Tensor,
    generator: torch.Generator | None,
    epsilon: float | Tensor = 0.0,
    backward: bool = False,
    max_steps: int | None = None,
    rewards: LogRewards | None = None,
    allow: Allow = lambda mask, t: mask,
) -> Trajectories:
    """Walk from `start [B, d]` along `policy` until every trajectory ends, and return them in forward order.

    Forwards, `start` is s0 (`dag.reset(B)`) and the policy gives logits of actions. With `backward`, `start` holds
    terminal states and the policy gives logits of backward actions. With probability `epsilon`, a number or a scalar
    tensor, a step takes a uniformly random legal action. `allow` narrows what is legal for policy and random actions.
    After `max_steps` steps the walk ends wherever it is. Where the `rewards [B]` of the last states are known, they are
    not asked for again. On other devices than the CPU the walk always takes as many steps as it may, so the host never
    waits for the device.
    """
    limit = dag.max_steps if max_steps is None else min(max_steps, dag.max_steps)
    step, mask_of = (dag.backward_step, dag.backward_action_mask) if backward else (dag.step, dag.action_mask)
    num_actions = dag.num_backward_actions if backward else dag.num_actions
    compact = host_is_free(start.device)
    segments = _Segments(start)
    states, mask = start, allow(mask_of(start), 0)
    active = mask.any(1)
    width, all_alive = len(start), False
    noise: Iterator[Tensor] = iter(())
    for t in range(limit):
        if compact:
            alive = int(active.count_nonzero())
            if alive == 0:
                break
            if 2 * alive <= width > _SMALL_BATCH:
                kept = active.nonzero().squeeze(1)
                states, mask, active, noise, width = states[kept], mask[kept], active[kept], iter(()), alive
                segments.begin(states, segments.rows[kept])
            all_alive = alive == width
        logits = policy(states)
        if isinstance(epsilon, Tensor) or epsilon > 0:
            explore = torch.rand(width, 1, device=start.device, generator=generator) < epsilon
            logits = torch.where(explore, 0.0, logits)
        gumbel = next(noise, None)
        if gumbel is None:
            steps = max(1, min(limit - t, _NOISE_NUMBERS // max(1, mask.numel())))
            noise = iter(gumbel_noise((steps, width, num_actions), start.device, generator).unbind(0))
            gumbel = next(noise)
        actions = sample_actions(logits, mask, gumbel)
        next_states, reverse = step(states, actions)
        states = next_states if all_alive else torch.where(active.unsqueeze(1), next_states, states)
        segments.steps.append((states, actions, reverse, active))
        mask = allow(mask_of(states), t + 1)
        active = mask.any(1)
    return segments.finish(dag, backward, rewards)


class _Segments:
    """The steps recorded so far, in segments between two compactions; each segment holds the rows still unfinished."""

    def __init__(self, start: Tensor) -> None:
        self.num_rows, self.device = len(start), start.device
        self.runs: list[tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor, Tensor]]]] = []
        self.begin(start, torch.arange(len(start), device=start.device))

    def begin(self, states: Tensor, rows: Tensor) -> None:
        """Start a segment from `states` in `rows`; its steps are then appended to `steps`."""
        self.rows, self.steps = rows, []
        self.runs.append((rows, states, self.steps))

    def finish(self, dag: DAG, backward: bool, rewards: LogRewards | None) -> Trajectories:
        """Join the segments in time, and turn backward walks into forward order."""
        if len(self.runs) == 1:
            states, actions, reverse, mask = self._stack(*self.runs[0][1:])
        else:
            states, actions, reverse, mask = self._merge()
        # Finished rows took illegal actions, for which a DAG may return anything.
        reverse = reverse * mask
        lengths = mask.sum(1)
        if backward:
            place = torch.arange(states.shape[1], device=self.device)
            at = (lengths.unsqueeze(1) - place).clamp(min=0)
            states = states.gather(1, at.unsqueeze(2).expand_as(states))
            edge = (lengths.unsqueeze(1) - 1 - place[:-1]).clamp(min=0)
            actions, reverse = reverse.gather(1, edge), actions.gather(1, edge)
        rewards = rewards or dag.log_rewards(_last_states(states, lengths))
        return Trajectories(states, actions, reverse, mask, rewards.log_reward, rewards.log_raw_reward)

    def _stack(self, start: Tensor, steps: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> tuple[Tensor, ...]:
        """Return states `[b, k + 1, d]` and actions, reverse actions and mask `[b, k]` of a segment of `k` steps."""
        if not steps:
            none = torch.zeros(len(start), 0, dtype=torch.int64, device=self.device)
            return start.unsqueeze(1), none, none, none.bool()
        states, *edges = zip(*steps, strict=True)
        return torch.stack((start, *states)).transpose(0, 1), *(torch.stack(edge).T for edge in edges)

    def _merge(self) -> tuple[Tensor, ...]:
        length = sum(len(steps) for _, _, steps in self.runs)
        states = self.runs[0][1].unsqueeze(1).repeat(1, length + 1, 1)
        actions = torch.zeros(self.num_rows, length, dtype=torch.int64, device=self.device)
        reverse, mask = torch.zeros_like(actions), torch.zeros_like(actions, dtype=torch.bool)
        t = 0
        for rows, start, steps in self.runs:
            end = t + len(steps)
            run_states, *edges = self._stack(start, steps)
            states[rows, t:] = run_states[:, -1:]
            states[rows, t : end + 1] = run_states
            for full, part in zip((actions, reverse, mask), edges, strict=True):
                full[rows, t:end] = part
            t = end
        return states, actions, reverse, mask
