"""The way to RDKit, which is an extra."""

from __future__ import annotations

import importlib
from typing import Any

from gfn_envs.errors import require


def require_rdkit() -> Any:
    """Return the module `rdkit.Chem`, or raise `ModuleNotFoundError` that says which extra brings it."""
    return require("rdkit.Chem", "RDKit", "molecules", "Steps, masks and built-in rewards of gfn/QM9-v0 do without.")


def logs_blocked() -> Any:
    """Return a context in which RDKit writes no messages, for strings that are perhaps no molecule."""
    require_rdkit()
    return importlib.import_module("rdkit.rdBase").BlockLogs()
