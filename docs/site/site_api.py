"""The reference of the public names, by mkdocstrings."""

from __future__ import annotations

import agents
import gfn_envs

PACKAGES = (gfn_envs, agents)


def place_of(package: str) -> str:
    """Return the path of the page of a package."""
    return f"reference/{package}.md"


def pages() -> dict[str, str]:
    """Return a page for each package: its docstring, and each public name."""
    found = {}
    for package in PACKAGES:
        name = package.__name__
        names = "\n\n".join(f"::: {name}.{each}" for each in package.__all__)
        found[place_of(name)] = f"# {name}\n\n{package.__doc__}\n\n{names}\n"
    return found
