"""The native vector environment, held against Gymnasium's loop over single ones."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

import gfn_envs
from gfn_envs import Hypergrid
from gfn_envs.vector import DAGVectorEnv

IDS = gfn_envs.registered()
MODES = list(AutoresetMode)
GRID = "gfn_envs.envs.hypergrid:Hypergrid"
STOP = 2


class UserDAG(Hypergrid):
    """A user's environment without a finite reward."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(dim=1, side=2, device=device)

    def log_reward(self, states):
        return torch.full((len(states),), math.nan)


def small(num_envs=3, **kwargs):
    """Grids of side 3: actions 0 and 1 go up an axis, 2 stops."""
    return DAGVectorEnv(GRID, num_envs=num_envs, dim=2, side=3, **kwargs)


def pair(env_id, num_envs, mode, **kwargs):
    """Return the native vector environment and Gymnasium's loop over the single one."""
    native = gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=mode, **kwargs)
    assert isinstance(native, DAGVectorEnv)
    sync = gym.make_vec(
        env_id, num_envs=num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **kwargs
    )
    return native, sync


def assert_same_infos(native, sync):
    """Assert that infos agree, nested ones too, in the rows that the loop over single ones fills."""
    assert set(native) == set(sync)
    for key, expected in sync.items():
        if isinstance(expected, dict):
            assert_same_infos(native[key], expected)
        elif key.startswith("_"):
            assert native[key].dtype == bool
            assert not (expected & ~native[key]).any()
        else:
            rows = np.flatnonzero(sync[f"_{key}"])
            assert native[key].dtype != object
            assert native[key][rows].tolist() == np.stack(list(expected[rows])).tolist()


