"""One row an environment: its id, its DAG and the defaults; Gymnasium and `make` read the same row."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from gfn_envs.errors import choose

if TYPE_CHECKING:
    import torch

    from gfn_envs.dag import DAG

_ROWS: dict[str, tuple[str, dict[str, Any]]] = {}


def register(id: str, dag: str, **kwargs: Any) -> None:
    """Register an environment with Gymnasium and with `gfn_envs.make`.

    Args:
        id: such as `"gfn/Hypergrid-v0"`.
        dag: the DAG's class as `"module:Class"`; it is imported when the first instance is made.
        kwargs: default keyword arguments of the class.
    """
    module, _, name = dag.partition(":")
    if not module or not name:
        raise ValueError(f"dag must read 'module:Class', got {dag!r}.")
    _ROWS[id] = (dag, kwargs)
    gymnasium.register(
        id,
        entry_point="gfn_envs.env:DAGEnv",
        vector_entry_point="gfn_envs.vector:DAGVectorEnv",
        kwargs={"dag": dag, **kwargs},
    )


def registered() -> list[str]:
    """Return the registered ids."""
    return list(_ROWS)


def find(id: str) -> tuple[str, dict[str, Any]]:
    """Return the row of a registered id, the DAG's class as `"module:Class"` and its default keyword arguments.

    As in Gymnasium, `"module:id"` first imports the module that registers the id. `ValueError` for a module that cannot
    be found, and for an unknown id (the message lists the known ones, closest first).
    """
    module, colon, name = id.rpartition(":")
    if colon:
        _import(module, id)
    return choose("environment id", name, _ROWS)


def _import(module: str, id: str) -> None:
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"Environment id {id!r}: {module!r} is not the name of a module; write 'module:id'.")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Environment id {id!r}: cannot import {module!r} ({error}). The module must be installed, or lie in the "
            "current folder."
        ) from error


def load(dag: str) -> type[DAG]:
    """Return the class named by `"module:Class"`."""
    module, _, name = dag.partition(":")
    return getattr(importlib.import_module(module), name)


def make(id: str, /, device: str | torch.device = "cpu", **kwargs: Any) -> DAG:
    """Make the bare DAG of a registered id on `device`, from the same row that `gymnasium.make` uses.

    `"module:id"` first imports the module that registers the id. Raises `ValueError` for an unknown id (the message
    lists the known ones, closest first) and for bad arguments.
    """
    dag, defaults = find(id)
    return build(dag, device=device, **{**defaults, **kwargs})


def build(dag: str, /, device: str | torch.device = "cpu", **kwargs: Any) -> DAG:
    """Make an instance of the class named by `"module:Class"`; a wrong keyword is an error listing the right ones."""
    import inspect

    cls = load(dag)
    accepted = {name: None for name in inspect.signature(cls).parameters if name != "device"}
    for name in kwargs:
        choose(f"keyword argument of {cls.__name__}", name, accepted)
    return cls(device=device, **kwargs)
