"""From a ConfigDict, as configs/*.py make it, or a work directory's config.json to settings, and back.

What is set, in a file or on the command line, goes first. A setting left at None takes the first value that there is in

1. the recipe that `config.recipe` chooses, see `recipes`;
2. `config.preset`, which holds what a preset says of the settings that recipes speak for;
3. the block of the convention that `config.conventions` chooses: `config.paper` holds what the paper's text has,
   `config.release` what its code has, and `config.meant` where that code without its index error differs from it;
4. the default of its dataclass.

Where there is a recipe, 2 and 3 say nothing of the settings that recipes speak for.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.schemes import SCHEMES
from bnas_jax.networks import NETWORKS
from bnas_jax.search import SEARCHERS
from bnas_jax.settings import entries
from bnas_jax.settings.checks import choice, require
from bnas_jax.settings.old_names import refuse_old_names
from bnas_jax.settings.parse import build, fill, plain
from bnas_jax.settings.recipes import NO_RECIPE, RECIPES, SETTINGS
from bnas_jax.settings.schema import TASKS, Settings
from bnas_jax.settings.search import SupernetSettings
from bnas_jax.settings.train import OptimizerSettings

# The blocks of a config that a convention takes its values from; the first that has one decides.
_BLOCKS = {"paper": ("paper",), "release": ("release",), "meant": ("meant", "release")}


def resolve(config: Mapping) -> dict:
    """A plain nested dict of a ConfigDict's settings, with None replaced by its convention's values and names by genotypes."""
    values = plain(config)
    refuse_old_names(values)
    conventions = values.get("conventions")
    choice("config.conventions", conventions, tuple(CONVENTIONS))
    blocks = {name: values.pop(name, {}) for name in ("preset", *CONVENTIONS)}
    layers = [blocks[name] for name in ("preset", *_BLOCKS[conventions])]
    recipe = _recipe(values)
    if recipe:
        layers = [
            recipe,
            *({k: v for k, v in layer.items() if k not in SETTINGS} for layer in layers),
        ]
    for layer in layers:
        fill(values, layer)
    if values.get("task") == "train":
        fill(values, {"optimizer": _defaults(OptimizerSettings)})
    _fill_network(values, conventions)
    if values.get("task") == "search" and values.get("select") is None:
        values["select"] = _selected(values.get("searcher"))

    network = values.get("network")
    if isinstance(network, dict) and isinstance(network.get("genotype"), str):
        network["genotype"] = genotype_lib.load(network["genotype"]).to_dict()
    return values


def _recipe(values: dict) -> dict:
    """The values of the recipe that is chosen, those of the optimizer complete; {} without one."""
    name = values.get("recipe") or NO_RECIPE
    if name == NO_RECIPE:
        return {}
    choice("config.recipe", name, (NO_RECIPE, *RECIPES))
    recipe = RECIPES[name]()
    network = values.get("network") or {}
    entry = NETWORKS.get(str(network.get("name")))
    if entry is not None and not entry.drops_paths:
        recipe["optimizer"].pop("drop_path", None)
    return recipe


def _defaults(cls: type) -> dict:
    """The defaults of a dataclass's fields that have one."""
    fields = dataclasses.fields(cls)
    return {
        field.name: field.default for field in fields if field.default is not dataclasses.MISSING
    }


def _fill_network(values: dict, conventions: str) -> None:
    """What the conventions say of the scheme and the network, as far as those have such settings."""
    chosen = CONVENTIONS[conventions]
    groups: dict[str, tuple[dict, Mapping[str, type], str]] = {
        "scheme": (chosen.scheme, SCHEMES, "xnor"),
        "network": (chosen.network, NETWORKS, "cells"),
    }
    for key, (defaults, table, usual) in groups.items():
        group = values.setdefault(key, {})
        require(isinstance(group, dict), f"config.{key} must hold settings, got {group!r}")
        if key == "network" and values.get("task") == "search":
            known = {field.name for field in dataclasses.fields(SupernetSettings)}
        else:
            name = group.get("name") or usual
            group["name"] = name
            choice(f"config.{key}.name", name, tuple(table))
            known = set(entries.settings_of(table[name]))
        fill(
            group,
            {name: value for name, value in defaults.items() if name in known},
            f"config.{key}.",
        )


def _selected(searcher) -> str:
    """Which epoch's genotype is taken where `config.select` does not say: the best, where epochs are validated."""
    entry: Any
    entry, values = entries.chosen(SEARCHERS, searcher, "config.searcher")
    share = values.get("train_share", entry.train_share)
    return "best" if entry.has_alphas and share < 1 else "last"


def from_config(config: Mapping) -> Settings:
    """The settings of a ConfigDict or of a work directory (`WorkDir.config`); `UserError` for the first that is wrong."""
    values = resolve(config)
    task = values.get("task")
    choice("config.task", task, tuple(TASKS))
    return build(TASKS[str(task)], values, "config")


def to_dict(settings: Settings) -> dict:
    """JSON-ready values from which `from_config` makes the same settings."""
    values = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        values[field.name] = entries.to_dict(value) if dataclasses.is_dataclass(value) else value
    return json.loads(json.dumps(values))
