"""Gymnasium's AsyncVectorEnv: a process for each environment, started afresh (spawn), as on macOS and Windows.

    python docs/clients/async_spawn.py [STEPS]

It pays where a step is slow, such as with a reward of one's own that takes long. Else the native vector environment is
much faster.
"""

import functools
import sys

import gymnasium as gym
import numpy as np

import gfn_envs


def main(steps: int) -> None:
    """Play `steps` random steps in two processes and in one, which must see the same."""
    wrap = functools.partial(gfn_envs.MaskInObservation, flatten=True, dtype=np.float32)
    # The prefix "gfn_envs:" makes each process register the ids.
    id, grid = "gfn_envs:gfn/Hypergrid-v0", {"num_envs": 2, "dim": 2, "side": 8}
    workers = gym.make_vec(
        id,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn", "autoreset_mode": "SameStep"},
        wrappers=[wrap],
        **grid,
    )
    native = wrap(gym.make_vec(id, autoreset_mode="SameStep", **grid))
    rng = np.random.default_rng(0)
    (observations, infos), (expected, _) = workers.reset(seed=0), native.reset(seed=0)
    objects = 0
    for _ in range(steps):
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in infos["action_mask"]])
        observations, rewards, terminated, _, infos = workers.step(actions)
        expected, expected_rewards, *_ = native.step(actions)
        assert all((observations[name] == expected[name]).all() for name in expected)
        assert (rewards == expected_rewards).all()
        objects += int(terminated.sum())
    workers.close()
    print(f"two processes and the native environment agree on {steps} steps and {objects} objects")


if __name__ == "__main__":  # each process imports this file
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
