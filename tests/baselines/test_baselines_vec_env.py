"""SB3's view of the native vector environment does what SB3's own DummyVecEnv of single environments does."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import gfn_envs
from baselines.vec_env import ToSB3VecEnv

GRID = {"env_id": "gfn/Hypergrid-v0", "dim": 2, "side": 4}


def native(env_id, num_envs=3, **kwargs):
    return ToSB3VecEnv(gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs))


def dummy(env_id, num_envs=3, **kwargs):
    return DummyVecEnv([lambda: gym.make(env_id, **kwargs) for _ in range(num_envs)])


def assert_equal(a, b):
    """Compare observations, rewards, infos: values, types and keys."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        if np.asarray(a).dtype.kind == "f":  # a network's reward is rounded by the size of its batch
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("reward_mode", ["log_reward", "reward", "soft"])
@pytest.mark.parametrize(
    ("env_id", "size"), [*((name, {}) for name in gfn_envs.registered()), ("gfn/Hypergrid-v0", {"dim": 2, "side": 3})]
)
def test_transitions_are_those_of_dummy_vec_env(env_id, size, reward_mode):
    kwargs = {"reward_mode": reward_mode, "step_limit": 4, **size}  # short: episodes are cut off, too
    ours, theirs = native(env_id, **kwargs), dummy(env_id, **kwargs)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    random = np.random.default_rng(0)
    ours.action_space.seed(0)
    for env in (ours, theirs):
        env.seed(5)
    assert_equal(ours.reset(), theirs.reset())
    ends = {"terminated": 0, "truncated": 0, "invalid": 0}
    for step in range(60):
        assert_equal(ours.reset_infos, theirs.reset_infos)
        masks = get_action_masks(ours)
        assert_equal(masks, get_action_masks(theirs))
        legal = [random.choice(np.flatnonzero(mask)) for mask in masks]
        actions = np.array(legal if step % 4 else [ours.action_space.sample() for _ in range(3)])
        if step % 7 == 0:
            actions[:] = [np.flatnonzero(mask)[-1] for mask in masks]  # where there is a stop action, it is the last
        one, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
        for done, info in zip(one[2], one[3], strict=True):
            ends["truncated"] += info["TimeLimit.truncated"]
            ends["terminated"] += done and not info["TimeLimit.truncated"]
            ends["invalid"] += bool(info["invalid_action"])
    assert ends["truncated"] > 0
    if size:
        assert min(ends.values()) > 0


def test_a_start_state_is_taken_and_used_once():
    ours, theirs = native(**GRID), dummy(**GRID)
    for env in (ours, theirs):
        env.set_options([{"state": [1, 2, 0]}, {}, {"state": [3, 3, 0]}])
    assert_equal(ours.reset(), theirs.reset())
    assert_equal(get_action_masks(ours), get_action_masks(theirs))
    assert_equal(ours.reset(), theirs.reset())
    ours.set_options({"start": [0, 0, 0]})
    with pytest.raises(ValueError, match="only reset option is 'state'"):
        ours.reset()


def trained(env):
    model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=24, n_epochs=2, seed=3, device="cpu")
    return model.learn(400).policy.state_dict()


def test_maskable_ppo_learns_the_same_weights_through_both():
    kwargs = {**GRID, "reward_mode": "soft", "invalid_action": "raise"}
    ours, theirs, other = trained(native(**kwargs)), trained(dummy(**kwargs)), trained(native(num_envs=2, **kwargs))
    for name in theirs:
        assert torch.equal(ours[name], theirs[name])
    assert not all(torch.equal(ours[name], other[name]) for name in theirs)


def test_dqn_replays_the_same_transitions_through_both():
    buffers = []
    for env in (native(**GRID, step_limit=6), dummy(**GRID, step_limit=6)):
        model = DQN("MlpPolicy", env, learning_starts=60, batch_size=8, buffer_size=300, seed=1, device="cpu")
        buffers.append(model.learn(240).replay_buffer)
    ours, theirs = buffers
    assert ours.timeouts.any()
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_monitoring_and_maskable_evaluation_work_through_the_adapter(tmp_path):
    kwargs = {**GRID, "invalid_action": "raise"}
    env, for_evaluation = VecMonitor(native(**kwargs)), VecMonitor(native(num_envs=1, **kwargs))
    assert is_masking_supported(env)
    model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=24, n_epochs=1, seed=0, device="cpu")
    callback = MaskableEvalCallback(
        for_evaluation, eval_freq=20, n_eval_episodes=2, log_path=str(tmp_path), best_model_save_path=str(tmp_path),
        verbose=0,
    )  # fmt: skip
    model.learn(300, callback=callback)
    mean, _ = evaluate_policy(model, for_evaluation, n_eval_episodes=3, deterministic=True)
    greedy = MaskablePPO.load(tmp_path / "best_model.zip")
    assert np.isfinite(mean)
    assert callback.best_mean_reward == pytest.approx(evaluate_policy(greedy, for_evaluation, 1)[0])
    assert len(model.ep_info_buffer) > 0


def test_rows_show_what_they_share_and_refuse_to_be_set():
    env = native(**GRID, render_mode="rgb_array")
    env.reset()
    assert env.get_attr("step_limit", indices=[0, 2]) == [70, 70]
    assert env.render_mode == "rgb_array"
    assert [frame.shape for frame in env.get_images()] == [(400, 400, 3)] * 3
    backward = dummy(**GRID)
    backward.reset()
    assert_equal(env.env_method("backward_action_masks"), backward.env_method("backward_action_masks"))
    assert not env.has_attr("no_such_thing")
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 3
    with pytest.raises(NotImplementedError, match="share step_limit"):
        env.set_attr("step_limit", 3)


def test_another_autoreset_mode_is_refused():
    with pytest.raises(ValueError, match="SameStep"):
        ToSB3VecEnv(gym.make_vec("gfn/Hypergrid-v0", num_envs=2))
