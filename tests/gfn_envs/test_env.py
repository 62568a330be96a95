"""The single Gymnasium environment and the backward walk."""

import itertools
import math
import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import gfn_envs
from gfn_envs import BackwardWalk, Hypergrid
from gfn_envs.env import DAGEnv

IDS = gfn_envs.registered()
STOP = 2


def small(**kwargs):
    """A 2-dimensional grid of side 3: actions 0 and 1 go up an axis, 2 stops."""
    return gym.make("gfn/Hypergrid-v0", dim=2, side=3, **kwargs)


class UserDAG(Hypergrid):
    """A user's environment whose reward is broken in one cell."""

    def __init__(self, value: float, device: str = "cpu") -> None:
        super().__init__(dim=1, side=2, device=device)
        self.value = value

    def log_reward(self, states):
        return torch.full((len(states),), self.value)


def test_import_loads_neither_torch_nor_rdkit():
    code = "import sys, gfn_envs; sys.exit(bool({'torch', 'rdkit'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_id_with_module_prefix_needs_no_import():
    code = "import gymnasium; gymnasium.make('gfn_envs:gfn/Hypergrid-v0', dim=2, side=3).reset()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_checker_has_no_complaint(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_sizes_of_spaces_are_python_integers(env_id):
    env, vector = gym.make(env_id).unwrapped, gym.make_vec(env_id, num_envs=2).unwrapped
    sizes = [env.action_space.n, env.backward_action_space.n, vector.single_action_space.n]
    sizes += [size for space in (env.observation_space, vector.observation_space) for size in space.shape]
    assert {type(size) for size in sizes} == {int}
    assert gym.spaces.MultiBinary(env.action_space.n).shape == (env.dag.num_actions,)


@pytest.mark.parametrize("env_id", IDS)
def test_masked_random_play_completes_an_object_within_max_steps(env_id):
    env = gym.make(env_id)
    env.action_space.seed(0)
    for _ in range(3):
        obs, info = env.reset(seed=0)
        done, steps = False, 0
        while not done:
            assert obs in env.observation_space
            action = env.action_space.sample(mask=info["action_mask"])
            obs, reward, terminated, truncated, info = env.step(action)
            assert not info["invalid_action"]
            done, steps = terminated or truncated, steps + 1
        assert terminated
        assert not truncated
        assert steps <= env.unwrapped.dag.max_steps
        assert reward == info["log_reward"]


@pytest.mark.parametrize("env_id", IDS)
def test_info_has_the_same_typed_keys_at_reset_and_at_every_step(env_id):
    env = gym.make(env_id).unwrapped
    env.action_space.seed(1)
    _, info = env.reset(seed=0)
    done = False
    while not done:
        assert list(info) == ["action_mask", "backward_action_mask", "log_reward", "invalid_action"]
        assert info["action_mask"].dtype == info["backward_action_mask"].dtype == np.int8
        assert info["action_mask"].shape == (env.action_space.n,)
        assert info["backward_action_mask"].shape == (env.backward_action_space.n,)
        assert type(info["log_reward"]) is np.float64
        assert info["log_reward"] == 0.0
        assert type(info["invalid_action"]) is np.bool_
        assert (env.action_masks() == info["action_mask"]).all()
        assert (env.backward_action_masks() == info["backward_action_mask"]).all()
        assert env.action_masks().dtype == env.backward_action_masks().dtype == bool
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample(mask=info["action_mask"]))
        assert (type(reward), type(terminated), type(truncated), obs.dtype) == (float, bool, bool, np.int64)
        done = terminated
    assert math.isfinite(info["log_reward"])
    assert info["log_reward"] != 0.0


def test_returned_arrays_are_never_shared_with_the_environment_or_with_earlier_ones():
    env = small().unwrapped
    results = [env.reset(), *(env.step(action)[::4] for action in (0, 1, 1, 1, STOP)), env.reset()]
    arrays = [a for obs, info in results for a in (obs, info["action_mask"], info["backward_action_mask"])]
    arrays += [env.action_masks(), env.action_masks(), env.backward_action_masks(), env.backward_action_masks()]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))
    for array in arrays:
        array[...] = 1
    obs, _, _, _, info = env.step(0)
    assert obs.tolist() == [1, 0, 0]
    assert info["action_mask"].tolist() == [1, 1, 1]
    assert info["backward_action_mask"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("mode", "at_end"), [("log_reward", math.log), ("reward", float)])
