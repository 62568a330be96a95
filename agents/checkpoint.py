"""Files of a run: written to a temporary name and renamed, read without unpickling code."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from agents.config import Config
from agents.trainer import Trainer

FORMAT, VERSION = "gfn-agents-checkpoint", 1


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class RunFolder:
    """The folder of one run: `config.json`, `metrics.jsonl`, `checkpoint.pt`, `summary.json` and pictures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.metrics = path / "config.json", path / "metrics.jsonl"
        self.checkpoint, self.summary = path / "checkpoint.pt", path / "summary.json"

    def holds_run(self) -> bool:
        """Tell whether a run was started here."""
        return any(file.exists() for file in (self.config, self.metrics, self.checkpoint, self.summary))

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else."""
        for file in (self.checkpoint, self.metrics, self.summary, self.config, *self.path.glob("*.png")):
            file.unlink(missing_ok=True)

    def start(self, config: Config) -> None:
        """Make the folder and write the settings."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, (config.to_json() + "\n").encode())

    def read_config(self) -> Config:
        """Return the settings of the run in this folder; `RunFileError` if there is none."""
        try:
            return Config.from_dict(json.loads(self.config.read_text()))
        except FileNotFoundError:
            raise RunFileError(
                f"{self.path} holds no run (no config.json): give the folder that --out named."
            ) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise RunFileError(f"{self.config} is damaged or not of this project: {error}") from None

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint, then the metrics that it holds."""
        content = {"format": FORMAT, "version": VERSION, "state": trainer.state_dict()}
        data = io.BytesIO()
        torch.save(content, data)
        write_atomically(self.checkpoint, data.getvalue())
        self.write_metrics(trainer)

    def write_metrics(self, trainer: Trainer) -> None:
        """Write one JSON object an evaluation."""
        lines = "".join(json.dumps(metrics) + "\n" for metrics in trainer.history)
        write_atomically(self.metrics, lines.encode())

    def load(self, trainer: Trainer) -> bool:
        """Bring `trainer` to the checkpoint and the metrics file in line with it; False where there is none yet.

        Raises `RunFileError` for a damaged or foreign file and leaves every file as it is.
        """
        if not self.checkpoint.exists():
            return False
        state = self._read()
        try:
            trainer.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise RunFileError(
                f"{self.checkpoint} does not fit the settings in {self.config.name}: {_first_line(error)}"
            ) from None
        self.write_metrics(trainer)
        return True

    def _read(self) -> dict[str, Any]:
        try:
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            raise RunFileError(
                f"{self.checkpoint} is damaged or no checkpoint ({_first_line(error)}). Nothing was changed; move it "
                "away to start this run again with --resume, or use --overwrite."
            ) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunFileError(f"{self.checkpoint} is not a checkpoint of this project. Nothing was changed.")
        if content.get("version") != VERSION:
            raise RunFileError(
                f"{self.checkpoint} has version {content.get('version')!r}, this program reads {VERSION}. "
                "Nothing was changed."
            )
        return content["state"]

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the final figures."""
        write_atomically(self.summary, (json.dumps(summary, indent=2) + "\n").encode())


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
