"""DQN in one file, in the manner of CleanRL, with masks in the policy and in the target; torch is enough.

    python docs/clients/cleanrl_dqn.py [STEPS]

Source of the algorithm: Mnih et al. 2015 (Nature 518, 529-533).
"""

import random
import sys

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import gfn_envs

total_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
learning_starts, update_every, target_every, batch_size, gamma = 500, 2, 200, 128, 1.0

random.seed(0)
torch.manual_seed(0)
grid = gym.make("gfn/Hypergrid-v0", dim=2, side=8, reward_mode="reward", invalid_action="raise")
env = gfn_envs.MaskInObservation(grid, flatten=True, dtype=np.float32)
obs_size, num_actions = env.observation_space["observation"].shape[0], env.action_space.n


def make_network() -> nn.Module:
    """Observation -> Q of every action."""
    hidden = nn.Sequential(nn.Linear(obs_size, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
    return nn.Sequential(hidden, nn.Linear(128, num_actions))


network, target = make_network(), make_network()
target.load_state_dict(network.state_dict())
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
replay: list[tuple] = []


def best(q: torch.Tensor, mask: torch.Tensor) -> torch.return_types.max:
    """Return the highest Q among the legal actions, and its action."""
    return q.masked_fill(mask == 0, -torch.inf).max(-1)


observation, _ = env.reset(seed=0)
env.action_space.seed(0)
finished: list[float] = []
for step in range(total_steps):
    here, mask = observation["observation"], observation["action_mask"]
    epsilon = max(0.05, 1 - 2 * step / total_steps)
    if random.random() < epsilon:
        action = int(env.action_space.sample(mask=mask.astype(np.int8)))
    else:
        with torch.no_grad():
            action = int(best(network(torch.from_numpy(here)), torch.from_numpy(mask)).indices)
    observation, reward, terminated, truncated, _ = env.step(action)
    # At the end the mask is all ones, so that the maximum over legal actions is finite; it is not used.
    replay.append((here, action, reward, observation["observation"], observation["action_mask"], terminated))
    if terminated or truncated:
        finished.append(reward)
        observation, _ = env.reset()

    if step >= learning_starts and step % update_every == 0:
        columns = zip(*random.choices(replay, k=batch_size), strict=True)
        obs, actions, rewards, next_obs, next_mask, ends = (torch.from_numpy(np.array(column)) for column in columns)
        with torch.no_grad():
            following = best(target(next_obs), next_mask).values
            wanted = rewards.float() + gamma * following * ~ends
        q = network(obs).gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = nn.functional.smooth_l1_loss(q, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if step % target_every == 0:
        target.load_state_dict(network.state_dict())

first, last = np.mean(finished[:100]), np.mean(finished[-100:])
print(f"DQN: mean reward {first:.3f} of the first 100 objects, {last:.3f} of the last")
