"""Records: what the repository keeps of the finished cells of a suite, in one compressed file."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config import RunSettings
from agents.evaluation.metric import Column
from agents.runs.finished import FinishedRun, finished_run
from agents.runs.folder import write_atomically
from agents.runs.suite import Cell

FILE = "runs.jsonl.gz"
AXES = ("trajectories", "reward_calls", "seconds")
"""What the curves of a record are drawn against."""
KEPT = ("peak_memory_mib", "python", "torch", "machine", "version", "commit")
"""What a record keeps of a run's summary besides the figures."""
DIGITS = 6


class RecordError(ValueError):
    """A file of records is damaged, or was changed by hand."""


@dataclass(frozen=True)
class Record:
    """One finished cell."""

    cell: str
    """Name of the cell, such as `hypergrid-8x8/db+tlm/0`."""
    kind: str
    """Kind of the run, as in its `config.json`."""
    settings: dict[str, Any]
    """All settings by dotted name."""
    columns: dict[str, dict[str, Any]]
    """How the figures that the curves hold are shown, by name."""
    curves: dict[str, list[float | None]]
    """One value for each evaluation, by name: the axes and the metrics that the suite shows."""
    last: dict[str, float]
    """All figures of the last evaluation."""
    ran: dict[str, Any]
    """On what and by which code it ran."""

    @property
    def env(self) -> str:
        """Name of the environment in the suite."""
        return self.cell.split("/")[0]

    @property
    def method(self) -> str:
        """Name of the method, as a part of a path."""
        return self.cell.split("/")[1]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.cell.split("/")[2])

    def digest(self) -> str:
        """Return a checksum of the record."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def settings_digest(self) -> str:
        """Return a checksum of the settings without the seed: equal ones differ in the seed alone."""
        text = json.dumps({k: v for k, v in self.settings.items() if k != "seed"}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, config: RunSettings) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ from `config`, by name: own value and other value.

        A setting that the record lacks is newer than the record, which then had its default.
        """
        others = json.loads(json.dumps(config.flat()))
        return {k: (v, others.get(k)) for k, v in self.settings.items() if others.get(k) != v}

    def run(self, place: Path) -> FinishedRun:
        """Return the record as a finished run for a comparison; `place` is where the records are."""
        names = list(self.curves)
        rows = [dict(zip(names, row, strict=True)) for row in zip(*self.curves.values(), strict=True)]
        history = [{k: v for k, v in row.items() if v is not None} for row in rows]
        history[-1] = {**self.last, **history[-1]}
        columns = {name: Column(**values) for name, values in self.columns.items()}
        return finished_run(place / self.cell, self.kind, self.settings, history, columns)


def record(cell: Cell, run: FinishedRun, summary: Mapping[str, Any], shown: Iterable[str]) -> Record:
    """Return the record of a finished cell; its curves hold the metrics called `shown`."""
    names = [*AXES, *(name for name in shown if any(name in row for row in run.history))]
    curves = {name: [_rounded(row.get(name)) for row in run.history] for name in names}
    return Record(
        cell=cell.name,
        kind=cell.config.kind,
        settings=json.loads(json.dumps(cell.config.flat())),
        columns={name: dataclasses.asdict(column) for name, column in run.columns.items() if name in run.history[-1]},
        curves=curves,
        last={name: value for name, number in run.history[-1].items() if (value := _rounded(number)) is not None},
        ran={name: _rounded(summary[name]) for name in KEPT if name in summary},
    )


def _rounded(value: Any) -> Any:
    """Return a number with few digits, None for one that is not finite, and anything else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def write(folder: Path, records: Iterable[Record]) -> None:
    """Write the records of a suite into its folder."""
    lines = [json.dumps({"digest": each.digest(), **dataclasses.asdict(each)}, allow_nan=False) for each in records]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def read(folder: Path) -> list[Record]:
    """Return the records in a suite's folder, none if it has no file of them.

    Raises `RecordError` for a damaged file and for records that were changed by hand.
    """
    file = folder / FILE
    if not file.exists():
        return []
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return [_parsed(line) for line in lines]
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RecordError(f"{file} is damaged ({error}): take the file of the repository again.") from None


def holds(place: Path) -> bool:
    """Return whether `place` is a suite's folder of records, or the name of an environment or a cell in one."""
    return _folder(place) is not None


def runs(place: Path) -> list[FinishedRun]:
    """Return the runs at a `place` that `holds` records; `RecordError` if there are none of that name."""
    folder = _folder(place) or place
    cell = place.relative_to(folder).as_posix()
    every = read(folder)
    found = [each.run(folder) for each in every if cell == "." or f"{each.cell}/".startswith(f"{cell}/")]
    if not found:
        known = ", ".join(sorted({each.env for each in every}))
        raise RecordError(f"{folder / FILE} has no {cell!r}; there are {known}.")
    return found


def _folder(place: Path) -> Path | None:
    """Return the folder of the records that `place` names."""
    folders = [place, *place.parents][:4]  # suite, environment, method, seed
    return next((folder for folder in folders if (folder / FILE).is_file()), None)


def _parsed(line: str) -> Record:
    values = json.loads(line)
    digest = values.pop("digest")
    found = Record(**values)
    if found.digest() != digest:
        raise ValueError(f"the record of {found.cell} is not as it was written")
    return found
