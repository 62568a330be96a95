"""An adapter from the native vector environment to Stable-Baselines3 (Raffin et al. 2021, JMLR 22(268)), with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from gfn_envs.vector import DAGVectorEnv, Step


class ToSB3VecEnv(VecEnv):
    """`DAGVectorEnv` with the interface of SB3; each row does what it would in SB3's `DummyVecEnv` of our environments.

    `env_method` and `get_attr` reach a row's `action_masks()` and `backward_action_masks()`, and what the rows share:
    `dag`, `step_limit`, `render_mode`, the spaces. MaskablePPO calls `env_method("action_masks")`.

    `native_step` is what the native environment last returned, as arrays, for callers that count over all rows.

    Args:
        env: its `autoreset_mode` must be `AutoresetMode.SAME_STEP`, the mode that SB3 uses.
    """

    native_step: Step

    def __init__(self, env: DAGVectorEnv) -> None:
        if env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                'SB3 wants finished rows reset in the same step: gym.make_vec(id, ..., autoreset_mode="SameStep"); '
                f"this environment has {env.autoreset_mode}."
            )
        self.env = env
        self._rows = [_Row(self, row) for row in range(env.num_envs)]
        self.masks = env.action_masks()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        # SB3 keeps options by row. All rows are reset in one call, then each row that has a start of its own.
        states = [options.get("state") for options in self._options]
        for options in self._options:
            if unknown := set(options) - {"state"}:
                raise ValueError(f"the only reset option is 'state', got {sorted(unknown)}.")
        observations, infos = self.env.reset(seed=self._seeds)
        for row, state in enumerate(states):
            if state is not None:
                mask = np.arange(self.num_envs) == row
                observations, infos = self.env.reset(options={"state": state, "reset_mask": mask})
        self.reset_infos = _split(infos, range(self.num_envs))
        self.masks = self.env.action_masks()
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        self.native_step = observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        self.masks = self.env.action_masks()
        done = terminated | truncated
        rows = _split(infos, range(self.num_envs))
        for info in rows:
            info["TimeLimit.truncated"] = False
        if done.any():
            for row in np.flatnonzero(done).tolist():
                self.reset_infos[row] = rows[row]
                self.reset_infos[row].pop("TimeLimit.truncated")
                (rows[row],) = _split(infos["final_info"], [row])
                rows[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
                rows[row]["terminal_observation"] = infos["final_obs"][row]
        # SB3's own vector environments return float32 rewards.
        return observations, rewards.astype(np.float32), done, rows

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self._rows[row], attr_name) for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError(f"rows of one native environment share {attr_name}: give it when you make the env.")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return [method(*method_args, **method_kwargs) for method in self.get_attr(method_name, indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class _Row:
    """One row of the native environment, with the attributes that SB3 reads from single environments."""

    def __init__(self, owner: ToSB3VecEnv, row: int) -> None:
        self._owner, self._row = owner, row
        self.observation_space = owner.env.single_observation_space
        self.action_space = owner.env.single_action_space
        self.dag, self.step_limit, self.render_mode = owner.env.dag, owner.env.step_limit, owner.env.render_mode
        self.spec = owner.env.spec

    def action_masks(self) -> np.ndarray:
        return self._owner.masks[self._row]

    def backward_action_masks(self) -> np.ndarray:
        return self._owner.env.backward_action_masks()[self._row]


def _split(infos: dict[str, Any], rows: Sequence[int]) -> list[dict[str, Any]]:
    """Split Gymnasium's dictionary of arrays into one dictionary for each of `rows`, without the masks `_key`."""
    named = [(k, v) for k, v in infos.items() if not k.startswith("_") and not k.startswith("final_")]
    return [{name: values[row] for name, values in named} for row in rows]
