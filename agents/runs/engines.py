"""Where runs run: an engine starts them, tells how they ended, and stops them."""

from __future__ import annotations

import multiprocessing
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from agents.runs.suite import log_file
from gfn_envs.registry import load

PRELOADED = ("agents.runs.train", "agents.evaluation.exact", "agents.evaluation.slack", "torch._dynamo")
"""Modules that take seconds to import and that nearly every run imports; torch's optimizers need the last one."""


Work = Callable[[], int]
"""What an engine runs; it returns an exit code, and can be pickled."""


class Engine(ABC):
    """Runs work, each in a process of its own and for a folder. What it prints goes into the log beside the folder."""

    @abstractmethod
    def has_room(self) -> bool:
        """Return whether more work may be started."""

    @abstractmethod
    def start(self, folder: Path, work: Work) -> None:
        """Start the work for a folder."""

    @abstractmethod
    def ended(self) -> dict[Path, int]:
        """Return the exit codes of what has ended since the last call, by folder; a negative one is a signal."""

    @abstractmethod
    def running(self) -> list[Path]:
        """Return the folders of what has been started and has not ended."""

    @abstractmethod
    def stop(self) -> None:
        """Let what runs write a checkpoint and end, and wait for that."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the engine holds."""


class Local(Engine):
    """Processes of this machine, `jobs` at a time.

    They are forked from a process that has imported torch already, and is otherwise empty.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {jobs}.")
        self._jobs, self._processes = jobs, dict[Path, BaseProcess]()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))

    def has_room(self) -> bool:
        return len(self._processes) < self._jobs

    def start(self, folder: Path, work: Work) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        process = self._context.Process(target=_in_own_process, args=(folder, work, dict(os.environ)))
        process.start()
        self._processes[folder] = process

    def ended(self) -> dict[Path, int]:
        codes = {folder: process.exitcode for folder, process in self._processes.items()}
        codes = {folder: code for folder, code in codes.items() if code is not None}
        for folder in codes:
            self._processes.pop(folder).close()
        return codes

    def running(self) -> list[Path]:
        return list(self._processes)

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()

    def close(self) -> None:
        self._processes.clear()


def _in_own_process(folder: Path, work: Work, environment: dict[str, str]) -> None:
    # In a session of its own Ctrl-C does not reach it: the sweep stops it, once.
    os.setsid()
    os.environ.update(environment)
    with log_file(folder).open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    sys.exit(work())


def stoppable(engine: Engine, work: Work) -> int:
    """Do `work` with an engine and give it back; return the exit code of `work`, or 130 after Ctrl-C.

    After Ctrl-C what runs is let end as `Engine.stop` says.
    """
    try:
        return work()
    except KeyboardInterrupt:
        engine.stop()
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    finally:
        engine.close()


@dataclass(frozen=True)
class EngineOptions:
    """The options of a command line that runs much: where, and how much at a time."""

    engine: Literal["local", "ray"] = "local"
    """What runs it: processes of this machine, or Ray, on this machine or a cluster."""
    jobs: int = 0
    """How many at a time, with one thread each; 0 is one for each core, and no limit with Ray."""
    address: str = ""
    """Address of the Ray cluster, such as auto or ray://HOST:10001; without one Ray starts on this machine."""
    gpus_per_cell: float = 0.0
    """Share of a GPU that Ray gives to each, such as 0.25."""

    def open_engine(self) -> Engine:
        """Return the engine; `ValueError` if there is none such."""
        if self.engine == "ray":
            return load("agents.runs.ray_engine:RayEngine")(self.jobs, self.address, self.gpus_per_cell)
        if self.address or self.gpus_per_cell:
            raise ValueError("--address and --gpus-per-cell are for --engine ray.")
        return Local(self.jobs or len(os.sched_getaffinity(0)))
