"""Settings and the configs they come from: every preset, and all conventions.

They have the numbers of the paper and of its code.
"""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from bnas_jax import settings
from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotypes
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3
from bnas_jax.core.schemes import SCHEMES
from bnas_jax.networks import NETWORKS
from bnas_jax.search import SEARCHERS, Progress, Searcher
from bnas_jax.settings import entries, recipes, template
from bnas_jax.settings.schema import TASKS
from bnas_jax.training import build, build_optimizers
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.train_step import TrainStep
from configs import ablations, baselines, search, train

CONVENTIONS = ("paper", "release", "meant")
CIFAR = ("mini", "a", "b", "c")
IMAGENET = ("d", "e", "f", "g", "release_f", "release_g", "release_h")
# Image shape and number of classes of each data set.
DATA = {
    "digits": ((8, 8, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "imagenet2012": ((224, 224, 3), 1000),
}
ABLATED = (
    "no_skip",
    "no_zeroise",
    "no_diversity",
    "no_dilated",
    "separable",
    "zeroise",
    "diversity",
    "float",
)
SEARCHED = (
    "digits",
    "cifar10",
    *(f"{data}_{name}" for data in ("digits", "cifar10") for name in search.SEARCHERS),
)
PRESETS = {
    **{
        f"search:{name}": functools.partial(search.get_config, name)
        for name in SEARCHED
    },
    **{
        f"train:{name}": functools.partial(train.get_config, name)
        for name in train.VARIANTS
    },
    **{
        f"ablations:{name}": functools.partial(ablations.get_config, name)
        for ablation in ABLATED
        for name in (
            *(
                f"search_{ablation}_{preset}"
                for preset in ("digits", "cifar10", "cifar10_darts")
            ),
            *(f"train_{ablation}_{preset}" for preset in train.VARIANTS),
        )
    },
}


def config_of(preset: str, conventions: str | None = None, **changes) -> ConfigDict:
    """A preset; changes: nested keys with `__` for the dots.

    Ablations that need a cell of their own search get one.
    """
    config = PRESETS[preset]()
    if conventions:
        config.conventions = conventions
    if config.task == "train" and config.network.genotype is None:
        config.network.genotype = "latest_cell"
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


def resolved(
    preset: str, conventions: str | None = None, **changes
) -> settings.Settings:
    return settings.from_config(config_of(preset, conventions, **changes))


def value_at(run, name: str):
    return functools.reduce(getattr, name.split("."), run)


# Presets


def test_the_presets_are_those_promised():
    assert set(train.VARIANTS) == {"digits", *CIFAR, *IMAGENET}
    assert set(ablations.ABLATIONS) == set(ABLATED)
    assert set(search.SEARCHERS) == {
        "darts",
        "darts_second",
        "snas",
        "gdas",
        "random",
        "random_trained",
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_built_and_survives_json(preset):
    for conventions in CONVENTIONS:
        run = resolved(preset, conventions)
        assert run.conventions == conventions and run.task == (
            "search" if "search" in preset else "train"
        )
        stored = json.loads(json.dumps(settings.to_dict(run)))
        assert settings.from_config(stored) == run
        assert settings.first_difference(stored, settings.to_dict(run)) is None


def shapes_of(tree) -> list:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def batch_of(run) -> dict:
    image, _ = DATA[run.dataset.name]
    struct = jax.ShapeDtypeStruct
    return {
        "image": struct((run.batch_size, *image), jnp.float32),
        "label": struct((run.batch_size,), jnp.int32),
    }


def training_of(run):
    """(a function that creates the state, the step)."""
    image, classes = DATA[run.dataset.name]
    step = TrainStep(
        network=build.network(run, classes),
        optimizer=build_optimizers.training_optimizer(run, 10),
        label_smoothing=run.optimizer.label_smoothing,
        drop_path=run.optimizer.drop_path,
        num_epochs=run.num_epochs,
        steps_per_epoch=10,
    )
    return lambda: step.init(seed=run.seed, image_shape=image), step


def search_of(run):
    image, classes = DATA[run.dataset.name]
    step = SearchStep(
        supernet=build.supernet(run, classes),
        searcher=run.searcher,
        weights=build_optimizers.supernet_optimizer(run, 10),
        alphas=build_optimizers.alphas_optimizer(run),
        num_epochs=run.num_epochs,
        steps_per_epoch=10,
    )
    return lambda: step.init(seed=run.seed, image_shape=image), lambda s, batch: step(
        s, {"train": batch, "valid": batch}
    )


def check_state(run, state) -> None:
    _, classes = DATA[run.dataset.name]
    assert state.params["classifier"]["kernel"].shape == (
        16 * run.network.channels,
        classes,
    )
    assert (
        sum(name.startswith("cell") for name in state.params) == run.network.num_cells
    )
    if run.task == "search":
        assert (
            state.alphas["normal"].shape
            == state.alphas["reduce"].shape
            == (14, len(run.network.layer_types))
        )


# Tracing takes seconds: whole steps for one preset of each kind, with three cells, and
# states for all others; those that differ from another in size alone are for --long.
SIZES_ALONE = ("b", "c", "e", "f", "g", "release_f", "release_g", "release_h")
STEPS = [
    *(
        ("train:digits", "paper"),
        ("train:mini", "release"),
    ),
    pytest.param("train:digits", "release", marks=pytest.mark.long),
    pytest.param("train:d", "paper", marks=pytest.mark.long),
    pytest.param("search:cifar10", "paper", marks=pytest.mark.long),
]
STATES = [
    *(
        pytest.param(
            f"train:{name}", None, marks=pytest.mark.long if name in SIZES_ALONE else ()
        )
        for name in train.VARIANTS
        if name not in ("digits", "mini", "d")
    ),
    ("search:digits", "release"),
    ("ablations:train_no_skip_digits", None),
    *(
        pytest.param(f"ablations:{name}_digits", None, marks=pytest.mark.long)
        for name in ("train_no_zeroise", "search_no_skip", "search_no_dilated")
    ),
]


@pytest.mark.parametrize(("preset", "conventions"), STATES)
def test_every_preset_is_a_network_for_its_images(preset, conventions):
    run = resolved(preset, conventions)
    create, _ = (search_of if run.task == "search" else training_of)(run)
    check_state(run, jax.eval_shape(create))


@pytest.mark.parametrize(("preset", "conventions"), STEPS)
def test_the_whole_step_keeps_the_shapes_of_its_state(preset, conventions):
    run = resolved(preset, conventions)
    run = dataclasses.replace(
        run, network=dataclasses.replace(run.network, num_cells=3)
    )
    create, step = (search_of if run.task == "search" else training_of)(run)
    state = jax.eval_shape(create)
    check_state(run, state)
    after = jax.eval_shape(step, state, batch_of(run))
    assert jax.tree.structure(after) == jax.tree.structure(state) and shapes_of(
        after
    ) == shapes_of(state)


# The numbers of the paper and of its code

SEARCH = {
    "num_epochs": 50,
    "batch_size": 64,
    "network.num_cells": 8,
    "network.channels": 16,
    "network.layer_types": TABLE_3,
    "network.binary_preprocess": False,
    "weights.learning_rate": 0.025,
    "weights.momentum": 0.9,
    "weights.weight_decay": 3e-4,
    "alphas.learning_rate": 3e-4,
    "alphas.beta1": 0.5,
    "alphas.beta2": 0.999,
    "alphas.weight_decay": 1e-3,
    "searcher.diversity": 1.0,
    "searcher.tau": 7.7,
    "searcher.gamma": 1.0,
    "searcher.keep_zeroise": True,
    "select": "best",
}
SEARCH_BY_CONVENTION = {
    "paper": {
        "weights.min_learning_rate": 0.0,
        "weights.clip_norm": None,
        "weights.first_epoch": 0,
        "searcher.entropy": "all",
        "alphas_as_of": "after",
        "alpha_batches": "epoch",
        "dataset.search_split": "random",
        "dataset.augment_validation": False,
        "bn_examples": None,
    },
    "release": {
        "weights.min_learning_rate": 0.001,
        "weights.clip_norm": None,
        "weights.first_epoch": 1,
        "searcher.entropy": "released",
        "alphas_as_of": "before",
        "alpha_batches": "fresh",
        "dataset.search_split": "in_order",
        "dataset.augment_validation": True,
        "bn_examples": None,
    },
}
CIFAR_TRAINING = {
    "dataset.name": "cifar10",
    "num_epochs": 600,
    "batch_size": 256,
    "network.form": "cifar",
    "network.skip": True,
    "optimizer.schedule": "one_cycle",
    "optimizer.learning_rate": 0.05,
    "optimizer.weight_decay": 3e-6,
    "optimizer.tail": 0.1,
    "optimizer.clip_norm": None,
    "optimizer.label_smoothing": 0.0,
    "optimizer.drop_path": 0.2,
}
CIFAR_BY_CONVENTION = {
    "paper": {
        "bn_examples": None,
        "optimizer.low_learning_rate": 4e-4,
        "optimizer.min_learning_rate": 4e-4,
        "optimizer.momentum": 0.9,
        "optimizer.momentum_low": None,
    },
    "release": {
        "bn_examples": 128,
        "optimizer.low_learning_rate": 0.0025,
        "optimizer.min_learning_rate": 2.5e-5,
        "optimizer.momentum": 0.95,
        "optimizer.momentum_low": 0.85,
    },
}
IMAGENET_TRAINING = {
    "dataset.name": "imagenet2012",
    "num_epochs": 250,
    "network.form": "imagenet",
    "network.skip": True,
    "optimizer.schedule": "cosine_restarts",
    "optimizer.cycle_epochs": 50,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 3e-5,
    "optimizer.label_smoothing": 0.1,
    "optimizer.drop_path": 0.0,
}
IMAGENET_BY_CONVENTION = {
    "paper": {
        "batch_size": 600,
        "bn_examples": None,
        "optimizer.learning_rate": 0.1,
        "optimizer.min_learning_rate": 1e-5,
        "optimizer.clip_norm": None,
    },
    "release": {
        "batch_size": 4 * 256,
        "bn_examples": 256,
        "optimizer.learning_rate": 0.05,
        "optimizer.min_learning_rate": 0.0,
        "optimizer.clip_norm": 5.0,
    },
}
NETWORK_BY_CONVENTION = {
    "paper": {
        "scheme.activation_scale": True,
        "scheme.sign_of_zero": 1,
        "network.reduction_skip": "binary_bn",
        "network.float_head": False,
    },
    "release": {
        "scheme.activation_scale": False,
        "scheme.sign_of_zero": 0,
        "network.reduction_skip": "float",
        "network.float_head": True,
    },
}
# The authors' code without its index errors: the release but for these.
MEANT = {"network.float_head": False}
MEANT_SEARCH = {**MEANT, "searcher.entropy": "all"}
SCHEME = {
    "scheme.weight_gradient": "bnas",
    "scheme.activation": "relu",
    "scheme.depthwise_center": False,
}
NUMBERS = {
    "search:cifar10": (SEARCH, SEARCH_BY_CONVENTION),
    **{f"train:{name}": (CIFAR_TRAINING, CIFAR_BY_CONVENTION) for name in CIFAR},
    **{
        f"train:{name}": (IMAGENET_TRAINING, IMAGENET_BY_CONVENTION)
        for name in IMAGENET
    },
}


@pytest.mark.parametrize("conventions", CONVENTIONS)
@pytest.mark.parametrize("preset", NUMBERS)
def test_every_number_is_that_of_the_paper_or_of_its_code(preset, conventions):
    run = resolved(preset, conventions)
    common, differing = NUMBERS[preset]
    base = "release" if conventions == "meant" else conventions
    expected = {
        **common,
        **differing[base],
        **SCHEME,
        **NETWORK_BY_CONVENTION[base],
        "precision": "float32",
    }
    expected["matmul_precision"] = "highest"
    if conventions == "meant":
        expected |= MEANT_SEARCH if run.task == "search" else MEANT
    assert {name: value_at(run, name) for name in expected} == expected


# Recipes


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_every_recipe_resolves_for_every_training_preset_and_survives_json(recipe):
    """Nothing of the preset or the convention is left in what a recipe says."""
    values = recipes.RECIPES[recipe]()
    assert recipes.RECIPES[recipe].__doc__ and values.keys() <= set(recipes.SETTINGS)
    optimizer = settings.OptimizerSettings(**values["optimizer"])
    for preset in train.VARIANTS:
        for conventions in CONVENTIONS:
            run = resolved(f"train:{preset}", conventions, recipe=recipe)
            found = (
                run.recipe,
                run.num_epochs,
                run.batch_size,
                run.bn_examples,
                run.optimizer,
                run.first_weights,
            )
            assert found == (
                recipe,
                values["num_epochs"],
                values["batch_size"],
                None,
                optimizer,
                values.get("first_weights", "pytorch"),
            )
            assert (
                settings.from_config(json.loads(json.dumps(settings.to_dict(run))))
                == run
            )


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_every_recipe_resolves_for_the_hand_crafted_networks_but_for_drop_path(recipe):
    values = recipes.RECIPES[recipe]()
    expected = settings.OptimizerSettings(**{**values["optimizer"], "drop_path": 0.0})
    for variant in baselines.VARIANTS:
        config = baselines.get_config(variant)
        config.recipe = recipe
        run = settings.from_config(config)
        assert (run.num_epochs, run.batch_size, run.optimizer) == (
            values["num_epochs"],
            values["batch_size"],
            expected,
        )


# The numbers of docs/recipes.md, by recipe.
RECIPE_NUMBERS = {
    "darts": {
        "num_epochs": 600,
        "batch_size": 96,
        "optimizer.clip_norm": 5.0,
        "optimizer.weight_decay": 3e-4,
    },
    "kuangliu": {
        "num_epochs": 200,
        "batch_size": 128,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 5e-4,
    },
    "bireal": {
        "num_epochs": 256,
        "batch_size": 512,
        "optimizer.name": "adam",
        "optimizer.weight_decay": 0.0,
        "first_weights": "bireal",
    },
    "reactnet": {
        "num_epochs": 128,
        "batch_size": 512,
        "optimizer.learning_rate": 2.5e-3,
        "optimizer.weight_decay": 0.0,
    },
    "reactnet_step1": {
        "optimizer.weight_decay": 1e-5,
        "optimizer.decayed": "kernels",
        "first_weights": "pytorch",
    },
    "nin": {
        "first_weights": "nin",
        "num_epochs": 320,
        "optimizer.decay_epochs": (120, 200, 240, 280),
        "optimizer.decayed": "all",
    },
    "pcnn": {"num_epochs": 200, "optimizer.name": "sgd"},
    "xnor_pp": {
        "num_epochs": 80,
        "optimizer.learning_rate": 1e-3,
        "optimizer.weight_decay": 1e-5,
    },
}


@pytest.mark.parametrize("recipe", RECIPE_NUMBERS)
def test_the_numbers_of_a_recipe_are_those_of_its_source(recipe):
    run = resolved("train:a", recipe=recipe)
    assert {
        name: value_at(run, name) for name in RECIPE_NUMBERS[recipe]
    } == RECIPE_NUMBERS[recipe]


def test_the_recipes_of_bnas_are_the_training_of_its_presets_in_the_paper():
    for recipe, preset in (("bnas", "a"), ("bnas_imagenet", "d")):
        plain, by_recipe = (
            resolved(f"train:{preset}", "paper", **changes)
            for changes in ({}, {"recipe": recipe})
        )
        assert dataclasses.replace(by_recipe, recipe="none") == plain


@pytest.mark.parametrize("conventions", CONVENTIONS)
def test_what_is_set_goes_before_the_recipe_and_the_recipe_before_preset_and_convention(
    conventions,
):
    run = resolved(
        "train:a",
        conventions,
        recipe="darts",
        optimizer__learning_rate=0.5,
        batch_size=40,
    )
    assert (run.optimizer.learning_rate, run.batch_size) == (0.5, 40)  # set
    assert (run.num_epochs, run.optimizer.weight_decay) == (600, 3e-4)  # the recipe's
    assert (run.optimizer.momentum, run.optimizer.momentum_low) == (
        0.9,
        None,
    )  # and not the release's
    assert run.network.num_cells == 20  # the preset's, of which no recipe speaks
    written = settings.to_dict(run) | {"num_epochs": 7}
    assert (
        settings.from_config(written).num_epochs == 7
    )  # a stored config has everything set


def test_a_recipe_of_an_unknown_name_and_one_of_a_search_are_refused():
    with pytest.raises(
        UserError,
        match=r"config\.recipe must be one of none, bnas, .*xnor_pp, got 'resnet'",
    ):
        resolved("train:a", recipe="resnet")
    config = config_of("search:digits")
    config.recipe = "darts"
    with pytest.raises(UserError, match=r"unknown setting config\.recipe"):
        settings.from_config(config)


@pytest.mark.parametrize("name", ["scheme.name", "network.name", "recipe"])
def test_an_empty_name_is_refused(name):
    """A shell writes it for a variable that is not set.

    The usual entry must not take its place.
    """
    config = config_of("train:digits")
    config.update_from_flattened_dict({name: ""})
    with pytest.raises(UserError, match=rf"config\.{name} must be one of .*, got ''"):
        settings.from_config(config)


def test_values_of_a_file_that_python_cannot_hold_are_refused():
    stored = settings.to_dict(settings.from_config(config_of("train:digits")))
    nested: dict = {}
    for _ in range(2000):
        nested = {"more": nested}
    with pytest.raises(UserError, match="nests settings in settings more often than"):
        settings.from_config({**stored, "optimizer": nested})
    rate = {**stored["optimizer"], "learning_rate": 10**400}
    with pytest.raises(UserError, match=r"learning_rate must be of type float, got 10"):
        settings.from_config({**stored, "optimizer": rate})


def test_a_preset_is_as_it_was_without_a_recipe_and_what_is_set_goes_before_it():
    run = resolved("train:digits", batch_size=8)
    assert (run.num_epochs, run.batch_size, run.optimizer.clip_norm, run.recipe) == (
        40,
        8,
        5.0,
        "none",
    )


SIZES = {
    "mini": (10, 24),
    "a": (20, 36),
    "b": (12, 64),
    "c": (16, 108),
    "d": (12, 64),
    "e": (12, 68),
    "f": (12, 84),
    "g": (16, 128),
    "release_f": (15, 68),
    "release_g": (11, 74),
    "release_h": (16, 128),
}


def test_sizes_and_cells_are_those_of_table_5():
    runs = {name: resolved(f"train:{name}") for name in SIZES}
    assert {
        name: (run.network.num_cells, run.network.channels)
        for name, run in runs.items()
    } == SIZES
    cells = {
        name: genotypes.load(
            "latest_cell" if name in IMAGENET else "latest_cell_zeroise"
        )
        for name in SIZES
    }
    assert {name: run.network.genotype for name, run in runs.items()} == cells


def test_only_the_presets_named_release_follow_the_release_by_themselves():
    assert {
        name
        for name in train.VARIANTS
        if resolved(f"train:{name}").conventions == "release"
    } == {
        "release_f",
        "release_g",
        "release_h",
    }


def differences(one, other, prefix="") -> set[str]:
    found = set()
    for key in one.keys() | other.keys():
        if isinstance(one.get(key), dict) and isinstance(other.get(key), dict):
            found |= differences(one[key], other[key], f"{prefix}{key}.")
        elif one.get(key) != other.get(key):
            found.add(prefix + key)
    return found


@pytest.mark.parametrize(
    ("ablation", "task", "changed"),
    [
        ("no_skip", "search", {"network.skip"}),
        ("no_skip", "train", {"network.skip"}),
        ("no_zeroise", "search", {"searcher.keep_zeroise"}),
        ("no_zeroise", "train", {"network.genotype.normal", "network.genotype.reduce"}),
        ("no_diversity", "search", {"searcher.diversity"}),
        ("no_dilated", "search", {"network.layer_types"}),
        ("separable", "search", {"network.layer_types"}),
        ("zeroise", "search", {"searcher.keep_zeroise"}),
        ("diversity", "search", {"searcher.diversity"}),
    ],
)
def test_an_ablation_changes_what_it_is_named_for_alone(ablation, task, changed):
    preset = "a" if task == "train" else "cifar10"
    if ablation in ("zeroise", "diversity"):
        preset = "cifar10_darts"
    full, ablated = (
        settings.to_dict(resolved(name))
        for name in (f"{task}:{preset}", f"ablations:{task}_{ablation}_{preset}")
    )
    assert differences(full, ablated) == changed


def test_ablations_are_off_and_not_something_else():
    assert not resolved("ablations:search_no_skip_digits").network.skip
    assert not resolved("ablations:search_no_zeroise_digits").searcher.keep_zeroise
    assert resolved("ablations:search_no_diversity_digits").searcher.diversity == 0
    kept = resolved("ablations:search_no_dilated_digits").network.layer_types
    assert kept == tuple(t for t in TABLE_3 if "dil" not in t) and len(kept) == 5


def test_several_ablations_stand_one_behind_the_other():
    """DARTS in its own domain, with Zeroise (Table 2) and diversity (Table 4)."""
    run = settings.from_config(
        ablations.get_config("search_float_zeroise_diversity_cifar10_darts")
    )
    assert (
        type(run.scheme) is SCHEMES["float"]
        and not run.network.skip
        and len(run.network.layer_types) == 8
    )
    assert run.searcher.keep_zeroise and run.searcher.diversity == 1


@pytest.mark.parametrize(
    ("one", "other", "preset", "types"),
    [
        (
            "separable",
            "no_dilated",
            "cifar10",
            {"sep_conv_3x3", "sep_conv_5x5", "bin_conv_5x5"},
        ),
        (
            "float",
            "no_dilated",
            "cifar10_darts",
            {"sep_conv_3x3", "sep_conv_5x5", "skip_connect"},
        ),
    ],
)
def test_ablations_of_the_layer_types_add_up_in_any_order(one, other, preset, types):
    found = ablations.get_config(f"search_{one}_{other}_{preset}").network.layer_types

    reverse = ablations.get_config(f"search_{other}_{one}_{preset}").network.layer_types
    assert found == reverse
    assert types < set(found) and not any("dil" in name for name in found)


@pytest.mark.parametrize("ablation", ["no_diversity", "no_dilated"])
def test_an_ablation_without_a_published_cell_asks_for_one(ablation):
    with pytest.raises(
        UserError, match=r"config\.network\.genotype is missing; write .*genotype\.json"
    ):
        settings.from_config(ablations.get_config(f"train_{ablation}_a"))


@pytest.mark.parametrize(
    ("module", "variant", "message"),
    [
        (search, "mnist", "write digits or cifar10"),
        (train, "z", "write one of digits, mini"),
        (ablations, "train_no_layers_a", "no_skip, no_zeroise"),
        (ablations, "no_skip_a", "TASK_ABLATION_PRESET"),
        (ablations, "train_no_skip_z", "write one of digits, mini"),
    ],
)
def test_an_unknown_variant_is_refused_with_the_known_ones(module, variant, message):
    with pytest.raises(ValueError, match=message):
        module.get_config(variant)


# What stands above what


def test_what_is_set_stands_above_the_convention():
    run = resolved(
        "search:digits",
        "release",
        weights__clip_norm=2.5,
        weights__first_epoch=0,
        searcher__entropy="all",
        alphas_as_of="after",
        scheme__activation_scale=True,
        scheme__sign_of_zero=1,
        network__reduction_skip="binary",
    )
    assert (run.weights.clip_norm, run.weights.first_epoch, run.alphas_as_of) == (
        2.5,
        0,
        "after",
    )
    assert (
        run.scheme.activation_scale
        and run.scheme.sign_of_zero == 1
        and run.network.reduction_skip == "binary"
    )
    assert (
        run.weights.min_learning_rate == 0.001
    )  # the convention still fills in the rest


def test_each_difference_between_the_conventions_is_a_setting_of_its_own():
    for preset, (_, differing) in NUMBERS.items():
        values = {
            name.replace(".", "__"): value
            for name, value in differing["release"].items()
            if value is not None
        }
        run = resolved(preset, "paper", **values)
        assert {
            name: value_at(run, name.replace("__", ".")) for name in values
        } == values


@pytest.mark.parametrize(
    ("conventions", "edges"),
    [("paper", "all"), ("release", "released"), ("meant", "all")],
)
def test_the_searcher_takes_the_entropy_of_its_convention(conventions, edges):
    draw = np.random.default_rng(0)
    values = {
        name: draw.normal(size=(14, 7)).astype(np.float32)
        for name in ("normal", "reduce")
    }
    searcher = resolved("search:cifar10", conventions).searcher
    expected = alphas_lib.diversity(values, 3, weight=1.0, tau=7.7, edges=edges)
    assert float(searcher.regularizer(values, Progress(jnp.array(3), 50))) == float(
        expected
    )


def test_clipping_is_turned_off_by_infinity_where_the_convention_clips():
    run = resolved("train:d", "release", optimizer__clip_norm=math.inf)
    assert run.optimizer.clip_norm == math.inf
    assert settings.from_config(settings.to_dict(run)) == run


def test_a_search_that_does_not_move_alpha_reads_no_setting_of_it():
    for searcher in search.SEARCHERS:
        unread = settings.unread(resolved(f"search:digits_{searcher}"))
        expected = []
        if searcher.startswith("random"):
            expected = ["alphas", "alphas_as_of"]
        assert sorted(unread) == expected


def test_none_in_python_is_not_the_default_of_a_config():
    """A config has None for what is not set; a run must read its own config back."""
    search = dataclasses.replace(
        resolved("search:digits_gdas"), searcher=SEARCHERS["gdas"](clip_norm=None)
    )
    wide = resolved("train:digits")
    network = NETWORKS["wrn40"](stem=None, width=8)
    wide = dataclasses.replace(wide, network=network)
    assert (search.searcher.clip_norm, wide.network.stem) == (math.inf, 8)
    for run in (search, wide):
        assert settings.from_config(settings.to_dict(run)) == run


@pytest.mark.parametrize(
    ("precision", "dtype", "conv_dtype"),
    [
        ("float32", jnp.float32, None),
        ("bfloat16", jnp.float32, jnp.bfloat16),
        ("float64", jnp.float64, None),
    ],
)
def test_precision_decides_the_arithmetic_of_the_layers(precision, dtype, conv_dtype):
    arithmetic = resolved("train:digits", precision=precision).arithmetic()
    assert arithmetic.dtype is dtype and arithmetic.conv_dtype is conv_dtype


# What is refused


@pytest.mark.parametrize(
    ("preset", "name", "value", "message"),
    [
        ("train:digits", "conventions", "larq", "one of paper, release, meant"),
        ("train:digits", "precision", "float16", "one of float32, bfloat16, float64"),
        (
            "train:digits",
            "matmul_precision",
            "bfloat16",
            "one of default, high, highest",
        ),
        ("train:digits", "parallel", "pjit", "one of auto, none"),
        ("search:digits", "network.edges", "fast", "one of shared, plain, chosen"),
        (
            "search:digits",
            "network.form",
            "mnist",
            "one of cifar, imagenet, darts, snas, gdas",
        ),
        (
            "search:digits",
            "network.reduction_skip",
            "none",
            "one of float, binary_weight, binary, binary_bn",
        ),
        ("train:digits", "seed", -1, "from 0 to 4294967295"),
        ("train:digits", "seed", 2**32, "from 0 to 4294967295"),
        ("train:digits", "num_epochs", 0, "at least 1"),
        ("train:digits", "batch_size", 0, "at least 1"),
        ("train:digits", "eval_batch_size", -2, "at least 1"),
        ("train:digits", "log_every_steps", 0, "at least 1"),
        ("train:digits", "checkpoint_every_steps", 0, "at least 1 or None"),
        ("train:digits", "checkpoint_every_minutes", 0.0, "greater than 0"),
        ("train:digits", "microbatches", 0, "at least 1"),
        ("train:digits", "steps_per_call", 0, "at least 1"),
        ("train:digits", "checkpoint.keep_last", 0, "at least 1"),
        ("train:digits", "checkpoint.keep_best", -1, "at least 0"),
        ("train:digits", "dataset.pad", -1, "0 or more pixels"),
        (
            "search:digits",
            "dataset.search_split",
            "halves",
            "one of random, stratified, in_order",
        ),
        ("search:digits", "alpha_batches", "anew", "one of epoch, fresh"),
        ("train:digits", "bn_examples", 0, "at least 1"),
        (
            "train:digits",
            "bn_examples",
            48,
            r"must divide config\.batch_size = 64; write 64 for all",
        ),
        ("train:digits", "scheme.sign_of_zero", 2, "0 or 1"),
        (
            "train:digits",
            "scheme.weight_gradient",
            "larq",
            "one of bnas, paper, allenai",
        ),
        (
            "train:digits",
            "network.reduction_skip",
            "none",
            "one of float, binary_weight, binary, binary_bn",
        ),
        ("train:digits", "network.form", "mnist", "one of cifar, imagenet"),
        ("train:digits", "network.num_cells", 0, "at least 1"),
        ("train:digits", "network.channels", 0, "at least 1"),
        ("train:d", "network.channels", 7, "a multiple of 2 in the form imagenet"),
        (
            "train:digits",
            "optimizer.schedule",
            "step",
            "one of one_cycle, cosine_restarts, cosine, linear, steps",
        ),
        ("train:digits", "optimizer.name", "lamb", "one of sgd, adam, got 'lamb'"),
        (
            "train:digits",
            "optimizer.schedule",
            "steps",
            "needs config.optimizer.decay_epochs, such as 60,120",
        ),
        (
            "train:digits",
            "optimizer.decay_epochs",
            (20, 10),
            r"growing numbers from 1 on, got \[20, 10\]",
        ),
        (
            "train:digits",
            "optimizer.schedule_by",
            "epoch",
            "is of the schedules cosine and linear, got one_cycle",
        ),
        (
            "train:digits",
            "optimizer.first_epoch",
            1,
            "has no effect without config.optimizer.schedule_by=epoch",
        ),
        ("train:digits", "optimizer.beta2", 1.0, "from 0 to below 1"),
        ("train:digits", "optimizer.eps", 0.0, "greater than 0"),
        ("train:digits", "optimizer.decayed", "bn", "one of all, kernels"),
        ("train:digits", "optimizer.decay_factor", -1.0, "greater than 0"),
        ("train:digits", "dataset.cutout", -1, "0 or more pixels"),
        ("train:digits", "optimizer.learning_rate", 0.0, "greater than 0"),
        ("train:digits", "optimizer.learning_rate", math.inf, "finite"),
        ("train:digits", "optimizer.low_learning_rate", -0.1, "at least 0"),
        ("train:digits", "optimizer.min_learning_rate", math.nan, "at least 0"),
        ("train:digits", "optimizer.tail", 1.0, "from 0 to below 1"),
        ("train:digits", "optimizer.cycle_epochs", 0, "at least 1"),
        ("train:digits", "optimizer.momentum", 1.0, "from 0 to below 1"),
        ("train:digits", "optimizer.momentum_low", -0.5, "from 0 to below 1"),
        ("train:digits", "optimizer.weight_decay", -1e-4, "at least 0"),
        ("train:digits", "optimizer.clip_norm", 0.0, "greater than 0 or None"),
        ("train:digits", "optimizer.label_smoothing", 1.0, "from 0 to below 1"),
        ("train:digits", "optimizer.drop_path", -0.1, "from 0 to below 1"),
        ("search:digits", "network.channels", -4, "at least 1"),
        (
            "search:digits",
            "network.layer_types",
            ("none", "conv_9x9"),
            "conv_9x9.*known: none",
        ),
        (
            "search:digits",
            "network.layer_types",
            ("none", "max_pool_3x3"),
            "a layer type with weights",
        ),
        (
            "search:digits",
            "network.layer_types",
            ("bin_conv_3x3", "bin_conv_3x3"),
            "twice",
        ),
        ("search:digits", "weights.learning_rate", -0.1, "greater than 0"),
        ("search:digits", "weights.min_learning_rate", -0.1, "at least 0"),
        ("search:digits", "weights.momentum", 1.5, "from 0 to below 1"),
        (
            "search:digits_gdas",
            "weights.momentum",
            0.0,
            "config.weights.nesterov needs a momentum",
        ),
        ("search:digits", "weights.weight_decay", -0.1, "at least 0"),
        ("search:digits", "weights.clip_norm", -5.0, "greater than 0 or None"),
        ("search:digits", "weights.first_epoch", 2, "one of 0, 1"),
        ("search:digits", "alphas.learning_rate", 0.0, "greater than 0"),
        ("search:digits", "alphas.beta1", 1.0, "from 0 to below 1"),
        ("search:digits", "alphas.beta2", -0.1, "from 0 to below 1"),
        ("search:digits", "alphas.weight_decay", -1.0, "at least 0"),
        ("search:digits", "alphas.optimizer", "rmsprop", "one of adam, sgd"),
        ("search:digits", "searcher.diversity", -1.0, "at least 0"),
        ("search:digits", "searcher.entropy", "half", "one of all, released"),
        (
            "search:digits",
            "searcher.tau",
            0.0,
            r"at least 1e-06.*config\.searcher\.diversity=0",
        ),
        ("search:digits", "searcher.tau", 1e-50, "at least 1e-06"),
        ("search:digits", "searcher.gamma", 0.0, "greater than 0"),
        ("search:digits", "searcher.gamma", -3.0, "greater than 0"),
        ("search:digits", "select", "first", "one of best, last"),
        ("search:digits", "searcher.gamma", math.inf, "greater than 0"),
        (
            "search:digits_darts",
            "searcher.unrolled",
            "twice",
            "one of none, difference, exact",
        ),
        ("search:digits_darts", "searcher.tau", -1.0, "at least 1e-06"),
        (
            "search:digits_snas",
            "searcher.temperature_end",
            1e-8,
            "finite number at least 1e-06",
        ),
        (
            "search:digits_snas",
            "searcher.temperature_end",
            2.0,
            r"at most config\.searcher\.temperature_start=1\.0",
        ),
        ("search:digits_snas", "searcher.annealing_epochs", 0, "at least 1"),
        ("search:digits_snas", "searcher.drop_path", 1.0, "from 0 to below 1"),
        ("search:digits_snas", "searcher.resource_weight", -1.0, "at least 0"),
        ("search:digits_snas", "searcher.train_share", 0.0, "above 0 and at most 1"),
        ("search:digits_snas", "alphas.clip_norm", 0.0, "greater than 0 or None"),
        (
            "search:digits_snas",
            "select",
            "best",
            r"config\.select=last, or config\.searcher\.train_share=0\.9",
        ),
        ("search:digits_gdas", "searcher.tau_min", 0.0, "finite number at least 1e-06"),
        (
            "search:digits_gdas",
            "searcher.tau_min",
            11.0,
            r"at most config\.searcher\.tau_max=10\.0",
        ),
        ("search:digits_gdas", "searcher.clip_norm", -1.0, "greater than 0"),
        ("search:digits_random", "searcher.candidates", 0, "at least 1"),
        (
            "search:digits_random",
            "searcher.finalists",
            51,
            r"at most config\.searcher\.candidates=50",
        ),
        (
            "search:digits_random",
            "select",
            "best",
            r"validated: write config\.select=last$",
        ),
        ("search:digits", "alphas_as_of", "during", "one of after, before"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(preset, name, value, message):
    config = config_of(preset)
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message) as caught:
        settings.from_config(config)
    assert f"config.{name}" in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("digits", "tau_max"),
        ("digits", "unrolled"),
        ("digits_darts", "gamma"),
        ("digits_snas", "tau"),
        ("digits_gdas", "temperature_end"),
        ("digits_gdas", "train_share"),
        ("digits_random", "keep_zeroise"),
    ],
)
def test_a_setting_of_another_searcher_is_refused(preset, name):
    config = config_of(f"search:{preset}")
    config.searcher[name] = {"unrolled": "exact", "keep_zeroise": True}.get(name, 0.7)
    searcher = config.searcher.name
    message = (
        rf"config\.searcher\.{name} is not a setting of "
        rf"config\.searcher\.name={searcher}"
    )
    with pytest.raises(UserError, match=message):
        settings.from_config(config)


@pytest.mark.parametrize(
    ("name", "share", "select"),
    [("snas", None, "last"), ("snas", 0.9, "best"), ("random", None, "last")],
)
def test_the_best_epoch_is_taken_where_epochs_are_validated(name, share, select):
    config = config_of("search:digits")
    template.choose(config, "searcher", name)
    config.searcher.train_share = share
    assert settings.from_config(config).select == select


def test_groups_of_batch_norm_divide_a_microbatch_of_all_devices():
    assert (
        resolved("train:digits", bn_examples=32, microbatches=2)
        .arithmetic()
        .bn_examples
        == 32
    )
    message = (
        r"must divide config\.batch_size / config\.microbatches = 32; write 32 for all"
    )
    with pytest.raises(UserError, match=message):
        resolved("train:digits", bn_examples=64, microbatches=2)
    with pytest.raises(UserError, match=r"on all devices: write config\.sync_bn=True"):
        resolved("train:digits", bn_examples=32, sync_bn=False)


def test_a_setting_that_a_config_leaves_open_is_named_with_its_default():
    """A config file that was written before a setting existed."""
    config = search.get_config("digits")
    config.alphas.optimizer = None

    with pytest.raises(
        UserError, match=r"write config\.alphas\.optimizer='adam', its default"
    ):
        settings.from_config(config)


@pytest.mark.parametrize("name", settings.OLD_NAMES)
def test_an_old_name_is_answered_with_the_new_one(name):
    stored = settings.to_dict(resolved("search:digits"))
    *groups, last = name.removeprefix("config.").split(".")
    values = stored
    for group in groups:
        values = values.setdefault(group, {})
    values[last] = True
    with pytest.raises(UserError) as caught:
        settings.from_config(stored)
    assert str(caught.value) == f"{name} is now {settings.OLD_NAMES[name]}"


# Entries: schemes, searchers and networks


@dataclasses.dataclass(frozen=True)
class Other(Searcher):
    """A searcher with settings of other types, one of which has no value of its own."""

    rate: float
    entropy: str = "some"
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None


def test_a_config_holds_a_typed_place_for_every_setting_of_every_entry(monkeypatch):
    monkeypatch.setitem(SEARCHERS, "other", Other)
    config = search.get_config("digits").searcher
    types = {
        "rate": float,
        "sizes": tuple,
        "limit": int,
        "gamma": float,
        "keep_zeroise": bool,
        "entropy": str,
        "name": str,
    }
    assert {name: config.get_type(name) for name in types} == types
    assert "layer_types" not in config and (config.rate, config.limit) == (None, None)
    assert train.get_config("digits").network.get_type("genotype") is str


def test_another_entry_begins_without_the_settings_that_it_lacks(monkeypatch):
    """Those of the preset and of its conventions; the settings that both have stay."""
    monkeypatch.setitem(SEARCHERS, "other", Other)
    config = search.get_config("digits")
    template.choose(config, "searcher", "other")
    config.searcher.rate = 0.5
    assert settings.from_config(config).searcher == Other(rate=0.5, entropy="all")
    config.searcher.gamma = 3.0
    message = (
        r"config\.searcher\.gamma is not a setting of config\.searcher\.name=other; "
        "it has rate"
    )
    with pytest.raises(UserError, match=message):
        settings.from_config(config)
    config.searcher.update({"gamma": None, "rate": None})
    with pytest.raises(
        UserError, match=r"config\.searcher\.rate must be of type float, got None"
    ):
        settings.from_config(config)


def test_every_entry_survives_json():
    for table, key, preset in (
        (SCHEMES, "scheme", "train:digits"),
        (SEARCHERS, "searcher", "search:digits"),
    ):
        for name, entry in table.items():
            config = config_of(preset)
            template.choose(config, key, name)
            stored = settings.to_dict(settings.from_config(config))
            assert (
                set(stored[key]) == {"name", *entries.settings_of(entry)}
                and stored[key]["name"] == name
            )
            assert type(getattr(settings.from_config(stored), key)) is entry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"learning_rate": 0.1},
            r"unknown setting config\.learning_rate; known here: .*batch_size",
        ),
        (
            {"optimizer": {"lr": 0.1}},
            r"unknown setting config\.optimizer\.lr; known here: .*learning_rate",
        ),
        ({"seed": "0"}, r"config\.seed must be of type int, got '0'"),
        ({"seed": True}, r"config\.seed must be of type int, got True"),
        ({"num_epochs": 1.5}, r"config\.num_epochs must be of type int, got 1\.5"),
        ({"num_epochs": None}, r"config\.num_epochs must be of type int, got None"),
        (
            {"precision": 32},
            r"config\.precision must be one of|config\.precision must be of type str",
        ),
        (
            {"optimizer": {"learning_rate": "0.1"}},
            r"config\.optimizer\.learning_rate must be of type float",
        ),
        (
            {"optimizer": {"tail": True}},
            r"config\.optimizer\.tail must be of type float",
        ),
        ({"network": {"skip": 1}}, r"config\.network\.skip must be of type bool"),
        ({"network": {"genotype": 3}}, "genotype: expected a JSON object"),
        (
            {"network": {"genotype": "no_such_cell"}},
            "neither a file nor a named cell.*latest_cell",
        ),
        ({"network": 5}, r"config\.network must hold settings, got 5"),
        ({"scheme": 5}, r"config\.scheme must hold settings, got 5"),
        (
            {"scheme": {"name": "larq"}},
            r"config\.scheme\.name must be one of xnor, .*float.*, got 'larq'",
        ),
        (
            {"scheme": {"gain": 1.0}},
            r"config\.scheme\.gain is not a setting of config\.scheme\.name=xnor; "
            r"it has .*sign_of_zero",
        ),
        (
            {"network": {"name": "resnet"}},
            r"config\.network\.name must be one of cells, .*, got 'resnet'",
        ),
        ({"task": "sleep"}, r"config\.task must be one of search, train"),
        ({"task": None}, r"config\.task must be one of search, train"),
    ],
)
def test_a_config_of_the_wrong_form_is_refused(changes, message):
    stored = settings.to_dict(resolved("train:digits"))
    for key, value in changes.items():
        stored[key] = {**stored[key], **value} if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message):
        settings.from_config(stored)


