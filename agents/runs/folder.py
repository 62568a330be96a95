"""Files of a run: written to a temporary name and renamed, read without unpickling code."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from agents.config import RunSettings
from agents.runs.loggers import EVENT_FILES
from gfn_envs.dag import DAG

FORMAT, VERSION = "gfn-agents-checkpoint", 2
PICTURES = ("learning_curve.png", "distribution.png", "trajectories.png", "likelihood.png", "top_molecules.png")
SAMPLES = "samples.csv"


Settings = TypeVar("Settings", bound=RunSettings)


class RunFileError(ValueError):
    """A file of a run is missing, damaged or foreign."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"cannot write {path}: {error.strerror or error}") from error
        raise


class Run(Protocol):
    """What a run's folder has to know of it, whoever trains: `agents.trainer.Trainer` is one."""

    dag: DAG
    history: list[dict[str, float]]

    @property
    def config(self) -> RunSettings:
        """The settings."""
        ...

    def state_dict(self) -> dict:
        """Return everything that the rest of the run depends on."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        ...

    def attachments(self) -> dict[str, bytes]:
        """Return the files that belong to a checkpoint besides, by name."""
        ...


class RunFolder(Generic[Settings]):
    """The folder of one run: `config.json`, `metrics.jsonl`, `checkpoint.pt`, `summary.json` and pictures."""

    def __init__(self, path: Path, settings: type[Settings]) -> None:
        self.path, self._settings = path, settings
        self.config, self.metrics = path / "config.json", path / "metrics.jsonl"
        self.checkpoint, self.summary = path / "checkpoint.pt", path / "summary.json"

    def holds_run(self) -> bool:
        """Tell whether a run was started here."""
        return any(file.exists() for file in (self.config, self.metrics, self.checkpoint, self.summary))

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else."""
        if not self.path.is_dir():
            return
        for file in (self.checkpoint, self.metrics, self.summary, self.config):
            file.unlink(missing_ok=True)
        for name in (*PICTURES, SAMPLES):
            (self.path / name).unlink(missing_ok=True)
        for file in self.path.glob(EVENT_FILES):
            file.unlink(missing_ok=True)

    def start(self, config: Settings) -> None:
        """Make the folder, remove what a killed run left half written, and write the settings."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the folder {self.path}: {error.strerror}") from error
        for name in (self.config.name, self.metrics.name, self.checkpoint.name, self.summary.name, *PICTURES, SAMPLES):
            for left in self.path.glob(f".{name}.*"):
                left.unlink(missing_ok=True)
        write_atomically(self.config, (config.to_json() + "\n").encode())

    def read_config(self) -> Settings:
        """Return the settings of the run in this folder; `RunFileError` if there is none."""
        try:
            return self._settings.from_json(self.config.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunFileError(
                f"{self.path} holds no run (no config.json): give the folder that --out named."
            ) from None
        except (ValueError, RecursionError) as error:
            raise RunFileError(f"{self.config} cannot be used: {first_line(error)}. Nothing was changed.") from None

    def save(self, trainer: Run) -> None:
        """Write the checkpoint, then what belongs to it, then the metrics that it holds."""
        saved = {
            "format": FORMAT,
            "version": VERSION,
            "config": trainer.config.to_json(),
            "device": trainer.dag.device.type,
            "state": trainer.state_dict(),
        }
        data = io.BytesIO()
        torch.save(saved, data)
        write_atomically(self.checkpoint, data.getvalue())
        for name, content in trainer.attachments().items():
            write_atomically(self.path / name, content)
        self.write_metrics(trainer)

    def write_metrics(self, trainer: Run) -> None:
        """Write one JSON object an evaluation."""
        lines = "".join(_json(metrics) + "\n" for metrics in trainer.history)
        write_atomically(self.metrics, lines.encode())

    def load(self, trainer: Run) -> bool:
        """Bring `trainer` to the checkpoint; False where there is none yet.

        Raises `RunFileError` for a damaged or foreign file. Changes no file.
        """
        if not self.checkpoint.exists():
            return False
        content = self._read()
        try:
            self._check_fit(content, trainer)
            trainer.load_state_dict(content["state"])
        except Exception as error:  # whatever a foreign file's content leads to
            raise RunFileError(
                f"{self.checkpoint} does not fit the settings in {self.config.name}: {first_line(error)}. "
                "Nothing was changed."
            ) from None
        return True

    def state(self) -> dict[str, Any]:
        """Return what the run kept, as its `state_dict` had it; `RunFileError` for a damaged or foreign file."""
        return self._read()["state"]

    def _read(self) -> dict[str, Any]:
        try:
            # torch.load does not look at the archive's checksums: a flipped bit would become a wrong weight.
            with zipfile.ZipFile(self.checkpoint) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"wrong checksum of {damaged}")
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # random bytes lead to errors of any class
            reason = first_line(error).split(". ")[0]  # torch goes on to advise loading without protection
            raise RunFileError(
                f"{self.checkpoint} is damaged or no checkpoint ({reason}). Nothing was changed; move it away to start "
                "this run again with --resume, or use --overwrite."
            ) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunFileError(f"{self.checkpoint} is not a checkpoint of this project. Nothing was changed.")
        if content.get("version") != VERSION:
            raise RunFileError(
                f"{self.checkpoint} has version {content.get('version')!r}, this program reads {VERSION}. "
                "Nothing was changed."
            )
        return content

    def _check_fit(self, content: dict[str, Any], trainer: Run) -> None:
        """Raise `ValueError` unless the checkpoint is of a run with the same settings, on the same kind of device."""
        other = trainer.config.differences(self._settings.from_json(content["config"]))
        told = [
            f"{k} is {its!r} there, {own!r} here" for k, (own, its) in other.items() if k not in trainer.config.extends
        ]
        if told:
            raise ValueError(", ".join(told))
        if content["device"] != trainer.dag.device.type:
            raise ValueError(f"it was written on {content['device']}, and this run is on {trainer.dag.device.type}")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the final figures."""
        write_atomically(self.summary, (_json(summary, indent=2) + "\n").encode())


def _json(values: dict[str, Any], indent: int | None = None) -> str:
    """Return strict JSON, which has no NaN and no infinity: null stands for them."""
    strict = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(strict, indent=indent, allow_nan=False)


def first_line(error: Exception) -> str:
    """Return what an error says in one line without a full stop, whatever its class."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__
