"""The paper's settings for the hypergrid, which are also the defaults of environments without a preset of their own.

Most of them are already the defaults of the fields.

Source: Gritsaev et al. 2025 (arXiv 2410.15474), appendix on experimental details.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

AGENT: dict[str, dict[str, Any]] = {"softdqn": {"learning_starts": 16}, "mdqn": {"learning_starts": 16}}
"""Agents with replay collect some batches before their first update."""


def default(choice: Choice) -> dict[str, Any]:
    """Return the settings that differ from the defaults of the fields."""
    return AGENT.get(choice.agent, {})


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published setting changes further: nothing, because the default is the published setting."""
    return {}
