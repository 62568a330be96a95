"""The mask as a part of the observation, in single and vector environments."""

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import gfn_envs
from gfn_envs import BackwardWalk, MaskInObservation

IDS = gfn_envs.registered()
ROWS = 3
DTYPES = [np.int8, np.float32, bool]


def small(**kwargs):
    return gym.make("gfn/Hypergrid-v0", dim=2, side=3, **kwargs)


def vector(mode, kind=None, **kwargs):
    """Return a native vector environment, or with `kind` one of Gymnasium's around single environments."""
    if kind is None:
        return gym.make_vec("gfn/Hypergrid-v0", num_envs=ROWS, dim=2, side=3, autoreset_mode=mode, **kwargs)
    return gym.make_vec(
        "gfn/Hypergrid-v0",
        num_envs=ROWS,
        vectorization_mode=kind,
        vector_kwargs={"autoreset_mode": mode},
        dim=2,
        side=3,
        **kwargs,
    )


@pytest.mark.parametrize("env_id", IDS)
def test_observations_lie_in_the_space_and_hold_the_mask_of_info(env_id):
    env = MaskInObservation(gym.make(env_id), flatten=True)
    obs, info = env.reset(seed=0)
    env.action_space.seed(0)
    done = False
    while not done:
        assert env.observation_space.contains(obs)
        assert obs["action_mask"].tolist() == info["action_mask"].tolist()
        action = env.action_space.sample(mask=obs["action_mask"])
        obs, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    assert env.observation_space.contains(obs)
    assert obs["action_mask"].all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flatten", [False, True])
def test_gymnasium_checker_has_no_complaint(dtype, flatten):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")  # said of every wrapper
        check_env(MaskInObservation(small(), dtype=dtype, flatten=flatten))
        check_env(MaskInObservation(BackwardWalk(small()), dtype=dtype, flatten=flatten))


def test_names_types_and_one_hot_are_as_asked():
    env = MaskInObservation(small(), observation="obs", mask="mask", dtype=np.float32, flatten=True)
    env.reset()
    env.step(0)
    obs, *_ = env.step(1)
    assert {name: (value.dtype, value.tolist()) for name, value in obs.items()} == {
        "obs": (np.float32, [0, 1, 0, 0, 1, 0, 1, 0]),
        "mask": (np.float32, [1, 1, 1]),
    }
    assert env.observation_space["mask"].dtype == np.float32
    plain, _ = MaskInObservation(small()).reset()
    assert plain["observation"].tolist() == [0, 0, 0]
    assert (plain["observation"].dtype, plain["action_mask"].dtype) == (np.int64, np.int8)


@pytest.mark.parametrize("kind", [None, "sync"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("flatten", [False, True])
def test_a_vector_of_wrapped_and_a_wrapped_vector_agree(kind, mode, flatten):
    def wrap(env):
        return MaskInObservation(env, flatten=flatten)

    outer = wrap(vector(mode, kind))
    inner = vector(mode, "sync", wrappers=[wrap])
    assert outer.observation_space == inner.observation_space
    assert outer.single_observation_space == inner.single_observation_space
    assert outer.autoreset_mode is mode
    (obs, infos), (expected, _) = outer.reset(seed=0), inner.reset(seed=0)
    rng = np.random.default_rng(0)
    finals = 0
    for _ in range(30):
        assert outer.observation_space.contains(obs)
        assert {name: part.tolist() for name, part in obs.items()} == {k: v.tolist() for k, v in expected.items()}
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in obs["action_mask"]])
        obs, rewards, terminated, truncated, infos = outer.step(actions)
        expected, *others, inner_infos = inner.step(actions)
        assert [rewards.tolist(), terminated.tolist(), truncated.tolist()] == [each.tolist() for each in others]
        assert ("final_obs" in infos) == ("final_obs" in inner_infos)
        if "final_obs" in infos:
            for row in np.flatnonzero(infos["_final_obs"]):
                finals += 1
                for name, part in inner_infos["final_obs"][row].items():
                    assert infos["final_obs"][name][row].tolist() == part.tolist()
            assert not infos["final_obs"]["action_mask"][~infos["_final_obs"]].any()
        done = terminated | truncated
        if mode is AutoresetMode.DISABLED and done.any():
            obs, infos = outer.reset(options={"reset_mask": done})
            expected, _ = inner.reset(options={"reset_mask": done})
    assert (finals > 0) == (mode is AutoresetMode.SAME_STEP)


def test_made_again_from_its_pickled_spec():
    env = MaskInObservation(small(), mask="mask", dtype=np.float32, flatten=True)
    again = gym.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.observation_space == env.observation_space


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="two names, got 'x' for both"):
        MaskInObservation(small(), observation="x", mask="x")
    with pytest.raises(ValueError, match=r"flatten=True needs a MultiDiscrete observation space"):
        MaskInObservation(gym.make("CartPole-v1"), flatten=True)
    with pytest.raises(ValueError, match="needs a Discrete action space"):
        MaskInObservation(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="needs info\\['action_mask'\\]"):
        MaskInObservation(gym.make("CartPole-v1")).reset()