def assert_agree(native, sync, num_steps):
    """Play random actions, legal and illegal; return how often rows terminated, truncated and were invalid."""
    rng = np.random.default_rng(0)
    (obs, infos), (expected_obs, expected_infos) = native.reset(seed=0), sync.reset(seed=0)
    counts = np.zeros(3, dtype=int)
    for _ in range(num_steps):
        assert obs.dtype == expected_obs.dtype == np.int64
        assert obs.tolist() == expected_obs.tolist()
        assert_same_infos(infos, expected_infos)
        actions = rng.integers(native.single_action_space.n, size=native.num_envs)
        obs, rewards, terminated, truncated, infos = native.step(actions)
        expected_obs, *expected, expected_infos = sync.step(actions)
        for ours, theirs in zip((rewards, terminated, truncated), expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.tolist() == theirs.tolist()
        final = infos.get("final_info", infos)
        counts += [terminated.sum(), truncated.sum(), (infos["invalid_action"] | final["invalid_action"]).sum()]
        done = terminated | truncated
        if native.autoreset_mode is AutoresetMode.DISABLED and done.any():
            obs, infos = native.reset(options={"reset_mask": done})
            expected_obs, expected_infos = sync.reset(options={"reset_mask": done})
    return counts


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("reward_mode", ["log_reward", "reward", "soft"])
@pytest.mark.parametrize("invalid_action", ["noop", "terminate"])
@pytest.mark.parametrize("mode", MODES)
def test_native_and_sync_vector_environments_agree(mode, invalid_action, reward_mode, limit):
    kwargs = {"dim": 2, "side": 2, "invalid_action": invalid_action, "reward_mode": reward_mode}
    native, sync = pair("gfn/Hypergrid-v0", 5, mode, max_episode_steps=limit, **kwargs)
    terminated, truncated, invalid = assert_agree(native, sync, 80)
    assert terminated > 10
    assert invalid > 10
    assert (truncated > 5) == (limit is not None)


@pytest.mark.parametrize("mode", MODES)
def test_native_and_sync_vector_environments_agree_past_the_own_limit(mode):
    for limits, expected in (({}, 20), ({"max_episode_steps": 25}, 20), ({"step_limit": 25}, 25)):
        native, sync = pair("gfn/Hypergrid-v0", 2, mode, dim=1, side=2, **limits)
        assert native.dag.max_steps == 2
        start = {"state": [1, 0]}
        native.reset(options=dict(start))
        sync.reset(options=dict(start))
        for step in range(1, expected + 1):
            results = native.step(np.zeros(2, dtype=int)), sync.step(np.zeros(2, dtype=int))
            assert [result[3].all() for result in results] == [step == expected] * 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", IDS)
def test_native_and_sync_vector_environments_agree_on_every_id(env_id, mode):
    native, sync = pair(env_id, 3, mode)
    assert_agree(native, sync, 60)
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(native, name) == getattr(sync, name)
    assert native.metadata == sync.metadata
    assert native.autoreset_mode is native.metadata["autoreset_mode"] is mode
    assert native.spec.id == env_id


def test_spawned_workers_agree_with_the_native_vector_environment():
    kwargs = {"dim": 2, "side": 3, "reward_mode": "soft"}
    native = gym.make_vec("gfn/Hypergrid-v0", num_envs=2, **kwargs)
    workers = gym.make_vec(
        "gfn_envs:gfn/Hypergrid-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        **kwargs,
    )
    try:
        assert_agree(native, workers, 20)
    finally:
        workers.close()


def test_final_obs_and_final_info_are_dense_and_hold_the_last_step():
    env = small(autoreset_mode="SameStep")
    env.reset(options={"state": [[2, 1, 0], [0, 1, 0], [0, 0, 0]]})
    *_, infos = env.step(np.array([0, STOP, 1]))
    assert "final_obs" in infos
    assert infos["final_obs"].dtype == np.int64
    assert infos["final_obs"].tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [False, True, False]
    assert infos["final_info"]["_log_reward"].tolist() == [False, True, False]
    assert infos["final_info"]["log_reward"][1] == env.dag.log_reward(torch.tensor([[0, 1, 1]])).item()
    assert infos["log_reward"].tolist() == [0.0, 0.0, 0.0]
    *_, infos = env.step(np.array([1, 0, 1]))
    assert "final_obs" not in infos


def test_partial_reset_keeps_the_other_rows_and_reports_full_masks():
    env = small(autoreset_mode=AutoresetMode.DISABLED)
    env.reset(options={"state": [2, 1, 0]})
    env.step(np.array([STOP, 1, 1]))
    options = {"reset_mask": np.array([False, True, False])}
    obs, infos = env.reset(options=options)
    assert options.keys() == {"reset_mask"}
    assert obs.tolist() == [[2, 1, 1], [0, 0, 0], [2, 2, 0]]
    assert infos["action_mask"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 1]]
    assert infos["backward_action_mask"].tolist() == [[0, 0, 1], [1, 1, 1], [1, 1, 0]]
    assert infos["log_reward"][0] != 0.0
    assert all(infos[f"_{key}"].all() for key in ("action_mask", "backward_action_mask", "log_reward"))
    assert (env.action_masks() == infos["action_mask"]).all()
    assert (env.backward_action_masks() == infos["backward_action_mask"]).all()


def test_finished_rows_need_a_reset_when_autoreset_is_disabled():
    env = small(autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.zeros(3, dtype=int))
    env.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(ResetNeeded, match="environment 2"):
        env.step(np.zeros(3, dtype=int))
    env.reset()
    env.step(np.array([0, STOP, 0]))
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        env.step(np.zeros(3, dtype=int))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(np.array([STOP, STOP, 0]))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    with pytest.raises(ResetNeeded, match=r"\[0\]"):
        env.step(np.zeros(3, dtype=int))
    env.reset(options={"state": [[1, 0, 0], [0, 0, 0], [1, 0, 0]]})
    assert env.step(np.array([0, 1, 1]))[0].tolist() == [[2, 0, 0], [0, 1, 0], [1, 1, 0]]


def test_invalid_raise_names_the_row_and_moves_nobody():
    env = small(invalid_action="raise")
    env.reset(options={"state": [[0, 0, 0], [0, 2, 0], [0, 0, 0]]})
    with pytest.raises(ValueError, match=r"Action 1 is invalid in state \[0, 2, 0\] of environment 1"):
        env.step(np.array([1, 1, 1]))
    assert env.step(np.array([1, 0, 1]))[0].tolist() == [[0, 1, 0], [1, 2, 0], [0, 1, 0]]


