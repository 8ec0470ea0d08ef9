"""Builds settings dataclasses from nested dicts.

The names and types of the dataclass fields decide which names and values are accepted.
"""

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from bnas_jax.core import genotypes
from bnas_jax.core.checks import require
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Genotype
from bnas_jax.settings import entries


def plain(value):
    """A ConfigDict, or a mapping of such, as nested dicts; other values unchanged."""
    if hasattr(value, "to_json"):
        return json.loads(value.to_json())
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def fill(values: dict, defaults: Mapping, prefix: str = "config.") -> None:
    """Replaces None and absent values by the defaults, in place.

    prefix: the group of the settings, for error messages.
    """
    for key, default in defaults.items():
        # Fill in each setting of a group.
        if isinstance(default, Mapping):
            inner = values.setdefault(key, {})
            message = f"{prefix}{key} must hold settings, got {inner!r}"
            require(isinstance(inner, dict), message)
            fill(inner, default, f"{prefix}{key}.")
        elif values.get(key) is None:
            values[key] = default


def build(cls, values: Any, name: str):
    """An instance of the settings dataclass `cls` from nested dicts.

    Raises `UserError` for an unknown name, a value of the wrong type, and a missing
    value without a default.

    name: the name of the group, for error messages.
    """
    # Check the names of the settings.
    require(isinstance(values, Mapping), f"{name} must hold settings, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    listed = ", ".join(sorted(known))
    for key in values:
        require(key in known, f"unknown setting {name}.{key}; known here: {listed}")

    # Convert their values.
    built = {}
    for key, field in known.items():
        setting = f"{name}.{key}"
        if key not in values:
            require(entries.has_default(field), f"{setting} is missing")
            continue

        # None is not always a value. A config that is older than the setting leaves it
        # at None, so that the error names the default.
        has_default = field.default is not dataclasses.MISSING
        none_fits = _takes_none(hints[key])
        if values[key] is None and has_default and not none_fits:
            kind = _without_none(hints[key]).__name__
            raise UserError(
                f"{setting} must be of type {kind}, got None; write "
                f"{setting}={field.default!r}, its default, for instance"
            )
        built[key] = _convert(hints[key], value=values[key], name=setting)
    return cls(**built)


def _takes_none(hint) -> bool:
    """Whether a type is `X | None`."""
    return type(None) in typing.get_args(hint)


def _convert(hint, value, name: str):
    """A value, converted for a field of the type `hint`.

    name: the name of the setting, for error messages.
    """
    if value is None and _takes_none(hint):
        return None
    hint = _without_none(hint)

    # Types with settings of their own.
    if hint is Genotype:
        message = (
            f"{name} is missing; write a named cell or the genotype.json of a search"
        )
        require(value is not None, message)
        return genotypes.from_dict(value)
    if hint in entries.TABLES:
        entry, given = entries.chosen(entries.TABLES[hint], values=value, name=name)
        return build(entry, values=given, name=name)
    if dataclasses.is_dataclass(hint):
        return build(hint, values=value, name=name)

    # Lists whose items have one type.
    if typing.get_origin(hint) is tuple:
        message = f"{name} must be a list, got {value!r}; write it as a,b,c"
        require(isinstance(value, (list, tuple)), message)
        of_items = typing.get_args(hint)[0]
        return tuple(_convert(of_items, value=item, name=name) for item in value)

    # Types are compared by `type`: for `isinstance`, True would be an int.
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    # `resolve.to_dict` writes infinity as a text.
    if hint is float and value in ("inf", "-inf"):
        return float(value)
    message = f"{name} must be of type {hint.__name__}, got {value!r}"
    require(type(value) is hint, message)
    return value


def field_types(cls) -> dict[str, type]:
    """The class of each field's type; for `tuple[int, ...] | None` it is tuple."""
    types = {}
    for name, hint in typing.get_type_hints(cls).items():
        hint = _without_none(hint)
        types[name] = typing.get_origin(hint) or hint
    return types


def _without_none(hint):
    """X for the type `X | None`; any other type unchanged."""
    # `X | None` and `Optional[X]` have different origins.
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    return next(kind for kind in typing.get_args(hint) if kind is not type(None))
