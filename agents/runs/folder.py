"""The files of a run: they are written to a temporary name and renamed, and read without unpickling code."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from agents.config import RunSettings
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column
from agents.runs.lock import FolderLock
from agents.runs.loggers import EVENT_FILES
from gfn_envs.dag import DAG

FORMAT, VERSION = "gfn-agents-checkpoint", 2

Settings = TypeVar("Settings", bound=RunSettings)


class RunFileError(ValueError):
    """A file of a run is missing, damaged, or from another program."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` always holds either its old content or all of the new content."""
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
    """What a folder needs from its run, whoever trains it; `agents.trainer.Trainer` is one such run."""

    dag: DAG
    evaluator: Evaluator
    history: list[dict[str, float]]

    @property
    def config(self) -> RunSettings:
        """The settings of the run."""
        ...

    def gflownet(self) -> GFlowNet | None:
        """Return the current policy; None if only its samples can be evaluated."""
        ...

    def columns(self) -> dict[str, Column]:
        """Return how each metric of `history` is shown, by name; a metric that is missing here has a usual column."""
        ...

    def state_dict(self) -> dict:
        """Return everything on which the rest of the run depends."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        ...

    def attachments(self) -> dict[str, bytes]:
        """Return further files to save with a checkpoint, by name."""
        ...


class RunFolder(Generic[Settings]):
    """The folder of one run.

    It holds the settings (`config.json`), the metrics (`metrics.jsonl`) and how they are shown (`columns.json`), the
    checkpoint (`checkpoint.pt`), the last metrics (`summary.json`), and pictures and tables. The names of pictures and
    tables are listed in `files.json`.
    """

    def __init__(self, path: Path, settings: type[Settings]) -> None:
        self.path, self._settings = path, settings
        self.config, self.metrics, self.columns = path / "config.json", path / "metrics.jsonl", path / "columns.json"
        self.checkpoint, self.summary, self.files = path / "checkpoint.pt", path / "summary.json", path / "files.json"
        self.lock = FolderLock(path)

    def holds_run(self) -> bool:
        """Return whether a run was started here."""
        return any(file.exists() for file in (self.config, self.metrics, self.checkpoint, self.summary))

    def clear(self) -> None:
        """Remove the files of an earlier run and nothing else."""
        if not self.path.is_dir():
            return
        self._remove_half_written()
        for file in self._own():
            file.unlink(missing_ok=True)
        for file in self.path.glob(EVENT_FILES):
            file.unlink(missing_ok=True)

    def start(self, config: Settings) -> None:
        """Remove half-written files of a killed run, and write the settings; the folder is there, and locked."""
        self._remove_half_written()
        write_atomically(self.config, (config.to_json() + "\n").encode())

    def _remove_half_written(self) -> None:
        """Remove the half-written files of a killed run."""
        for file in self._own():
            for left in self.path.glob(f".{file.name}.*"):
                left.unlink(missing_ok=True)

    def _own(self) -> list[Path]:
        """Return the files that runs write here; those in `files.json` come first."""
        listed = [self.path / name for name in self._listed()]
        return [*listed, self.checkpoint, self.metrics, self.columns, self.summary, self.files, self.config]

    def _listed(self) -> list[str]:
        """Return the names in `files.json`; none if it is missing or damaged, so that no other file is removed."""
        try:
            names = json.loads(self.files.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return []
        return names if isinstance(names, list) and all(map(_is_plain_name, names)) else []

    def write(self, name: str, data: bytes) -> Path:
        """Write a file that belongs to the run, such as a picture, and return its path; `clear` will remove it."""
        listed = self._listed()
        if name not in listed:  # list it before it is written, so that `clear` finds it even after a kill
            write_atomically(self.files, (json.dumps([*listed, name]) + "\n").encode())
        write_atomically(self.path / name, data)
        return self.path / name

    def write_columns(self, columns: Mapping[str, Column]) -> None:
        """Write how the metrics are shown, for comparisons with other runs."""
        content = {name: dataclasses.asdict(column) for name, column in columns.items()}
        write_atomically(self.columns, (json.dumps(content, indent=1) + "\n").encode())

    def read_columns(self) -> dict[str, Column]:
        """Return how the metrics are shown, by name; `RunFileError` for a missing or damaged file."""
        try:
            content = json.loads(self.columns.read_text(encoding="utf-8"))
            return {name: _column(values) for name, values in content.items()}
        except FileNotFoundError:
            raise RunFileError(
                f"{self.path} has no {self.columns.name}, which tells how its figures are shown"
            ) from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise RunFileError(f"{self.columns} is damaged ({first_line(error)})") from None

    def read_config(self) -> Settings:
        """Return the settings of the run in this folder; `RunFileError` if there are none or they cannot be used."""
        try:
            return self._settings.from_json(self.config.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunFileError(
                f"{self.path} holds no run (no config.json): give the folder that --out named."
            ) from None
        except (ValueError, RecursionError) as error:
            raise RunFileError(f"{self.config} cannot be used: {first_line(error)}. Nothing was changed.") from None

    def save(self, trainer: Run) -> None:
        """Write the checkpoint, then its attachments, then the metrics that it holds."""
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
            self.write(name, content)
        self.write_metrics(trainer)

    def write_metrics(self, trainer: Run) -> None:
        """Write one JSON object per evaluation."""
        lines = "".join(_json(metrics) + "\n" for metrics in trainer.history)
        write_atomically(self.metrics, lines.encode())

    def load(self, trainer: Run) -> bool:
        """Load the checkpoint into `trainer`; return False if there is none yet.

        Raises `RunFileError` for a damaged file or one of another program. Changes no file.
        """
        if not self.checkpoint.exists():
            return False
        content = self._read()
        try:
            self._check_fit(content, trainer)
            trainer.load_state_dict(content["state"])
        except Exception as error:  # the content of a foreign file can lead to any error
            raise RunFileError(
                f"{self.checkpoint} does not fit the settings in {self.config.name}: {first_line(error)}. "
                "Nothing was changed."
            ) from None
        return True

    def state(self) -> dict[str, Any]:
        """Return the run's `state_dict` from the checkpoint; `RunFileError` for a damaged or foreign file."""
        return self._read()["state"]

    def _read(self) -> dict[str, Any]:
        try:
            # torch.load does not check the archive's checksums: a flipped bit would become a wrong weight.
            with zipfile.ZipFile(self.checkpoint) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("it is compressed, as this project never does")  # it may unpack to any size
                if damaged := archive.testzip():
                    raise ValueError(f"wrong checksum of {damaged}")
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # random bytes lead to errors of any class
            reason = first_line(error).split(". ")[0]  # after this torch advises to load without protection
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
        """Raise `ValueError` unless the checkpoint has the run's settings and kind of device."""
        other = trainer.config.differences(self._settings.from_json(content["config"]))
        told = [
            f"{k} is {its!r} there, {own!r} here" for k, (own, its) in other.items() if k not in trainer.config.extends
        ]
        if told:
            raise ValueError(", ".join(told))
        if content["device"] != trainer.dag.device.type:
            raise ValueError(f"it was written on {content['device']}, and this run is on {trainer.dag.device.type}")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the summary of the finished run."""
        write_atomically(self.summary, (_json(summary, indent=2) + "\n").encode())


def _is_plain_name(name: object) -> bool:
    """Return whether `name` can be the name of a file in the folder itself."""
    return isinstance(name, str) and bool(name.strip(".")) and Path(name).name == name


def _column(values: dict[str, Any]) -> Column:
    """Return the column from which `dataclasses.asdict` made `values`; `TypeError` or `ValueError` for wrong ones."""
    usual, column = Column(""), Column(**values)
    for name, value in dataclasses.asdict(column).items():
        expected = int | float | None if name == "reference" else type(getattr(usual, name))
        if not isinstance(value, expected):
            raise TypeError(f"{name} of {column.heading!r} is {value!r}")
    return column


def _json(values: dict[str, Any], indent: int | None = None) -> str:
    """Return strict JSON, in which null stands for NaN and infinity."""
    strict = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(strict, indent=indent, allow_nan=False)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message without its full stop, for an error of any class."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__
