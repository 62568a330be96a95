"""The contract of a GFlowNet environment: a pointed DAG as pure, batched tensor functions.

Source: Bengio et al. 2023, "GFlowNet Foundations" (arXiv 2111.09266), section 2 (pointed DAG, terminal states, reward).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LogRewards(NamedTuple):
    """The two rewards of terminal states, natural logs."""

    log_reward: Tensor
    """float32 `[B]`: log R, which training and sampling aim at."""
    log_raw_reward: Tensor
    """float32 `[B]`: the log of the reward before an exponent and a symmetry factor; metrics report this one."""


class DAG(ABC):
    """A pointed directed acyclic graph whose terminal states carry a positive reward.

    A batch of states is one int64 tensor `[B, state_dim]`; component `i` of a state lies in `0 .. nvec[i] - 1`. Whether
    the object is complete ("stopped") is part of the state wherever there is a stop action. Actions are int64 `[B]`.

    The law, which `gfn_envs.check_dag` asserts: for legal actions

        backward_step(*step(s, a)) == (s, a)        and        step(*backward_step(s', b)) == (s', b)

    (the second one up to a renaming of slots where `renames_slots` says so); the masks are true exactly where this
    holds; s0 alone has no parent and terminal states alone have no child; no trajectory has more than `max_steps`
    steps; log rewards are finite. A result depends on its own row alone, whatever the batch. Inputs are never changed.
    Results lie in memory of their own, except that actions may be handed back as they came.

    Every method is batched and free of host synchronisation, so that it also runs on a GPU and on torch's `meta`
    device. A row whose action is illegal may come out as anything, but it must neither raise nor touch other rows:
    rollouts step finished rows along and discard the result.

    An environment defines the abstract methods. It overrides the others where their default does not fit. What it can
    do beyond that (count trajectories, show itself as a graph, draw from the target ...) it tells by defining the
    methods of a protocol in `gfn_envs.abilities`.

    Renaming of slots: where an object may be kept in several states that differ by the order of its parts,
    `renames_slots` is True, `canonical` maps all these states, the class of x, to one, and `log_symmetry` counts the
    renamings that change nothing. A policy that treats the
    slots alike and is trained to zero loss then ends in the class of x with probability proportional to
    `exp(log_reward(x) - log_symmetry(x))`: actions are counted by slot, and |Aut(x)| of them are the same. A DAG whose
    `log_reward` includes `log_symmetry` is therefore sampled in proportion to the reward itself.
    """

    nvec: tuple[int, ...]
    """Number of values of each state component."""
    num_actions: int
    """Number of forward actions, the stop action included."""
    num_backward_actions: int
    """Number of backward actions."""
    max_steps: int
    """No trajectory from s0 to a terminal state has more steps."""
    stop_action: int | None = None
    """The action that completes the object from any state where it is legal; None where there is no such action."""
    renames_slots: bool = False
    """Whether several states are one object, and `step(*backward_step(s', b))` may return another of them."""
    num_modes: int = 0
    """Number of known modes of the reward; `modes_hit` of `gfn_envs.abilities.HasModes` says what counts for them."""
    mode_thresholds: tuple[float, ...] = ()
    """Raw rewards from which on an object may count as a mode, increasing; for rewards whose modes are not known."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics that a run on this environment reports besides the standard ones."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    @property
    def state_dim(self) -> int:
        """Number of components of a state."""
        return len(self.nvec)

    @abstractmethod
    def reset(self, n: int) -> Tensor:
        """Return `n` copies of the initial state s0, int64 `[n, state_dim]`."""

    @abstractmethod
    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Follow `actions [B]`; return the next states `[B, d]` and the backward actions `[B]` that undo the step."""

    @abstractmethod
    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        """Undo one step; return the previous states `[B, d]` and the forward actions `[B]` that redo it."""

    @abstractmethod
    def action_mask(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_actions]`, True where the action is legal; all False exactly at terminal states."""

    @abstractmethod
    def backward_action_mask(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_backward_actions]`, True where the backward action is legal; all False exactly at s0."""

    @abstractmethod
    def log_reward(self, states: Tensor) -> Tensor:
        """Return the natural log of R at terminal `states [B, d]`, float32 `[B]` (any finite value elsewhere)."""

    def log_rewards(self, states: Tensor) -> LogRewards:
        """Return both rewards of terminal `states [B, d]`; by default both are `log_reward(states)`."""
        log_reward = self.log_reward(states)
        return LogRewards(log_reward, log_reward)

    def is_terminal(self, states: Tensor) -> Tensor:
        """Return bool `[B]`, True at complete objects; it follows from the mask."""
        return ~self.action_mask(states).any(-1)

    def canonical(self, states: Tensor) -> Tensor:
        """Return states `[B, d]` that are equal exactly for states of one object; by default the states themselves."""
        return states

    def log_symmetry(self, states: Tensor) -> Tensor:
        """Return log |Aut|, float32 `[B]`: the log of the number of renamings of slots that change nothing."""
        return torch.zeros(len(states), device=states.device)

    def offers(self, method: str) -> bool:
        # To be removed with its last caller: `isinstance(dag, <a protocol of gfn_envs.abilities>)` takes its place.
        if method in ("canonical", "log_symmetry"):
            return self.renames_slots
        return callable(getattr(self, method, None)) and (method != "modes_hit" or self.num_modes > 0)

    def describe(self, states: Tensor) -> list[str]:
        """Return one line of text for each of `states [B, d]`."""
        return [" ".join(map(str, row)) for row in states.tolist()]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the trajectory so far, `path [t + 1, d]` from its first to its current state, on a matplotlib axes.

        The default shows every state of the path as a row of coloured components.
        """
        scale = torch.tensor(self.nvec, device="cpu").sub(1).clamp(min=1)
        shades = (path.cpu() / scale).numpy()
        axes.imshow(shades, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xlabel("state component")
        axes.set_ylabel("step")


def log_rewards_or_error(dag: DAG, states: Tensor) -> LogRewards:
    """Return `dag.log_rewards(states)`, or raise `ValueError` naming the first state with a bad reward.

    It reads the values and so waits for the device: it is for tests, checks and single environments, not for a
    training step.
    """
    rewards = LogRewards(*dag.log_rewards(states))
    for name, values in rewards._asdict().items():
        _demand_finite(f"{type(dag).__name__}.{name}", states, values)
    return rewards


def _demand_finite(name: str, states: Tensor, values: Tensor) -> None:
    """Raise `ValueError` unless `values` are finite numbers, one for each of `states [B, d]`."""
    if values.shape != states.shape[:1]:
        raise ValueError(
            f"{name} returned shape {tuple(values.shape)} for {len(states)} states: "
            f"expected ({len(states)},), one number a state."
        )
    bad = ~torch.isfinite(values)
    if bad.any():
        i = int(bad.nonzero()[0])
        value = float(values[i])
        cause = "the reward is 0" if value == -math.inf else "the reward is infinite" if value == math.inf else "NaN"
        raise ValueError(
            f"{name} is {value} ({cause}) at state {states[i].tolist()}: log rewards must be "
            "finite, so give every terminal state a positive, finite reward (a small floor will do)."
        )
