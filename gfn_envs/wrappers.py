"""Wrappers of the single environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs

from gfn_envs._walkers import start_states
from gfn_envs.env import DAGEnv

Info = dict[str, Any]


class BackwardWalk(gymnasium.Wrapper[np.ndarray, Any, np.ndarray, Any], RecordConstructorArgs):
    """Walk the DAG from a complete object back to s0, as an ordinary environment with the backward actions.

    Observation: the state, as in `DAGEnv`.
    Actions: `Discrete(dag.num_backward_actions)`, the DAG's backward actions.
    Info: the keys of `DAGEnv` without `backward_action_mask`. `action_mask` is int8 `[num_backward_actions]`, all ones
    at s0.
    Reward: that of `DAGEnv.step_backward`. With `reward_mode="soft"` every edge pays the log of the uniform backward
    policy; with the other modes the reward is 0.
    Termination: at s0.
    Truncation: after the wrapped environment's `step_limit`, or after `max_episode_steps` of its spec if that is less.
    Start: the terminal x of `reset(options={"state": x})`. Without that option, the start is the end of a forward walk
    of uniformly drawn legal actions, which `reset(seed=...)` seeds.

    Args:
        env: what `gymnasium.make` returns for one of our ids, or a `DAGEnv`. Steps go straight to the `DAGEnv`, past
            any wrappers inside `env`. So put wrappers that change observations or rewards around this one.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not isinstance(env.unwrapped, DAGEnv):
            raise TypeError(f"BackwardWalk wraps a gfn_envs environment, got {env}.")
        self._base = env.unwrapped
        self.action_space = self._base.backward_action_space
        if env.spec is not None and env.spec.max_episode_steps is not None:
            self._base.step_limit = min(self._base.step_limit, env.spec.max_episode_steps)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        """Go to a terminal state; return its observation and info. Raises `ValueError` for another given state."""
        self.env.reset(seed=seed)
        options = dict(options or {})
        if "state" not in options:
            options["state"] = self._random_object()
        dag = self._base.dag
        states = torch.from_numpy(start_states(dag, options["state"], 1)).to(dag.device)
        if not dag.is_terminal(states).all():
            raise ValueError(f"BackwardWalk starts at a terminal state, got {states[0].tolist()}.")
        observation, info = self.env.reset(options=options)
        return observation, _backward_info(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Undo one step by the backward action `action`."""
        observation, reward, terminated, truncated, info = self._base.step_backward(action)
        return observation, reward, terminated, truncated, _backward_info(info)

    def action_masks(self) -> np.ndarray:
        """Return bool `[num_backward_actions]`, True where legal; all True at s0."""
        return self._base.backward_action_masks()

    @torch.no_grad()
    def _random_object(self) -> np.ndarray:
        """Return the end of a forward walk of uniformly drawn legal actions, int64 `[state_dim]`."""
        dag = self._base.dag
        states = dag.reset(1)
        while (legal := np.flatnonzero(dag.action_mask(states)[0].cpu().numpy())).size:
            action = torch.tensor([self.np_random.choice(legal)], device=dag.device)
            states = dag.step(states, action)[0]
        return states[0].cpu().numpy()


def _backward_info(info: Info) -> Info:
    """Return `info` with the backward mask in place of the forward one."""
    mask = info["backward_action_mask"]
    return {**{name: value for name, value in info.items() if name != "backward_action_mask"}, "action_mask": mask}
