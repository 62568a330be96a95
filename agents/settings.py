"""Settings as dataclasses: bounds stand in the field, and every setting has a dotted name such as `agent.lr`."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Bounds:
    """The least and the largest value of a number, written into the field: `Annotated[float, Bounds(0, 1)]`."""

    low: float
    high: float


@dataclass(frozen=True)
class Settings:
    """The base of every group of settings; a subclass is a frozen dataclass whose fields have defaults.

    A field is a bool, an int, a float, a str, a `Literal` of strings, or a tuple of strings.
    """

    def unread(self) -> frozenset[str]:
        """Return the names of those fields that the values of others put out of use; none unless overridden."""
        return frozenset()


class InvalidSettingError(ValueError):
    """A setting has no place, the wrong type, or a value that is out of range."""


def field_types(cls: type) -> dict[str, Any]:
    """Return the type of each field of a settings class, `Annotated` included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def values_of(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a group's own fields by name, each name after `prefix`."""
    return {prefix + field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def make(cls: type[Settings], values: dict[str, Any], prefix: str) -> Settings:
    """Make a group of settings from values by field name, as JSON has them; the rest keep their defaults.

    Raises `InvalidSettingError` for a name that the group does not have and for a value of the wrong type. `prefix` is
    what the dotted names of the group begin with.
    """
    types = field_types(cls)
    if unknown := sorted(set(values) - set(types)):
        known = ", ".join(prefix + name for name in types) or "none"
        raise InvalidSettingError(
            f"unknown settings: {', '.join(prefix + name for name in unknown)}. There are here: {known}."
        )
    return cls(**{name: _converted(prefix + name, types[name], value) for name, value in values.items()})


def check(settings: Any, usual: Any, prefix: str = "", choice: str = "") -> None:
    """Raise `InvalidSettingError` for a value out of range, and for one that is given though it is not read.

    Args:
        settings: the group to check.
        usual: the group with its default values; a field that is not read must have its default.
        prefix: what the dotted names of the group begin with.
        choice: what the group belongs to, for the message.
    """
    defaults, types = values_of(usual), field_types(type(settings))
    skipped = settings.unread()
    for name, value in values_of(settings).items():
        if dataclasses.is_dataclass(value):
            continue
        flag = flag_of(prefix + name)
        if name in skipped and value != defaults[name]:
            raise InvalidSettingError(f"{flag} {value} has no effect{choice and ' with ' + choice}: leave it out.")
        for bounds in getattr(types[name], "__metadata__", ()):
            if isinstance(bounds, Bounds) and not bounds.low <= value <= bounds.high:
                raise InvalidSettingError(f"{flag} must lie in {bounds.low:g} .. {bounds.high:g}, got {value!r}.")
        _converted(prefix + name, types[name], value)


def flag_of(name: str) -> str:
    """Return the command line's flag of a setting's dotted name."""
    return "--" + name.replace("_", "-")


def replaced(settings: Any, values: dict[str, Any], prefix: str) -> Any:
    """Return a group of settings with some values replaced by field name; the errors are those of `make`."""
    return make(type(settings), values_of(settings) | values, prefix)


def _converted(name: str, annotation: Any, value: Any) -> Any:
    """Return `value` as the field's type has it, or raise `InvalidSettingError`."""
    bare = typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if typing.get_origin(bare) is Literal:
        known = typing.get_args(bare)
        if value not in known:
            raise InvalidSettingError(f"{flag_of(name)} must be one of {', '.join(known)}, got {value!r}.")
        return value
    if typing.get_origin(bare) is tuple:
        if not (isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)):
            raise InvalidSettingError(f"{flag_of(name)} must be a list of strings, got {value!r}.")
        return tuple(value)
    if bare is float and type(value) is int:
        return float(value)
    if type(value) is not bare:
        raise InvalidSettingError(f"{flag_of(name)} must be of type {bare.__name__}, got {value!r}.")
    return value
