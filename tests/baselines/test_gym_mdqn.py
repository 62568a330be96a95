"""Munchausen DQN on ordinary Gymnasium environments: the same target as on DAGs, masks always kept."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.objectives.losses import munchausen_target
from agents.sampling.categorical import soft_value
from baselines.gym_mdqn import TAXI, GymDQNSettings, GymMunchausenDQN, evaluate, main

N = 5
VIEWS = {
    "Discrete": (spaces.Discrete(N, start=2), lambda place: place + 2),
    "MultiDiscrete": (spaces.MultiDiscrete([N, 3]), lambda place: np.array([place, 1])),
    "Box": (spaces.Box(-1.0, 1.0, (N,)), lambda place: np.eye(N)[place]),
}


class Corridor(gym.Env):
    """Walk 0 .. 4: left, right, or take what lies here and end; a masked action is an error."""

    prizes = (0.3, -1.0, 0.1, -1.0, 1.0)

    def __init__(self, view="Discrete"):
        self.observation_space, self.show = VIEWS[view]
        self.action_space = spaces.Discrete(3, start=1)
        self.masked_actions = 0

    def mask(self):
        return np.array([self.place > 0, self.place < N - 1, self.place % 2 == 0], dtype=np.int8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.over = 0, False
        return self.show(self.place), {"action_mask": self.mask()}

    def step(self, action):
        assert not self.over
        self.masked_actions += not self.mask()[action - 1]
        self.over = action == 3
        reward = self.prizes[self.place] if self.over else -0.01
        self.place += {1: -1, 2: 1, 3: 0}[int(action)]
        mask = np.zeros(3, dtype=np.int8) if self.over else self.mask()  # nothing is legal at the end
        return self.show(self.place), reward, self.over, False, {"action_mask": mask}


QUICK = GymDQNSettings(
    alpha=0.5, temperature=0.1, gamma=0.9, width=32, layers=1, learning_starts=100, epsilon_steps=1500,
    update_every=1, target_rate=0.05, replay_capacity=2000, lr=3e-3, batch_size=64,
)  # fmt: skip


def fixed_point(settings):
    """Return Q `[N, 3]` of the corridor by iterating the target itself, table by table."""
    env = Corridor()
    env.reset()
    q = torch.zeros(N, 3, dtype=torch.float64)
    masks = []
    for place in range(N):
        env.place = place
        masks.append(torch.from_numpy(env.mask()).bool())
    mask = torch.stack(masks)
    prizes = torch.tensor(Corridor.prizes, dtype=torch.float64)
    for _ in range(2000):
        value = soft_value(q, mask, settings.temperature)
        log_pi = (q / settings.temperature).masked_fill(~mask, -math.inf).log_softmax(1)
        following = settings.gamma * torch.stack([value.roll(1), value.roll(-1), torch.zeros_like(value)], 1)
        reward = torch.stack([torch.full_like(prizes, -0.01), torch.full_like(prizes, -0.01), prizes], 1)
        q = munchausen_target(reward, following, log_pi, settings.alpha, settings.l0, settings.temperature)
        q = torch.where(mask, q, 0.0)
    return q, mask


@pytest.mark.parametrize("view", VIEWS)
def test_q_comes_to_the_fixed_point_and_no_masked_action_is_taken(view):
    env = Corridor(view)
    agent = GymMunchausenDQN(env, QUICK, seed=1).learn(3000)
    assert env.masked_actions == 0
    q, mask = fixed_point(QUICK)
    observations = torch.stack([agent._encode(env.show(place)) for place in range(N)])
    learned = agent.network(observations).detach().double()
    assert float((learned - q)[mask].abs().max()) < 0.15
    assert evaluate(agent, 3) == pytest.approx(1.0 - 0.04)
    # The best that is near, 0.3 at once, is less than what four steps lead to, discounted as the settings say.
    for place in range(N):
        drawn = {agent.predict(env.show(place), mask[place].numpy(), deterministic=False) - 1 for _ in range(50)}
        assert all(mask[place, action] for action in drawn)


@pytest.mark.slow
def test_equal_seeds_give_equal_agents_and_every_setting_has_an_effect():
    def outcome(seed=0, **changed):
        settings = GymDQNSettings(**{**QUICK.__dict__, "epsilon_steps": 100, "learning_starts": 30, **changed})
        agent = GymMunchausenDQN(Corridor(), settings, seed).learn(300)
        return [parameter.tolist() for parameter in agent.network.parameters()], agent.returns

    plain = outcome()
    assert outcome() == plain
    assert outcome(seed=1) != plain
    changes = {
        "alpha": 0.3, "temperature": 0.2, "l0": -0.05, "gamma": 0.5, "lr": 1e-2, "width": 16, "layers": 2,
        "replay_capacity": 50, "batch_size": 16, "learning_starts": 60, "update_every": 2, "target_rate": 0.5,
        "epsilon": 0.2, "epsilon_end": 0.5, "epsilon_steps": 200,
    }  # fmt: skip
    assert set(changes) == set(GymDQNSettings.__dataclass_fields__)
    for name, value in changes.items():
        assert outcome(**{name: value}) != plain, name


def test_a_saved_agent_acts_the_same(tmp_path):
    agent = GymMunchausenDQN(Corridor(), QUICK, seed=1).learn(600)
    agent.save(tmp_path / "agent.pt")
    again = GymMunchausenDQN.load(tmp_path / "agent.pt", Corridor())
    for place in (2, 3, 4, 5, 6):
        mask = np.array([place > 2, place < 6, place % 2 == 0])
        assert again.predict(place, mask) == agent.predict(place, mask)
    assert again.learn(300).steps == 300
    with pytest.raises(ValueError, match="other spaces"):
        GymMunchausenDQN.load(tmp_path / "agent.pt", Corridor("Box"))
    (tmp_path / "agent.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        GymMunchausenDQN.load(tmp_path / "agent.pt", Corridor())


def test_our_own_environments_have_the_mask_it_wants():
    import gfn_envs  # noqa: F401

    env = gym.make("gfn/Hypergrid-v0", dim=2, side=4, invalid_action="raise", reward_mode="reward")
    agent = GymMunchausenDQN(env, GymDQNSettings(**{**QUICK.__dict__, "gamma": 0.999}), seed=0).learn(2000)
    assert evaluate(agent, 1) > 0.4


@pytest.mark.parametrize(
    "wrong", [{"gamma": 2.0}, {"batch_size": 0}, {"epsilon": -0.1}, {"temperature": 0.0}, {"update_every": 0}]
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GymMunchausenDQN(gym.make(TAXI), GymDQNSettings(**wrong))


def test_what_it_cannot_take_is_refused_and_told(capsys):
    env = Corridor()
    env.observation_space = spaces.Box(0, 1, (2, 2))
    with pytest.raises(ValueError, match="FlattenObservation"):
        GymMunchausenDQN(env)
    env = Corridor()
    env.action_space = spaces.Box(0, 1, (2,))
    with pytest.raises(ValueError, match="must be Discrete"):
        GymMunchausenDQN(env)
    assert main(["--env", "CartPole-v1", "--steps", "10"]) == 2
    assert "gives no info['action_mask']" in capsys.readouterr().err
    assert main(["--env", f"{TAXI}3", "--steps", "10"]) == 2
    with pytest.raises(ValueError, match="steps must be an integer of at least 1"):
        GymMunchausenDQN(Corridor()).learn(0)


def test_the_command_line_learns_saves_and_says_how_good_it_is(tmp_path, capsys):
    short = ["--env", TAXI, "--steps", "450", "--learning-starts", "50", "--out", str(tmp_path / "taxi.pt")]
    assert main(short) == 0
    assert "mean return of the greedy policy" in capsys.readouterr().out
    GymMunchausenDQN.load(tmp_path / "taxi.pt", gym.make(TAXI))


@pytest.mark.slow
def test_it_solves_taxi():
    # A random legal policy gets about -200 an episode; the optimum is 7.9 on average.
    agent = GymMunchausenDQN(gym.make(TAXI), seed=0).learn(40_000)
    assert evaluate(agent, 100) > 7
