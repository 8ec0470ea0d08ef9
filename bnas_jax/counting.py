"""What the command `cost` counts: the network of a config, or of a genotype and sizes, and a float one beside it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from bnas_jax.core import conventions as conventions_lib
from bnas_jax.core import cost as cost_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.networks import Cells
from bnas_jax.core.schemes import Xnor
from bnas_jax.settings import DatasetSettings, Settings

# Options that are numbers, and all of them.
SIZES = ("num_cells", "channels", "image_size", "num_classes", "image_channels")
OPTIONS = (*SIZES, "genotype", "form", "conventions", "budget", "cells", "reference")
NETWORK_SIZES = ("num_cells", "channels")

# Image side, channels and classes of the data sets that are known by name, so that their networks are counted without them.
KNOWN_DATA = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "imagenet2012": (224, 3, 1000),
}

ImageShape = tuple[int, int, int]


def count(run: Settings | None, options: Mapping[str, Any]) -> dict:
    """Prints the table of a network's cost; the totals.

    run: the settings of --config, None without one. options: those of `OPTIONS` that are given, else None.
    """
    if options["cells"] and not options["budget"]:
        raise UserError(
            "--cells says among which numbers of cells --budget=FLOPS chooses; add it, or write --num_cells=..."
        )
    if run is None:
        model, image_shape = _of_options(options)
    else:
        model, image_shape = _of_run(run, options)
    if options["budget"] is not None:
        model = _fitted(model, options, image_shape=image_shape)

    counted = cost_lib.cost(model, image_shape=image_shape)
    compared = _compared(model, counted, options, image_shape=image_shape)
    print(counted.table())
    total = counted.total
    return {
        **{name: getattr(model, name) for name in NETWORK_SIZES if hasattr(model, name)},
        "flops": total.flops,
        "binary_macs": total.binary_macs,
        "float_macs": total.float_macs,
        "memory_bits": total.memory_bits,
        "params": total.params,
        **compared,
    }


def _of_options(options: Mapping[str, Any]) -> tuple[nn.Module, ImageShape]:
    """The network of a genotype and its sizes."""
    needed = ("genotype", *NETWORK_SIZES, "image_size", "num_classes")
    missing = ", ".join(f"--{name}" for name in needed if options[name] is None)
    if missing:
        raise UserError(f"cost needs --config=configs/train.py:VARIANT, or else also {missing}")
    form = options["form"]
    if form is None:
        form = "imagenet" if options["image_size"] > 64 else "cifar"
    chosen = options["conventions"] or "paper"
    if chosen not in conventions_lib.CONVENTIONS:
        known = ", ".join(conventions_lib.CONVENTIONS)
        raise UserError(f"--conventions must be one of {known}, got {chosen!r}")

    conventions = conventions_lib.conventions(chosen)
    settings = Cells(
        genotype=genotype_lib.load(options["genotype"]),
        num_cells=options["num_cells"],
        channels=options["channels"],
        form=form,
        **conventions.network,
    )
    return _built(settings, Xnor(**conventions.scheme), Arithmetic(), options)


def _of_run(run: Settings, options: Mapping[str, Any]) -> tuple[nn.Module, ImageShape]:
    """The network of a config, with what the options give in place of its settings."""
    for name, setting in {
        "form": "config.network.form",
        "conventions": "config.conventions",
    }.items():
        if options[name] is not None:
            raise UserError(
                f"--{name} is for a cost without --config; write --{setting}={options[name]}"
            )
    given = {name: value for name, value in options.items() if value is not None}
    sizes = known_sizes(run.dataset) | {name: given[name] for name in SIZES if name in given}
    missing = [f"--{name}=..." for name in ("image_size", "num_classes") if name not in sizes]
    if missing:
        raise UserError(
            f"the size of {run.dataset.name} is not known here; add {' and '.join(missing)}"
        )

    changes = {name: given[name] for name in (*NETWORK_SIZES, "genotype") if name in given}
    known = {field.name for field in dataclasses.fields(run.network)}
    for name in changes:
        if name not in known:
            raise UserError(f"the network of this config has no {name}; leave --{name} out")
    if "genotype" in changes:
        changes["genotype"] = genotype_lib.load(changes["genotype"])
    settings = dataclasses.replace(run.network, **changes)
    if options["reference"] and "genotype" not in known:
        raise UserError(
            "a network without a genotype is compared with the same one in floats; leave --reference out"
        )
    return _built(settings, run.scheme, run.arithmetic(), sizes)


def _built(
    settings, scheme, arithmetic: Arithmetic, sizes: Mapping[str, Any]
) -> tuple[nn.Module, ImageShape]:
    for name in ("image_size", "num_classes", "image_channels"):
        size = sizes.get(name)
        if size is not None and size < 1:
            raise UserError(f"--{name} must be at least 1, got {size}")
    channels = sizes.get("image_channels") or 3
    model = settings.build(num_classes=sizes["num_classes"], scheme=scheme, arithmetic=arithmetic)
    return model, (sizes["image_size"], sizes["image_size"], channels)


def known_sizes(dataset: DatasetSettings) -> dict[str, int]:
    """image_size, image_channels and num_classes as far as they are known without the data: what is set comes first."""
    names = ("image_size", "image_channels", "num_classes")
    known = dict(zip(names, KNOWN_DATA.get(dataset.name, ()), strict=False))
    given = {"image_size": dataset.image_size, "image_channels": dataset.channels}
    return known | {name: value for name, value in given.items() if value is not None}


def _fitted(model: nn.Module, options: Mapping[str, Any], *, image_shape: ImageShape) -> nn.Module:
    """The network with the sizes that meet --budget."""
    if not all(hasattr(model, name) for name in NETWORK_SIZES):
        raise UserError(
            f"--budget chooses num_cells and channels, which a {type(model).__name__} lacks; leave it out"
        )
    cells = _cells(options["cells"])
    return cost_lib.fit_budget(model, options["budget"], image_shape=image_shape, cells=cells)


def _cells(text: str | None) -> tuple[int, ...]:
    """LOW-HIGH, both included; nothing keeps the cells as they are."""
    if not text:
        return ()
    low, _, high = text.partition("-")
    if not low.isdigit() or not (high or low).isdigit() or int(high or low) < int(low):
        raise UserError(f"--cells takes LOW-HIGH, for instance 5-20, got {text!r}")
    return tuple(range(int(low), int(high or low) + 1))


def _compared(
    model: nn.Module, counted: cost_lib.Cost, options: Mapping[str, Any], *, image_shape: ImageShape
) -> dict:
    """How many times less the network takes than the same in floats; of a genotype without Zeroise, where there is one."""
    twin, name = cost_lib.float_twin(model), "the same size"
    if hasattr(model, "genotype"):
        reference = options["reference"] or _without_zeroise(model.genotype)
        name = reference or "the same cell"
        if reference:
            twin = twin.clone(genotype=genotype_lib.load(reference))
    ratios = cost_lib.ratios(counted, cost_lib.cost(twin, image_shape=image_shape))
    return {**dataclasses.asdict(ratios), "compared_with": f"float network of {name}, counted"}


def _without_zeroise(genotype: genotype_lib.Genotype) -> str | None:
    """The named cell that stands for this one with Zeroise left out, if it is a named one that has such."""
    names = (name for name in genotype_lib.named() if genotype_lib.load(name) == genotype)
    return next((other for other in map(genotype_lib.without_zeroise, names) if other), None)
