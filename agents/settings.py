"""Settings as dataclasses: each field states its bounds, and each setting has a dotted name such as `agent.lr`."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import docstring_parser


@dataclass(frozen=True)
class Bounds:
    """The smallest and largest value of a number, stated in the field's type: `Annotated[float, Bounds(0, 1)]`."""

    low: float
    high: float


@dataclass(frozen=True)
class Settings:
    """The base class of a group of settings; a subclass is a frozen dataclass whose fields have defaults.

    A field is a bool, an int, a float, a str, a `Literal` of strings, or a tuple of any of these. `Bounds` of a tuple
    hold for each of its items.
    """

    def unread(self) -> frozenset[str]:
        """Return the names of the fields that other fields' values make irrelevant; none unless overridden."""
        return frozenset()


class InvalidSettingError(ValueError):
    """A setting is unknown, has the wrong type, or has a value that is out of range."""


@functools.cache
def field_types(cls: type) -> Mapping[str, Any]:
    """Return the type of each field of a settings class, with its `Annotated`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def meanings(cls: type) -> dict[str, str]:
    """Return what stands below each field of a settings class, or below that of a base, in one line."""
    found: dict[str, str] = {}
    for each in cls.__mro__[:-1]:
        for field in docstring_parser.parse_from_object(each).params:
            found.setdefault(field.arg_name, " ".join((field.description or "").split()))
    return found


def values_of(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a group's own fields by name, with `prefix` before each name."""
    return {prefix + field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def make(cls: type[Settings], values: dict[str, Any], prefix: str) -> Settings:
    """Make a group of settings from values by field name, as read from JSON; other fields keep their defaults.

    Raises `InvalidSettingError` for a name that the group does not have and for a value of the wrong type. The dotted
    names of the group begin with `prefix`.
    """
    types = field_types(cls)
    if unknown := sorted(set(values) - set(types)):
        known = ", ".join(prefix + name for name in types) or "none"
        raise InvalidSettingError(
            f"unknown settings: {', '.join(prefix + name for name in unknown)}. There are here: {known}."
        )
    return cls(**{name: _converted(prefix + name, types[name], value) for name, value in values.items()})


def check(settings: Any, usual: Any, prefix: str = "", choice: str = "") -> None:
    """Raise `InvalidSettingError` for a value of the wrong type, out of range, or given though it is not read.

    Args:
        settings: the group to check.
        usual: the group with its default values; a field that is not read must have its default.
        prefix: the beginning of the group's dotted names.
        choice: the choice that the group belongs to, for the message.
    """
    defaults, types = values_of(usual), field_types(type(settings))
    skipped = settings.unread()
    for name, value in values_of(settings).items():
        if dataclasses.is_dataclass(value):
            continue
        flag = flag_of(prefix + name)
        _converted(prefix + name, types[name], value)
        if name in skipped and value != defaults[name]:
            raise InvalidSettingError(f"{flag} {value} has no effect{choice and ' with ' + choice}: leave it out.")
        for bounds in getattr(types[name], "__metadata__", ()):
            for item in (value if isinstance(value, tuple) else (value,)) if isinstance(bounds, Bounds) else ():
                if not bounds.low <= item <= bounds.high:
                    raise InvalidSettingError(f"{flag} must lie in {bounds.low:g} .. {bounds.high:g}, got {item!r}.")


def flag_of(name: str) -> str:
    """Return the command-line flag for a setting's dotted name."""
    return "--" + name.replace("_", "-")


def replaced(settings: Any, values: dict[str, Any], prefix: str) -> Any:
    """Return a group of settings with some values replaced by field name; raises the errors of `make`."""
    return make(type(settings), values_of(settings) | values, prefix)


def _converted(name: str, annotation: Any, value: Any) -> Any:
    """Return `value` converted to the field's type, or raise `InvalidSettingError`."""
    bare = typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if typing.get_origin(bare) is Literal:
        known = typing.get_args(bare)
        if value not in known:
            raise InvalidSettingError(f"{flag_of(name)} must be one of {', '.join(known)}, got {value!r}.")
        return value
    if typing.get_origin(bare) is tuple:
        item_type = typing.get_args(bare)[0]
        if not isinstance(value, list | tuple) or (item_type is str and not all(isinstance(x, str) for x in value)):
            what = " of strings" if item_type is str else ""
            raise InvalidSettingError(f"{flag_of(name)} must be a list{what}, got {value!r}.")
        return tuple(_converted(name, item_type, item) for item in value)
    if bare is float and type(value) is int:
        return float(value)
    if type(value) is not bare:
        raise InvalidSettingError(f"{flag_of(name)} must be of type {bare.__name__}, got {value!r}.")
    return value
