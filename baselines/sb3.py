"""Algorithms of Stable-Baselines3 (Raffin et al. 2021, JMLR 22(268)) and sb3-contrib, run as baselines."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor

from agents.evaluation.metric import Column
from agents.runs.folder import first_line
from agents.sampling.rollout import Policy
from baselines.base import Baseline, Progress
from baselines.config import BaselineConfig
from baselines.vec_env import ToSB3VecEnv
from gfn_envs.dag import DAG, LogRewards
from gfn_envs.errors import RewardError, choose
from gfn_envs.memory import Need, demand_all, is_exhausted
from gfn_envs.registry import load

if TYPE_CHECKING:
    from baselines.algorithms import SB3Algorithm


class IntExtractor(FlattenExtractor):
    """SB3's one-hot code of a MultiDiscrete observation, with its size as an int, which a torch LSTM requires."""

    def __init__(self, observation_space: gymnasium.Space) -> None:
        super().__init__(observation_space)
        self._features_dim = int(self._features_dim)


_OURS = ("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model", "use_sde")


class SB3Baseline(Baseline):
    """An algorithm of SB3 on the native vector environment.

    Algorithms that know no masks run with `invalid_action="noop"`: an invalid action leads back to its own state, and
    `invalid_share` is the share of such steps. Such an algorithm has the same distribution over complete objects as its
    policy conditioned on legal actions, so `policy()` is the conditioned policy.

    For Q-learners `policy()` is the greedy policy, although their samples come from an epsilon-greedy one
    (`exploration_rate`). A recurrent policy depends on more than the state, so it is not `exact`. On a DAG that renames
    slots no network here is `exact`, because it does not treat the slots alike.

    A resumed run has the weights, optimizer and replay of the checkpoint. Rollouts that were under way start anew, so
    the run is not the same bit for bit as one that was never stopped.
    """

    def __init__(self, dag: DAG, config: BaselineConfig, algorithm: SB3Algorithm) -> None:
        super().__init__(dag)
        self.masked = algorithm.masked
        self.exact = algorithm.exact and not dag.renames_slots
        self.stochastic = algorithm.stochastic and self.exact
        self._config, self._algorithm = config, algorithm
        self.env, self._greedy_env = self._make_env(config.num_envs), self._make_env(1)
        self.model = self._make_model()
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self._lengths = np.zeros(config.num_envs, dtype=np.int64)
        self._invalid = self._steps = 0

    def _make_env(self, num_envs: int) -> ToSB3VecEnv:
        config = self._config
        env: Any = gymnasium.make_vec(
            config.env,
            num_envs=num_envs,
            autoreset_mode="SameStep",
            reward_mode=config.reward_mode,
            invalid_action="raise" if self.masked else "noop",  # with masks an invalid action would be a bug
            device=str(self.dag.device),
            **config.parsed_env_kwargs(),
        )
        return ToSB3VecEnv(env)

    def _make_model(self) -> Any:
        make: Callable[..., Any] = load(self._algorithm.algorithm)
        accepted = {name: None for name in inspect.signature(make).parameters if name not in _OURS}
        given = self._config.parsed_algo_kwargs()
        for key in given:
            choose(f"keyword argument of {make.__name__} in --algo-kwargs", key, accepted)
        arguments = {**self._algorithm.defaults, **given}
        extractor = {"features_extractor_class": load(self._algorithm.extractor)}
        if not isinstance(arguments["policy_kwargs"], dict):
            raise ValueError(f"policy_kwargs in --algo-kwargs must be an object, got {arguments['policy_kwargs']!r}.")
        arguments["policy_kwargs"] = {**extractor, **arguments["policy_kwargs"]}
        self._demand_memory(arguments)
        device = str(self.dag.device)
        try:
            return make(self._algorithm.policy, self.env, seed=self._config.seed, device=device, **arguments)
        except Exception as error:
            if is_exhausted(error):
                raise
            raise ValueError(
                f"--algo {self._config.algo} does not take {self._config.env} "
                f"({self.env.observation_space}, {self.env.action_space}) with {arguments}: {first_line(error)}"
            ) from error

    def _demand_memory(self, arguments: dict[str, Any]) -> None:
        """Raise `ValueError` for a network and kept transitions that cannot fit together."""
        dag, num_envs = self.dag, self._config.num_envs
        row = 8 * dag.state_dim + 4 * dag.num_actions
        needs = [Need("the environments", 8 * num_envs * (dag.state_dim + dag.num_actions), "--num-envs")]
        for name, rows in (("buffer_size", 1), ("n_steps", num_envs), ("batch_size", 1)):
            if isinstance(count := arguments.get(name), int):
                needs.append(Need("the transitions kept", count * rows * row, f"{name} in --algo-kwargs"))
        widths = arguments["policy_kwargs"].get("net_arch", [])
        if isinstance(widths, list) and all(type(width) is int for width in widths):
            sizes = [sum(dag.nvec), *widths, dag.num_actions]
            needed = 16 * sum(one * other for one, other in itertools.pairwise(sizes))
            needs.append(Need("the weights and their optimizer", needed, "net_arch in --algo-kwargs"))
        demand_all(needs, dag.device)

    def run(self, report: Callable[[Progress], bool]) -> None:
        # The trainer counts objects and decides when to stop.
        callback = _Callback(lambda: report(self._progress()))
        self._lengths[:] = 0
        first = self.model.num_timesteps == 0
        try:
            self.model.learn(2**62, callback=callback, log_interval=None, reset_num_timesteps=first)
        except Exception as error:  # wrong arguments lead to errors of any class, deep in SB3
            given = self._config.parsed_algo_kwargs()
            if not given or error is callback.failed or isinstance(error, RewardError) or is_exhausted(error):
                raise
            told = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(f"--algo {self._config.algo} failed with --algo-kwargs {given}: {told}.") from error

    def _progress(self) -> Progress:
        """Return the report on the last step of the environment."""
        _, _, terminated, truncated, infos = self.env.native_step
        invalid, finished = infos["invalid_action"], terminated | truncated
        if finished.any():
            invalid = invalid | infos["final_info"]["invalid_action"]
        self._invalid += int(invalid.sum())
        self._steps += len(invalid)
        self._lengths += ~invalid
        complete = terminated & ~invalid
        states, rewards = self.dag.reset(0), LogRewards(*torch.zeros(2, 0, device=self.dag.device))
        if complete.any():
            states = torch.from_numpy(infos["final_obs"][complete]).to(self.dag.device)
            rewards = self.dag.log_rewards(states)
        lengths = torch.from_numpy(self._lengths[complete]).to(self.dag.device)
        self._lengths[finished] = 0
        return Progress(states, *rewards, lengths, len(invalid))

    def schedule(self, done: float) -> None:
        # SB3's schedules (exploration, learning rate) follow the share of steps done, but here objects decide the end.
        if done > 0:
            self.model._total_timesteps = max(1, round(self.model.num_timesteps / done))

    def policy(self) -> Policy:
        return torch.no_grad()(self._algorithm.logits(self.model, self.dag))

    def metrics(self) -> dict[str, float]:
        """Return the share of invalid steps so far, the return of the greedy policy, and SB3's own metrics."""
        evaluate: Any = evaluate_masked if self.masked else evaluate_policy
        greedy, _ = evaluate(self.model, self._greedy_env, n_eval_episodes=1, deterministic=True, warn=False)
        own = {name: float(value) for name, value in self.model.logger.name_to_value.items()}
        result = {"invalid_share": self._invalid / max(self._steps, 1), "greedy_return": float(greedy), **own}
        if hasattr(self.model, "exploration_rate"):
            result["exploration_rate"] = float(self.model.exploration_rate)
        if "train/loss" in own:
            result["loss"] = own["train/loss"]
        return result

    def columns(self) -> dict[str, Column]:
        return {
            "invalid_share": Column(
                "invalid actions", "{:.2f}", in_table=False, compared=820, curve=False, meaning="of all steps so far"
            )
        }

    def save_model(self, folder: Path) -> None:
        """Write `model.zip`, which the algorithm's own `load` reads."""
        self.model.save(folder / "model.zip")

    def state_dict(self) -> dict:
        model = self.model
        counters = {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)}
        replay = {}
        if (buffer := getattr(model, "replay_buffer", None)) is not None:
            filled = buffer.buffer_size if buffer.full else buffer.pos
            replay = {name: torch.from_numpy(getattr(buffer, name)[:filled].copy()) for name in _REPLAY}
            replay |= {"pos": buffer.pos, "full": buffer.full}
        steps = [self._invalid, self._steps]
        return {"parameters": model.get_parameters(), "counters": counters, "replay": replay, "steps": steps}

    def load_state_dict(self, state: dict) -> None:
        model = self.model
        model.set_parameters(state["parameters"], device=model.device)
        self._invalid, self._steps = state["steps"]
        for name, value in state["counters"].items():
            setattr(model, name, value)
        if state["replay"]:
            buffer = model.replay_buffer
            for name in _REPLAY:
                values = state["replay"][name].numpy()
                getattr(buffer, name)[: len(values)] = values
            buffer.pos, buffer.full = state["replay"]["pos"], state["replay"]["full"]
        # A new seed, so that the random numbers from the start of the run are not repeated.
        model.set_random_seed(self._config.seed + model.num_timesteps)


_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num", "exploration_rate")
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class _Callback(BaseCallback):
    def __init__(self, report: Callable[[], bool]) -> None:
        super().__init__()
        self._report = report
        self.failed: Exception | None = None
        """The error of the report itself, which is none of SB3's."""

    def _on_step(self) -> bool:
        try:
            return self._report()
        except Exception as error:
            self.failed = error
            raise
