"""Ray as an engine: runs are tasks on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import Any

from agents.runs.engines import Engine, Work
from agents.runs.folder import first_line
from agents.runs.lock import FolderLock
from agents.runs.loggers import require
from agents.runs.suite import log_file

RETRIES = 3
"""How often Ray starts a task again whose node or process has died."""
PATIENCE = 60.0
"""Seconds for which a task that is started again waits for its dead predecessor to leave the folder."""


class RayEngine(Engine):
    """Ray tasks.

    Every node must reach the folder of the runs under the same path, unless the work itself brings its files
    (`agents.runs.storage`). Where a node dies, Ray starts its tasks on another one, and runs go on from their last
    checkpoint.

    Args:
        jobs: number of tasks at a time; 0 for as many as Ray places.
        address: address of the cluster; `""` starts Ray on this machine.
        gpus_per_cell: share of a GPU for each task.

    Raises `ValueError` if Ray is missing or there is no cluster at the address.
    """

    def __init__(self, jobs: int, address: str, gpus_per_cell: float) -> None:
        require("ray", "--engine ray")
        _demand_listener(address)
        import ray

        self._ray, self._jobs = ray, jobs
        self._tasks: dict[Any, Path] = {}
        self._own = not ray.is_initialized()
        try:
            if self._own:
                ray.init(address=address or None, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"--address {address}: there is no Ray cluster ({first_line(error)}).") from error
        options = {"num_cpus": 1, "num_gpus": gpus_per_cell, "max_retries": RETRIES}
        self._task = ray.remote(**options)(_as_task)

    def has_room(self) -> bool:
        return not self._jobs or len(self._tasks) < self._jobs

    def start(self, folder: Path, work: Work) -> None:
        self._tasks[self._task.remote(folder.resolve(), work)] = folder

    def ended(self) -> dict[Path, int]:
        tasks = list(self._tasks)
        done = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)[0] if tasks else []
        return {self._tasks.pop(task): self._code(task) for task in done}

    def _code(self, task: Any) -> int:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            print(error, file=sys.stderr)
            return 1

    def running(self) -> list[Path]:
        return list(self._tasks.values())

    def stop(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task)
        self._ray.wait(list(self._tasks), num_returns=len(self._tasks))

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


def _demand_listener(address: str) -> None:
    """Raise `ValueError` unless something listens at `[ray://]HOST:PORT`: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"--address {address}: there is no Ray cluster ({first_line(error)}).") from None


def _as_task(folder: Path, work: Work) -> int:
    folder.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + PATIENCE
    while FolderLock(folder).is_taken() and time.monotonic() < end:
        time.sleep(0.5)
    with (
        log_file(folder).open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        return work()
