"""Stable-Baselines3 on the native vector environment: MaskablePPO builds cells of the 8 x 8 hypergrid.

    python docs/examples/sb3_vector.py [STEPS]

PPO maximises the reward, so that it ends in few of the best cells; a GFlowNet samples all cells in proportion to their
reward. The last lines show the difference. Needs the extra `baselines`.
"""

import sys

import gymnasium as gym
from sb3_contrib import MaskablePPO

import gfn_envs
from baselines.vec_env import ToSB3VecEnv
from gfn_envs.metrics import total_variation

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
dag = gfn_envs.make("gfn/Hypergrid-v0", dim=2, side=8)
exact = gfn_envs.enumerate_dag(dag)

# One object steps all 64 environments at once. SB3 resets a finished one in the same step.
native = gym.make_vec("gfn/Hypergrid-v0", num_envs=64, dim=2, side=8, autoreset_mode="SameStep", reward_mode="reward")
env = ToSB3VecEnv(native)
model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=512, gamma=1.0, device="cpu", seed=0)
model.learn(steps)


def logits(states):
    """The policy as a function of states, which gives its exact distribution over all cells."""
    observations, _ = model.policy.obs_to_tensor(states.numpy())
    return model.policy.get_distribution(observations).distribution.logits.detach()


learned = exact.terminal_distribution(logits)
reward = exact.log_reward.exp()
cells = int((learned > 0.5 / len(learned)).sum())
print(f"MaskablePPO after {model.num_timesteps:,} steps: mean reward {float(learned @ reward):.3f} in {cells} cells,")
print(f"total variation from R/Z {total_variation(learned, exact.target):.3f}.")
print(f"Samples of R/Z: mean reward {float(exact.target @ reward):.3f} in {len(reward)} cells, total variation 0.")
