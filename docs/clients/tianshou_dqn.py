"""Tianshou: DQN, which reads the mask from the observation.

    python docs/clients/tianshou_dqn.py [STEPS]

Needs `pip install tianshou`.
"""

import sys

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

import gfn_envs


def make() -> gym.Env:
    """Return the grid with the names that Tianshou asks for."""
    env = gym.make("gfn/Hypergrid-v0", dim=2, side=8, reward_mode="reward", invalid_action="raise")
    return gfn_envs.MaskInObservation(env, observation="obs", mask="mask", flatten=True)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
np.random.seed(0)  # noqa: NPY002  (Tianshou explores with it)
torch.manual_seed(0)
envs = DummyVectorEnv([make] * 8)
one = make()
space, actions = one.observation_space, one.action_space
network = Net(state_shape=space["obs"].shape, action_shape=int(actions.n), hidden_sizes=[128, 128])
policy = DiscreteQLearningPolicy(
    model=network, action_space=actions, observation_space=space, eps_training=0.3, eps_inference=0.0
)
algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=1.0, target_update_freq=200)
training = Collector(algorithm, envs, VectorReplayBuffer(50_000, len(envs)), exploration_noise=True)
test = Collector(algorithm, DummyVectorEnv([make]))
test.reset()
before = test.collect(n_episode=5).returns_stat.mean
algorithm.run_training(
    OffPolicyTrainerParams(
        training_collector=training,
        test_collector=test,
        max_epochs=1,
        epoch_num_steps=steps,
        collection_step_num_env_steps=16,
        update_step_num_gradient_steps_per_sample=0.25,
        batch_size=128,
        test_step_num_episodes=5,
        show_progress=False,
        verbose=False,
    )
)
test.reset()
after = test.collect(n_episode=5).returns_stat.mean
print(f"Tianshou: mean reward {before:.3f} of the greedy policy before, {after:.3f} after {steps:,} steps")
