"""The paper's settings for the hypergrid; they are also the defaults of an environment without a preset of its own.

Most of them are the defaults of the fields. Source: Gritsaev et al. 2025 (arXiv 2410.15474), appendix on experimental
details.
"""

from __future__ import annotations

from typing import Any

from agents.registry import Choice

AGENT: dict[str, dict[str, Any]] = {"softdqn": {"learning_starts": 16}, "mdqn": {"learning_starts": 16}}
"""Agents that replay collect some batches before their first update."""


def default(choice: Choice) -> dict[str, Any]:
    """Return what differs from the defaults of the fields."""
    return AGENT.get(choice.agent, {})


def paper(choice: Choice) -> dict[str, Any]:
    """Return what the published setting changes besides: nothing, where the default is the published one."""
    return {}
