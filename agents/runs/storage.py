"""Runs kept under an fsspec URL, for machines that share no disk: each works in a folder of its own and copies files.

Source: fsspec (https://filesystem-spec.readthedocs.io) for the protocols: s3, gs, abfs, ssh, a path and others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import gettempdir

from fsspec.core import url_to_fs

from agents.runs.engines import Work
from agents.runs.folder import first_line
from agents.runs.suite import log_file, run_cell, settings_file

EVERY = 5.0
"""Seconds between two looks at what a run has written."""
SCRATCH = "GFN_SCRATCH"
"""The environment variable that names where a machine works."""
_PART = ".part"
"""The end of the name of a file that is being copied."""
_LAST = ("checkpoint.pt", "summary.json")
"""Files that are copied after all others, because they say how far a run is."""


class Storage:
    """Folders of runs below a URL, each with the settings and the log that lie beside it.

    Files are copied to a temporary name and renamed, so that a copy is whole or not there.

    Args:
        url: such as `s3://bucket/runs`; a path is a folder that all machines reach.

    Raises `ValueError` if fsspec does not know the protocol, lacks its package, or cannot write there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = url_to_fs(url)
            self._files.makedirs(self._root, exist_ok=True)
            probe = self._at(uuid.uuid4().hex + _PART)  # other machines try it too
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)
        except Exception as error:  # each file system has its own errors
            raise ValueError(f"--storage {url}: it cannot be written ({first_line(error)}).") from error

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def scratch(self, name: str) -> Path:
        """Return the folder in which a machine works on a run; each machine has one of its own.

        It is below the folder that the environment variable `GFN_SCRATCH` names, or where temporary files are.
        """
        own = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        return Path(os.environ.get(SCRATCH) or gettempdir()) / f"gfn-runs-{own}" / name

    def settings(self, name: str) -> str | None:
        """Return the settings from which a run starts, as JSON; None if they are not there."""
        return self._text(f"{name}.json")

    def log(self, name: str) -> str:
        """Return what a run has printed so far."""
        return self._text(f"{name}.log") or ""

    def _text(self, name: str) -> str | None:
        self._files.invalidate_cache()
        there = self._at(name)
        return self._files.cat_file(there).decode(errors="replace") if self._files.exists(there) else None

    def work(self, name: str, kind: str) -> Work:
        """Return what a machine does for a run; see `run_stored_cell`."""
        return partial(run_stored_cell, self.url, name, kind)

    def put(self, name: str, folder: Path, done: dict[str, tuple[int, int]], finished: bool = True) -> None:
        """Copy the files of a run that differ from those `done`, by name with time and size, and note them there.

        Without `finished` the summary stays behind, which would say that all the rest is there.
        """
        for file, relative in sorted(_files(name, folder), key=lambda pair: _LAST.count(pair[0].name)):
            with contextlib.suppress(FileNotFoundError):  # a file that was replaced meanwhile comes the next time
                now = file.stat()
                stamp = (now.st_mtime_ns, now.st_size)
                if done.get(relative) == stamp or (file.name == _LAST[-1] and not finished):
                    continue
                there = self._at(relative)
                self._files.makedirs(there.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(file), there + _PART)
                self._files.mv(there + _PART, there)
                done[relative] = stamp

    def get(self, name: str, folder: Path, beside: Sequence[str] = (".json", ".log")) -> None:
        """Copy the files of a run to `folder` and `beside` it; where there are none, change nothing."""
        self._files.invalidate_cache()
        there = self._files.find(self._at(name)) if self._files.exists(self._at(name)) else []
        base = self._at(name)
        there += [base + end for end in beside if self._files.exists(base + end)]
        for path in sorted(there, key=lambda path: _LAST.count(path.rpartition("/")[2])):
            if path.endswith(_PART):
                continue
            end = path[path.index(base) + len(base) :]
            file = folder / end[1:] if end.startswith("/") else folder.with_name(folder.name + end)
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            self._files.get_file(path, str(temporary))
            os.replace(temporary, file)


def _files(name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a run, but those being written, with their names in the storage."""
    for file in (settings_file(folder), log_file(folder)):
        if file.exists():
            yield file, name + file.name.removeprefix(folder.name)
    for file in folder.rglob("*") if folder.is_dir() else ():
        if file.is_file() and not file.name.startswith("."):
            yield file, f"{name}/{file.relative_to(folder).as_posix()}"


def run_stored_cell(url: str, name: str, kind: str) -> int:
    """Do what `run_cell` does in this machine's own folder, from what the storage has, and keep the storage up to date.

    A machine that dies loses what was not copied: at most `EVERY` seconds, and what came after the last checkpoint.
    """
    storage = Storage(url)
    folder = storage.scratch(name)
    storage.get(name, folder, beside=[".json"])
    log = log_file(folder)  # it is open already, so that no other file may take its place
    if log.exists() and not log.stat().st_size:
        print(storage.log(name), end="", flush=True)
    done: dict[str, tuple[int, int]] = {}
    stop = threading.Event()

    def copy() -> None:
        while not stop.wait(EVERY):
            try:
                storage.put(name, folder, done, finished=False)
            except Exception as error:  # the next look tries again; the last one, below, must not fail
                print(f"not copied to {url}: {first_line(error)}", flush=True)

    copying = threading.Thread(target=copy, daemon=True)
    copying.start()
    try:
        return run_cell(folder, kind)
    finally:
        stop.set()
        copying.join()
        storage.put(name, folder, done)
