"""Schemes, searchers and networks as settings: {"name": ..., and what that entry of its table has}."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.schemes import SCHEMES, Scheme
from bnas_jax.networks import NETWORKS
from bnas_jax.search import SEARCHERS, Searcher
from bnas_jax.settings.checks import choice, require

# The type of a setting to the table that its name chooses from.
TABLES: dict[Any, Mapping[str, type]] = {
    Scheme: SCHEMES,
    Searcher: SEARCHERS,
    NetworkSettings: NETWORKS,
}


def settings_of(entry: type) -> dict[str, dataclasses.Field]:
    """The fields of an entry that are settings: all but those that say otherwise in their metadata."""
    return {f.name: f for f in dataclasses.fields(entry) if f.metadata.get("setting", True)}


def derivation_settings() -> tuple[str, ...]:
    """The settings of searchers that are of the derivation alone, with `searcher.` in front."""
    fields = [f for entry in SEARCHERS.values() for f in dataclasses.fields(entry)]
    return tuple({f"searcher.{f.name}" for f in fields if f.metadata.get("derivation")})


def chosen(table: Mapping[str, type], values: Any, name: str) -> tuple[type, dict]:
    """(the entry that `values` choose, the values that it is to have). `UserError` for another entry's setting.

    Values of None are left out where the entry has a default.
    """
    require(isinstance(values, Mapping), f"{name} must hold settings, got {values!r}")
    choice(f"{name}.name", values.get("name"), tuple(table))
    entry = table[str(values["name"])]
    known = settings_of(entry)
    given = {}
    for key, value in values.items():
        if key == "name" or (value is None and key not in known):
            continue
        listed = ", ".join(known) or "none"
        require(
            key in known,
            f"{name}.{key} is no setting of {name}.name={values['name']}; it has {listed}",
        )
        # NaN differs from itself, and its run would from its work directory.
        require(value == value, f"{name}.{key} must be a number, got nan")
        defaults = (known[key].default, known[key].default_factory)
        if value is not None or defaults == (dataclasses.MISSING, dataclasses.MISSING):
            given[key] = value
    return entry, given


def to_dict(value: Any) -> dict[str, Any]:
    """The values of a settings dataclass, an entry's with its name."""
    values = dataclasses.asdict(value)
    for table in TABLES.values():
        for name, entry in table.items():
            if entry is type(value):
                return {"name": name, **{key: values[key] for key in settings_of(entry)}}
    return values