def test_a_missing_setting_is_named():
    stored = settings.to_dict(resolved("train:digits"))
    del stored["optimizer"]["learning_rate"]
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate is missing"):
        settings.from_config(stored)


def test_a_whole_number_stands_for_a_rate():
    run = resolved("train:digits")
    stored = settings.to_dict(run)
    stored["optimizer"]["learning_rate"] = 1
    rate = settings.from_config(stored).optimizer.learning_rate
    assert rate == 1.0 and isinstance(rate, float)


# Differences


def test_the_first_difference_is_named_with_both_values():
    ours = settings.to_dict(resolved("train:digits"))
    theirs = settings.to_dict(resolved("train:digits", optimizer__momentum=0.5, seed=3))
    assert (
        settings.first_difference(ours, theirs)
        == "config.optimizer.momentum is 0.9 now and 0.5 there"
    )
    theirs["optimizer"] = ours["optimizer"]
    assert settings.first_difference(ours, theirs) == "config.seed is 0 now and 3 there"


def test_a_setting_that_changes_nothing_that_is_trained_is_no_difference():
    ours = settings.to_dict(resolved("train:a"))
    free = {"checkpoint__keep_last": 5, "dataset__path": "/data"}
    free |= {
        "log_every_steps": 7,
        "checkpoint_every_steps": 3,
        "parallel": "none",
        "eval_batch_size": 9,
    }
    search = settings.to_dict(resolved("search:digits"))
    taken = {
        "searcher__gamma": 3.0,
        "searcher__keep_zeroise": False,
        "select": "last",
        "alphas_as_of": "before",
    }
    other = settings.to_dict(resolved("search:digits", network__edges="plain", **taken))
    assert settings.first_difference(search, other) is None
    free |= {
        "checkpoint_every_minutes": 1.5,
        "steps_per_call": 4,
        "distributed__timeout_seconds": 5,
    }
    assert (
        settings.first_difference(ours, settings.to_dict(resolved("train:a", **free)))
        is None
    )


