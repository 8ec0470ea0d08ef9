"""The counts of the command `cost`: of the network of a config, or of a genotype and
sizes, and of a float one beside it.
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
from bnas_jax.core.errors import UserError
from bnas_jax.core.networks import Cells
from bnas_jax.core.schemes import Xnor
from bnas_jax.settings import DatasetSettings, Settings

# The options of `cost` that are integers, all of its options, and those that are fields
# of a network.
SIZES = ("num_cells", "channels", "image_size", "num_classes", "image_channels")
OPTIONS = (*SIZES, "genotype", "form", "conventions", "budget", "cells", "reference")
NETWORK_SIZES = ("num_cells", "channels")

# Image side, channels and classes of data sets, so that networks for them are counted
# without their files.
KNOWN_DATA = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "imagenet2012": (224, 3, 1000),
}

ImageShape = tuple[int, int, int]


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
    """(the cost of a network layer by layer, its totals and how many times less it
    takes than a float one).

    run: the settings of --config, None without one. options: the value of each of
    `OPTIONS`, None where it is not given. Raises `UserError` for options that
    contradict each other, or lack something.
    """
    if options["cells"] and not options["budget"]:
        raise UserError(
            "--cells says among which numbers of cells --budget=FLOPS chooses; add it, "
            "or write --num_cells=..."
        )

    # The network, from a config or from options alone.
    if run is None:
        model, image_shape = _of_options(options)
    else:
        model, image_shape = _of_run(run, options)
    if options["budget"] is not None:
        model = _fitted(model, options, image_shape=image_shape)

    counted = cost_lib.cost(model, image_shape=image_shape)
    compared = _compared(model, counted, options, image_shape=image_shape)
    total = counted.total

    # Networks of published depths have no such fields.
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
    """The network of a genotype and its sizes, with the shape (H, W, C) of its images."""
    needed = ("genotype", *NETWORK_SIZES, "image_size", "num_classes")
    missing = ", ".join(f"--{name}" for name in needed if options[name] is None)
    if missing:
        raise UserError(
            f"cost needs --config=configs/train.py:VARIANT, or else also {missing}"
        )

    # The stem and the strides that fit the images.
    form = options["form"]
    if form is None:
        form = "cifar"
        if options["image_size"] > 64:
            form = "imagenet"
    chosen = options["conventions"] or "paper"
    if chosen not in conventions_lib.CONVENTIONS:
        known = ", ".join(conventions_lib.CONVENTIONS)
        raise UserError(f"--conventions must be one of {known}, got {chosen!r}")

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
    """The network of a config, with the options in place of its settings, and the shape
    (H, W, C) of its images.
    """
    # Options that are settings of a config.
    as_settings = {"form": "config.network.form", "conventions": "config.conventions"}
    for name, setting in as_settings.items():
        if options[name] is not None:
            raise UserError(
                f"--{name} is for a cost without --config; write "
                f"--{setting}={options[name]}"
            )

    # The sizes of the data: an option before what is known of the data set.
    given = {name: value for name, value in options.items() if value is not None}
    sizes = known_sizes(run.dataset)
    sizes |= {name: given[name] for name in SIZES if name in given}
    missing = [
        f"--{name}=..." for name in ("image_size", "num_classes") if name not in sizes
    ]
    if missing:
        raise UserError(
            f"the size of {run.dataset.name} is not known here; add "
            f"{' and '.join(missing)}"
        )

    # The fields of the network that are other ones.
    changes = {}
    for name in (*NETWORK_SIZES, "genotype"):
        if name in given:
            changes[name] = given[name]
    known = {field.name for field in dataclasses.fields(run.network)}
    for name in changes:
        if name not in known:
            raise UserError(
                f"the network of this config has no {name}; leave --{name} out"
            )
    if "genotype" in changes:
        changes["genotype"] = genotypes.load(changes["genotype"])
    settings = dataclasses.replace(run.network, **changes)
    if options["reference"] and "genotype" not in known:
        raise UserError(
            "a network without a genotype is compared with the same one in floats; "
            "leave --reference out"
        )
    return _built(settings, scheme=run.scheme, arithmetic=run.arithmetic(), sizes=sizes)


def _built(
    settings, scheme, arithmetic: Arithmetic, sizes: Mapping[str, Any]
) -> tuple[nn.Module, ImageShape]:
    """The network of settings, with the shape (H, W, C) of its images. sizes: of the
    data.
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
    channels = sizes.get("image_channels") or 3
    return model, (side, side, channels)


def known_sizes(dataset: DatasetSettings) -> dict[str, int]:
    """image_size, image_channels and num_classes, as far as they are known without the
    files; settings come first.
    """
    names = ("image_size", "image_channels", "num_classes")
    # Nothing for a set that is not known.
    known = dict(zip(names, KNOWN_DATA.get(dataset.name, ()), strict=False))
    if dataset.image_size is not None:
        known["image_size"] = dataset.image_size
    if dataset.channels is not None:
        known["image_channels"] = dataset.channels
    return known


def _fitted(
    model: nn.Module, options: Mapping[str, Any], *, image_shape: ImageShape
) -> nn.Module:
    """The network with the sizes that meet --budget, see `core.cost.fit_budget`."""
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
    """The numbers of cells that `LOW-HIGH` means, both included; () without a text,
    which keeps the network's number.
    """
    if not text:
        return ()
    low, _, high = text.partition("-")
    # One number alone is both.
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
    """How many times less the network takes than a float one, and which that is.

    The float network has the same size and cell, without Zeroise where that is a named
    cell, or the one of --reference.
    """
    twin, name = cost_lib.float_twin(model), "the same size"
    if hasattr(model, "genotype"):
        name = "the same cell"
        reference = options["reference"] or _without_zeroise(model.genotype)
        if reference:
            name = reference
            twin = twin.clone(genotype=genotypes.load(reference))
    ratios = cost_lib.ratios(counted, cost_lib.cost(twin, image_shape=image_shape))
    return {
        **dataclasses.asdict(ratios),
        "compared_with": f"float network of {name}, counted",
    }


def _without_zeroise(genotype: genotype_lib.Genotype) -> str | None:
    """The named cell that is this one with Zeroise left out; None where this is no
    named cell, or it has no such twin.
    """
    for name in genotypes.named():
        if genotypes.load(name) != genotype:
            continue
        other = genotypes.without_zeroise(name)
        if other:
            return other
    return None
