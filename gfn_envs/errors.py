"""Checks of arguments; their messages name the argument, its value and the allowed values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class RewardError(RuntimeError):
    """A reward of the user's own raised an error, which is the cause of this one."""


def closest_first(value: str, known: list[str]) -> list[str]:
    """Return `known` sorted so that the spellings nearest to `value` come first."""
    return sorted(known, key=lambda name: -difflib.SequenceMatcher(None, value.lower(), name.lower()).ratio())


def choose(name: str, value: object, known: Mapping[str, T]) -> T:
    """Return `known[value]`, or raise `ValueError` listing the known names, closest first."""
    if isinstance(value, str) and value in known:
        return known[value]
    listed = ", ".join(closest_first(str(value), list(known)))
    raise ValueError(f"Unknown {name} {value!r}. Known, closest first: {listed}.")


def integer_at_least(name: str, value: int, least: int) -> int:
    """Return `value` if it is an integer of at least `least`, or raise `ValueError`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return int(value)
