"""Settings of the right types, as a config has them before anything is set: with their
defaults, or None.

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
    """All settings of a search or a training: what configs/search.py and
    configs/train.py begin with.

    Those with a default have it. The others are None: what the preset sets, and what
    its recipe and its convention say, for which there are the blocks `preset`, `paper`,
    `release` and `meant`.
    """
    config = _with_defaults(TASKS[task], task)
    config.task = task
    for block in ("preset", *CONVENTIONS):
        config[block] = ConfigDict()
    return config


def _with_defaults(cls: type, task: str) -> ConfigDict:
    config = ConfigDict()
    types = field_types(cls)
    for field in dataclasses.fields(cls):
        name, kind = field.name, types[field.name]
        default = None if field.default is dataclasses.MISSING else field.default
        if kind in entries.TABLES:
            config[name] = group(name, entries.USUAL[name])
        elif field.default_factory is not dataclasses.MISSING:
            config[name] = _with_defaults(kind, task)
        elif dataclasses.is_dataclass(kind):
            config[name] = fields(kind)
        elif "of_search" not in field.metadata:
            _add(config, {name: kind}, {name: default})
        elif task == "search":
            _add(config, {name: kind}, {})
    return config


def fields(cls: type, values: Mapping | None = None) -> ConfigDict:
    """The settings of a dataclass; those without a value in `values` are None and keep
    their type.
    """
    config = ConfigDict()
    _add(config, types=field_types(cls), values=values or {})
    return config


def group(name: str, entry: str) -> ConfigDict:
    """The settings of one of `entries.GROUPS` with the name of the entry that is
    chosen.
    """
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
    """Sets the entry of one of `entries.GROUPS`, and removes the config's values of
    settings that this entry does not have.
    """
    if entry in entries.GROUPS[name]:
        known = entries.settings_of(entries.GROUPS[name][entry])
        # In the config and in its blocks, from which None would be filled in again.
        blocks = [config.get(block) or {} for block in ("preset", *CONVENTIONS)]
        for values in (config, *blocks):
            settings = values.get(name) or {}
            for key in settings:
                if key != "name" and key not in known:
                    settings[key] = None
    config[name].name = entry


def _add(config: ConfigDict, types: Mapping[str, type], values: Mapping) -> None:
    """Adds settings of these types to a config, with those of the values that are not
    None.
    """
    for name, kind in types.items():
        # A genotype is written as its name, its file or its text.
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
