"""A trained policy: sample objects, estimate their probability, act in Gymnasium, save and load.

A policy's file holds only tensors and JSON (safetensors). Loading it unpickles nothing and runs no code.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from agents.config import Config
from agents.evaluation.estimates import log_likelihood, log_probs
from agents.evaluation.gflownet import GFlowNet
from agents.model import Model, build_model, resolve_device
from agents.pretrained import PREFIX, policy_file
from agents.runs.folder import RunFileError, write_atomically
from agents.sampling.categorical import gumbel_noise, sample_actions
from agents.sampling.random_state import make_generator
from agents.sampling.rollout import Trajectories, rollout
from agents.settings import replaced
from gfn_envs import make
from gfn_envs.abilities import Molecules
from gfn_envs.dag import DAG
from gfn_envs.envs.molecules import chem

FORMAT, VERSION = "gfn-agents-policy", "1"
FILE = "policy.safetensors"
"""Name of the policy's file in the folder of a run."""
CHUNK = 4096
"""Trajectories sampled at a time."""


@dataclass(frozen=True)
class Samples:
    """`n` objects that a policy completed."""

    states: Tensor
    """int64 `[n, d]`, terminal."""
    log_reward: Tensor
    """float32 `[n]`: log R."""
    log_raw_reward: Tensor
    """float32 `[n]`: log of the raw reward, which is r for molecules and R for other environments."""
    log_pf: Tensor
    """float32 `[n]`: log-probability of the trajectory that led to the object."""

    def __len__(self) -> int:
        return len(self.states)


