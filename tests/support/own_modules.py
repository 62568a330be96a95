"""Modules of a user's own, written into a folder on the path, and forgotten after the test."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from agents import registry as choices
from gfn_envs import registry as envs


@contextlib.contextmanager
def own_modules(folder: Path, **modules: str) -> Iterator[None]:
    """Write modules by name, which can be imported, and register, until the end."""
    before = set(gymnasium.registry)
    with pytest.MonkeyPatch.context() as patch:
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
        patch.syspath_prepend(folder)
        patch.setattr(envs, "_ROWS", dict(envs._ROWS))
        patch.setattr(choices, "_PRESETS", {name: dict(rows) for name, rows in choices._PRESETS.items()})
        for registry in (choices.AGENTS, choices.BACKWARD, choices.SAMPLERS, choices.NETWORKS, choices.METRICS):
            patch.setattr(registry, "_rows", dict(registry._rows))
        yield
    for name in modules:
        sys.modules.pop(name, None)
    for name in set(gymnasium.registry) - before:
        gymnasium.registry.pop(name)
