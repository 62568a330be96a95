"""The list of all choices as text: `python agents/run.py --list`."""

from __future__ import annotations

import inspect
import re

from agents import registry
from gfn_envs.registry import find, load, registered


def text() -> str:
    """Return the environments with their sizes, and all agents, backward policies, networks, presets and metrics."""
    envs = [(name, f"{_summary(load(find(name)[0]))} {_size(load(find(name)[0]))}") for name in registered()]
    groups = {
        "--env": envs,
        "--agent": _choices(registry.AGENTS),
        "--backward": _choices(registry.BACKWARD),
        "--sampler": _choices(registry.SAMPLERS),
        "--network": [("auto", "The first of these that fits the environment."), *_choices(registry.NETWORKS)],
        "--metrics": _choices(registry.METRICS),
        "--preset": [(name, "") for name in registry.preset_names()],
    }
    lines = []
    for flag, rows in groups.items():
        width = max((len(name) for name, _ in rows), default=0)
        lines += [flag, *(f"  {name.ljust(width)}  {about}".rstrip() for name, about in rows), ""]
    return "\n".join(lines).rstrip()


def _choices(choices: registry.Registry) -> list[tuple[str, str]]:
    return [(name, _summary(choices.find(name))) for name in choices.names()]


def _summary(thing: object) -> str:
    """Return the first paragraph of a docstring."""
    first = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(first.split())


def _size(dag: type) -> str:
    """Return the sizes for default arguments that the class's docstring gives."""
    found = re.search(
        r"^Size: (.*?)(?=\n\n|\n[A-Z][a-z ]*:|\Z)", inspect.getdoc(dag) or "", flags=re.DOTALL | re.MULTILINE
    )
    return f"Size: {' '.join(found[1].split())}" if found else ""
