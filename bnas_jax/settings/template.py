"""Config templates: all settings with their types, each None or at its default.

A group that chooses an entry of a table (`config.scheme`, `config.searcher`,
`config.network`) has the settings of all entries of its table, so that the command line
can set those of an extension, too.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict, config_dict

from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.genotype import Genotype
from bnas_jax.settings import entries
from bnas_jax.settings.parse import field_types
from bnas_jax.settings.schema import TASKS


def settings(task: str) -> ConfigDict:
    """A config with all settings of a task, `search` or `train`.

    configs/search.py and configs/train.py begin with it. A setting without a default is
    None: the preset sets it, or `resolve` fills it in from the recipe or from one of
    the blocks `preset`, `paper`, `release` and `meant`, which are empty here.
    """
    entries.check()
    config = _with_defaults(TASKS[task], task)
    config.task = task
    for block in ("preset", *CONVENTIONS):
        config[block] = ConfigDict()
    return config


def _with_defaults(cls: type, task: str) -> ConfigDict:
    """A config with the settings of a dataclass, at their defaults or None."""
    config = ConfigDict()
    types = field_types(cls)
    for field in dataclasses.fields(cls):
        name, kind = field.name, types[field.name]
        # Groups: an entry of a table, settings with defaults, settings without.
        if kind in entries.TABLES:
            config[name] = group(name, entries.USUAL[name])
        elif field.default_factory is not dataclasses.MISSING:
            config[name] = _with_defaults(kind, task)
        elif dataclasses.is_dataclass(kind):
            config[name] = fields(kind)
        # Single settings. Those that only searches have are left to the convention.
        elif "of_search" not in field.metadata:
            default = None
            if field.default is not dataclasses.MISSING:
                default = field.default
            _add(config, types={name: kind}, values={name: default})
        elif task == "search":
            _add(config, types={name: kind}, values={})
    return config


def fields(cls: type, values: Mapping | None = None) -> ConfigDict:
    """A config with the settings of a dataclass, at the given values or None."""
    config = ConfigDict()
    _add(config, types=field_types(cls), values=values or {})
    return config


def group(name: str, entry: str) -> ConfigDict:
    """A config for a group of `entries.GROUPS`: an entry's name, and all settings.

    The settings are those of all entries of the table, and are None.
    """
    config = ConfigDict({"name": entry})
    for cls in entries.GROUPS[name].values():
        known = entries.settings_of(cls)
        types = {}
        for key, kind in field_types(cls).items():
            # If entries share the name of a setting, the first one's type counts.
            if key in known and key not in config:
                types[key] = kind
        _add(config, types=types, values={})
    return config


def choose(config: ConfigDict, name: str, entry: str) -> None:
    """Sets the entry that a group of `entries.GROUPS` chooses, in place.

    Values for settings that this entry does not have become None.
    """
    if entry in entries.GROUPS[name]:
        known = entries.settings_of(entries.GROUPS[name][entry])
        # In the blocks, too: `resolve` would fill them in from there.
        blocks = [config.get(block) or {} for block in ("preset", *CONVENTIONS)]
        for values in (config, *blocks):
            settings = values.get(name) or {}
            for key in settings:
                if key != "name" and key not in known:
                    settings[key] = None
    config[name].name = entry


def _add(config: ConfigDict, types: Mapping[str, type], values: Mapping) -> None:
    """Adds settings to a config, in place.

    types: the name of each setting -> its type.
    values: the name of a setting -> its value; without one it is None.
    """
    for name, kind in types.items():
        # A config has the name, file or text of a genotype.
        written = kind
        if kind is Genotype:
            written = str
        config[name] = config_dict.placeholder(written)

        value = values.get(name)
        if value is None:
            continue
        # Values from JSON are lists.
        if written is tuple:
            value = tuple(value)
        config[name] = value
