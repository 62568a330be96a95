"""PPO in one file, in the manner of CleanRL, with masks, on the native vector environment; torch is enough.

    python docs/clients/cleanrl_ppo.py [STEPS]

Source of the algorithm: Schulman et al. 2017 (arXiv 1707.06347); masks: Huang and Ontañón 2020 (arXiv 2006.14171).
"""

import sys

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import gfn_envs

total_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
num_envs, num_steps, epochs, minibatches = 32, 32, 4, 4
gamma, gae_lambda, clip, entropy_weight, value_weight = 1.0, 0.95, 0.2, 0.02, 0.5

torch.manual_seed(0)
native = gym.make_vec(
    "gfn/Hypergrid-v0",
    num_envs=num_envs,
    dim=2,
    side=8,
    reward_mode="reward",
    invalid_action="raise",
    autoreset_mode="SameStep",  # a finished row starts again in the same step: no step is wasted
)
env = gfn_envs.MaskInObservation(native, flatten=True, dtype=np.float32)
obs_size, num_actions = env.single_observation_space["observation"].shape[0], env.single_action_space.n


def mlp(outputs: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(obs_size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


actor, critic = mlp(num_actions), mlp(1)
parameters = [*actor.parameters(), *critic.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-5)


def policy(obs: torch.Tensor, mask: torch.Tensor) -> Categorical:
    """Return the distribution over the legal actions."""
    return Categorical(logits=actor(obs).masked_fill(mask == 0, -1e8))


def tensors(observation: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the observation and its mask as tensors."""
    return torch.from_numpy(observation["observation"]), torch.from_numpy(observation["action_mask"])


obs, mask = tensors(env.reset(seed=0)[0])
finished: list[float] = []
for _ in range(max(1, total_steps // (num_envs * num_steps))):
    rows = []
    for _ in range(num_steps):
        with torch.no_grad():
            distribution, value = policy(obs, mask), critic(obs).squeeze(1)
            action = distribution.sample()
        observation, reward, terminated, truncated, _ = env.step(action.numpy())
        done = terminated | truncated
        finished += reward[done].tolist()
        paid, ended = torch.from_numpy(reward).float(), torch.from_numpy(done).float()
        rows.append((obs, mask, action, distribution.log_prob(action), value, paid, ended))
        obs, mask = tensors(observation)
    all_obs, all_mask, actions, old_log_prob, values, rewards, dones = map(torch.stack, zip(*rows, strict=True))

    with torch.no_grad():
        advantages, last, next_value = torch.zeros_like(rewards), torch.zeros(num_envs), critic(obs).squeeze(1)
        for t in reversed(range(num_steps)):
            delta = rewards[t] + gamma * next_value * (1 - dones[t]) - values[t]
            advantages[t] = last = delta + gamma * gae_lambda * (1 - dones[t]) * last
            next_value = values[t]
    batch = [x.flatten(0, 1) for x in (all_obs, all_mask, actions, old_log_prob, advantages, advantages + values)]

    for _ in range(epochs):
        for index in torch.randperm(len(batch[0])).chunk(minibatches):
            b_obs, b_mask, b_action, b_old, b_advantage, b_return = (x[index] for x in batch)
            distribution = policy(b_obs, b_mask)
            ratio = (distribution.log_prob(b_action) - b_old).exp()
            b_advantage = (b_advantage - b_advantage.mean()) / (b_advantage.std() + 1e-8)
            gain = torch.minimum(ratio * b_advantage, ratio.clamp(1 - clip, 1 + clip) * b_advantage).mean()
            value_loss = (critic(b_obs).squeeze(1) - b_return).square().mean()
            loss = value_weight * value_loss - gain - entropy_weight * distribution.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()

first, last = np.mean(finished[:500]), np.mean(finished[-500:])
print(f"PPO: mean reward {first:.3f} of the first 500 objects, {last:.3f} of the last")
