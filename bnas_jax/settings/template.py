"""Settings without values, of the right types: a config before anything is set.

A group that names an entry of a table (`config.scheme`, `config.searcher`, `config.network`) has the settings of every
entry of its table, so that those of an extension can be set on the command line, too.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict, config_dict

from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.genotype import Genotype
from bnas_jax.core.schemes import SCHEMES
from bnas_jax.networks import NETWORKS
from bnas_jax.search import SEARCHERS
from bnas_jax.settings import entries
from bnas_jax.settings.parse import field_types

# The groups of a config that have a name, and the table that it chooses from.
GROUPS: dict[str, Mapping[str, type]] = {
    "scheme": SCHEMES,
    "searcher": SEARCHERS,
    "network": NETWORKS,
}


def fields(cls: type, values: Mapping | None = None) -> ConfigDict:
    """The settings of a dataclass; those without a value in `values` are None and keep their type."""
    config = ConfigDict()
    _add(config, types=field_types(cls), values=values or {})
    return config


def group(name: str, entry: str) -> ConfigDict:
    """The settings of one of `GROUPS` with the name of the entry that is chosen."""
    config = ConfigDict({"name": entry})
    for cls in GROUPS[name].values():
        known = entries.settings_of(cls)
        types = {}
        for key, kind in field_types(cls).items():
            # Entries may share a setting; the first one's type is taken.
            if key in known and key not in config:
                types[key] = kind
        _add(config, types=types, values={})
    return config


def choose(config: ConfigDict, name: str, entry: str) -> None:
    """Sets the entry of one of `GROUPS`, and removes the config's values of settings that this entry does not have."""
    if entry in GROUPS[name]:
        known = entries.settings_of(GROUPS[name][entry])
        # In the config and in its blocks, from which None would be filled in again.
        blocks = [config.get(block) or {} for block in ("preset", *CONVENTIONS)]
        for values in (config, *blocks):
            settings = values.get(name) or {}
            for key in settings:
                if key != "name" and key not in known:
                    settings[key] = None
    config[name].name = entry


def _add(config: ConfigDict, types: Mapping[str, type], values: Mapping) -> None:
    """Adds settings of these types to a config, with those of the values that are not None."""
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
