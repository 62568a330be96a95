"""Munchausen DQN for any Gymnasium environment with a Discrete action space and `info["action_mask"]`.

    python -m baselines.gym_mdqn --steps 50000 --out runs/taxi.pt

The target is that of `agents.objectives.dqn`, with a discount.

Source: Vieillard et al. 2020 (arXiv 2007.14430).
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium import spaces
from torch import Tensor, nn
from tqdm import tqdm

from agents.networks.mlp import MLPTorso
from agents.objectives.losses import huber, munchausen_target
from agents.runs import command
from agents.runs.folder import write_atomically
from agents.sampling.categorical import gumbel_noise, log_prob, sample_actions, soft_value
from gfn_envs.errors import integer_at_least
from gfn_envs.memory import Need, demand_all

TAXI = max(id for id in gymnasium.registry if id.startswith("Taxi-"))
"""Taxi-v4 or, with an older Gymnasium, Taxi-v3."""


@dataclass(frozen=True)
class GymDQNSettings:
    """Settings of `GymMunchausenDQN`."""

    alpha: float = 0.9
    """Weight of the Munchausen term; 0 is soft DQN."""
    temperature: float = 0.03
    """tau, in units of the reward: V(s) = tau logsumexp Q(s, .)/tau, and the policy is softmax(Q/tau)."""
    l0: float = -1.0
    """Lower bound on tau log pi in the Munchausen term."""
    gamma: float = 0.99
    """Discount."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    width: int = 128
    """Units per layer."""
    layers: int = 2
    """Number of layers."""
    replay_capacity: int = 100_000
    """Transitions kept for replay."""
    batch_size: int = 256
    """Transitions per update."""
    learning_starts: int = 1_000
    """Steps before the first update."""
    update_every: int = 2
    """Steps between two updates."""
    target_rate: float = 0.02
    """Share of the new weights in each update of the target network."""
    epsilon: float = 1.0
    """Probability of a uniformly random legal action, at the start."""
    epsilon_end: float = 0.05
    """The same probability after --epsilon-steps."""
    epsilon_steps: int = 20_000
    """Steps over which --epsilon moves linearly to --epsilon-end."""


class _QNetwork(nn.Module):
    """Observations `[B, d]` -> Q `[B, num_actions]`; discrete components are one-hot encoded, numbers read directly."""

    def __init__(self, observations: spaces.Space, num_actions: int, width: int, layers: int) -> None:
        super().__init__()
        if isinstance(observations, spaces.Discrete | spaces.MultiDiscrete):
            nvec = tuple(np.atleast_1d(getattr(observations, "nvec", getattr(observations, "n", 0))).tolist())
            self.torso: nn.Module = MLPTorso(nvec, width, layers)
        else:
            sizes = [math.prod(observations.shape or ()), *[width] * layers]
            parts = [[nn.Linear(i, o), nn.ReLU()] for i, o in itertools.pairwise(sizes)]
            self.torso = nn.Sequential(*[module for part in parts for module in part])
        self.head = nn.Linear(width, num_actions)

    def forward(self, observations: Tensor) -> Tensor:
        return self.head(self.torso(observations))


