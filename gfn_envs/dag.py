"""The contract of a GFlowNet environment: a pointed DAG as pure, batched tensor functions.

Source: Bengio et al. 2023, "GFlowNet Foundations" (arXiv 2111.09266), section 2 (pointed DAG, terminal states, reward).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TokenView:
    """How a state vector reads as a row of tokens, for networks over tokens; each component is a token."""

    length: int
    """Number of tokens, `state_dim`."""
    vocabulary: int
    """Number of values of a token."""
    values: int
    """A forward action is `place * values + value`; 0 where actions are not tied to a place."""
    places: bool
    """Whether a backward action is a place."""


@dataclass(frozen=True)
class GraphView:
    """How a state reads as a graph of up to `slots` nodes, for networks over graphs, and where its actions lie on it.

    `dag.graph(states)` gives it, all int64: `nodes [B, slots, K]`, of which feature 0 is 0 exactly in empty slots, and
    filled slots come first; `pairs [B, slots, slots]`, 0 where nothing joins two nodes; `whole [B, G]` on the graph.

    Forward actions are `slot * node_actions + a`, then `slots * node_actions + pair * pair_actions + a`, and last the
    stop action; backward actions likewise with the numbers `backward_...` and last the undoing of the stop. Where
    `ordered`, pair `(i, j)` has the index `i * slots + j`; otherwise `pairs` is symmetric, and the pairs `i < j` are
    counted row by row, as `torch.triu_indices(slots, slots, 1)` does. Forward actions of a slot add a node joined to it;
    in the empty graph those of slot 0 add the first node.
    """

    slots: int
    """Number of node slots."""
    node_values: tuple[int, ...]
    """Number of values of each of the K node features."""
    pair_values: int
    """Number of values of a pair."""
    whole_values: tuple[int, ...]
    """Number of values of each of the G features of the whole graph."""
    ordered: bool
    """Whether pair (i, j) differs from (j, i)."""
    node_actions: int
    """Forward actions of a slot."""
    pair_actions: int
    """Forward actions of a pair."""
    backward_node_actions: int
    """Backward actions of a slot."""
    backward_pair_actions: int
    """Backward actions of a pair."""


class DAG(ABC):
    """A pointed directed acyclic graph whose terminal states carry a positive reward.

    A batch of states is one int64 tensor `[B, state_dim]`; component `i` of a state lies in `0 .. nvec[i] - 1`. Whether
    the object is complete ("stopped") is part of the state wherever there is a stop action. Actions are int64 `[B]`.

    The law, which `gfn_envs.check_dag` asserts: for legal actions

        backward_step(*step(s, a)) == (s, a)        and        step(*backward_step(s', b)) == (s', b)

    (the second one up to a renaming of slots, where an environment documents one and offers `canonical`); the masks
    are true exactly where this holds; s0 alone has no parent and terminal states alone have no child; no trajectory has
    more than `max_steps` steps; log rewards are finite. A result depends on its own row alone, whatever the batch;
    inputs are never changed, and results lie in memory of their own (only actions may be handed back as they came).

    Every method is batched and free of host synchronisation, so that it also runs on a GPU and on torch's `meta`
    device. A row whose action is illegal may come out as anything, but must neither raise nor touch other rows:
    rollouts step finished rows along and discard the result.

    Optional methods, offered by defining them (ask with `dag.offers(name)`):

        log_num_trajectories(states) -> float32 [B]     log n(s), n = number of trajectories from s0 to s
        log_partition() -> float                        log Z in closed form
        sample_target(n, generator) -> states [n, d]    exact samples of R/Z
        modes_hit(states) -> bool [B, num_modes]        which of `num_modes` modes terminal states count for
        test_states() -> states [N, d]                  a fixed set of terminal states to correlate log P with log R on
        token_view() -> TokenView                       how the state reads as a row of tokens
        graph_view() -> GraphView                       how the state reads as a graph; with it
        graph(states) -> nodes, pairs, whole            the graph, as `GraphView` says
        canonical(states) -> states [B, d]              equal exactly for states that differ by the renaming of slots
        log_symmetry(states) -> float32 [B]             log |Aut|, the number of renamings of slots that change nothing
        reward_of(states, log_reward) -> float32 [B]    what metrics report as reward, where not exp(log_reward)
        to_smiles(states) -> list[str]                  the molecules that terminal states are; with it
        mode_thresholds: tuple[float, ...]              rewards from which on a molecule may count as a mode
        is_novel(states) -> bool [B]                    molecules outside the data that the environment comes from

    Where slots are renamed, a policy that treats them alike and is trained to zero loss ends in the class of x, all
    states that `canonical` maps to one, with probability proportional to `exp(log_reward(x) - log_symmetry(x))`:
    actions are counted by slot, and |Aut(x)| of them are the same. A DAG whose `log_reward` includes `log_symmetry`
    is therefore sampled in proportion to the reward itself.
    """

    nvec: tuple[int, ...]
    """Number of values of each state component."""
    num_actions: int
    """Number of forward actions, the stop action included."""
    num_backward_actions: int
    """Number of backward actions."""
    max_steps: int
    """No trajectory from s0 to a terminal state has more steps."""

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

    def is_terminal(self, states: Tensor) -> Tensor:
        """Return bool `[B]`, True at complete objects; it follows from the mask."""
        return ~self.action_mask(states).any(-1)

    def offers(self, method: str) -> bool:
        """Tell whether this DAG has the optional method of that name."""
        return callable(getattr(self, method, None))

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


def log_rewards_or_error(dag: DAG, states: Tensor) -> Tensor:
    """Return `dag.log_reward(states)` as `[B]`, or raise `ValueError` naming the first state with a bad one.

    Reads the values, hence waits for the device: for tests, checks and single environments, not for a training step.
    """
    log_reward = dag.log_reward(states)
    if log_reward.shape != states.shape[:1]:
        raise ValueError(
            f"{type(dag).__name__}.log_reward returned shape {tuple(log_reward.shape)} for {len(states)} states: "
            f"expected ({len(states)},), one number a state."
        )
    bad = ~torch.isfinite(log_reward)
    if bad.any():
        i = int(bad.nonzero()[0])
        value = float(log_reward[i])
        cause = "the reward is 0" if value == -math.inf else "the reward is infinite" if value == math.inf else "NaN"
        raise ValueError(
            f"{type(dag).__name__}.log_reward is {value} ({cause}) at state {states[i].tolist()}: log rewards must be "
            "finite, so give every terminal state a positive, finite reward (a small floor will do)."
        )
    return log_reward