def test_object_rewards_come_at_the_end_only(mode, at_end):
    env = small(reward_mode=mode, R0=0.25, R1=0.5, R2=2.0)
    env.reset()
    rewards = [env.step(action)[1] for action in (0, 0, STOP)]
    assert rewards == [0.0, 0.0, pytest.approx(at_end(0.75), rel=1e-6)]


def test_soft_rewards_of_an_object_sum_to_its_reward_over_all_trajectories():
    env = small(reward_mode="soft", R0=0.25)
    total: dict[tuple[int, ...], float] = {}
    for cells in itertools.chain.from_iterable(itertools.product((0, 1), repeat=n) for n in range(5)):
        env.reset()
        steps = [env.step(action) for action in (*cells, STOP)]
        if any(info["invalid_action"] for *_, info in steps):
            continue
        weight = math.exp(sum(reward for _, reward, *_ in steps))
        total[tuple(steps[-1][0])] = total.get(tuple(steps[-1][0]), 0.0) + weight
    dag = env.unwrapped.dag
    assert len(total) == 9
    for state, weight in total.items():
        assert weight == pytest.approx(dag.log_reward(torch.tensor([state])).exp().item(), rel=1e-5)


def test_soft_reward_of_an_edge_is_minus_log_of_the_number_of_parents_both_ways():
    env = small(reward_mode="soft").unwrapped
    env.reset()
    assert [env.step(action)[1] for action in (0, 1)] == [0.0, pytest.approx(-math.log(2))]
    assert [env.step_backward(action)[1] for action in (0, 1)] == [pytest.approx(-math.log(2)), 0.0]


@pytest.mark.parametrize("env_id", IDS)
def test_step_backward_leads_from_an_object_to_the_initial_state(env_id):
    env = gym.make(env_id).unwrapped
    env.action_space.seed(2)
    env.backward_action_space.seed(2)
    start, info = env.reset()
    terminated = False
    while not terminated:
        obs, _, terminated, _, info = env.step(env.action_space.sample(mask=info["action_mask"]))
    rewards = []
    terminated = False
    while not terminated:
        backward_action = env.backward_action_space.sample(mask=info["backward_action_mask"])
        obs, reward, terminated, truncated, info = env.step_backward(backward_action)
        rewards.append(reward)
        assert not truncated
        assert not info["invalid_action"]
    assert (obs == start).all()
    assert set(rewards) == {0.0}
    with pytest.raises(ResetNeeded, match="s0"):
        env.step_backward(0)


def test_masks_are_all_ones_where_nothing_is_legal():
    env = small().unwrapped
    _, info = env.reset()
    assert info["backward_action_mask"].tolist() == [1, 1, 1]
    *_, info = env.step(STOP)
    assert info["action_mask"].tolist() == [1, 1, 1]
    assert env.action_masks().all()
    assert info["backward_action_mask"].tolist() == [0, 0, 1]


def test_invalid_noop_changes_nothing_and_pays_nothing():
    env = small(reward_mode="soft").unwrapped
    env.reset(options={"state": [2, 1, 0]})
    obs, reward, terminated, truncated, info = env.step(0)
    assert (obs.tolist(), reward, terminated, truncated) == ([2, 1, 0], 0.0, False, False)
    assert info["invalid_action"]
    assert info["log_reward"] == 0.0
    obs, reward, terminated, truncated, info = env.step_backward(STOP)
    assert (obs.tolist(), reward, terminated, truncated) == ([2, 1, 0], 0.0, False, False)
    assert info["invalid_action"]
    *_, info = env.step(1)
    assert not info["invalid_action"]


