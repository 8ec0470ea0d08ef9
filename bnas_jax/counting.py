"""Counts the operations, bits and parameters of a network, for the command `cost`.

The network is given by a config, or by a genotype and sizes. It is compared with a
float network, which is counted in the same way.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from bnas_jax.core import conventions as conventions_lib
from bnas_jax.core import cost as cost_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotypes
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice
from bnas_jax.core.errors import UserError
from bnas_jax.core.networks import Cells
from bnas_jax.core.schemes import Xnor
from bnas_jax.settings import DatasetSettings, Settings

# The options of `cost` that are integers.
SIZES = ("num_cells", "channels", "image_size", "num_classes", "image_channels")
# All of its options.
OPTIONS = (*SIZES, "genotype", "form", "conventions", "budget", "cells", "reference")
# The options that are also fields of a network.
NETWORK_SIZES = ("num_cells", "channels")

# Data set -> (image side, channels, classes), so that a network can be counted without
# the files of its data set.
KNOWN_DATA = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "imagenet2012": (224, 3, 1000),
}

ImageShape = tuple[int, int, int]  # (height, width, channels)


def count(run: Settings | None, options: Mapping[str, Any]) -> dict:
    """Prints the table of a network's cost; returns the totals.

    Arguments and errors: see `counts`.
    """
    counted, totals = counts(run, options)
    print(counted.table())
    return totals


def counts(
    run: Settings | None, options: Mapping[str, Any]
) -> tuple[cost_lib.Cost, dict]:
    """(the cost of each layer of a network, the totals).

    The totals also have the ratios to a float network, such as how many times smaller
    this one is.

    run: the settings of --config, None without one.
    options: the value of each of `OPTIONS`, None where it is not given.

    Raises `UserError` for options that contradict each other, or lack something.
    """
    if options["cells"] and not options["budget"]:
        raise UserError(
            "--cells gives the numbers of cells among which --budget=FLOPS chooses; "
            "add --budget, or write --num_cells=..."
        )

    # Build the network, from a config or from options alone.
    if run is None:
        model, image_shape = _of_options(options)
    else:
        model, image_shape = _of_run(run, options)
    if options["budget"] is not None:
        model = _fitted(model, options, image_shape=image_shape)

    # Count it, and compare it with a float network.
    counted = cost_lib.cost(model, image_shape=image_shape)
    compared = _compared(model, counted, options, image_shape=image_shape)
    total = counted.total

    # Hand-crafted networks have neither num_cells nor channels.
    sizes = {
        name: getattr(model, name) for name in NETWORK_SIZES if hasattr(model, name)
    }
    totals = {
        **sizes,
        "flops": total.flops,
        "binary_macs": total.binary_macs,
        "float_macs": total.float_macs,
        "memory_bits": total.memory_bits,
        "params": total.params,
        **compared,
    }
    return counted, totals


def _of_options(options: Mapping[str, Any]) -> tuple[nn.Module, ImageShape]:
    """The network of a genotype and sizes, with its images' shape (H, W, C)."""
    needed = ("genotype", *NETWORK_SIZES, "image_size", "num_classes")
    missing = ", ".join(f"--{name}" for name in needed if options[name] is None)
    if missing:
        raise UserError(
            f"cost needs --config=configs/train.py:VARIANT, or else also {missing}"
        )

    # Without --form, the size of the images chooses the stem and its strides.
    form = options["form"]
    if form is None:
        form = "cifar"
        if options["image_size"] > 64:
            form = "imagenet"

    # The conventions set fields of the network and of its scheme.
    chosen = options["conventions"] or "paper"
    choice("--conventions", chosen, choices=conventions_lib.CONVENTIONS)
    conventions = conventions_lib.conventions(chosen)

    settings = Cells(
        genotype=genotypes.load(options["genotype"]),
        num_cells=options["num_cells"],
        channels=options["channels"],
        form=form,
        **conventions.network,
    )
    scheme = Xnor(**conventions.scheme)
    return _built(settings, scheme=scheme, arithmetic=Arithmetic(), sizes=options)


def _of_run(run: Settings, options: Mapping[str, Any]) -> tuple[nn.Module, ImageShape]:
    """The network of a config, with its images' shape (H, W, C).

    Options that are given take the place of the config's settings.
    """
    # With a config, these two options are settings instead.
    as_settings = {"form": "config.network.form", "conventions": "config.conventions"}
    for name, setting in as_settings.items():
        if options[name] is not None:
            raise UserError(
                f"--{name} is for a cost without --config; write "
                f"--{setting}={options[name]}"
            )

    given = {name: value for name, value in options.items() if value is not None}
    sizes = _data_sizes(run.dataset, given)
    settings = _changed_network(run.network, given)
    if options["reference"] and "genotype" not in _fields(settings):
        raise UserError(
            "a network without a genotype is compared with the same one in floats; "
            "leave --reference out"
        )
    return _built(settings, scheme=run.scheme, arithmetic=run.arithmetic(), sizes=sizes)


