"""Wrappers: the walk backwards, and the mask as a part of the observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import DTypeLike

from gfn_envs._walkers import start_states
from gfn_envs.env import DAGEnv

Info = dict[str, Any]
MaskedObservation = dict[str, np.ndarray]


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


@overload
def MaskInObservation(
    env: gymnasium.Env,
    observation: str = ...,
    mask: str = ...,
    dtype: DTypeLike = ...,
    flatten: bool = ...,
) -> SingleMaskInObservation: ...


@overload
def MaskInObservation(
    env: VectorEnv,
    observation: str = ...,
    mask: str = ...,
    dtype: DTypeLike = ...,
    flatten: bool = ...,
) -> VectorMaskInObservation: ...


def MaskInObservation(  # noqa: N802  (used as other wrappers are)
    env: gymnasium.Env | VectorEnv,
    observation: str = "observation",
    mask: str = "action_mask",
    dtype: DTypeLike = np.int8,
    flatten: bool = False,
) -> SingleMaskInObservation | VectorMaskInObservation:
    """Put `info["action_mask"]` into the observation, for libraries that look for the mask there.

    Observation: `Dict` of the environment's own observation and of the mask, `[num_actions]`, 1 = legal. In a vector
    environment both have a leading axis of `num_envs`, and `final_obs` is a dictionary of such arrays, zero in rows
    that `_final_obs` excludes. Actions, rewards and info stay as they are.

    Args:
        env: a single or a vector environment with a Discrete action space and `info["action_mask"]`.
        observation, mask: names of the two parts.
        dtype: type of the mask, and of the observation if it is flattened: an integer, a float or bool.
        flatten: encode an observation of integers, `MultiDiscrete`, as a one-hot vector `[sum of nvec]`.

    Raises `ValueError` for an environment or names that do not fit.
    """
    if isinstance(env, VectorEnv):
        return VectorMaskInObservation(env, observation, mask, dtype, flatten)
    return SingleMaskInObservation(env, observation, mask, dtype, flatten)


class SingleMaskInObservation(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """What `MaskInObservation` returns for a single environment."""

    def __init__(self, env: gymnasium.Env, observation: str, mask: str, dtype: DTypeLike, flatten: bool) -> None:
        RecordConstructorArgs.__init__(
            self, observation=observation, mask=mask, dtype=np.dtype(dtype).name, flatten=flatten
        )
        super().__init__(env)
        self._parts = _Parts(env.observation_space, env.action_space, observation, mask, dtype, flatten)
        self.observation_space = self._parts.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[MaskedObservation, Info]:
        """Reset the environment; return the observation with its mask, and info."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._parts.join(observation, _mask_of(info)), info

    def step(self, action: Any) -> tuple[MaskedObservation, Any, bool, bool, Info]:
        """Follow `action`; return what the environment does, with the mask in the observation."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._parts.join(observation, _mask_of(info)), reward, terminated, truncated, info


class VectorMaskInObservation(VectorWrapper):
    """What `MaskInObservation` returns for a vector environment."""

    def __init__(self, env: VectorEnv, observation: str, mask: str, dtype: DTypeLike, flatten: bool) -> None:
        super().__init__(env)
        single = (env.single_observation_space, env.single_action_space)
        self._parts = _Parts(*single, observation, mask, dtype, flatten)
        self.single_observation_space = self._parts.space
        self.observation_space = batch_space(self._parts.space, env.num_envs)
        # Gymnasium's wrappers have it in their metadata alone; TorchRL reads this attribute.
        self.autoreset_mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[MaskedObservation, Info]:
        """Reset the environments; return observations with masks, and infos."""
        seeds: Any = seed  # the vector environments take a sequence, whatever their base class says
        observations, infos = self.env.reset(seed=seeds, options=options)
        masks, given = _mask_of(infos), infos.get("_action_mask", np.True_)
        # After a reset of some rows, a loop over single environments reports these rows alone.
        self._masks = masks if np.all(given) else np.where(given[:, None], masks, self._masks)
        return self._parts.join(observations, self._masks), infos

    def step(self, actions: Any) -> tuple[MaskedObservation, Any, Any, Any, Info]:
        """Follow `actions`; return what the environments do, with the masks in the observations."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._masks = _mask_of(infos)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": self._final(infos)}
        return self._parts.join(observations, self._masks), rewards, terminated, truncated, infos

    def _final(self, infos: Info) -> MaskedObservation:
        rows = infos["_final_obs"]
        final = np.stack(list(infos["final_obs"][rows]))  # of a loop over single environments, it holds objects
        parts = self._parts.join(final, _mask_of(infos["final_info"])[rows])
        whole = {name: np.zeros((len(rows), *part.shape[1:]), part.dtype) for name, part in parts.items()}
        for name, part in parts.items():
            whole[name][rows] = part
        return whole


class _Parts:
    """Makes one observation, or a batch of them, out of two parts."""

    def __init__(
        self,
        observations: spaces.Space,
        actions: spaces.Space,
        observation: str,
        mask: str,
        dtype: DTypeLike,
        flatten: bool,
    ) -> None:
        if observation == mask:
            raise ValueError(f"The observation and the mask need two names, got {mask!r} for both.")
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"MaskInObservation needs a Discrete action space, got {actions}.")
        self._names, self._dtype, self._offsets = (observation, mask), np.dtype(dtype), None
        if flatten:
            if not (isinstance(observations, spaces.MultiDiscrete) and observations.nvec.ndim == 1):
                raise ValueError(f"flatten=True needs a MultiDiscrete observation space with one axis: {observations}.")
            self._offsets = np.cumsum(observations.nvec) - observations.nvec - observations.start
            self._width = int(observations.nvec.sum())
            observations = self._zero_to_one(self._width)
        self.space = spaces.Dict({observation: observations, mask: self._zero_to_one(int(actions.n))})

    def _zero_to_one(self, size: int) -> spaces.Box:
        return spaces.Box(0, 1, (size,), self._dtype.type)

    def join(self, observations: np.ndarray, masks: np.ndarray) -> MaskedObservation:
        """Return the observation for `observations [..., d]` and `masks [..., num_actions]`."""
        if self._offsets is not None:
            flat = np.zeros((*observations.shape[:-1], self._width), self._dtype)
            np.put_along_axis(flat, observations + self._offsets, 1, axis=-1)
            observations = flat
        return dict(zip(self._names, (observations, masks.astype(self._dtype)), strict=True))


def _mask_of(info: Info) -> np.ndarray:
    if "action_mask" not in info:
        raise ValueError("MaskInObservation needs info['action_mask'] at reset and at every step.")
    return info["action_mask"]
