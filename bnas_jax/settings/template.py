"""Configs before anything is set: settings of the right types, None or a default.

A group that names an entry of a table (`config.scheme`, `config.searcher`,
`config.network`) has the settings of every entry of its table, so that those of an
extension can be set on the command line, too.
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
    """All settings of a search or a training.

    configs/search.py and configs/train.py begin with them. Those with a default have
    it. The others are None: a preset sets them, or its recipe and its convention say
    them, for which there are the blocks `preset`, `paper`, `release` and `meant`.
    """
    entries.check()
    config = _with_defaults(TASKS[task], task)
    config.task = task
    for block in ("preset", *CONVENTIONS):
        config[block] = ConfigDict()
    return config


def _with_defaults(cls: type, task: str) -> ConfigDict:
    """The settings of a dataclass, with its defaults."""
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
        # Single settings; those of searches alone have the convention's value.
        elif "of_search" not in field.metadata:
            default = None
            if field.default is not dataclasses.MISSING:
                default = field.default
            _add(config, types={name: kind}, values={name: default})
        elif task == "search":
            _add(config, types={name: kind}, values={})
    return config


def fields(cls: type, values: Mapping | None = None) -> ConfigDict:
    """The settings of a dataclass, with the values that are given.

    Those without a value are None, and keep their type.
    """
    config = ConfigDict()
    _add(config, types=field_types(cls), values=values or {})
    return config


def group(name: str, entry: str) -> ConfigDict:
    """The settings of one of `entries.GROUPS`, with the name of an entry chosen."""
    config = ConfigDict({"name": entry})
    for cls in entries.GROUPS[name].values():
        known = entries.settings_of(cls)
        types = {}
        for key, kind in field_types(cls).items():
            # Entries may share a setting; the first one's type is taken.
            if key in known and key not in config:
                types[key] = kind
        _add(config, types=types, values={})
    return config


def choose(config: ConfigDict, name: str, entry: str) -> None:
    """Sets the entry of one of `entries.GROUPS`.

    Values of settings that this entry does not have are removed from the config.
    """
    if entry in entries.GROUPS[name]:
        known = entries.settings_of(entries.GROUPS[name][entry])
        # From the blocks, too: None in the config would be filled in from them again.
        blocks = [config.get(block) or {} for block in ("preset", *CONVENTIONS)]
        for values in (config, *blocks):
            settings = values.get(name) or {}
            for key in settings:
                if key != "name" and key not in known:
                    settings[key] = None
    config[name].name = entry


def _add(config: ConfigDict, types: Mapping[str, type], values: Mapping) -> None:
    """Adds settings to a config, with those of the values that are not None.

    types: the type of each setting that is added, by its name.
    """
    for name, kind in types.items():
        # In a config, a genotype is its name, its file or its text.
        written = kind
        if kind is Genotype:
            written = str
        config[name] = config_dict.placeholder(written)

        value = values.get(name)
        if value is None:
            continue
        # JSON has lists in place of tuples.
        if written is tuple:
            value = tuple(value)
        config[name] = value
