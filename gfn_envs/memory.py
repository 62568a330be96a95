"""Sizes that cannot fit are refused before anything is built: what is needed, what there is, what to lower."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

GIB = 2**30
_CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may use."""
_SIGNS = ("allocate memory", "out of memory", "std::bad_alloc", "Storage size calculation overflowed")
"""What torch's messages say when memory is exhausted."""


class Need(NamedTuple):
    """Memory that something takes."""

    what: str
    """What takes it, in the plural: `"the weights"`."""
    size: float
    """How many bytes."""
    lower: str
    """The argument to lower."""


def available(device: torch.device) -> float:
    """Return how many bytes more this process may take on `device`.

    That is the machine's memory, or a smaller limit set for the process, less what it holds already.
    """
    if device.type == "meta":
        return float("inf")
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory - torch.cuda.memory_allocated(device)
    mapped, resident, data = _held()
    left: list[float] = []
    with contextlib.suppress(ImportError, AttributeError):  # Windows has neither
        import resource

        left.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - resident)
        for kind, held in ((resource.RLIMIT_AS, mapped), (resource.RLIMIT_DATA, data)):
            limit = resource.getrlimit(kind)[0]
            left += [limit - held] if limit != resource.RLIM_INFINITY else []
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        left.append(int(_CONTAINER.read_text()) - resident)
    return max(min(left, default=float("inf")), 0.0)


def _held() -> tuple[int, int, int]:
    """Return how many bytes of address space, of memory and of data this process holds; 0 where this is not told."""
    try:
        pages = [int(word) for word in Path("/proc/self/statm").read_text().split()]
    except OSError:
        return 0, 0, 0
    size = os.sysconf("SC_PAGE_SIZE")
    return pages[0] * size, pages[1] * size, pages[5] * size


def demand(what: str, needed: float, lower: str, device: torch.device | str = "cpu") -> None:
    """Raise `ValueError` if `needed` bytes are more than there are on `device`; the rest is that of a `Need`."""
    demand_all([Need(what, needed, lower)], device)


def demand_all(needs: Iterable[Need], device: torch.device | str = "cpu") -> None:
    """Raise `ValueError` if what is needed at the same time is more than there is on `device`.

    It names what needs most, and the others too where that alone would fit.
    """
    there = available(torch.device(device))
    ranked = sorted(needs, key=lambda need: -need.size)
    if not ranked:
        return
    most, *others = ranked
    total = most.size if most.size > there else most.size + sum(need.size for need in others)
    if total > there:
        parts = [most.what] if most.size > there else [most.what, *(need.what for need in others)]
        named = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        together = " together" if len(parts) > 1 else ""
        told = f"{named} need at least {total / GIB:,.1f} GiB{together}, and there are {there / GIB:,.1f}"
        raise ValueError(f"{told}: lower {most.lower}.")


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; torch has no class of its own for it on the CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )
