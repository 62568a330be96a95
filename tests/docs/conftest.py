"""What the documentation's files register is forgotten after each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from agents import registry
from agents.config import CHOICES
from gfn_envs import registry as environments


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Go to an empty folder outside the repository, from which modules can be imported."""
    for choices in (*CHOICES.values(), registry.METRICS):
        monkeypatch.setattr(choices, "_rows", dict(choices._rows))
    monkeypatch.setattr(registry, "_PRESETS", {name: dict(rows) for name, rows in registry._PRESETS.items()})
    monkeypatch.setattr(environments, "_ROWS", dict(environments._ROWS))
    known = set(gymnasium.registry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for id in set(gymnasium.registry) - known:
        del gymnasium.registry[id]
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
