"""A Gymnasium vector environment that walks many states through a DAG (Towers et al. 2024, arXiv 2407.17032)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import logger, spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gfn_envs._walkers import RENDERERS, Walkers, action_space, checked_step_limit, start_states
from gfn_envs.env import DAGEnv
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.registry import build

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class DAGVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Walk `num_envs` states of one DAG at once; each row behaves as in a `SyncVectorEnv` of `DAGEnv`.

    `SyncVectorEnv` is `gymnasium.vector.SyncVectorEnv`.

    Observations: int64 `[num_envs, state_dim]`. Actions: integers `[num_envs]`. Rewards: float64 `[num_envs]`.
    Info: the keys of `DAGEnv`. Each value is an array with a leading axis of `num_envs`, and comes with the mask `_key`
    that Gymnasium adds.

    There are two differences from `SyncVectorEnv`. After a reset of some environments (`options["reset_mask"]`), info
    has a full row for every environment. `final_obs` is a dense int64 array instead of an array of objects; it is zero
    in rows that `_final_obs` excludes.

    Truncation: after `step_limit` steps, by default `10 * dag.max_steps`, or `max_episode_steps` if that is less.
    Start: s0, or `reset(options={"state": x})` with one state `[state_dim]` or one per row `[num_envs, state_dim]`.

    Args:
        num_envs: number of rows.
        max_episode_steps: a time limit in steps, at least 1; None for no such limit.
        autoreset_mode: when a finished row goes back to s0. With `AutoresetMode.NEXT_STEP` it does so in the next step,
            and with `SAME_STEP` at once (with `final_obs` and `final_info`). With `DISABLED` the caller resets it
            through `options["reset_mask"]`. The value of a mode works too.
        dag, reward_mode, invalid_action, render_mode, step_limit, device, kwargs: as in `DAGEnv`, except that `render`
            returns a tuple.
    """

    def __init__(
        self,
        dag: str,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        reward_mode: str = "log_reward",
        invalid_action: str = "noop",
        render_mode: str | None = None,
        step_limit: int | None = None,
        device: str = "cpu",
        **kwargs: Any,
    ) -> None:
        self.num_envs = integer_at_least("num_envs", num_envs, 1)
        if render_mode is not None:
            choose("render_mode", render_mode, RENDERERS)
        self.render_mode = render_mode
        name = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        self.autoreset_mode = choose("autoreset_mode", name, {mode.value: mode for mode in AutoresetMode})
        self.metadata = {**DAGEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.dag = build(dag, device=device, **kwargs)
        self._walk = Walkers(
            self.dag, num_envs, reward_mode=reward_mode, invalid_action=invalid_action, record=render_mode is not None
        )
        self.step_limit = checked_step_limit(step_limit, self.dag)
        if max_episode_steps is not None:
            self.step_limit = min(self.step_limit, integer_at_least("max_episode_steps", max_episode_steps, 1))
        self.single_observation_space = spaces.MultiDiscrete(list(self.dag.nvec))
        self.single_action_space = action_space(self.dag.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._finished = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go to s0, or to `options["state"]`, in all rows or in those of `options["reset_mask"]`, bool `[num_envs]`.

        A sequence of seeds is accepted, as in `SyncVectorEnv`, but the environment is deterministic and uses none.
        Raises `ValueError` for bad options and for a sequence of the wrong length.
        """
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
        elif seed is not None and len(seed) != self.num_envs:
            raise ValueError(f"A sequence of seeds must have length num_envs = {self.num_envs}, got {len(seed)}.")
        options = options or {}
        for name in options:
            choose("reset option", name, {"reset_mask": None, "state": None})
        rows = self._reset_rows(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if "state" in options:
            self._walk.place(rows, start_states(self.dag, options["state"], self.num_envs))
        else:
            self._walk.restart(rows)
        self._finished = self._finished & ~rows
        return self._walk.observations(), _masked(self._walk.infos(np.zeros_like(rows)))

    def _reset_rows(self, mask: Any) -> np.ndarray:
        """Return `options["reset_mask"]` if it is a bool array `[num_envs]` with a True, or raise `ValueError`."""
        rows = np.asarray(mask)
        if rows.dtype != bool or rows.shape != (self.num_envs,) or not rows.any():
            raise ValueError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with at least one True, "
                f"got {rows.dtype} {rows.shape}: {rows}."
            )
        return rows

    def step(self, actions: np.ndarray) -> Step:
        """Follow `actions`, integers `[num_envs]`; return observations, rewards, terminated, truncated and infos.

        Actions of rows that this step resets are ignored. Raises `ValueError` for any other action outside the action
        space, and `gymnasium.error.ResetNeeded` for a row that is finished or was never reset.
        """
        active = ~self._finished
        chosen = self._checked(actions, active)
        if self.autoreset_mode is AutoresetMode.DISABLED and not active.all():
            rows = np.flatnonzero(self._finished).tolist()
            raise ResetNeeded(f"Environments {rows} are finished: reset them with options={{'reset_mask': mask}}.")
        if not active.all():
            self._walk.restart(self._finished)
        rewards, terminated, invalid = self._walk.step(chosen, active)
        truncated = self._walk.elapsed >= self.step_limit
        finished = terminated | truncated
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._finished = finished
            return self._walk.observations(), rewards, terminated, truncated, _masked(self._walk.infos(invalid))
        final = self._final(finished, invalid)
        self._walk.restart(finished)
        infos = {**final, **_masked(self._walk.infos(invalid & ~finished))}
        return self._walk.observations(), rewards, terminated, truncated, infos

    def _checked(self, actions: Any, active: np.ndarray) -> np.ndarray:
        """Return `actions` as int64 `[num_envs]`, 0 in rows that are not `active`, or raise `ValueError`."""
        given = np.asarray(actions)
        if given.shape != (self.num_envs,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"Actions must be integers of shape ({self.num_envs},), got {given.dtype} of shape {given.shape}."
            )
        chosen = np.where(active, given, 0).astype(np.int64)
        bad = (chosen < 0) | (chosen >= self.dag.num_actions)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"An action must lie in 0 .. {self.dag.num_actions - 1}, got {given[row]} for environment {row}."
            )
        return chosen

    def _final(self, finished: np.ndarray, invalid: np.ndarray) -> dict[str, Any]:
        """Return `final_obs` and `final_info` of the rows `finished`, or an empty dict if there is none."""
        if not finished.any():
            return {}
        wide = finished[:, None]
        info = {
            name: np.where(wide if rows.ndim > 1 else finished, rows, np.zeros((), rows.dtype))
            for name, rows in self._walk.infos(invalid).items()
        }
        return {
            "final_obs": np.where(wide, self._walk.observations(), 0),
            "_final_obs": finished.copy(),
            "final_info": _masked(info, finished),
            "_final_info": finished.copy(),
        }

    def action_masks(self) -> np.ndarray:
        """Return bool `[num_envs, num_actions]`, True where legal; all True in rows at a terminal state."""
        return self._walk.action_masks()

    def backward_action_masks(self) -> np.ndarray:
        """Return bool `[num_envs, num_backward_actions]`, True where legal; all True in rows at s0."""
        return self._walk.backward_action_masks()

    def render(self) -> tuple[Any, ...] | None:
        """Return one frame for each environment: its path since its last reset."""
        if self.render_mode is None:
            logger.warn("render() without a render_mode does nothing; pass render_mode='rgb_array' or 'ansi'.")
            return None
        return tuple(self._walk.render(self.render_mode))


def _masked(infos: dict[str, np.ndarray], rows: np.ndarray | None = None) -> dict[str, Any]:
    """Add to each array its mask `_key` as Gymnasium does: True in `rows`, or in all rows if `rows` is None."""
    masks = {
        f"_{name}": np.ones(len(values), dtype=bool) if rows is None else rows.copy() for name, values in infos.items()
    }
    return {**infos, **masks}
