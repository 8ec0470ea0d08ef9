"""The groups of settings that choose a scheme, a searcher or a network.

Such a group, `config.scheme` for instance, has the name of an entry of a table and the
settings of that entry: {"name": "bireal", ...}.
"""

import dataclasses
import inspect
import reprlib
from collections.abc import Mapping
from typing import Any

from bnas_jax.core.checks import choice, require
from bnas_jax.core.layers import LAYERS
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.schemes import SCHEMES, Scheme
from bnas_jax.core.schemes.scheme import check_methods
from bnas_jax.networks import NETWORKS
from bnas_jax.search import SEARCHERS, Searcher

# The type of a setting -> the table of its possible entries.
TABLES: dict[Any, Mapping[str, type]] = {
    Scheme: SCHEMES,
    Searcher: SEARCHERS,
    NetworkSettings: NETWORKS,
}

# The name of a group in a config -> the same tables.
GROUPS: dict[str, Mapping[str, type]] = {
    "scheme": SCHEMES,
    "searcher": SEARCHERS,
    "network": NETWORKS,
}
# The default entry of each group.
USUAL = {"scheme": "xnor", "searcher": "bnas", "network": "cells"}

# The options of the command `derive` that do not come from a searcher.
_OF_DERIVE = ("workdir", "epoch", "out", "as_of", "extensions")


def check() -> None:
    """Raises `UserError` for an entry that is not a dataclass of settings.

    It also refuses entries that were written for an earlier version. Only an entry of
    an extension can be wrong.
    """
    for kind in LAYERS.values():
        _refuse_joins(kind if isinstance(kind, type) else type(kind), "batching")
    for entry in SCHEMES.values():
        if isinstance(entry, type):
            _refuse_joins(entry, "batches_edges")

    for base, table in TABLES.items():
        for name, entry in table.items():
            message = (
                f"the entry {name!r} must be a subclass of bnas_jax.{base.__name__}, "
                f"got {reprlib.repr(entry)}"
            )
            require(isinstance(entry, type) and issubclass(entry, base), message)

            # Without the decorator, annotated names are not settings. With it, a class
            # may also annotate names that are not, such as `KW_ONLY`.
            lost = []
            if "__dataclass_fields__" not in vars(entry):
                lost = _annotated(entry)
            listed = ", ".join(sorted(lost))
            message = (
                f"{entry.__name__} lacks @dataclasses.dataclass(frozen=True) above "
                f"it, which makes settings of {listed}"
            )
            require(not lost, message)
            if issubclass(entry, Scheme):
                check_methods(entry)


def _refuse_joins(entry: type, new: str) -> None:
    """Raises `UserError` for a class with `joins`, the old name of an attribute.

    Without this check, a scheme would have the default of the new name in silence. A
    class may have both, to be of use to several versions.

    new: the name of the attribute now.
    """
    for cls in entry.__mro__:
        names = vars(cls)
        message = f"{cls.__name__}.joins is now {new}; rename it"
        require("joins" not in names or new in names, message)


def _annotated(entry: type) -> list[str]:
    """The names that a class itself annotates, without class variables."""
    found = []
    for name, kind in inspect.get_annotations(entry).items():
        if not str(kind).removeprefix("typing.").startswith("ClassVar"):
            found.append(name)
    return found


def settings_of(entry: type) -> dict[str, dataclasses.Field]:
    """The fields of an entry that are settings, by their names.

    Fields with the metadata {"setting": False} are left out.
    """
    found = {}
    for field in dataclasses.fields(entry):
        if field.metadata.get("setting", True):
            found[field.name] = field
    return found


def derivation_settings() -> dict[str, type[Searcher]]:
    """Each setting that only the derivation reads -> a searcher that has the setting.

    They become options of the command `derive`. Raises `UserError` for a setting with
    the name of another option of that command.
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
    """(the entry that `values["name"]` names, the values of its settings).

    A value of None is left out if the entry has a default. Raises `UserError` for a
    setting that the entry does not have.

    name: the name of the group, for error messages.
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
            f"{name}.{key} is not a setting of {name}.name={values['name']}; it has "
            f"{listed}"
        )
        require(key in known, message)

        # NaN is not equal to itself, so that the run would differ from the config in
        # its own work directory.
        require(value == value, f"{name}.{key} must be a number, got nan")
        if value is not None or not has_default(known[key]):
            given[key] = value
    return entry, given


def has_default(field: dataclasses.Field) -> bool:
    """Whether a field of a dataclass has a default, or a function that makes one."""
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def to_dict(value: Any) -> dict[str, Any]:
    """The values of a settings dataclass as a dict.

    For an entry of a table, these are its name and its settings.
    """
    values = dataclasses.asdict(value)
    # The class tells whether the dataclass is an entry of a table.
    for table in TABLES.values():
        for name, entry in table.items():
            if entry is type(value):
                settings = {key: values[key] for key in settings_of(entry)}
                return {"name": name, **settings}
    return values
