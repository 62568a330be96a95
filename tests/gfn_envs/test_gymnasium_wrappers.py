"""Gymnasium's own wrappers that can apply to integers and discrete actions do: an object is built inside each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.wrappers import vector

from gfn_envs import MaskInObservation

STOP = 2
TO_THE_PEAK = (0, 1)
REWARD = np.log(2.501)

SINGLE: dict[str, Callable[[gym.Env], gym.Env]] = {
    "AddRenderObservation": lambda env: wrappers.AddRenderObservation(env, render_only=False),
    "Autoreset": wrappers.Autoreset,
    "ClipReward": lambda env: wrappers.ClipReward(env, -9, 9),
    "DelayObservation": lambda env: wrappers.DelayObservation(env, delay=1),
    "DtypeObservation": lambda env: wrappers.DtypeObservation(env, np.int32),
    "FlattenObservation": wrappers.FlattenObservation,
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 2),
    "MaskInObservation, FilterObservation": lambda env: wrappers.FilterObservation(
        MaskInObservation(env), ["observation"]
    ),
    "MaskInObservation, FlattenObservation": lambda env: wrappers.FlattenObservation(MaskInObservation(env)),
    "NormalizeReward": wrappers.NormalizeReward,
    "OrderEnforcing": wrappers.OrderEnforcing,
    "PassiveEnvChecker": wrappers.PassiveEnvChecker,
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "TimeLimit, TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 20)),
    "TransformAction": lambda env: wrappers.TransformAction(env, lambda action: action, env.action_space),
    "TransformObservation": lambda env: wrappers.TransformObservation(
        env, lambda state: state[:2], spaces.MultiDiscrete([8, 8])
    ),
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: reward),
}
VECTOR: dict[str, Callable[[gym.vector.VectorEnv], gym.vector.VectorEnv]] = {
    "ClipReward": lambda env: vector.ClipReward(env, -9, 9),
    "DictInfoToList": vector.DictInfoToList,
    "DtypeObservation": lambda env: vector.DtypeObservation(env, np.int32),
    "FlattenObservation": vector.FlattenObservation,
    "MaskInObservation, FilterObservation": lambda env: vector.FilterObservation(
        MaskInObservation(env), ["observation"]
    ),
    "NormalizeReward": vector.NormalizeReward,
    "RecordEpisodeStatistics": vector.RecordEpisodeStatistics,
    "TransformReward": lambda env: vector.TransformReward(env, lambda reward: reward),
}


@pytest.mark.parametrize("name", SINGLE)
def test_an_object_is_built_inside_each_wrapper(name: str) -> None:
    env = gym.make("gfn/Hypergrid-v0", dim=2, side=8, render_mode="rgb_array", invalid_action="raise")
    env = SINGLE[name](env)
    obs, _ = env.reset(seed=0)
    for action in (*TO_THE_PEAK, STOP):
        assert env.observation_space.contains(obs)
        obs, reward, terminated, truncated, info = env.step(action)
        assert (bool(terminated), bool(truncated)) == (action == STOP, False)
    assert env.observation_space.contains(obs)
    assert ("episode" in info) == (name == "RecordEpisodeStatistics")
    assert float(reward) == pytest.approx(REWARD) or (name == "NormalizeReward" and reward > 0)


@pytest.mark.parametrize("name", VECTOR)
def test_objects_are_built_inside_each_vector_wrapper(name: str) -> None:
    env = VECTOR[name](gym.make_vec("gfn/Hypergrid-v0", num_envs=2, dim=2, side=8, invalid_action="raise"))
    obs, _ = env.reset(seed=0)
    for action in (*TO_THE_PEAK, STOP):
        assert env.observation_space.contains(obs)
        obs, rewards, terminated, _, infos = env.step(np.array([action, action]))
        assert [bool(end) for end in terminated] == [action == STOP] * 2
    assert isinstance(infos, list) == (name == "DictInfoToList")
    assert [float(reward) for reward in rewards] == pytest.approx([REWARD] * 2) or (
        name == "NormalizeReward" and (rewards > 0).all()
    )


def test_an_episode_is_recorded_as_a_video(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gym.make("gfn/Hypergrid-v0", dim=2, side=8, render_mode="rgb_array")
    env = wrappers.RecordVideo(env, str(tmp_path))
    env.reset()
    env.step(STOP)
    env.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]
