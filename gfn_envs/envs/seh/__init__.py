"""Molecules fragment by fragment, rewarded by a published proxy of the binding energy to soluble epoxide hydrolase.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfn_envs.envs.seh.dag import SEH
    from gfn_envs.envs.seh.features import predict

__all__ = ["SEH", "predict"]

_LAZY = {"SEH": "gfn_envs.envs.seh.dag", "predict": "gfn_envs.envs.seh.features"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
