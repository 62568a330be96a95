"""TorchRL: PPO with masks, on the single environment, on its workers and on the native vector environment.

    python docs/clients/torchrl_ppo.py [STEPS]

Needs `pip install torchrl`.
"""

import sys

import gymnasium as gym
import torch
from tensordict.nn import InteractionType, TensorDictModule
from torch import nn
from torchrl.envs import ActionMask, GymEnv, GymWrapper, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import gfn_envs

GRID = {"dim": 2, "side": 8, "reward_mode": "reward", "invalid_action": "raise"}


def vector(num_envs: int) -> TransformedEnv:
    """Return the native vector environment; TorchRL resets its rows itself, so that autoreset is off."""
    native = gym.make_vec("gfn/Hypergrid-v0", num_envs=num_envs, autoreset_mode="Disabled", **GRID)
    masked = gfn_envs.MaskInObservation(native, dtype=bool, flatten=True)
    return TransformedEnv(GymWrapper(masked, categorical_action_encoding=True), ActionMask())


def main(steps: int) -> None:
    """Check the three ways to the environment, and train on the last."""
    # An id is enough. The info's entries, the mask among them, become entries of the TensorDict.
    single = GymEnv("gfn_envs:gfn/Hypergrid-v0", **GRID).auto_register_info_dict()
    single = TransformedEnv(single, ActionMask())
    check_env_specs(single)
    workers = GymEnv("gfn_envs:gfn/Hypergrid-v0", num_envs=2, dim=2, side=8)
    print("single", tuple(single.rollout(5).shape), "workers", tuple(workers.rollout(2).shape))
    workers.close()

    torch.manual_seed(0)
    env = vector(num_envs=32)
    check_env_specs(env)
    width, num_actions = env.observation_spec["observation"].shape[-1], env.action_spec.space.n

    class Network(nn.Module):
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, outputs))

        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return self.layers(observation.float())

    actor = ProbabilisticActor(
        TensorDictModule(Network(num_actions), ["observation"], ["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        default_interaction_type=InteractionType.RANDOM,
        return_log_prob=True,
    )
    critic = ValueOperator(Network(1), in_keys=["observation"])
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic, average_gae=True)
    objective = ClipPPOLoss(actor, critic, entropy_coeff=0.02)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)

    means = []
    for _ in range(max(1, steps // (32 * 32))):
        with torch.no_grad():
            data = env.rollout(32, actor, break_when_any_done=False)
        rewards = data["next", "reward"][data["next", "done"]]
        means.append(float(rewards.mean()))
        for _ in range(4):
            advantage(data)
            for batch in data.reshape(-1)[torch.randperm(data.numel())].split(256):
                losses = objective(batch)
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    print(f"TorchRL: mean reward {means[0]:.3f} of the first objects, {means[-1]:.3f} of the last")


if __name__ == "__main__":  # the workers are processes that import this file
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40_000)
