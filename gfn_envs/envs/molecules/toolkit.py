"""The way to RDKit, which is an extra."""

from __future__ import annotations

import importlib
from typing import Any


def require_rdkit() -> Any:
    """Return the module `rdkit.Chem`, or raise `ModuleNotFoundError` that says which extra brings it."""
    try:
        return importlib.import_module("rdkit.Chem")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "This needs RDKit, which is not installed: pip install 'gfn-envs[molecules]'. Steps, masks and the gap "
            "reward of gfn/QM9-v0 do without."
        ) from error


def logs_blocked() -> Any:
    """Return a context in which RDKit writes no messages, for strings that are perhaps no molecule."""
    require_rdkit()
    return importlib.import_module("rdkit.rdBase").BlockLogs()
