"""Molecules of up to nine atoms C, N, O and F; the reward comes from the gap between their frontier orbitals."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfn_envs.envs.qm9.dag import QM9
    from gfn_envs.envs.qm9.gap import predict_gap

__all__ = ["QM9", "predict_gap"]

_LAZY = {"QM9": "gfn_envs.envs.qm9.dag", "predict_gap": "gfn_envs.envs.qm9.gap"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
