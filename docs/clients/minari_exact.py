"""Minari: a data set of exact samples of R/Z, each with a trajectory that builds it, written and read back.

    python docs/clients/minari_exact.py [OBJECTS]

MINARI_DATASETS_PATH names the folder of the data sets; without it, this example uses a temporary one. Needs
`pip install 'minari[create,hdf5]'`.
"""

import os
import sys
import tempfile

import gymnasium as gym
import minari
import numpy as np
import torch

import gfn_envs

os.environ.setdefault("MINARI_DATASETS_PATH", tempfile.mkdtemp(prefix="minari-"))
objects = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
grid = gym.make("gfn/Hypergrid-v0", dim=2, side=8)
dag = grid.unwrapped.dag
exact = gfn_envs.enumerate_dag(dag)
rows = torch.multinomial(exact.target, objects, replacement=True, generator=torch.Generator().manual_seed(0))
samples = exact.states[exact.terminal[rows]]


def trajectory(state: torch.Tensor, rng: np.random.Generator) -> list[int]:
    """Return actions from s0 to `state`: a walk back through uniformly drawn parents, reversed."""
    actions = []
    states = state.unsqueeze(0)
    while (legal := dag.backward_action_mask(states)[0].nonzero().squeeze(1)).numel():
        states, action = dag.backward_step(states, torch.tensor([rng.choice(legal.numpy())]))
        actions.append(int(action))
    return actions[::-1]


env = minari.DataCollector(gfn_envs.MaskInObservation(grid))
rng = np.random.default_rng(0)
for state in samples:
    env.reset()
    for action in trajectory(state, rng):
        env.step(action)
name = f"gfn/hypergrid-exact-{objects}-v0"
env.create_dataset(name, algorithm_name="exact samples, uniform backward policy", description="Cells of an 8 x 8 grid.")

read = minari.load_dataset(name)
ends = torch.tensor(np.array([episode.observations["observation"][-1] for episode in read.iterate_episodes()]))
assert (ends == samples).all()
for episode in read.iterate_episodes(range(min(objects, 10))):
    masks = episode.observations["action_mask"]
    assert all(mask[action] == 1 for mask, action in zip(masks, episode.actions, strict=False))
print(f"{read.total_episodes} objects and {read.total_steps} steps written and read back")
print(f"mean log R: {float(dag.log_reward(ends).mean()):.3f}, of R/Z {float(exact.target @ exact.log_reward):.3f}")