def test_invalid_terminate_ends_the_episode():
    env = small(invalid_action="terminate").unwrapped
    env.reset(options={"state": [2, 1, 0]})
    obs, reward, terminated, truncated, info = env.step(0)
    assert (obs.tolist(), reward, terminated, truncated) == ([2, 1, 0], 0.0, True, False)
    assert info["invalid_action"]
    with pytest.raises(ResetNeeded, match="invalid action"):
        env.step(1)
    env.reset()
    assert env.step(1)[0].tolist() == [0, 1, 0]


def test_invalid_raise_names_the_state_and_the_legal_actions_and_keeps_the_state():
    env = small(invalid_action="raise").unwrapped
    env.reset(options={"state": [2, 1, 0]})
    with pytest.raises(ValueError, match=r"Action 0 is invalid in state \[2, 1, 0\].*legal are \[1, 2\]"):
        env.step(0)
    assert env.step(1)[0].tolist() == [2, 2, 0]


@pytest.mark.parametrize("action", [-1, 3, 1.0, "0", None, [1, 2], np.float32(1)])
def test_action_outside_the_space_is_an_error(action):
    env = small().unwrapped
    env.reset()
    for step in (env.step, env.step_backward):
        with pytest.raises(ValueError, match=r"integer in 0 \.\. 2"):
            step(action)
    assert env.step(np.int32(1))[0].tolist() == [0, 1, 0]


def test_step_needs_a_reset_before_the_first_and_after_the_last():
    env = small().unwrapped
    for step in (env.step, env.step_backward):
        with pytest.raises(ResetNeeded, match="reset"):
            step(0)
    env.reset()
    env.step(STOP)
    with pytest.raises(ResetNeeded, match="complete"):
        env.step(0)


def steps_until_truncated(env, step=None):
    """Give invalid actions only."""
    env.reset(options={"state": [2, 0, 0]})
    for count in range(1, 1000):
        if (step or env.step)(0)[3]:
            return count


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 50),
        ({"max_episode_steps": -1}, 50),
        ({"max_episode_steps": 7}, 7),
        ({"step_limit": 120}, 120),
        ({"step_limit": 120, "max_episode_steps": 60}, 60),
    ],
)
def test_episodes_of_invalid_actions_end_at_the_first_limit(limits, expected):
    env = small(**limits)
    assert steps_until_truncated(env) == expected
    assert steps_until_truncated(env) == expected


def test_own_limit_holds_without_a_wrapper_and_for_backward_steps():
    env = small().unwrapped
    assert steps_until_truncated(env) == 50
    assert steps_until_truncated(env, lambda _: env.step_backward(STOP)) == 50


def test_reset_starts_at_the_given_state():
    env = small().unwrapped
    obs, info = env.reset(options={"state": np.array([1, 2, 0])})
    assert obs.tolist() == [1, 2, 0]
    assert info["action_mask"].tolist() == [1, 0, 1]
    assert env.reset()[0].tolist() == [0, 0, 0]


