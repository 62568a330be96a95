"""What attacks share: how many there are, runs in processes of their own, and what counts as an answer."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

SHARE = float(os.environ.get("ATTACK_SHARE", "1"))
"""Part of the full number of attacks to do."""
SEED = int(os.environ.get("ATTACK_SEED", "0"))
CRASHED = 99
"""Exit code of a process that ended with a traceback."""

Case = TypeVar("Case")


def number(full: float) -> int:
    """Return how many attacks to do where there are `full` of them in all."""
    return max(1, round(full * SHARE))


def some(cases: Iterable[Case]) -> list[Case]:
    """Return as many of the cases as the share asks for, at least one, evenly spread over them."""
    every = list(cases)
    count = max(1, round(len(every) * min(SHARE, 1)))
    return [every[i * len(every) // count] for i in range(count)]


@dataclass
class Process:
    """A command line in a forked process: it needs no time to import anything."""

    pid: int
    log: Path
    started: float

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, minus the signal that ended it, or None if it still runs after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return None

    def wait_busy(self, seconds: float) -> int | None:
        """Return as `wait` does; None if it still runs after that much time of a processor, or six times as long."""
        end = self.started + 6 * seconds
        while time.monotonic() < end and self._cpu() < seconds:
            if (code := self.wait(0.05)) is not None:
                return code
        return None

    def _cpu(self) -> float:
        """Return the seconds of a processor that it has used."""
        try:
            words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; the process may be gone already."""
        os.kill(self.pid, number)

    def told(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text(errors="replace")


def fork(main: Callable[[list[str]], int], arguments: list[str], log: Path, gib: float = 0, file: int = 0) -> Process:
    """Run `main(arguments)` in a forked process, at most `gib` more memory and files of `file` bytes."""
    started = time.monotonic()
    pid = os.fork()
    if pid:
        return Process(pid, log, started)
    code = CRASHED
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        if gib:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + int(gib * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if file:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file, resource.RLIM_INFINITY))
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def complaint(code: int | None, told: str) -> str:
    """Return what is wrong with how a command ended: a traceback, a signal, a hang or silence; "" if nothing is."""
    if code is None:
        return "it hangs"
    if code == CRASHED or code < 0 or "Traceback (most recent call last)" in told:
        return f"it ended with {code} and a traceback, or by a signal"
    if code and not any(line.startswith(("error:", "stopped")) for line in told.splitlines()):
        return f"it ended with {code} and without a word of why"
    return ""


def left_over(folder: Path) -> list[str]:
    """Return the half-written files in a folder."""
    return [str(path) for path in folder.rglob(".*") if path.is_file() and path.name != ".lock"]
