"""Training from Python, with the same runs as from the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agents.build import build_trainer
from agents.config import Config, usual, with_values
from agents.model import make_dag
from agents.policy import TrainedPolicy
from agents.runs import command
from agents.runs.folder import RunFolder
from agents.runs.train import close, method_of
from agents.trainer import Trainer


@dataclass(frozen=True)
class Training:
    """A run that was trained from Python."""

    trainer: Trainer
    """The trainer of the run."""
    folder: RunFolder[Config] | None
    """The folder of the run; None if the run was kept in memory."""

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return self.trainer.config

    @property
    def history(self) -> list[dict[str, float]]:
        """One dictionary of metrics per evaluation, oldest first."""
        return self.trainer.history

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return self.trainer.history[-1]

    @property
    def policy(self) -> TrainedPolicy:
        """The trained policy."""
        return TrainedPolicy(self.config, self.trainer.dag, self.trainer.model, self.trainer.trajectories)


def train(
    env: str = Config.env,
    agent: str = Config.agent,
    backward: str = Config.backward,
    trajectories: int | None = None,
    seed: int = 0,
    sampler: str = Config.sampler,
    network: str = "auto",
    preset: str = Config.preset,
    env_kwargs: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Training:
    """Train an agent; with the same settings the command line gives the same run, bit for bit.

    Args:
        env, agent, backward, sampler, network, preset: choices; each may be `"module:name"`, where the module registers
            the name.
        trajectories: trajectories to sample; None for the preset's number.
        seed: seed of everything random.
        env_kwargs: keyword arguments of the environment; they must be JSON (name a reward as "module:function").
        settings: other settings by dotted name, such as `{"agent.lr": 1e-4, "eval_every": 100}`.
        out: folder of the run; None keeps the run in memory.
        overwrite: replace the run that `out` holds.
        progress: show a progress bar.

    Raises `ValueError` for unknown names, for wrong settings, and for a folder that already holds a run. `resume`
    continues such a run.
    """
    values: dict[str, Any] = {"seed": seed, "env_kwargs": _as_json(env_kwargs or {}), **(settings or {})}
    if trajectories is not None:
        values["trajectories"] = trajectories
    config = with_values(usual(env, agent, backward, network, preset, sampler), values)
    trainer = build_trainer(config, make_dag(config))
    folder = None
    if out is not None:
        options = command.RunOptions(out=str(out), overwrite=overwrite)
        folder = command.folder_of(options, config, method_of(config))
        command.begin(folder, trainer, config, options)
    return _follow(trainer, folder, progress)


def resume(path: str | Path, trajectories: int | None = None, progress: bool = True) -> Training:
    """Continue the run in a folder, to its end or to `trajectories`.

    Raises `agents.RunFileError` for a folder without a run and for damaged files.
    """
    config = RunFolder(Path(path), Config).read_config()
    if trajectories is not None:
        config = with_values(config, {"trajectories": trajectories})
    options = command.RunOptions(resume=str(path))
    folder = command.folder_of(options, config, method_of(config))
    trainer = build_trainer(config, make_dag(config))
    command.begin(folder, trainer, config, options)
    return _follow(trainer, folder, progress)


def _follow(trainer: Trainer, folder: RunFolder[Config] | None, progress: bool) -> Training:
    with _threads(trainer.config.threads), contextlib.ExitStack() as at_exit:
        if folder:
            at_exit.callback(folder.lock.release)
        trainer.train(lambda metrics: folder.save(trainer) if folder else None, lambda: False, progress)
        if folder:
            folder.save(trainer)
            close(folder, trainer, finished=True)
    return Training(trainer, folder)


def _as_json(env_kwargs: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(env_kwargs))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"env_kwargs must be JSON, so that the run can be saved ({error}): name a function as 'module:function'."
        ) from None


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