def test_terminal_start_is_for_step_backward_alone():
    env = small().unwrapped
    _, info = env.reset(options={"state": [1, 2, 1]})
    expected = env.dag.log_reward(torch.tensor([[1, 2, 1]])).item()
    assert info["log_reward"] == expected
    with pytest.raises(ResetNeeded, match="complete"):
        env.step(0)
    assert env.step_backward(STOP)[0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("state", [[1, 2], [1, 3, 0], [-1, 0, 0], [0.0, 0.0, 0.0], [[1, 2, 0], [1, 2, 0]], "s0"])
def test_bad_start_is_an_error(state):
    with pytest.raises(ValueError, match="state"):
        small().unwrapped.reset(options={"state": state})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward_mode": "log_rewards"}, "closest first: log_reward"),
        ({"invalid_action": "raises"}, "closest first: raise"),
        ({"reward": "hrad"}, "closest first: hard"),
    ],
)
def test_unknown_value_lists_the_known_ones(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


def test_unknown_keyword_is_a_type_error_in_the_words_of_python():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'rewrd'\. Known, closest first: reward"):
        small(rewrd="hard")


def test_unknown_render_mode_and_reset_option_list_the_known_ones():
    with pytest.raises(ValueError, match="closest first: ansi, rgb_array"):
        DAGEnv("gfn_envs.envs.hypergrid:Hypergrid", render_mode="ascii")
    with pytest.raises(ValueError, match="closest first: state"):
        small().unwrapped.reset(options={"stat": [0, 0, 0]})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_reward_that_is_not_finite_is_an_error_that_names_the_state(value):
    env = DAGEnv(f"{__name__}:UserDAG", value=value)
    env.reset()
    with pytest.raises(ValueError, match=r"UserDAG.log_reward is .* at state \[0, 1\]"):
        env.step(1)


@pytest.mark.parametrize("env_id", IDS)
def test_frames_show_the_path(env_id):
    text = gym.make(env_id, render_mode="ansi").unwrapped
    image = gym.make(env_id, render_mode="rgb_array").unwrapped
    frames = []
    for env in (text, image):
        _, info = env.reset()
        action = int(info["action_mask"].argmax())
        first = env.render()
        env.step(action)
        frames.append((first, env.render()))
    (before, after), (drawn, redrawn) = frames
    assert after.startswith(before + "\n")
    assert len(after.splitlines()) == 2
    assert drawn.dtype == np.uint8
    assert drawn.ndim == 3
    assert drawn.shape[2] == 3
    assert drawn.shape == redrawn.shape
    assert (drawn != redrawn).any()
    text.reset()
    assert text.render() == before


def test_render_without_a_mode_warns():
    env = small().unwrapped
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.parametrize("env_id", IDS)
def test_pickled_spec_makes_an_equal_environment(env_id):
    env = gym.make(env_id, reward_mode="soft", max_episode_steps=9)
    assert env.spec.id == env_id
    assert env.spec.max_episode_steps == 9
    again = gym.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.spec == env.spec
    assert again.observation_space == env.observation_space
    env.close()
    env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_backward_walk_satisfies_the_gymnasium_checker(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Said of every wrapper.
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(BackwardWalk(gym.make(env_id)))


@pytest.mark.parametrize("env_id", IDS)
def test_backward_walk_leads_from_a_seeded_object_to_the_initial_state(env_id):
    env = BackwardWalk(gym.make(env_id, reward_mode="soft"))
    start = env.unwrapped.reset()[0]
    obs, info = env.reset(seed=3)
    assert (obs == env.reset(seed=3)[0]).all()
    assert len({tuple(env.reset(seed=seed)[0]) for seed in range(8)}) > 1
    assert math.isfinite(info["log_reward"])
    obs, info = env.reset(seed=3)
    env.action_space.seed(0)
    assert env.action_space == env.unwrapped.backward_action_space
    done = False
    while not done:
        assert list(info) == ["action_mask", "log_reward", "invalid_action"]
        assert (env.action_masks() == info["action_mask"]).all()
        parents = info["action_mask"].sum()
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample(mask=info["action_mask"]))
        assert reward == pytest.approx(-math.log(parents))
        assert info["log_reward"] == 0.0
        done = terminated or truncated
    assert terminated
    assert (obs == start).all()
    assert env.action_masks().all()


def test_backward_walk_starts_where_told_and_only_at_objects():
    env = BackwardWalk(small())
    obs, info = env.reset(options={"state": [1, 2, 1]})
    assert obs.tolist() == [1, 2, 1]
    assert info["action_mask"].tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="terminal"):
        env.reset(options={"state": [1, 2, 0]})
    with pytest.raises(TypeError, match="gfn_envs"):
        BackwardWalk(gym.make("CartPole-v1"))


@pytest.mark.parametrize(
    ("inner", "outer", "expected"), [(None, None, 50), (7, None, 7), (90, None, 50), (None, 30, 30)]
)
def test_backward_walk_of_invalid_actions_ends(inner, outer, expected):
    env = BackwardWalk(small(max_episode_steps=inner))
    if outer:
        env = gym.wrappers.TimeLimit(env, outer)
    env.reset(options={"state": [1, 2, 1]})
    assert next(count for count in range(1, 1000) if env.step(0)[3]) == expected
