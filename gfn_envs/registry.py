"""One row an environment: its id, its DAG and the defaults; Gymnasium and `make` read the same row."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium

from gfn_envs.errors import check_keywords, choose

if TYPE_CHECKING:
    import torch

    from gfn_envs.dag import DAG

T = TypeVar("T")

_ROWS: dict[str, tuple[str, dict[str, Any]]] = {}


def register(id: str, dag: str, **kwargs: Any) -> None:
    """Register an environment with Gymnasium and with `gfn_envs.make`.

    Args:
        id: such as `"gfn/Hypergrid-v0"`.
        dag: the DAG's class as `"module:Class"`; it is imported when the first instance is made.
        kwargs: default keyword arguments of the class.
    """
    check_reference("dag", dag)
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
    return resolve("environment id", id, _ROWS)


def resolve(kind: str, name: str, rows: Mapping[str, T]) -> T:
    """Return `rows[name]`; `"module:name"` first imports the module, which is to register the name.

    Args:
        kind: what the names are of, such as `"environment id"`, for the message of the `ValueError` that is raised for
            a module that cannot be imported and for an unknown name.
    """
    module, colon, bare = name.rpartition(":")
    if colon:
        import_user_module(module, f"{kind[:1].upper()}{kind[1:]} {name!r}")
    return choose(kind, bare, rows)


def import_user_module(module: str, what: str) -> ModuleType:
    """Return a module that the user names; `ValueError`, which begins with `what`, if it cannot be imported."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{what}: {module!r} is not the name of a module; write 'module:name'.")
    try:
        return importlib.import_module(module)
    except SystemExit as stop:
        raise ValueError(f"{what}: importing {module!r} ends the program (exit {stop.code!r}).") from stop
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what}: cannot import {module!r} ({error}). The module must be installed, or lie in the current folder."
        ) from error


def load(thing: str) -> Any:
    """Return what `"module:thing"` names, such as a class; `ValueError` where the module has no such thing."""
    module, _, name = thing.partition(":")
    found = importlib.import_module(module)
    if not hasattr(found, name):
        raise ValueError(f"{thing!r} is registered, but {module} has no {name}.")
    return getattr(found, name)


def check_reference(argument: str, thing: str) -> None:
    """Raise `ValueError` unless `thing` reads `"module:thing"`."""
    module, _, name = thing.partition(":")
    if not module or not name:
        raise ValueError(f"{argument} must read 'module:Class', got {thing!r}.")


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
    check_keywords(cls.__name__, kwargs, accepted)
    return cls(device=device, **kwargs)
