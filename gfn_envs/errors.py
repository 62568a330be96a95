"""Checks of arguments and of optional packages; their messages name what is wrong and what is allowed."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class RewardError(RuntimeError):
    """A reward of the user's own raised an error, which is the cause of this one."""


def closest_first(value: str, known: list[str]) -> list[str]:
    """Return `known` sorted so that the spellings nearest to `value` come first."""
    return sorted(known, key=lambda name: -difflib.SequenceMatcher(None, value.lower(), name.lower()).ratio())


class UnknownKeywordError(TypeError, ValueError):
    """An unknown keyword argument: a `TypeError` as of any function, and a `ValueError` as all wrong input here."""


def choose(name: str, value: object, known: Mapping[str, T]) -> T:
    """Return `known[value]`, or raise `ValueError` listing the known names, closest first."""
    if isinstance(value, str) and value in known:
        return known[value]
    raise ValueError(f"Unknown {name} {value!r}. {_listed(str(value), known)}")


def check_keywords(function: str, given: Iterable[str], known: Mapping[str, object]) -> None:
    """Raise `UnknownKeywordError` listing the names in `known`, closest first, if one in `given` is not among them."""
    for name in given:
        if name not in known:
            # The first words are Python's own: other libraries look for them.
            raise UnknownKeywordError(f"{function} got an unexpected keyword argument {name!r}. {_listed(name, known)}")


def _listed(value: str, known: Iterable[str]) -> str:
    return f"Known, closest first: {', '.join(closest_first(value, list(known)))}."


def integer_at_least(name: str, value: int, least: int) -> int:
    """Return `value` if it is an integer of at least `least`, or raise `ValueError`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return int(value)


def require(module: str, package: str, extra: str, without: str) -> Any:
    """Return an optional module, or raise `ModuleNotFoundError` that says which extra of this project brings it.

    Args:
        module: its name.
        package: what the message calls it.
        extra: the extra.
        without: a sentence on what does without it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"This needs {package}, which is not installed: pip install 'gfn-envs[{extra}]'. {without}"
        ) from error
