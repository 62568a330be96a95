"""A Gymnasium environment that walks one state through a DAG (Towers et al. 2024, arXiv 2407.17032)."""

from __future__ import annotations

import operator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import logger, spaces

from gfn_envs._walkers import RENDERERS, Walkers, action_space, checked_step_limit, start_states
from gfn_envs.errors import choose
from gfn_envs.registry import build

_ALL = np.ones(1, dtype=bool)


class DAGEnv(gymnasium.Env[np.ndarray, Any]):
    """Build one object by walking a DAG from s0 to a terminal state.

    Observation: the state, int64 `[state_dim]`. Its space is `MultiDiscrete(dag.nvec)`.
    Actions: `Discrete(dag.num_actions)`, the DAG's forward actions. `backward_action_space` holds its backward actions,
    which `step_backward` takes.
    Info, at reset and at every step:

    - `action_mask` int8 `[num_actions]`, `backward_action_mask` int8 `[num_backward_actions]`: 1 = legal. No mask is
      all zeros. A terminal state has no legal action, and its `action_mask` is all ones. s0 has no legal backward
      action, and its `backward_action_mask` is all ones.
    - `log_reward` float64: log R of a terminal state, natural log; 0.0 at other states.
    - `invalid_action` bool: whether the last action was illegal. An illegal action is not followed.

    Reward, by `reward_mode`:

    - `"log_reward"`: log R(x) on the step that completes x, 0 before.
    - `"reward"`: R(x) on that step, 0 before.
    - `"soft"`: log of the uniform backward policy, -log(number of parents of the next state), on every edge. The last
      edge also pays log R(x). With this reward and temperature 1, the optimal policy of entropy-regularised RL samples
      x in proportion to R (Tiapkin et al. 2024, arXiv 2310.12934; Deleu et al. 2024, arXiv 2402.10309). PPO with an
      entropy bonus does not solve that problem: its entropy is in the loss, not in the return.

    In the soft mode `step_backward` pays the log of the uniform backward policy for its edge, but never log R(x). In
    the other modes it pays 0.

    Termination: `step` terminates at a terminal state, `step_backward` at s0. After that, or before the first reset, a
    step raises `gymnasium.error.ResetNeeded`.
    Truncation: after `step_limit` steps. The default is `10 * dag.max_steps`, which only an episode with invalid or
    backward actions can reach. `gymnasium.make(id, max_episode_steps=k)` can shorten an episode further.
    Start: s0, or any state x of the DAG with `reset(options={"state": x})`. From a terminal x, only `step_backward` can
    move.

    Args:
        dag: the DAG's class as `"module:Class"`.
        reward_mode: `"log_reward"`, `"reward"` or `"soft"`, as above.
        invalid_action: what happens on an illegal action, which never moves the state. `"noop"` gives reward 0.
            `"terminate"` ends the episode with reward 0, which is more than a negative log R. `"raise"` raises
            `ValueError`.
        render_mode: None, `"ansi"` (the path as text) or `"rgb_array"` (the path as an image, uint8
            `[height, width, 3]`).
        step_limit: number of steps after which an episode is truncated, at least 1; None for the default above.
        device: device of the DAG's tensors. Observations are numpy arrays on any device.
        kwargs: keyword arguments of the DAG's class.
    """

    metadata = {"render_modes": list(RENDERERS), "render_fps": 4}  # noqa: RUF012  (Gymnasium declares it so)

    def __init__(
        self,
        dag: str,
        reward_mode: str = "log_reward",
        invalid_action: str = "noop",
        render_mode: str | None = None,
        step_limit: int | None = None,
        device: str = "cpu",
        **kwargs: Any,
    ) -> None:
        if render_mode is not None:
            choose("render_mode", render_mode, RENDERERS)
        self.render_mode = render_mode
        self.dag = build(dag, device=device, **kwargs)
        self._walk = Walkers(
            self.dag, 1, reward_mode=reward_mode, invalid_action=invalid_action, record=render_mode is not None
        )
        self.step_limit = checked_step_limit(step_limit, self.dag)
        self.observation_space = spaces.MultiDiscrete(list(self.dag.nvec))
        self.action_space = action_space(self.dag.num_actions)
        self.backward_action_space = action_space(self.dag.num_backward_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go to s0, or to `options["state"]`; return the observation and info.

        Raises `ValueError` for any other option and for a state of the wrong shape, type or range.
        """
        super().reset(seed=seed)
        for name in options or ():
            choose("reset option", name, {"state": None})
        if options and "state" in options:
            self._walk.place(_ALL, start_states(self.dag, options["state"], 1))
        else:
            self._walk.restart(_ALL)
        return self._walk.observations()[0], self._info(~_ALL)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Follow a forward action. Raises `ValueError` if it lies outside `action_space`."""
        return self._result(*self._walk.step(_checked(action, self.dag.num_actions), _ALL))

    def step_backward(self, backward_action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Undo one step by a backward action; return what `step` returns. The walk terminates at s0."""
        return self._result(*self._walk.step_backward(_checked(backward_action, self.dag.num_backward_actions), _ALL))

    def _result(
        self, rewards: np.ndarray, terminated: np.ndarray, invalid: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        truncated = bool(self._walk.elapsed[0] >= self.step_limit)
        return self._walk.observations()[0], float(rewards[0]), bool(terminated[0]), truncated, self._info(invalid)

    def _info(self, invalid: np.ndarray) -> dict[str, Any]:
        return {name: rows[0] for name, rows in self._walk.infos(invalid).items()}

    def action_masks(self) -> np.ndarray:
        """Return bool `[num_actions]`, True where legal (sb3-contrib's MaskablePPO calls it by this name)."""
        return self._walk.action_masks()[0]

    def backward_action_masks(self) -> np.ndarray:
        """Return bool `[num_backward_actions]`, True where legal."""
        return self._walk.backward_action_masks()[0]

    def render(self) -> Any:
        """Return the path since the last reset as text or as an image, by `render_mode`."""
        if self.render_mode is None:
            logger.warn("render() without a render_mode does nothing; pass render_mode='rgb_array' or 'ansi'.")
            return None
        return self._walk.render(self.render_mode)[0]


def _checked(action: Any, num_actions: int) -> np.ndarray:
    """Return `action` as int64 `[1]`, or raise `ValueError` unless it is an integer in `0 .. num_actions - 1`."""
    try:
        index = operator.index(action)
    except TypeError:
        index = -1
    if not 0 <= index < num_actions:
        raise ValueError(f"An action must be an integer in 0 .. {num_actions - 1}, got {action!r}.")
    return np.array([index])