class TrainedPolicy:
    """A trained forward policy P_F, with its P_B and its estimate of log Z, on its environment.

    `agents.load` and `agents.train(...).policy` return one.

    Attributes:
        config: the settings of the run that trained it.
        dag: the environment, as batched tensor functions.
        trajectories: number of trajectories that it was trained on.
    """

    def __init__(self, config: Config, dag: DAG, model: Model, trajectories: int) -> None:
        self.config, self.dag, self.trajectories = config, dag, trajectories
        self._model = model
        self._acting = make_generator(dag.device, 0)

    @property
    def log_z(self) -> float:
        """The policy's estimate of log Z."""
        return float(self._model.agent.log_z())

    def gflownet(self) -> GFlowNet:
        """Return the policy in the form that metrics read: P_F, P_B and log Z."""
        return self._model.agent

    def sample(self, num: int, seed: int = 0) -> Samples:
        """Sample `num` complete objects with the policy; `seed` seeds the random numbers."""
        _at_least("num", num, 1)
        generator = make_generator(self.dag.device, seed)
        parts = []
        for start in range(0, num, CHUNK):
            batch = rollout(self.dag, self._model.agent.policy(), self.dag.reset(min(CHUNK, num - start)), generator)
            log_pf, _ = log_probs(self._model.agent, batch)
            parts.append((batch.terminal_states, batch.log_reward, batch.log_raw_reward, log_pf))
        return Samples(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def log_prob(self, states: Tensor, rollouts: int = 10, seed: int = 0) -> Tensor:
        """Estimate the log-probability `[N]` that the policy ends in each of the terminal `states [N, d]`.

        The estimate uses `rollouts` backward walks by P_B per state. It is a lower bound in expectation, and more walks
        make it tighter. Raises `ValueError` for a state that is not a complete object of the environment.
        """
        _at_least("rollouts", rollouts, 1)
        states = self._checked(states)
        return log_likelihood(self._model.agent, states, rollouts, make_generator(self.dag.device, seed))

    def trajectories_to(self, states: Tensor, seed: int = 0) -> Trajectories:
        """Return one trajectory to each of the terminal `states [N, d]`, walked back by P_B, in forward order.

        Raises `ValueError` for a state that is not a complete object of the environment.
        """
        states, generator = self._checked(states), make_generator(self.dag.device, seed)
        return rollout(self.dag, self._model.agent.backward_policy(), states, generator, backward=True)

    def log_probs_along(self, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
        """Return log P_F and log P_B of complete trajectories, each `[B]`."""
        return log_probs(self._model.agent, trajectories)

    @torch.no_grad()
    def act(self, obs: np.ndarray, info: dict[str, Any], greedy: bool = False) -> Any:
        """Return an action for a Gymnasium environment: an int for one observation `[d]`, int64 `[n]` for `[n, d]`.

        `info` is what `reset` and `step` return; its `action_mask` marks the legal actions. The action is drawn from
        the policy, or is the most probable one if `greedy`. The method `seed` restarts the random numbers.
        """
        states = torch.as_tensor(np.atleast_2d(np.asarray(obs)), dtype=torch.int64, device=self.dag.device)
        if states.shape[1] != self.dag.state_dim:
            raise ValueError(f"an observation has {self.dag.state_dim} components here, got shape {np.shape(obs)}.")
        mask = torch.as_tensor(np.atleast_2d(info["action_mask"]), dtype=torch.bool, device=self.dag.device)
        logits = self._model.agent.policy()(states)
        noise = torch.zeros_like(logits) if greedy else gumbel_noise(logits.shape, self.dag.device, self._acting)
        actions = sample_actions(logits, mask, noise).cpu().numpy()
        return actions if np.ndim(obs) == 2 else int(actions[0])

    def seed(self, seed: int) -> None:
        """Restart the random numbers of `act`."""
        self._acting = make_generator(self.dag.device, seed)

    def evaluate(self, seed: int = 0, **settings: Any) -> dict[str, float]:
        """Return the run's metrics by name, measured on the policy and on `samples` fresh objects.

        Args:
            seed: seed of everything random.
            settings: values of `agents.EvaluationSettings` that replace the run's own, such as `test_rollouts=100`.
        """
        from agents.evaluation.evaluator import Evaluator

        chosen = replaced(self.config.eval, settings, "eval.")
        evaluator = Evaluator(self.dag, chosen, self.config.metrics, seed=seed)
        generator = make_generator(self.dag.device, seed + 1)
        for start in range(0, chosen.samples, CHUNK):
            starts = self.dag.reset(min(CHUNK, chosen.samples - start))
            evaluator.add(rollout(self.dag, self._model.agent.policy(), starts, generator))
        return evaluator.evaluate(self._model.agent, last=True)

    def texts(self, states: Tensor) -> list[str]:
        """Return a text for each of `states [N, d]`: the SMILES of a molecule if RDKit is installed, else the state."""
        if isinstance(self.dag, Molecules) and chem.installed():
            return self.dag.to_smiles(states)
        return self.dag.describe(states)

    def save(self, path: str | Path) -> None:
        """Write the policy to one file, which `agents.load` can read without the folder of the run."""
        write_atomically(Path(path), to_bytes(self.config, self._model, self.trajectories))

    def _checked(self, states: Tensor) -> Tensor:
        states = torch.as_tensor(states, dtype=torch.int64, device=self.dag.device)
        if states.dim() != 2 or states.shape[1] != self.dag.state_dim:
            raise ValueError(f"states must have shape [N, {self.dag.state_dim}], got {list(states.shape)}.")
        legal = ((states >= 0) & (states < torch.tensor(self.dag.nvec, device=states.device))).all(1)
        for ok, wrong in ((legal, "is outside the environment"), (self.dag.is_terminal(states), "is not complete")):
            if not bool(ok.all()):
                raise ValueError(f"state {states[~ok][0].tolist()} {wrong}.")
        return states


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def to_bytes(config: Config, model: Model, trajectories: int) -> bytes:
    """Return the content of a policy's file: the weights for sampling and log P, and the settings as JSON."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.tensors().items()}
    about = {"format": FORMAT, "version": VERSION, "config": config.to_json(), "trajectories": str(trajectories)}
    return save(tensors, metadata={**about, "checksum": _checksum(tensors)})


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a checksum of the weights: safetensors has none, and a flipped bit would become a wrong weight."""
    parts = [name.encode() + tensors[name].flatten().view(torch.uint8).numpy().tobytes() for name in sorted(tensors)]
    return f"{zlib.crc32(b''.join(parts)):08x}"


def load(path: str | Path, device: str = "auto") -> TrainedPolicy:
    """Load a trained policy from the folder of a run, from a file that `TrainedPolicy.save` wrote, or by its name.

    `"pretrained:gfn/QM9-v0"` names the policy for that environment that comes with the project. Raises `ValueError` for
    an environment without one (the message lists the others).

    It reads only the network and log Z: no replay, no optimizer, no enumeration. Raises `agents.RunFileError` for a
    folder without a policy, for a damaged file, and for a file of another program.
    """
    name = str(path)
    file = policy_file(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else Path(path)
    if file.is_dir():
        file = file / FILE
        if not file.exists():
            what = "has not been evaluated yet" if (file.parent / "config.json").exists() else "holds no run"
            raise RunFileError(f"{path} {what} (no {FILE}): give the folder that --out named, or a policy's file.")
    try:
        with safe_open(file, framework="pt", device="cpu") as content:
            about = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  (no dictionary)
    except FileNotFoundError:
        raise RunFileError(f"there is no file or folder {file}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunFileError(f"{file} is damaged or no policy of this project ({_first_line(error)}).") from None
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise RunFileError(f"{file} is not a policy that this version reads (it says {about.get('format')!r}).")
    if "checksum" in about and about["checksum"] != _checksum(tensors):
        raise RunFileError(f"{file} is damaged (wrong checksum of the weights).")
    try:
        config = Config.from_json(about["config"])
        dag = make(config.env, device=resolve_device(device), **config.parsed_env_kwargs())
        model = build_model(config, dag)
        model.restore(tensors)
        return TrainedPolicy(config, dag, model, int(about["trajectories"]))
    except (KeyError, TypeError, ValueError, RuntimeError, json.JSONDecodeError) as error:
        raise RunFileError(f"{file} cannot be used: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__
