"""Sizes that cannot fit are refused before anything is built: what is needed, what there is, what to lower."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

GIB = 2**30
_CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may use."""
_SIGNS = ("allocate memory", "out of memory", "std::bad_alloc", "Storage size calculation overflowed")
"""What torch's messages say when memory is exhausted."""


def available(device: torch.device) -> float:
    """Return how many bytes a process may hold on `device`: the machine's memory, or a smaller limit set for it."""
    if device.type == "meta":
        return float("inf")
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits: list[int] = []
    with contextlib.suppress(ImportError, AttributeError):  # Windows has neither
        import resource

        limits += [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
        limits += [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int(_CONTAINER.read_text()))
    return min((each for each in limits if each > 0), default=float("inf"))


def demand(what: str, needed: float, lower: str, device: torch.device | str = "cpu") -> None:
    """Raise `ValueError` if `needed` bytes are more than there are on `device`.

    Args:
        what: what needs them, in the plural: `"the weights"`.
        lower: the argument to lower.
    """
    there = available(torch.device(device))
    if needed > there:
        told = f"{what} need at least {needed / GIB:,.1f} GiB, and there are {there / GIB:,.1f}"
        raise ValueError(f"{told}: lower {lower}.")


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; torch has no class of its own for it on the CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )
