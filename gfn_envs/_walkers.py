"""Code that the single and the vector environment share: walking a DAG, rewards, invalid actions and drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from torch import Tensor

from gfn_envs.dag import DAG, log_rewards_or_error
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.reward_modes import REWARD_MODES, Edges

STEP_LIMIT_FACTOR = 10
"""Unless the caller sets a limit, an episode is truncated after this factor times `dag.max_steps` steps."""


def _nothing_ends(invalid: np.ndarray, explain: Callable[[], str]) -> np.ndarray:
    return np.zeros_like(invalid)


def _invalid_ends(invalid: np.ndarray, explain: Callable[[], str]) -> np.ndarray:
    return invalid


def _invalid_raises(invalid: np.ndarray, explain: Callable[[], str]) -> np.ndarray:
    if invalid.any():
        raise ValueError(explain())
    return invalid


INVALID_ACTIONS: dict[str, Callable[[np.ndarray, Callable[[], str]], np.ndarray]] = {
    "noop": _nothing_ends,
    "terminate": _invalid_ends,
    "raise": _invalid_raises,
}


class View(NamedTuple):
    """`n` states and the data that Gymnasium reports for them; views may share arrays, so none is changed in place."""

    states: Tensor  # int64 [n, state_dim], on the DAG's device
    mask: np.ndarray  # bool [n, num_actions]
    backward_mask: np.ndarray  # bool [n, num_backward_actions]
    terminal: np.ndarray  # bool [n]
    initial: np.ndarray  # bool [n]
    log_reward: np.ndarray  # float64 [n], 0 where not terminal


def _look(dag: DAG, states: Tensor) -> View:
    """Ask the DAG about `states [n, d]`; log R is computed only for complete states, because it may be costly."""
    mask = dag.action_mask(states).cpu().numpy()
    backward_mask = dag.backward_action_mask(states).cpu().numpy()
    terminal = np.logical_not(mask.any(1))
    log_reward = np.zeros(len(terminal))
    if terminal.any():
        complete = states[torch.from_numpy(terminal).to(states.device)]
        log_reward[terminal] = log_rewards_or_error(dag, complete).log_reward.double().cpu().numpy()
    return View(states, mask, backward_mask, terminal, np.logical_not(backward_mask.any(1)), log_reward)


def _select(rows: np.ndarray, new: View, old: View) -> View:
    """Return a view with the data of `new` where `rows [n]` is True and of `old` elsewhere."""
    if rows.all():
        return new
    rows_on_device = torch.from_numpy(rows).to(old.states.device)[:, None]
    wide = rows[:, None]
    return View(
        torch.where(rows_on_device, new.states, old.states),
        np.where(wide, new.mask, old.mask),
        np.where(wide, new.backward_mask, old.backward_mask),
        np.where(rows, new.terminal, old.terminal),
        np.where(rows, new.initial, old.initial),
        np.where(rows, new.log_reward, old.log_reward),
    )


class Walkers:
    """Walks `num` states through one DAG, one state a row; it takes and returns numpy arrays.

    A row is `over` if it was never placed or if an invalid action ended its walk. Stepping such a row raises
    `ResetNeeded`.
    """

    @torch.no_grad()
    def __init__(self, dag: DAG, num: int, *, reward_mode: str, invalid_action: str, record: bool) -> None:
        self.dag = dag
        self._reward = choose("reward_mode", reward_mode, REWARD_MODES)
        self._ended_by = choose("invalid_action", invalid_action, INVALID_ACTIONS)
        self.rows = np.arange(num)
        self.roots = self.view = _look(dag, dag.reset(num))
        self.over = np.ones(num, dtype=bool)
        self.elapsed = np.zeros(num, dtype=np.int64)
        self._paths: list[list[Tensor]] | None = [[] for _ in range(num)] if record else None

    def restart(self, rows: np.ndarray) -> None:
        """Put `rows`, bool `[num]`, back at s0."""
        self._place(rows, self.roots)

    @torch.no_grad()
    def place(self, rows: np.ndarray, states: np.ndarray) -> None:
        """Put each row that is True in `rows`, bool `[num]`, at the same row of `states`, int64 `[num, d]`."""
        self._place(rows, _look(self.dag, torch.from_numpy(states).to(self.dag.device)))

    def _place(self, rows: np.ndarray, view: View) -> None:
        self.view = _select(rows, view, self.view)
        self.over = self.over & ~rows
        self.elapsed = np.where(rows, 0, self.elapsed)
        if self._paths is not None:
            for row in np.flatnonzero(rows):
                self._paths[row] = [self.view.states[row]]

    @torch.no_grad()
    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow `actions`, int64 `[num]`, in the `active` rows; return rewards, terminated, invalid, each `[num]`."""
        before = self.view
        self._demand_unfinished("step()", active & (self.over | before.terminal), "object is complete")
        moved, invalid, ended = self._follow(self.dag.step, before.mask, actions, active)
        after = self.view
        edges = Edges(after.backward_mask.sum(1), after.terminal, after.log_reward)
        return np.where(moved, self._reward(edges), 0.0), edges.ended | ended, invalid

    @torch.no_grad()
    def step_backward(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow backward actions as `step` follows actions; a walk terminates at s0, and no edge pays log R."""
        before = self.view
        self._demand_unfinished("step_backward()", active & (self.over | before.initial), "walk is at s0")
        moved, invalid, ended = self._follow(self.dag.backward_step, before.backward_mask, actions, active)
        nothing = np.zeros(len(moved))
        edges = Edges(before.backward_mask.sum(1), nothing.astype(bool), nothing)
        return np.where(moved, self._reward(edges), 0.0), (self.view.initial & moved) | ended, invalid

    def _demand_unfinished(self, call: str, finished: np.ndarray, why: str) -> None:
        if finished.any():
            row = int(finished.argmax())
            reason = (
                "reset() was never called, or an invalid action ended the episode" if self.over[row] else f"the {why}"
            )
            where = f" of environment {row}" if len(finished) > 1 else ""
            raise ResetNeeded(f"Cannot call {call}{where}: {reason}. Call reset() first.")

    def _follow(
        self,
        edge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        mask: np.ndarray,
        actions: np.ndarray,
        active: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Move the active rows whose action is legal; return which rows moved, were invalid, and ended for that."""
        legal = mask[self.rows, actions]
        moved, invalid = active & legal, active & ~legal
        ended = self._ended_by(invalid, lambda: self._explain(invalid, mask, actions))
        if moved.any():
            states = self.view.states
            next_states = edge(states, torch.from_numpy(actions).to(states.device))[0]
            if not moved.all():
                next_states = torch.where(torch.from_numpy(moved).to(states.device)[:, None], next_states, states)
            self.view = _look(self.dag, next_states)
        self.elapsed = self.elapsed + active
        self.over = self.over | ended
        if self._paths is not None:
            for row in np.flatnonzero(moved):
                self._paths[row].append(self.view.states[row])
        return moved, invalid, ended

    def _explain(self, invalid: np.ndarray, mask: np.ndarray, actions: np.ndarray) -> str:
        row = int(invalid.argmax())
        where = f" of environment {row}" if len(invalid) > 1 else ""
        legal = np.flatnonzero(mask[row]).tolist()
        return (
            f"Action {actions[row]} is invalid in state {self.view.states[row].tolist()}{where}: legal are {legal}. "
            "Use info['action_mask'], or invalid_action='noop' or 'terminate'."
        )

    def observations(self) -> np.ndarray:
        """Return a copy of the states, int64 `[num, d]`."""
        return self.view.states.cpu().numpy().astype(np.int64)

    def infos(self, invalid: np.ndarray) -> dict[str, np.ndarray]:
        """Return new arrays for Gymnasium's info, one row for each walk; `invalid` is passed on without a copy."""
        return {
            "action_mask": self.action_masks().view(np.int8),
            "backward_action_mask": self.backward_action_masks().view(np.int8),
            "log_reward": self.view.log_reward.copy(),
            "invalid_action": invalid,
        }

    def action_masks(self) -> np.ndarray:
        """Return bool `[num, num_actions]`; all True at complete objects, as Gymnasium needs an action to sample."""
        return self.view.mask | self.view.terminal[:, None]

    def backward_action_masks(self) -> np.ndarray:
        """Return bool `[num, num_backward_actions]`; all True at s0, as Gymnasium needs an action to sample."""
        return self.view.backward_mask | self.view.initial[:, None]

    def render(self, mode: str) -> list[Any]:
        """Return one frame for each row: its path since it was last placed, or s0 if it never was."""
        paths = self._paths if self._paths is not None else [[] for _ in self.rows]
        draw = RENDERERS[mode]
        return [
            draw(self.dag, torch.stack(path) if path else self.view.states[row : row + 1])
            for row, path in enumerate(paths)
        ]


def action_space(num_actions: int) -> spaces.Discrete:
    """Return `Discrete(num_actions)` with a size that is a Python int.

    Gymnasium makes it a numpy integer, which some constructors of spaces refuse, such as `spaces.MultiBinary`.
    """
    space: Any = spaces.Discrete(num_actions)
    space.n = int(num_actions)
    return space


def checked_step_limit(limit: int | None, dag: DAG) -> int:
    """Return `limit`, or the default if it is None; raise `ValueError` unless it is an integer of at least 1."""
    return STEP_LIMIT_FACTOR * dag.max_steps if limit is None else integer_at_least("step_limit", limit, 1)


def start_states(dag: DAG, value: Any, num: int) -> np.ndarray:
    """Return `options["state"]`, one state `[d]` or one per row `[num, d]`, as int64 `[num, d]`.

    Raises `ValueError` for a state of the wrong shape, type or range.
    """
    states = np.asarray(value)
    if states.dtype.kind not in "iu" or states.shape not in ((dag.state_dim,), (num, dag.state_dim)):
        rows = "" if num == 1 else f" or ({num}, {dag.state_dim})"
        raise ValueError(
            f"options['state'] must be integers of shape ({dag.state_dim},){rows}, got {states.dtype} {states.shape}."
        )
    if ((states < 0) | (states >= np.array(dag.nvec))).any():
        raise ValueError(f"options['state'] must lie in 0 .. nvec - 1 with nvec = {dag.nvec}, got {states.tolist()}.")
    unreachable = ~_reachable(dag, torch.from_numpy(np.atleast_2d(states).astype(np.int64)).to(dag.device))
    if unreachable.any():
        state = np.atleast_2d(states)[unreachable.argmax()]
        raise ValueError(f"options['state'] must be a state that can be reached from s0, got {state.tolist()}.")
    return np.broadcast_to(states.astype(np.int64), (num, dag.state_dim)).copy()


@torch.no_grad()
def _reachable(dag: DAG, states: Tensor) -> np.ndarray:
    """Return bool `[n]`, which of `states [n, d]` can be reached from s0.

    Any walk back from a reachable state ends in s0, and each of its steps can be taken forwards. From another state no
    walk does, whatever it passes: if one did, it would lead to that state when walked forwards.
    """
    lawful = torch.ones(len(states), dtype=torch.bool, device=states.device)
    for _ in range(dag.max_steps):
        mask = dag.backward_action_mask(states)
        previous, actions = dag.backward_step(states, mask.int().argmax(1))
        actions = actions.clamp(0, dag.num_actions - 1)  # anything may come back from a state that is none of the DAG's
        legal = dag.action_mask(previous).gather(1, actions.unsqueeze(1)).squeeze(1)
        walking = mask.any(1)
        lawful &= legal | ~walking
        states = torch.where(walking.unsqueeze(1), previous, states)
    return (lawful & (states == dag.reset(1)).all(1)).cpu().numpy()


def _text(dag: DAG, path: Tensor) -> str:
    return "\n".join(dag.describe(path))


def _image(dag: DAG, path: Tensor) -> np.ndarray:
    # Use the figure's own canvas and not pyplot, which has global state and leaves figures or windows to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="tight")
    canvas = FigureCanvasAgg(figure)
    dag.draw(path, figure.subplots())
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


RENDERERS: dict[str, Callable[[DAG, Tensor], Any]] = {"ansi": _text, "rgb_array": _image}
