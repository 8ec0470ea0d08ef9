"""Nested dicts become dataclasses: the names and the types of the fields decide what is accepted."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.genotype import Genotype
from bnas_jax.settings import entries
from bnas_jax.settings.checks import require


def plain(value):
    """Nested dicts of a ConfigDict or of a mapping of them."""
    if hasattr(value, "to_json"):
        return json.loads(value.to_json())
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def fill(values: dict, defaults: Mapping, prefix: str = "config.") -> None:
    """Replaces None and absent values by the defaults, in place."""
    for key, default in defaults.items():
        if isinstance(default, Mapping):
            inner = values.setdefault(key, {})
            require(isinstance(inner, dict), f"{prefix}{key} must hold settings, got {inner!r}")
            fill(inner, default, f"{prefix}{key}.")
        elif values.get(key) is None:
            values[key] = default


def build(cls, values: Any, name: str):
    """An instance of a settings dataclass from nested dicts; the names and types of its fields decide what is accepted."""
    require(isinstance(values, Mapping), f"{name} must hold settings, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        require(
            key in known, f"unknown setting {name}.{key}; known here: {', '.join(sorted(known))}"
        )
    built = {}
    for key, field in known.items():
        if key in values:
            built[key] = _convert(hints[key], values[key], f"{name}.{key}")
        else:
            has_default = (
                field.default is not dataclasses.MISSING
                or field.default_factory is not dataclasses.MISSING
            )
            require(has_default, f"{name}.{key} is missing")
    return cls(**built)


def _convert(hint, value, name: str):
    if value is None and type(None) in typing.get_args(hint):
        return None
    hint = _without_none(hint)
    if hint is Genotype:
        require(
            value is not None,
            f"{name} is missing; write a named cell or the genotype.json of a search",
        )
        return genotype_lib.from_dict(value)
    if hint in entries.TABLES:
        entry, given = entries.chosen(entries.TABLES[hint], value, name)
        return build(entry, given, name)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, name)
    if typing.get_origin(hint) is tuple:
        require(
            isinstance(value, (list, tuple)),
            f"{name} must be a list, got {value!r}; write it as a,b,c",
        )
        return tuple(_convert(typing.get_args(hint)[0], item, name) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(type(value) is hint, f"{name} must be of type {hint.__name__}, got {value!r}")
    return value


def field_types(cls) -> dict[str, type]:
    """The type of each field of a settings dataclass, None aside."""
    hints = {name: _without_none(hint) for name, hint in typing.get_type_hints(cls).items()}
    return {name: typing.get_origin(hint) or hint for name, hint in hints.items()}


def _without_none(hint):
    # `X | None` and `Optional[X]` are of different types.
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    return next(t for t in typing.get_args(hint) if t is not type(None))
