"""One run on several processes, started by `torchrun`: each samples and learns from its share of every batch.

All hold the same weights, as gradients are averaged before each step. Every function here also works in a process on
its own, where it changes nothing. Those that say so must be called by all processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_together = False
"""Whether all processes do the same work at present, so that they can share it."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Let the processes that `torchrun` started find each other; alone, do nothing. All processes must call this."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; the first one writes the run's files."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(number: int, what: str) -> int:
    """Return this process's share of `number`; `ValueError`, which names it by `what`, unless all get the same."""
    if number % size():
        raise ValueError(f"{what} {number} must be a multiple of the {size()} processes.")
    return number // size()


def own_seed(seed: int) -> int:
    """Return the seed of what this process draws and the others do not: that of the run in the first process."""
    return seed + rank() * 1_000_003  # on CPUs torch reads the lower 32 bits


def mean(value: Tensor) -> Tensor:
    """Return the mean of `value` over the processes, with gradient. All processes must call this."""
    return value if size() == 1 else _Mean.apply(value)  # pyright: ignore[reportReturnType]


class _Mean(torch.autograd.Function):
    """The mean over the processes; so its gradient is the mean of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _summed(value / size())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _summed(gradient / size())


def _summed(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients of `parameters` by their mean over the processes. All processes must call this."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if size() == 1 or not gradients:
        return
    averaged = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = averaged.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_figures(figures: dict[str, float]) -> dict[str, float]:
    """Return the mean over the processes of each of `figures`. All processes must call this."""
    means = mean(torch.tensor(list(figures.values()), dtype=torch.float64))
    return dict(zip(figures, means.tolist(), strict=True))


def any_of(flag: bool) -> bool:
    """Return whether `flag` is true in one of the processes. All processes must call this."""
    return flag if size() == 1 else bool(_summed(torch.tensor(int(flag))))


def gathered(value: Tensor) -> Tensor:
    """Return the rows of all processes, which have the same number of them, in their order. All must call this."""
    if size() == 1:
        return value
    parts = [torch.empty_like(value) for _ in range(size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def gathered_objects(value: Any) -> list[Any]:
    """Return the objects of all processes in their order. All processes must call this."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Wait until all processes are here. All processes must call this."""
    if size() > 1:
        dist.barrier()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Say that all processes do the same work inside, with equal random numbers: `map_rows` lets them share it."""
    global _together
    before, _together = _together, True
    try:
        yield
    finally:
        _together = before


def map_rows(
    work: Callable[[Tensor, torch.Generator | None], Tensor], rows: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Return `work(rows, generator)`, which has one row for each of `rows [N, ...]`.

    Inside `together()` each process does a part of the rows, with random numbers of its own, and all get the whole.
    """
    if size() == 1 or not _together or generator is None:
        return work(rows, generator)
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    own = torch.Generator(generator.device).manual_seed(own_seed(seed))
    each = -(-len(rows) // size())
    places = (torch.arange(each, device=rows.device) + rank() * each).clamp(max=len(rows) - 1)
    return gathered(work(rows[places], own))[: len(rows)]
