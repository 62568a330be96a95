"""What the steps of `SEH` change, as tables by action.

Components of a state: fragments, ordered pairs, the stopped flag; see `gfn_envs.envs.seh.dag.SEH`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gfn_envs.envs.seh.fragments import MAX_STEMS

UNSET = 1
"""The value of an ordered pair of joined fragments whose stem is not chosen; stem s is `UNSET + 1 + s`."""


def step_tables(slots: int, num_fragments: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return what each action writes and what undoes it, in rows `n * num_actions + action`, n slots filled.

    A step writes three components of the state, `[rows, 3]` where and `[rows, 3]` what; where there are fewer to write,
    it writes one several times. The backward actions are `[rows]`.
    """
    last = slots + slots**2
    changes = []
    for n in range(slots + 1):
        new = min(n, slots - 1)
        for i in range(slots):
            edge = [(slots + slots * i + new, UNSET), (slots + slots * new + i, UNSET)] if n > 0 and i != new else []
            for f in range(num_fragments):
                changes.append(([(new, f + 1), *edge, (new, f + 1), (new, f + 1)][:3], new))
        for pair in range(slots**2):
            for s in range(MAX_STEMS):
                changes.append(([(slots + pair, UNSET + 1 + s)] * 3, slots + pair))
        changes.append(([(last, 1)] * 3, last))
    writes = _tensor([write for write, _ in changes], device)
    undo = _tensor([undo for _, undo in changes], device)
    return writes[..., 0].contiguous(), writes[..., 1].contiguous(), undo


def backward_tables(slots: int, num_fragments: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return where each backward action takes components from, which one it writes and what, and how it is redone.

    That is `[A, d]` sources, `[A, 1]` and `[A, 1]` written and values, `[A, N]` the components that tell the removed
    fragment's neighbour, `[A, 1]` the component that is undone, and `[A]` a number to which
    `num_fragments * neighbour + undone` is added. Where a fragment can be removed the stopped flag is 0, so that
    cleared components are copies of it.
    """
    last = slots + slots**2
    same, nothing = list(range(last + 1)), [last] * slots
    rows = []
    for k in range(slots):
        kept = [i for i in range(slots) if i != k]
        # The slots that are kept, and the new last one, None, of which all is cleared.
        after = [*kept, None]
        pairs = [last if i is None or j is None else slots + slots * i + j for i in after for j in after]
        edges = [slots + slots * k + i for i in kept] + [last]
        rows.append(([*kept, last, *pairs, last], [last], [0], edges, [k], -1))
    for pair in range(slots**2):
        redo = num_fragments * slots + MAX_STEMS * pair - UNSET - 1
        rows.append((same, [slots + pair], [UNSET], nothing, [slots + pair], redo))
    stop = num_fragments * slots + MAX_STEMS * slots**2
    rows.append((same, [last], [0], nothing, [last], stop - 1))
    return tuple(_tensor(column, device) for column in zip(*rows, strict=True))


def _tensor(rows: Sequence[Any], device: torch.device) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=device)
