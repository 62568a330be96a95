"""sb3-contrib: MaskablePPO asks the environment for its masks by itself.

    python docs/clients/sb3_maskable_ppo.py [STEPS]

docs/examples/sb3_vector.py does the same on the native vector environment, faster. Needs the extra `baselines`.
"""

import sys

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.env_util import make_vec_env

GRID = {"dim": 2, "side": 8, "reward_mode": "reward", "invalid_action": "raise"}

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
env = make_vec_env("gfn_envs:gfn/Hypergrid-v0", n_envs=8, env_kwargs=GRID)
model = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=128, gamma=1.0, ent_coef=0.05, device="cpu", seed=0)
model.learn(steps)
reward, _ = evaluate_policy(model, env, n_eval_episodes=50, deterministic=False, warn=False)
print(f"MaskablePPO: mean reward {reward:.3f}, and no illegal action in {model.num_timesteps:,} steps")