class GymMunchausenDQN:
    """Learns to act in `env`; it never takes a masked action, and none enters a target.

    The observation space must be `Discrete`, or `MultiDiscrete` or `Box` with one axis. The action space must be
    `Discrete`.

    Args:
        env: its info must hold `action_mask`, `[num_actions]`, 1 = legal, at reset and at every step.
        settings: see `GymDQNSettings`.
        seed: seed of everything random; the environment is reset with it once.
    """

    def __init__(self, env: gymnasium.Env, settings: GymDQNSettings | None = None, seed: int = 0) -> None:
        self.env, self.settings = env, settings or GymDQNSettings()
        self._check_settings()
        self._check_observations()
        if not isinstance(env.action_space, spaces.Discrete):
            raise ValueError(f"The action space must be Discrete, got {env.action_space}.")
        self.num_actions, self._first_action = int(env.action_space.n), int(env.action_space.start)
        self._demand_memory()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            make = (env.observation_space, self.num_actions, self.settings.width, self.settings.layers)
            self.network, self.target = _QNetwork(*make), _QNetwork(*make).requires_grad_(False)
        self.target.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings.lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.seed, self.steps = seed, 0
        self.returns: list[float] = []
        self._replay: dict[str, Tensor] = {}

    def _check_settings(self) -> None:
        settings = self.settings
        for name in ("batch_size", "replay_capacity", "update_every", "width", "layers"):
            integer_at_least(name, getattr(settings, name), 1)
        for name in ("alpha", "gamma", "target_rate", "epsilon", "epsilon_end"):
            if not 0 <= getattr(settings, name) <= 1:
                raise ValueError(f"{name} must lie in 0 .. 1, got {getattr(settings, name)}.")
        if not 0 < settings.temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {settings.temperature}.")

    def _demand_memory(self) -> None:
        """Raise `ValueError` for a network and kept transitions that cannot fit."""
        settings, observations = self.settings, self.env.observation_space
        inputs = spaces.flatdim(observations) + self.num_actions
        weights = settings.width * (inputs + settings.width * (settings.layers - 1))
        row = 8 * math.prod(observations.shape or ()) + 2 * self.num_actions  # two observations of at least 4 bytes
        kept = Need("the transitions kept", settings.replay_capacity * row, "replay_capacity")
        demand_all([Need("the weights and their optimizer", 20 * weights, "width or layers"), kept])

    def _check_observations(self) -> None:
        observations = self.env.observation_space
        flat = isinstance(observations, spaces.MultiDiscrete | spaces.Box) and len(observations.shape) == 1
        if not (flat or isinstance(observations, spaces.Discrete)):
            raise ValueError(
                f"The observation space must be Discrete, or MultiDiscrete or Box with one axis, got {observations}: "
                "gymnasium.wrappers.FlattenObservation makes a flat Box of many others."
            )

    def learn(self, steps: int, progress: bool = False) -> GymMunchausenDQN:
        """Act and learn for `steps` more steps; append the returns of finished episodes to `returns`."""
        integer_at_least("steps", steps, 1)
        observation, info = self.env.reset(seed=self.seed if self.steps == 0 else None)
        here, mask, total = self._encode(observation), self._mask(info), 0.0
        for _ in tqdm(range(steps), unit="step", disable=not progress):
            action = self._explore(here, mask)
            observation, reward, terminated, truncated, info = self.env.step(self._to_env(action))
            there, total = self._encode(observation), total + float(reward)
            next_mask = self._mask(info)
            self._remember(here, mask, action, float(reward), there, next_mask, terminated)
            here, mask = there, next_mask
            self.steps += 1
            if terminated or truncated:
                self.returns.append(total)
                observation, info = self.env.reset()
                here, mask, total = self._encode(observation), self._mask(info), 0.0
            if self.steps >= self.settings.learning_starts and self.steps % self.settings.update_every == 0:
                self._update()
        return self

    @torch.no_grad()
    def predict(self, observation: Any, mask: Any, deterministic: bool = True) -> int:
        """Return the legal action with the highest Q, or draw one from softmax(Q/tau) over the legal actions."""
        legal = self._mask({"action_mask": mask}).unsqueeze(0)
        q = self.network(self._encode(observation).unsqueeze(0)) / self.settings.temperature
        noise = torch.zeros_like(q) if deterministic else gumbel_noise(tuple(q.shape), q.device, self.generator)
        return self._to_env(int(sample_actions(q, legal, noise)))

    def _explore(self, here: Tensor, mask: Tensor) -> int:
        settings = self.settings
        done = min(1.0, self.steps / settings.epsilon_steps) if settings.epsilon_steps else 1.0
        epsilon = settings.epsilon + done * (settings.epsilon_end - settings.epsilon)
        q = torch.zeros(1, self.num_actions)
        if float(torch.rand((), generator=self.generator)) >= epsilon:
            with torch.no_grad():
                q = self.network(here.unsqueeze(0)) / settings.temperature
        return int(sample_actions(q, mask.unsqueeze(0), gumbel_noise(tuple(q.shape), q.device, self.generator)))

    def td_errors(self, batch: dict[str, Tensor]) -> Tensor:
        """Return Q(s, a) minus its target, `[B]`, with gradient through Q."""
        settings, actions = self.settings, batch["action"]
        with torch.no_grad():
            value = soft_value(self.target(batch["there"]), batch["next_mask"], settings.temperature)
            # Not a product with a mask: if the end has no legal action, the value is huge.
            following = torch.where(batch["terminated"], 0.0, settings.gamma * value)
            log_pi = log_prob(self.target(batch["here"]) / settings.temperature, batch["mask"], actions)
            rule = (settings.alpha, settings.l0, settings.temperature)
            target = munchausen_target(batch["reward"], following, log_pi, *rule)
        return self.network(batch["here"]).gather(1, actions.unsqueeze(1)).squeeze(1) - target

    def _update(self) -> None:
        filled = min(self.steps, self.settings.replay_capacity)
        rows = torch.randint(filled, (self.settings.batch_size,), generator=self.generator)
        loss = huber(self.td_errors({name: field[rows] for name, field in self._replay.items()})).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, new in zip(self.target.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(new, self.settings.target_rate)

    def _remember(
        self, here: Tensor, mask: Tensor, action: int, reward: float, there: Tensor, next_mask: Tensor, terminated: bool
    ) -> None:
        row = {"here": here, "mask": mask, "there": there, "next_mask": next_mask}
        row |= {"action": torch.tensor(action), "reward": torch.tensor(reward), "terminated": torch.tensor(terminated)}
        if not self._replay:
            capacity = self.settings.replay_capacity
            self._replay = {k: torch.zeros(capacity, *v.shape, dtype=v.dtype) for k, v in row.items()}
        at = self.steps % self.settings.replay_capacity
        for name, value in row.items():
            self._replay[name][at] = value

    def _encode(self, observation: Any) -> Tensor:
        """Return an observation as a tensor `[d]`: int64 from 0 up for discrete spaces, float32 for others."""
        space = self.env.observation_space
        if isinstance(space, spaces.Box):
            return torch.as_tensor(np.asarray(observation, dtype=np.float32))
        start = getattr(space, "start", 0)
        return torch.as_tensor(np.atleast_1d(np.asarray(observation, dtype=np.int64) - start))

    def _mask(self, info: dict[str, Any]) -> Tensor:
        if "action_mask" not in info:
            raise ValueError(
                f"{self.env} gives no info['action_mask']: wrap it so that reset and step add one, all ones where "
                "every action is legal."
            )
        mask = np.asarray(info["action_mask"]).astype(bool)
        if mask.shape != (self.num_actions,):
            raise ValueError(f"info['action_mask'] must have shape ({self.num_actions},), got {mask.shape}.")
        return torch.from_numpy(mask)

    def _to_env(self, action: int) -> int:
        return action + self._first_action

    def save(self, path: str | Path) -> None:
        """Write settings, weights and optimizer, but not the replay.

        A loaded agent can act at once, and it learns from what it sees after loading.
        """
        state = {name: getattr(self, name).state_dict() for name in ("network", "target", "optimizer")}
        data = io.BytesIO()
        torch.save({"settings": dataclasses.asdict(self.settings), "seed": self.seed, **state}, data)
        write_atomically(Path(path), data.getvalue())

    @classmethod
    def load(cls, path: str | Path, env: gymnasium.Env) -> GymMunchausenDQN:
        """Return the agent that `save` wrote, for an environment with the same spaces; `ValueError` if they differ."""
        try:
            content = torch.load(path, weights_only=True)
            agent = cls(env, GymDQNSettings(**content["settings"]), content["seed"])
            for name in ("network", "target", "optimizer"):
                getattr(agent, name).load_state_dict(content[name])
        except FileNotFoundError:
            raise
        except Exception as error:  # random bytes lead to errors of any class
            raise ValueError(f"{path} is damaged, or of an environment with other spaces than {env}: {error}") from None
        return agent


def evaluate(agent: GymMunchausenDQN, episodes: int, seed: int = 10_000) -> float:
    """Return the mean return of the greedy policy over `episodes` episodes with seeds `seed`, `seed + 1`, ..."""
    total = 0.0
    for episode in range(episodes):
        observation, info = agent.env.reset(seed=seed + episode)
        done = False
        while not done:
            action = agent.predict(observation, info["action_mask"])
            observation, reward, terminated, truncated, info = agent.env.step(action)
            total, done = total + float(reward), terminated or truncated
    return total / episodes


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    env: str = TAXI
    """Id of a Gymnasium environment with info["action_mask"]; MODULE:ID first imports the module."""
    steps: int = 50_000
    """Environment steps to learn from."""
    seed: int = 0
    """Seed of everything random."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """File in which to save the agent."""
    settings: Annotated[GymDQNSettings, tyro.conf.arg(name="")] = dataclasses.field(default_factory=GymDQNSettings)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (a file), 2 (wrong input), 130 (stopped)."""
    with command.cause_last():
        options = tyro.cli(Options, args=argv, prog="python -m baselines.gym_mdqn", description=__doc__)
    return command.told(lambda: _main(options))


def _main(options: Options) -> None:
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        if Path(options.out).is_dir():
            raise ValueError(f"--out {options.out} is a folder: name a file.")
    try:
        env = gymnasium.make(options.env)
    except gymnasium.error.Error as error:
        raise ValueError(str(error)) from None
    agent = GymMunchausenDQN(env, options.settings, options.seed)
    agent.learn(options.steps, progress=True)
    late = agent.returns[-100:]
    if late:
        print(f"mean return while learning, last {len(late)} of {len(agent.returns)} episodes: {np.mean(late):.2f}")
    print(f"mean return of the greedy policy, 100 episodes: {evaluate(agent, 100):.2f}")
    if options.out:
        agent.save(options.out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