def _data_sizes(dataset: DatasetSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a network's images: the options', else those of the data set.

    given: the options that have a value.
    """
    sizes = known_sizes(dataset)
    sizes |= {name: given[name] for name in SIZES if name in given}

    needed = ("image_size", "num_classes")
    missing = [f"--{name}=..." for name in needed if name not in sizes]
    if missing:
        raise UserError(
            f"the size of {dataset.name} is not known here; add {' and '.join(missing)}"
        )
    return sizes


def _changed_network(network: Any, given: Mapping[str, Any]) -> Any:
    """A network's settings, in which the given options replace fields.

    given: the options that have a value.
    """
    names = (*NETWORK_SIZES, "genotype")
    changes = {name: given[name] for name in names if name in given}
    for name in changes:
        if name not in _fields(network):
            raise UserError(
                f"the network of this config has no {name}; leave --{name} out"
            )

    # --genotype is a name or a file.
    if "genotype" in changes:
        changes["genotype"] = genotypes.load(changes["genotype"])
    return dataclasses.replace(network, **changes)


def _fields(network: Any) -> set[str]:
    """The names of a network's settings."""
    return {field.name for field in dataclasses.fields(network)}


def _built(
    settings: Any, scheme: Any, arithmetic: Arithmetic, sizes: Mapping[str, Any]
) -> tuple[nn.Module, ImageShape]:
    """The network of these settings, with its images' shape (H, W, C).

    sizes: the sizes of the images, by the names of the options.
    """
    for name in ("image_size", "num_classes", "image_channels"):
        size = sizes.get(name)
        if size is not None and size < 1:
            raise UserError(f"--{name} must be at least 1, got {size}")

    model = settings.build(
        num_classes=sizes["num_classes"],
        scheme=scheme,
        arithmetic=arithmetic,
    )
    side = sizes["image_size"]
    channels = sizes.get("image_channels") or 3  # RGB unless the data say otherwise
    return model, (side, side, channels)


def known_sizes(dataset: DatasetSettings) -> dict[str, int]:
    """The sizes of a data set that are known without its files.

    The keys are image_size, image_channels and num_classes. The settings `image_size`
    and `channels` override the table.
    """
    # For a data set that is not in the table, `values` and `known` are empty.
    names = ("image_size", "image_channels", "num_classes")
    values = KNOWN_DATA.get(dataset.name, ())
    known = dict(zip(names, values, strict=False))

    if dataset.image_size is not None:
        known["image_size"] = dataset.image_size
    if dataset.channels is not None:
        known["image_channels"] = dataset.channels
    return known


def _fitted(
    model: nn.Module, options: Mapping[str, Any], *, image_shape: ImageShape
) -> nn.Module:
    """The network with sizes that meet --budget, see `core.cost.fit_budget`."""
    if not all(hasattr(model, name) for name in NETWORK_SIZES):
        raise UserError(
            f"--budget chooses num_cells and channels, which a {type(model).__name__} "
            "lacks; leave it out"
        )
    cells = _cells(options["cells"])
    return cost_lib.fit_budget(
        model, options["budget"], image_shape=image_shape, cells=cells
    )


def _cells(text: str | None) -> tuple[int, ...]:
    """The numbers of cells from LOW to HIGH inclusive, for a text `LOW-HIGH`.

    Without a text the result is (), which keeps the network's number of cells.
    """
    if not text:
        return ()
    low, _, high = text.partition("-")
    # A single number is both LOW and HIGH.
    high = high or low
    are_numbers = low.isdigit() and high.isdigit()
    if not are_numbers or not 1 <= int(low) <= int(high):
        raise UserError(f"--cells takes LOW-HIGH, for instance 5-20, got {text!r}")
    return tuple(range(int(low), int(high) + 1))


def _compared(
    model: nn.Module,
    counted: cost_lib.Cost,
    options: Mapping[str, Any],
    *,
    image_shape: ImageShape,
) -> dict:
    """The ratios of a float network's cost to this network's, and a text that names it.

    The float network has the same size. Its cell is that of --reference. By default, it
    is the same cell, or for a published cell with Zeroise the one that was published
    without Zeroise.
    """
    # Choose the float network.
    twin, name = cost_lib.float_twin(model), "the same size"
    if hasattr(model, "genotype"):
        name = "the same cell"
        reference = options["reference"] or _without_zeroise(model.genotype)
        if reference:
            name = reference
            twin = twin.clone(genotype=genotypes.load(reference))

    # Count it as the binary one was counted.
    counted_twin = cost_lib.cost(twin, image_shape=image_shape)
    ratios = cost_lib.ratios(counted, counted_twin)
    return {
        **dataclasses.asdict(ratios),
        "compared_with": f"float network of {name}, counted",
    }


def _without_zeroise(genotype: genotype_lib.Genotype) -> str | None:
    """The name of the cell that was published as this cell without Zeroise.

    None if this cell is not a published one, or was only published with Zeroise.
    """
    for name in genotypes.named():
        if genotypes.load(name) != genotype:
            continue
        other = genotypes.without_zeroise(name)
        if other:
            return other
    return None
