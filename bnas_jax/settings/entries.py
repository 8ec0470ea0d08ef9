"""Schemes, searchers and networks as settings.

Each is {"name": ..., and the settings of that entry of its table}.
"""

import dataclasses
import inspect
import reprlib
from collections.abc import Mapping
from typing import Any

from bnas_jax.core.checks import choice, require
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.schemes import SCHEMES, Scheme
from bnas_jax.networks import NETWORKS
from bnas_jax.search import SEARCHERS, Searcher

# The tables of entries, by the type of the setting that chooses one.
TABLES: dict[Any, Mapping[str, type]] = {
    Scheme: SCHEMES,
    Searcher: SEARCHERS,
    NetworkSettings: NETWORKS,
}

# The same tables, by the name of the group in a config.
GROUPS: dict[str, Mapping[str, type]] = {
    "scheme": SCHEMES,
    "searcher": SEARCHERS,
    "network": NETWORKS,
}
# The entries that a config begins with.
USUAL = {"scheme": "xnor", "searcher": "bnas", "network": "cells"}

# The options that the command `derive` has whatever searchers there are.
_OF_DERIVE = ("workdir", "epoch", "out", "as_of", "extensions")


def check() -> None:
    """Raises `UserError` for an entry of the tables that is no class of settings.

    Only a user's entry can be such.
    """
    for base, table in TABLES.items():
        for name, entry in table.items():
            message = (
                f"the entry {name!r} must be a subclass of bnas_jax.{base.__name__}, "
                f"got {reprlib.repr(entry)}"
            )
            require(isinstance(entry, type) and issubclass(entry, base), message)

            # Without the decorator they would be attributes, and no settings.
            known = dataclasses.fields(entry)
            lost = set(_annotated(entry)) - {field.name for field in known}
            listed = ", ".join(sorted(lost))
            message = (
                f"{entry.__name__} lacks @dataclasses.dataclass(frozen=True) above "
                f"it, which makes settings of {listed}"
            )
            require(not lost, message)


def _annotated(entry: type) -> list[str]:
    """The names that a class itself annotates, but for variables of the class."""
    found = []
    for name, kind in inspect.get_annotations(entry).items():
        if not str(kind).removeprefix("typing.").startswith("ClassVar"):
            found.append(name)
    return found


def settings_of(entry: type) -> dict[str, dataclasses.Field]:
    """The fields of an entry that are settings.

    These are all but those with the metadata {"setting": False}.
    """
    found = {}
    for field in dataclasses.fields(entry):
        if field.metadata.get("setting", True):
            found[field.name] = field
    return found


def derivation_settings() -> dict[str, type[Searcher]]:
    """The settings that only the derivation of a genotype reads.

    Each has a searcher that has it. They become options of `derive`: raises `UserError`
    for one that is named like another option of that command.
    """
    found = {}
    for entry in SEARCHERS.values():
        for field in dataclasses.fields(entry):
            if field.metadata.get("derivation"):
                message = (
                    f"{entry.__name__}.{field.name} cannot become an option of derive, "
                    f"which has another --{field.name}; give the field another name"
                )
                require(field.name not in _OF_DERIVE, message)
                found[field.name] = entry
    return found


def chosen(table: Mapping[str, type], values: Any, name: str) -> tuple[type, dict]:
    """(the entry of the table that `values["name"]` names, the values of its settings).

    Values of None are left out where the entry has a default. Raises `UserError` for
    another entry's setting.

    name: of the group, for errors.
    """
    require(isinstance(values, Mapping), f"{name} must hold settings, got {values!r}")
    choice(f"{name}.name", values.get("name"), choices=table)
    entry = table[str(values["name"])]
    known = settings_of(entry)

    given = {}
    for key, value in values.items():
        # A config has the settings of all entries of a table (`template.group`); those
        # of other entries are None.
        if key == "name" or (value is None and key not in known):
            continue
        listed = ", ".join(known) or "none"
        message = (
            f"{name}.{key} is no setting of {name}.name={values['name']}; it has "
            f"{listed}"
        )
        require(key in known, message)

        # NaN differs from itself: a run would differ from its own work directory.
        require(value == value, f"{name}.{key} must be a number, got nan")
        if value is not None or not has_default(known[key]):
            given[key] = value
    return entry, given


def has_default(field: dataclasses.Field) -> bool:
    """Whether a field of a dataclass has a default, or a function that makes one."""
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def to_dict(value: Any) -> dict[str, Any]:
    """The values of a settings dataclass.

    Those of an entry of a table have its name, and are its settings alone.
    """
    values = dataclasses.asdict(value)
    # An entry of a table is known by its class.
    for table in TABLES.values():
        for name, entry in table.items():
            if entry is type(value):
                settings = {key: values[key] for key in settings_of(entry)}
                return {"name": name, **settings}
    return values
