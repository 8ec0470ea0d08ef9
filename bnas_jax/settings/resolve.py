"""Resolves a config into settings, and writes settings as a config.

A config is a ConfigDict, as configs/*.py make it, or the config.json of a work
directory. A value that is set in a file or on the command line comes first. A setting
that is None takes its value from the first of these places that has one:

1. the recipe that `config.recipe` chooses, see `recipes`;
2. `config.preset`: a preset's values for the settings that recipes decide;
3. the block of the convention that `config.conventions` chooses: `config.paper` has the
   values of the paper's text, `config.release` those of the authors' code, and
   `config.meant` those of this code without its index error, where they differ;
4. the default of its dataclass.

With a recipe, places 2 and 3 are ignored for the settings that recipes decide
(`recipes.SETTINGS`).
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from bnas_jax.core import genotypes
from bnas_jax.core.checks import choice, require
from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.errors import UserError
from bnas_jax.core.first_weights import PYTORCH
from bnas_jax.networks import NETWORKS
from bnas_jax.search import SEARCHERS
from bnas_jax.settings import entries
from bnas_jax.settings.old_names import refuse_old_names
from bnas_jax.settings.parse import build, fill, plain
from bnas_jax.settings.recipes import NO_RECIPE, RECIPES, SETTINGS
from bnas_jax.settings.schema import TASKS, Settings
from bnas_jax.settings.search import SupernetSettings
from bnas_jax.settings.train import OptimizerSettings

# Convention -> the blocks of a config with its values; the first block that has a value
# decides.
_BLOCKS = {"paper": ("paper",), "release": ("release",), "meant": ("meant", "release")}


def resolve(config: Mapping) -> dict:
    """A config as a nested dict, in which None is filled in as described above.

    The name or file of a genotype is replaced by the genotype itself. The blocks are
    removed.
    """
    try:
        values = plain(config)
    except RecursionError:
        raise UserError(
            "config nests settings in settings more often than Python can follow; "
            "leave these out"
        ) from None
    refuse_old_names(values)

    # The blocks are not settings, but values for settings.
    conventions = values.get("conventions")
    choice("config.conventions", conventions, choices=CONVENTIONS)
    blocks = {name: values.pop(name, {}) for name in ("preset", *CONVENTIONS)}
    layers = [blocks[name] for name in ("preset", *_BLOCKS[conventions])]
    recipe = _recipe(values)
    if recipe:
        layers = [recipe, *(_without_recipe_settings(layer) for layer in layers)]

    # A layer only fills in what is still None: the first one with a value decides.
    for layer in layers:
        fill(values, layer)

    # The rest has a default, or depends on other settings.
    if values.get("task") == "train":
        optimizer = _defaults(OptimizerSettings)
        fill(values, {"optimizer": optimizer, "first_weights": PYTORCH})
    _fill_network(values, conventions)
    if values.get("task") == "search" and values.get("select") is None:
        values["select"] = _selected(values.get("searcher"))

    # A work directory stores the genotype itself, because the named file may change.
    network = values.get("network")
    if isinstance(network, dict) and isinstance(network.get("genotype"), str):
        network["genotype"] = genotypes.load(network["genotype"]).to_dict()
    return values


def _without_recipe_settings(layer: Mapping) -> dict:
    """The values of a block for the settings that recipes do not decide."""
    return {name: value for name, value in layer.items() if name not in SETTINGS}


def _recipe(values: dict) -> dict:
    """The values of the recipe that `config.recipe` chooses; {} without one."""
    name = values.get("recipe")
    if name is None or name == NO_RECIPE:
        return {}
    choice("config.recipe", name, (NO_RECIPE, *RECIPES))
    recipe = RECIPES[name]()

    # Only networks of cells have drop-path; the others refuse the setting.
    network = values.get("network") or {}
    entry = NETWORKS.get(str(network.get("name")))
    if entry is not None and not entry.drops_paths:
        recipe["optimizer"].pop("drop_path", None)
    return recipe


def _defaults(cls: type) -> dict:
    """{field: default} for the fields of a dataclass that have a default."""
    defaults = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
    return defaults


def _fill_network(values: dict, conventions: str) -> None:
    """Fills in the convention's values for the scheme and the network, in place.

    Values for settings that the chosen scheme or network does not have are left out.
    """
    convention = CONVENTIONS[conventions]
    _fill_group(values, "scheme", defaults=convention.scheme)
    if values.get("task") != "search":
        _fill_group(values, "network", defaults=convention.network)
        return
    # A supernet is not an entry of `NETWORKS`.
    supernet = {field.name for field in dataclasses.fields(SupernetSettings)}
    group = _group(values, "network")
    fill(group, _among(convention.network, supernet), prefix="config.network.")


def _fill_group(values: dict, key: str, *, defaults: Mapping) -> None:
    """Fills in a group that chooses an entry of a table, in place.

    Without a name it chooses the default entry.

    defaults: values to fill in; those for settings that the entry does not have are
        left out.
    """
    group, table = _group(values, key), entries.GROUPS[key]

    # An empty name is not None but an error, for instance from an unset shell variable.
    name = group.get("name")
    if name is None:
        name = entries.USUAL[key]
    group["name"] = name
    choice(f"config.{key}.name", name, choices=table)

    known = set(entries.settings_of(table[name]))
    fill(group, _among(defaults, known), prefix=f"config.{key}.")


def _group(values: dict, key: str) -> dict:
    """The group `config.KEY` of the values; an empty one is added if it is missing."""
    group = values.setdefault(key, {})
    require(isinstance(group, dict), f"config.{key} must hold settings, got {group!r}")
    return group


def _among(values: Mapping, known: set[str]) -> dict:
    """The values whose names are known."""
    return {name: value for name, value in values.items() if name in known}


def _selected(searcher) -> str:
    """The default of `config.select`: `best` if epochs are validated, else `last`."""
    entry: Any
    entry, values = entries.chosen(SEARCHERS, values=searcher, name="config.searcher")
    share = values.get("train_share", entry.train_share)
    if entry.has_alphas and share < 1:
        return "best"
    return "last"


def from_config(config: Mapping) -> Settings:
    """The settings of a ConfigDict or of a work directory (`WorkDir.config`).

    Raises `UserError` for the first setting that is wrong.
    """
    values = resolve(config)
    task = values.get("task")
    choice("config.task", task, choices=TASKS)
    return build(TASKS[str(task)], values=values, name="config")


def to_dict(settings: Settings) -> dict:
    """JSON-ready values from which `from_config` makes the same settings."""
    values = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = entries.to_dict(value)
        values[field.name] = value
    # Through JSON, tuples become lists as in a config.json. JSON has no infinity, which
    # is written as the text "inf", as on the command line.
    return json.loads(json.dumps(values), parse_constant=lambda name: str(float(name)))
