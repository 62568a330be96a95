"""Stable-Baselines3 and sb3-contrib run on every id."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env

import gfn_envs

IDS = gfn_envs.registered()


@pytest.mark.parametrize("reward_mode", ["log_reward", "reward", "soft"])
@pytest.mark.parametrize("env_id", IDS)
def test_sb3_checker_has_no_complaint(env_id, reward_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, reward_mode=reward_mode), skip_render_check=True)
        check_env(gfn_envs.BackwardWalk(gym.make(env_id, reward_mode=reward_mode)))


@pytest.mark.parametrize("env_id", IDS)
def test_maskable_ppo_learns_without_an_invalid_action(env_id):
    # "raise" turns an ignored mask into an error.
    env = gym.make(env_id, invalid_action="raise")
    model = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(256)
    assert model.num_timesteps >= 256
    obs, _ = env.reset()
    masks = get_action_masks(env)
    action, _ = model.predict(obs, action_masks=masks)
    assert masks[int(action)]
    for parameter in model.policy.parameters():
        assert np.isfinite(parameter.detach().numpy()).all()


@pytest.mark.parametrize("env_id", IDS)
def test_dqn_learns_without_masks(env_id):
    env = gym.make(env_id)
    model = DQN("MlpPolicy", env, learning_starts=50, batch_size=16, buffer_size=500, seed=0, device="cpu")
    model.learn(300)
    assert model.num_timesteps == 300
    action, _ = model.predict(env.reset()[0])
    assert env.action_space.contains(action.item())


def test_maskable_ppo_learns_a_backward_walk():
    env = gfn_envs.BackwardWalk(gym.make("gfn/Hypergrid-v0", dim=2, side=4, reward_mode="soft", invalid_action="raise"))
    model = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    assert model.num_timesteps >= 128
