"""The project's masked Munchausen DQN, for any environment with `info["action_mask"]`; with gamma 1 and the soft reward
it is a GFlowNet.

    python docs/clients/masked_mdqn.py [STEPS]

Source: Vieillard et al. 2020 (arXiv 2007.14430); Tiapkin et al. 2024 (arXiv 2310.12934).
"""

import sys

import gymnasium as gym
import torch

import gfn_envs
from baselines.gym_mdqn import GymDQNSettings, GymMunchausenDQN
from gfn_envs.metrics import total_variation

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
env = gym.make("gfn/Hypergrid-v0", dim=2, side=8, reward_mode="soft", invalid_action="raise")
# The entropy of Munchausen DQN has the weight temperature * (1 - alpha), which must be 1.
settings = GymDQNSettings(
    alpha=0.15, temperature=1 / 0.85, l0=-25.0, gamma=1.0, learning_starts=500, epsilon_steps=steps // 2
)
agent = GymMunchausenDQN(env, settings, seed=0).learn(steps)

observation, info = env.reset(seed=0)
print("first action:", agent.predict(observation, info["action_mask"], deterministic=False))

exact = gfn_envs.enumerate_dag(env.unwrapped.dag)
with torch.no_grad():
    learned = exact.terminal_distribution(lambda states: agent.network(states) / settings.temperature)
    uniform = exact.terminal_distribution(lambda states: torch.zeros(len(states), agent.num_actions))
print(f"total variation from R/Z: {total_variation(uniform, exact.target):.3f} of the uniform policy,")
print(f"{total_variation(learned, exact.target):.3f} of the learned one")
