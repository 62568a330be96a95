"""What the single and the vector environment share: states walked through a DAG, rewards, invalid actions, drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

from gfn_envs.dag import DAG, log_rewards_or_error
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.reward_modes import REWARD_MODES, Edges

STEP_LIMIT_FACTOR = 10
"""An episode is truncated after this many times `dag.max_steps` steps, unless the caller sets a limit."""


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
    """`n` states and what Gymnasium tells about them; never changed in place, so that views may share arrays."""

    states: Tensor  # int64 [n, state_dim], on the DAG's device
    mask: np.ndarray  # bool [n, num_actions]
    backward_mask: np.ndarray  # bool [n, num_backward_actions]
    terminal: np.ndarray  # bool [n]
    initial: np.ndarray  # bool [n]
    log_reward: np.ndarray  # float64 [n], 0 where not terminal


def _look(dag: DAG, states: Tensor) -> View:
    """Ask the DAG about `states [n, d]`; log R only of the complete ones, as it may be costly."""
    mask = dag.action_mask(states).cpu().numpy()
    backward_mask = dag.backward_action_mask(states).cpu().numpy()
    terminal = np.logical_not(mask.any(1))
    log_reward = np.zeros(len(terminal))
    if terminal.any():
        complete = states[torch.from_numpy(terminal).to(states.device)]
        log_reward[terminal] = log_rewards_or_error(dag, complete).log_reward.double().cpu().numpy()
    return View(states, mask, backward_mask, terminal, np.logical_not(backward_mask.any(1)), log_reward)


def _select(rows: np.ndarray, new: View, old: View) -> View:
    """Return `new` in `rows [n]` and `old` elsewhere."""
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
    """`num` states walked through one DAG, one row each, with numpy arrays on the outside.

    Rows that were never placed, or whose walk an invalid action ended, are `over`: to step one raises `ResetNeeded`.
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
        """Put `rows`, bool `[num]`, at those rows of `states`, int64 `[num, d]`."""
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
        """Follow `actions`, int64 `[num]`, in the rows `active`; return rewards, terminated, invalid, each `[num]`."""
        before = self.view
        self._demand_unfinished("step()", active & (self.over | before.terminal), "object is complete")
        moved, invalid, ended = self._follow(self.dag.step, before.mask, actions, active)
        after = self.view
        edges = Edges(after.backward_mask.sum(1), after.terminal, after.log_reward)
        return np.where(moved, self._reward(edges), 0.0), edges.ended | ended, invalid

    @torch.no_grad()
    def step_backward(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow backward actions as `step` follows actions; terminated means at s0, and no edge ends an object."""
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
        """Move the active rows whose action is legal; return which moved, were invalid, and were ended for that."""
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
        """Return arrays for Gymnasium's info, one row each, that only `invalid` shares with anything."""
        return {
            "action_mask": self.action_masks().view(np.int8),
            "backward_action_mask": self.backward_action_masks().view(np.int8),
            "log_reward": self.view.log_reward.copy(),
            "invalid_action": invalid,
        }

    def action_masks(self) -> np.ndarray:
        """Return bool `[num, num_actions]`; all True at complete objects, as Gymnasium cannot sample from nothing."""
        return self.view.mask | self.view.terminal[:, None]

    def backward_action_masks(self) -> np.ndarray:
        """Return bool `[num, num_backward_actions]`; all True at s0, as Gymnasium cannot sample from nothing."""
        return self.view.backward_mask | self.view.initial[:, None]

    def render(self, mode: str) -> list[Any]:
        """Return one frame a row, of its path since it was last placed (of s0 before that)."""
        paths = self._paths if self._paths is not None else [[] for _ in self.rows]
        draw = RENDERERS[mode]
        return [
            draw(self.dag, torch.stack(path) if path else self.view.states[row : row + 1])
            for row, path in enumerate(paths)
        ]


def checked_step_limit(limit: int | None, dag: DAG) -> int:
    """Return `limit`, or the default where it is None; `ValueError` unless it is an integer of at least 1."""
    return STEP_LIMIT_FACTOR * dag.max_steps if limit is None else integer_at_least("step_limit", limit, 1)


def start_states(dag: DAG, value: Any, num: int) -> np.ndarray:
    """Return `options["state"]`, one state `[d]` or one a row `[num, d]`, as int64 `[num, d]`, or a `ValueError`."""
    states = np.asarray(value)
    if states.dtype.kind not in "iu" or states.shape not in ((dag.state_dim,), (num, dag.state_dim)):
        rows = "" if num == 1 else f" or ({num}, {dag.state_dim})"
        raise ValueError(
            f"options['state'] must be integers of shape ({dag.state_dim},){rows}, got {states.dtype} {states.shape}."
        )
    if ((states < 0) | (states >= np.array(dag.nvec))).any():
        raise ValueError(f"options['state'] must lie in 0 .. nvec - 1 with nvec = {dag.nvec}, got {states.tolist()}.")
    return np.broadcast_to(states.astype(np.int64), (num, dag.state_dim)).copy()


def _text(dag: DAG, path: Tensor) -> str:
    return "\n".join(dag.describe(path))


def _image(dag: DAG, path: Tensor) -> np.ndarray:
    # The figure's own canvas, not pyplot: no global state, no window, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="tight")
    canvas = FigureCanvasAgg(figure)
    dag.draw(path, figure.subplots())
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


RENDERERS: dict[str, Callable[[DAG, Tensor], Any]] = {"ansi": _text, "rgb_array": _image}
