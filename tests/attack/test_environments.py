"""Environments under random and illegal actions, and `check_dag` under mutants of lawful environments."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from attack import SEED, number, some
from torch import Tensor
from toy_dags import Subsets

import gfn_envs
from gfn_envs import DAG, QM9, check_dag
from gfn_envs.guard import DAGLawError
from gfn_envs.reward_modes import REWARD_MODES

FULL = 1_000_000
ROWS = 512
MODES = ("NextStep", "SameStep", "Disabled")


def _actions(masks: np.ndarray, random: np.random.Generator, illegal: float) -> np.ndarray:
    """Return one action a row, uniform among the legal ones, or with probability `illegal` among all."""
    weights = np.where(masks.astype(bool), random.random(masks.shape), -1.0)
    any_action = random.integers(masks.shape[1], size=len(masks))
    return np.where(random.random(len(masks)) < illegal, any_action, weights.argmax(1))


@pytest.mark.parametrize("env", gfn_envs.registered())
def test_vectors_stay_within_their_spaces(env: str, record_property: Callable) -> None:
    random, steps = np.random.default_rng(SEED), 0
    total = number(FULL // len(gfn_envs.registered()))
    for turn, mode in enumerate(MODES):
        reward_mode = list(REWARD_MODES)[turn % len(REWARD_MODES)]
        invalid = ("noop", "terminate", "noop")[turn]
        envs: Any = gymnasium.make_vec(
            env, num_envs=ROWS, autoreset_mode=mode, reward_mode=reward_mode, invalid_action=invalid
        )
        _, infos = envs.reset(seed=SEED)
        last = np.zeros(ROWS, dtype=bool)
        while steps < total * (turn + 1) / len(MODES):
            if mode == "Disabled" and last.any():
                envs.reset(options={"reset_mask": last})
            masks = envs.action_masks()
            actions = _actions(masks, random, 0.2)
            obs, rewards, terminated, truncated, infos = envs.step(actions)
            assert envs.observation_space.contains(obs)
            assert np.isfinite(rewards).all()
            legal = masks[np.arange(ROWS), actions].astype(bool)
            skipped = last if mode == "NextStep" else np.zeros(ROWS, dtype=bool)
            told = infos["final_info"]["invalid_action"] if "final_info" in infos else infos["invalid_action"]
            done = terminated | truncated
            if mode != "SameStep":
                assert (infos["invalid_action"].astype(bool) == (~legal & ~skipped)).all()
            elif done.any():
                assert (np.asarray(told).astype(bool)[done] == ~legal[done]).all()
            last, steps = done, steps + ROWS
        envs.close()
    record_property("count", f"{steps:,} actions")


@pytest.mark.parametrize("env", gfn_envs.registered())
def test_vectors_that_raise_stay_as_they_were(env: str, record_property: Callable) -> None:
    random, refused, steps = np.random.default_rng(SEED), 0, 0
    envs: Any = gymnasium.make_vec(env, num_envs=8, autoreset_mode="SameStep", invalid_action="raise")
    envs.reset(seed=SEED)
    odd = [None, "a", [], np.zeros(7, int), np.full(8, -1), np.full(8, 10**9), np.full(8, 0.5), np.full(8, np.nan)]
    for turn in range(number(100) + len(odd)):
        masks = envs.action_masks()
        given = odd[turn] if turn < len(odd) else _actions(masks, random, 0.3)
        lawful = turn >= len(odd) and masks[np.arange(8), given].astype(bool).all()
        if not lawful:
            with pytest.raises((ValueError, TypeError, IndexError)):
                envs.step(given)
            assert (envs.action_masks() == masks).all()
            refused, given = refused + 1, _actions(masks, random, 0)
        obs, rewards, *_ = envs.step(given)
        assert envs.observation_space.contains(obs)
        assert np.isfinite(rewards).all()
        steps += 8
    envs.close()
    record_property("count", f"{refused} refused, {steps} actions")


@pytest.mark.parametrize("env", gfn_envs.registered())
def test_single_environments_answer_any_action(env: str, record_property: Callable) -> None:
    random, asked = np.random.default_rng(SEED), 0
    single: Any = gymnasium.make(env, invalid_action="noop").unwrapped
    odd = [-1, single.action_space.n, 1.5, None, "a", [0], np.array([0, 1]), 10**30, math.nan, True]
    for _ in range(number(100)):
        obs, info = single.reset(seed=int(random.integers(2**31)))
        done = False
        for _ in range(200):
            if done:
                break
            action = int(_actions(info["action_mask"][None], random, 0.2)[0])
            obs, reward, terminated, truncated, info = single.step(action)
            assert single.observation_space.contains(obs)
            assert math.isfinite(reward)
            done, asked = terminated or truncated, asked + 1
        while terminated and info["backward_action_mask"].any() and obs.any():
            back = int(_actions(info["backward_action_mask"][None], random, 0)[0])
            before = obs
            obs, *_, info = single.step_backward(back)
            asked += 1
            assert single.observation_space.contains(obs)
            if (obs == before).all() or (obs == single.dag.reset(1).numpy()[0]).all():
                break
    single.reset()
    for action in odd:
        with contextlib.suppress(ValueError, TypeError, OverflowError, gymnasium.error.Error):
            assert single.observation_space.contains(single.step(action)[0])
        asked += 1
    for options in ({"state": 1}, {"state": [-1]}, {"state": "x"}, {"nonsense": 1}, {"state": [[10**30]]}):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            single.reset(options=options)
    record_property("count", f"{asked:,} actions")


METHODS = ("reset", "step", "backward_step", "action_mask", "backward_action_mask", "log_reward", "is_terminal")
CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "inverted": lambda x: ~x if x.dtype == torch.bool else x + 1,
    "rolled": lambda x: x.roll(1, -1) if x.dtype == torch.bool else x - 1,
    "of another type": lambda x: x.double() if x.dtype != torch.float64 else x.float(),
    "one row short": lambda x: x[:-1],
    "with an axis more": lambda x: x.unsqueeze(-1),
    "as numpy": lambda x: x.numpy(),
    "constant": lambda x: torch.ones_like(x) if x.dtype != torch.float32 else x * math.nan,
    "of random noise": lambda x: (torch.randn if x.is_floating_point() else torch.rand)(x.shape).mul(2).to(x.dtype),
    "nothing": lambda x: None,
}
DAGS: dict[str, Callable[[], DAG]] = {"subsets": Subsets, "graphs": lambda: QM9(3)}
SAME = {("log_reward", "inverted"), ("log_reward", "rolled")}
"""A reward plus or minus a constant is another lawful reward."""
MUTANTS = [(d, m, c) for d in DAGS for m in METHODS for c in CHANGES if (m, c) not in SAME]


@pytest.mark.parametrize(("dag", "method", "change"), some(MUTANTS))
def test_mutants_are_killed(dag: str, method: str, change: str) -> None:
    mutant, altered = DAGS[dag](), CHANGES[change]
    lawful = getattr(mutant, method)

    def broken(*given: Any) -> Any:
        result = lawful(*given)
        return (altered(result[0]), *result[1:]) if isinstance(result, tuple) else altered(result)

    setattr(mutant, method, broken)
    with pytest.raises((DAGLawError, ValueError, RuntimeError, IndexError, AttributeError, TypeError)):
        check_dag(mutant)


def test_the_mutants_are_many(record_property: Callable) -> None:
    assert len(MUTANTS) >= 40
    for make in DAGS.values():
        check_dag(make())
    record_property("count", f"{len(some(MUTANTS))} mutants")
