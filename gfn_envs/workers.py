"""Processes of their own that apply a user's function to one object at a time, with a limit on the time for each.

The pool of processes is Pebble's (Cafasso 2013, https://github.com/noxdafox/pebble). Unlike that of
`concurrent.futures` it ends a process whose task takes too long, and goes on with a new one where a process has died.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

UNUSABLE = (
    "got no answer, as its worker processes ended before they began; what they say stands above. In a script, what "
    "runs must stand below `if __name__ == '__main__':`"
)


class Failure(NamedTuple):
    """What became of an object without a result."""

    reason: str
    """One line."""
    cause: BaseException | None = None


class WorkersError(RuntimeError):
    """Workers cannot do anything at all; the message is the end of a sentence about the function."""


class InWorker(Exception):  # noqa: N818  (not raised: it is the cause of what is)
    """Shows the traceback of an error in another process."""

    def __str__(self) -> str:
        return f"in a worker process\n{self.args[0]}"


def told(error: BaseException) -> str:
    """Return an error in one line, with its type."""
    return " ".join(f"{type(error).__name__}: {error}".split())


class Workers:
    """`num` processes that apply a function to one object at a time; they begin with the first objects.

    They begin anew, without what the main process has imported. What the function needs is imported once in each. They
    end with the main process, however that ends. A copy, pickled or not, has no processes until it is asked.

    Args:
        function: takes a list of one text, or a tensor of one state.
        num: number of processes.
        timeout: seconds after which a call is ended, with its process and what that has begun; None for no limit.
        of_states: whether objects are states, lists of integers, which the function gets as int64 `[1, d]` on the CPU.

    Raises `ValueError` for a function that cannot be pickled.
    """

    def __init__(
        self, function: Callable[..., Any], num: int, timeout: float | None = None, of_states: bool = False
    ) -> None:
        import cloudpickle

        try:
            self._payload = cloudpickle.dumps((function, of_states))
        except Exception as error:
            raise ValueError(
                f"it cannot be sent to worker processes ({told(error)}): write a function at the top level of a module "
                "and name it 'module:function', or leave out reward_workers"
            ) from error
        self.num, self.timeout = num, timeout
        self._pool: ProcessPool | None = None
        self._end: Callable[[], Any] | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None, "_end": None}

    def outcomes(
        self, objects: Sequence[Any], until_failure: bool, shown: Callable[..., Iterable[Any]] = iter
    ) -> list[Any]:
        """Return the result of each of `objects` in their order, or the `Failure`.

        Args:
            until_failure: whether to end all work at the first failure, the last outcome returned.
            shown: wraps what is gone through while results arrive, to show the progress.

        Raises `WorkersError` where no worker comes as far as to begin.
        """
        outcomes: list[Any] = []
        try:
            for future in shown(self._scheduled(objects)):
                outcomes.append(self._outcome(future))
                if until_failure and isinstance(outcomes[-1], Failure):
                    self.stop()
                    break
        except BaseException:  # Ctrl-C, too, must not leave calls behind that nobody waits for
            self.stop()
            raise
        return outcomes

    def stop(self) -> None:
        """End the processes at once; they begin again with the next objects."""
        if self._end is not None:
            self._end()
        self._pool = self._end = None

    def _running(self) -> ProcessPool:
        """Return the pool of this process; one that was there before a fork belongs to another."""
        if self._pool is not None and self._owner == os.getpid() and self._pool.active:
            return self._pool
        self.stop()
        if multiprocessing.current_process().daemon:
            raise WorkersError(
                "cannot have worker processes: this process is a daemon, as those of AsyncVectorEnv are, and may start "
                "none. Set reward_workers=0, or daemon=False there"
            )
        from pebble import ProcessPool

        context: Any = multiprocessing.get_context("spawn")  # Pebble describes what it takes too narrowly
        self._pool = ProcessPool(self.num, initializer=_begin, initargs=(self._payload,), context=context)
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _stop, self._pool, self._owner)
        return self._pool

    def _scheduled(self, objects: Sequence[Any]) -> list[ProcessFuture[Any]]:
        pool = self._running()
        try:
            return [pool.schedule(_answer, args=(each,), timeout=self.timeout) for each in objects]
        except RuntimeError as error:
            raise WorkersError(UNUSABLE) from error

    def _outcome(self, future: ProcessFuture[Any]) -> Any:
        from pebble import ProcessExpired

        try:
            found = future.result()
        except concurrent.futures.TimeoutError:
            return Failure(f"no answer within {self.timeout:g} seconds")
        except ProcessExpired as error:
            return Failure(f"its worker process {_ending(error.exitcode)}")
        except concurrent.futures.BrokenExecutor as error:
            raise WorkersError(UNUSABLE) from error
        except Exception as error:
            return Failure(told(error), error)
        if not isinstance(found, _Raised):
            return found
        if found.loading:
            raise WorkersError(f"cannot be loaded in a worker process ({found.reason})") from InWorker(found.text)
        return Failure(found.reason, InWorker(found.text))


def _ending(code: int) -> str:
    """Return how a process ended that left this exit code."""
    if code >= 0:
        return f"ended with code {code}"
    return f"was killed by {signal.Signals(-code).name}" + ", perhaps for want of memory" * (code == -signal.SIGKILL)


def _stop(pool: ProcessPool, owner: int) -> None:
    if owner == os.getpid():  # a fork has copies of pools whose processes are not its own
        pool.stop()
        pool.join()


# What follows runs in the workers, which import neither torch nor RDKit unless the function does.


class _Raised(NamedTuple):
    """An error as texts, since not every error can be pickled."""

    reason: str
    text: str
    loading: bool
    """Whether the function could not even be unpickled."""


_loaded: tuple[Callable[..., Any], bool] | _Raised
"""The function, and whether it takes states."""


def _begin(payload: bytes) -> None:
    """Prepare a worker: a group of processes of its own, which ends with the main process, and the function."""
    global _loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGTERM, _end_group)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _loaded = pickle.loads(payload)
    except (Exception, SystemExit) as error:
        _loaded = _Raised(told(error), traceback.format_exc(), loading=True)


def _answer(each: Any) -> Any:
    """Return what the function returns for one object, in types of Python, or the error."""
    if isinstance(_loaded, _Raised):
        return _loaded
    function, of_states = _loaded
    try:
        return _plain(function(_tensor([each]) if of_states else [each]))
    except (Exception, SystemExit) as error:
        inner = error.__traceback__ and error.__traceback__.tb_next  # without the call of ours
        return _Raised(told(error), "".join(traceback.format_exception(type(error), error, inner)), loading=False)


def _tensor(rows: list[Any]) -> Any:
    import torch

    return torch.tensor(rows)


def _plain(result: Any) -> Any:
    """Return arrays and tensors, and lists of them, as lists of numbers."""
    if hasattr(result, "tolist"):
        return result.tolist()
    return [_plain(each) for each in result] if isinstance(result, list | tuple) else result


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    _end_group()


def _end_group(*_: Any) -> NoReturn:
    """End this worker and what the function has started, such as a docking program."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
