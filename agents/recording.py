"""An iteration's work on a GPU as a CUDA graph: recorded once and then replayed, which the host starts in one call.

Without it a GPU waits for the host, which starts thousands of small kernels an iteration one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from gfn_envs.memory import is_exhausted

_WARM_UP = 3
"""Calls before the recording, in which libraries choose their kernels and what is made on first use is made."""

T = TypeVar("T")


class Recording(Generic[T]):
    """A function of no arguments that does the same work on the same tensors at each call, and returns what it made.

    The first calls run it, one records it, and those after that replay the record: they return the same tensors, with
    new values. What it does on the host happens while it runs and while it is recorded, and not in a replay.

    Args:
        work: the function. All that it reads must stay where it is; it must not wait for the device.
        generators: the random generators on the device that it draws from.
    """

    def __init__(self, work: Callable[[], T], generators: Sequence[torch.Generator]) -> None:
        self._work, self._generators = work, generators
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> T:
        self._calls += 1
        if self._calls <= _WARM_UP:
            return self._run_aside()
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()
        return self._made

    def _run_aside(self) -> T:
        """Run the work on another stream, as recording does."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            made = self._work()
        current.wait_stream(stream)
        return made

    def _record(self) -> torch.cuda.CUDAGraph:
        """Record the work, which does not run; `ValueError` if it waits for the device."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph):
                self._made = self._work()
        except RuntimeError as error:
            if is_exhausted(error):
                raise
            raise ValueError(
                "--cuda-graphs: an iteration of this run cannot be recorded, perhaps because it waits for the device, "
                f"as a reward does that is computed on the CPU: leave it out. CUDA says: {str(error).splitlines()[0]}"
            ) from error
        return graph
