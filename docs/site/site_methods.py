"""What docs/agents.md says of agents, backward policies and samplers, with the settings of each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from site_markdown import code, table

from agents.config import CHOICES
from agents.settings import Bounds, Settings, field_types, flag_of, meanings

ROOT = Path(__file__).parents[2]
SOURCE = "docs/agents.md"
KINDS = {"Agents": "agent", "Backward policies": "backward", "Samplers": "sampler"}
"""The sections of the page, and what a run calls the choices in each."""


def page() -> str:
    """Return the page, with a table of settings below each choice."""
    text, kind = [], ""
    for part in re.split(r"(?m)^(?=##+ )", (ROOT / SOURCE).read_text(encoding="utf-8")):
        heading = re.match(r"(##+) (.+)", part)
        if heading and heading[1] == "##":
            kind = KINDS.get(heading[2], "")
        text.append(part)
        if heading and heading[1] == "###" and kind:
            text.append(settings(kind, CHOICES[kind].find(heading[2])))
    return "".join(text)


def named(kind: str) -> list[str]:
    """Return the names of a kind of choice that have a section on the page."""
    title = next(title for title, each in KINDS.items() if each == kind)
    section = (ROOT / SOURCE).read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^### (.+)$", section, flags=re.MULTILINE)


def settings(kind: str, group: type[Settings]) -> str:
    """Return the settings of a choice as a block that opens on a click; empty if it has none."""
    rows = list(_rows(kind, group))
    if not rows:
        return ""
    lines = table(("flag", "default", "meaning"), rows).replace("\n", "\n    ")
    return f'??? note "{len(rows)} settings"\n\n    {lines}\n\n'


def _rows(kind: str, group: type[Settings]) -> Iterable[tuple[str, str, str]]:
    told, types = meanings(group), field_types(group)
    for field in fields(group):
        bounds = [each for each in getattr(types[field.name], "__metadata__", ()) if isinstance(each, Bounds)]
        span = "".join(f" From {each.low:g} to {each.high:g}." for each in bounds)
        yield code(flag_of(f"{kind}.{field.name}")), code(field.default), told.get(field.name, "") + span