@pytest.mark.parametrize("actions", [[0, 3, 0], [0, -1, 0], [0, 0], [[0, 0, 0]], [0.0, 0.0, 0.0], 0])
def test_actions_outside_the_space_are_an_error(actions):
    env = small()
    env.reset()
    with pytest.raises(ValueError, match=r"ctions? must"):
        env.step(np.array(actions))


def test_actions_of_rows_that_reset_are_ignored():
    env = small(invalid_action="raise")
    env.reset()
    env.step(np.array([0, STOP, 0]))
    obs, rewards, terminated, _, infos = env.step(np.array([1, 99, 1]))
    assert obs.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert rewards.tolist() == [0.0, 0.0, 0.0]
    assert not terminated.any()
    assert not infos["invalid_action"].any()


def test_returned_arrays_are_never_shared_with_the_environment():
    env = small(autoreset_mode="SameStep")
    obs, infos = env.reset()
    obs[...] = infos["log_reward"][...] = infos["action_mask"][...] = 0.5
    obs, infos = env.reset()
    assert obs.tolist() == [[0, 0, 0]] * 3
    assert infos["log_reward"].tolist() == [0.0, 0.0, 0.0]
    assert infos["action_mask"].all()
    obs, rewards, terminated, truncated, infos = env.step(np.array([0, STOP, 0]))
    arrays = [obs, rewards, terminated, truncated, *infos.pop("final_info").values(), *infos.values()]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))
    for array in arrays:
        array[...] = 1
    obs, _, terminated, _, infos = env.step(np.array([1, 1, 0]))
    assert obs.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]
    assert infos["action_mask"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 1, 1]]
    assert not terminated.any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"autoreset_mode": "NextSteps"}, "closest first: NextStep"),
        ({"reward_mode": "rewards"}, "closest first: reward"),
        ({"invalid_action": "no-op"}, "closest first: noop"),
        ({"render_mode": "human"}, "Known, closest first"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer of at least 1"),
        ({"step_limit": 0}, "step_limit must be an integer of at least 1"),
        ({"num_envs": 0}, "num_envs must be an integer of at least 1"),
        ({"sides": 3}, "closest first: side"),
    ],
)
def test_bad_arguments_are_errors_that_name_the_good_ones(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {"reset_mask": np.zeros(3, dtype=bool)},
        {"reset_mask": np.ones(2, dtype=bool)},
        {"reset_mask": np.ones(3)},
        {"mask": np.ones(3, dtype=bool)},
        {"state": [0, 0]},
        {"state": [[0, 0, 0]] * 2},
        {"state": [9, 0, 0]},
    ],
)
def test_bad_reset_options_are_errors(options):
    with pytest.raises(ValueError, match="option"):
        small().reset(options=options)


def test_seeds_are_one_or_one_a_row():
    env = small()
    assert env.reset(seed=4)[0].tolist() == env.reset(seed=[1, 2, None])[0].tolist()
    env.reset(seed=4)
    assert env.np_random_seed == 4
    with pytest.raises(ValueError, match="length"):
        env.reset(seed=[1, 2])


def test_reward_that_is_not_finite_is_an_error():
    env = DAGVectorEnv(f"{__name__}:UserDAG", num_envs=2)
    env.reset()
    with pytest.raises(ValueError, match=r"log_reward is nan \(NaN\) at state \[0, 1\]"):
        env.step(np.array([0, 1]))


def test_frames_are_a_tuple_of_the_path_of_each_row():
    env = small(render_mode="ansi", autoreset_mode="SameStep")
    env.reset()
    env.step(np.array([0, 1, STOP]))
    frames = env.render()
    assert isinstance(frames, tuple)
    assert frames == ("(0, 0)\n(1, 0)", "(0, 0)\n(0, 1)", "(0, 0)")
    images = small(render_mode="rgb_array").render()
    assert [image.dtype for image in images] == [np.uint8] * 3
    assert {image.ndim for image in images} == {3}