def test_another_cell_or_task_is_a_difference():
    ours = settings.to_dict(resolved("train:digits"))
    other = settings.to_dict(resolved("train:digits", network__genotype="latest_cell"))
    assert settings.first_difference(ours, other).startswith(
        "config.network.genotype.normal is "
    )
    assert "config." in settings.first_difference(
        ours, settings.to_dict(resolved("search:digits"))
    )


# Configs are made from the settings


@pytest.mark.parametrize("task", TASKS)
def test_a_config_has_each_setting_once_with_its_default(task):
    config = template.settings(task)
    names = {field.name for field in dataclasses.fields(TASKS[task])}
    assert set(config) == names | {"preset", "paper", "release", "meant"}
    assert (config.task, config.eval_batch_size, config.num_epochs) == (task, 256, None)
    assert config.dataset.name == "cifar10" and config.checkpoint.keep_last == 2
    assert config.get_type("num_epochs") is int and config.scheme.name == "xnor"
    assert ("search_split" in config.dataset) == (task == "search")


def test_trainings_on_imagenet_are_saved_within_an_epoch_too():
    """A host may be lost without notice, and an epoch takes long."""
    for config in (
        train.get_config("d"),
        baselines.get_config("imagenet_resnet18"),
    ):
        run = settings.from_config(config)
        assert run.checkpoint_every_minutes == 15
