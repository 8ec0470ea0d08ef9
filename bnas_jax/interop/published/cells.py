"""Loads final networks of cells from the code of DARTS, SNAS and GDAS.

Their state_dicts have the same names: `cells.C.preprocessI.op.1` for ReLU, convolution
and BN, `cells.C._ops.P.op.K` for the parts of a layer, `convs.I` or `conv_1` and
`conv_2` for a factorized reduction.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from bnas_jax.core import genotypes
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Genotype
from bnas_jax.core.network import Network
from bnas_jax.core.schemes import Float
from bnas_jax.interop.published.torch_arrays import (
    BATCH_NORM,
    Path,
    states,
    variables_of,
)

# SNAS's cell with all of its edges, as SNAS's code derives it, which is not among the
# named cells. It has "TYPE,INPUT" for each edge, node by node.
_MILD_EDGE_ALL = {
    "normal": "s3,0 s3,1 sk,0 d3,1 no,2 sk,0 sk,1 no,3 no,2 sk,0 s3,1 no,4 no,3 no,2",
    "reduce": "mp,0 mp,1 no,0 mp,1 sk,2 no,0 mp,1 sk,2 no,3 mp,0 d5,2 no,1 no,3 no,4",
}
_SHORT = {
    "s3": "sep_conv_3x3",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "sk": "skip_connect",
    "mp": "max_pool_3x3",
    "no": "none",
}


def _spelled_out(cell: str) -> Any:
    """The (layer type, input) pairs of a cell in the short form."""
    pairs = []
    for pair in cell.split():
        short, source = pair.split(",")
        pairs.append((_SHORT[short], int(source)))
    return pairs


def load(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """(model, variables) of a final network, see `load_published`.

    name: darts_net_ARCH, snas_net_ARCH or gdas_f1_net.
    """
    # The name and the arrays determine the model.
    arrays = states(arrays)
    form = "snas" if name.startswith("snas") else "darts"
    model = Network(
        genotype=_genotype(name),
        form=form,
        skip=False,
        auxiliary=any(key.startswith("auxiliary_head.") for key in arrays),
        scheme=Float(order="relu_first"),
        **sizes(arrays),
    )

    # Find its variables. The auxiliary classifier needs images of 32x32; without it,
    # smaller images give the same variables.
    size = 32 if model.auxiliary else 16
    counterpart = functools.partial(in_network, arrays)
    variables = variables_of(model, arrays, counterpart, image_shape=(size, size, 3))
    return model, variables


def _genotype(name: str) -> Genotype:
    """The genotype in a network's name; raises `UserError` if there is none."""
    if name.startswith("gdas_f1"):
        return genotypes.load("gdas_f1")
    # SNAS's cell with all of its edges.
    if "edge_all" in name:
        cells = {kind: _spelled_out(cell) for kind, cell in _MILD_EDGE_ALL.items()}
        return Genotype(**cells)

    # Find the longest name of a cell that fits, because some names begin with others.
    known = [cell for cell in genotypes.named() if cell in name.lower()]
    if not known:
        raise UserError(
            f"{name!r} names no cell that is known here: {', '.join(genotypes.named())}"
        )
    return genotypes.load(max(known, key=len))


def sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """num_cells, channels and num_classes, from the arrays of a state_dict."""
    for name in ("stem.0.weight", "classifier.weight"):
        if name not in arrays:
            raise UserError(f"the published weights lack {name}")

    # The cells are numbered from 0.
    num_cells = 0
    for name in arrays:
        found = re.match(r"cells\.(\d+)\.", name)
        if found:
            num_cells = max(num_cells, int(found[1]) + 1)

    # The stem has three times the channels of the first cell's nodes.
    stem, classifier = arrays["stem.0.weight"], arrays["classifier.weight"]
    return {
        "num_cells": num_cells,
        "channels": len(stem) // 3,
        "num_classes": len(classifier),
    }


def in_network(arrays: Mapping[str, np.ndarray], path: Path) -> str:
    """The published name of a variable of a final network.

    path: the path of the variable, (collection, module, ..., leaf).
    """
    # The last part of the name is for the leaf; kernels are called "weight".
    _, top, *modules, leaf = path
    name = BATCH_NORM.get(leaf, "weight")
    if not top.startswith("cell"):
        return around_cells(top, modules=modules, name=name)

    # The variable is in a cell, on an edge (a layer) or not.
    cell = f"cells.{top.removeprefix('cell')}"
    part, *inner = modules
    if part.startswith("layer"):
        layer = f"{cell}._ops.{part.removeprefix('layer')}"
        return in_layer(arrays, layer, modules=inner, name=name)
    return beside_edges(arrays, cell, modules=modules, name=name)


def around_cells(top: str, *, modules: list[str], name: str) -> str:
    """The published name of an array of the stem, the classifiers or the last BN.

    name: the last part of the published name.
    """
    if top == "stem":
        index = _STEM[modules[0]]
        return f"stem.{index}.{name}"
    if top == "last_bn":
        return f"lastact.0.{name}"
    if modules and modules[0] in _AUXILIARY:
        index = _AUXILIARY[modules[0]]
        return f"auxiliary_head.features.{index}.{name}"
    # The classifiers have the same names here.
    return ".".join((top, *modules, name))


# Our modules -> their positions in an `nn.Sequential`.
# The stem is convolution, BN.
_STEM = {"conv": 0, "bn": 1}
# The auxiliary classifier is ReLU, pooling, convolution, BN, ReLU, convolution, BN.
_AUXILIARY = {"conv0": 2, "bn0": 3, "conv1": 5, "bn1": 6}
# The fixed reduction is ReLU, across, down, BN, ReLU, pointwise, BN.
_FIXED: dict[tuple[str, ...], int] = {
    ("crossed", "across", "conv"): 1,
    ("crossed", "down", "conv"): 2,
    ("crossed", "down", "bn"): 3,
    ("pointwise", "conv"): 5,
    ("pointwise", "bn"): 6,
}


def beside_edges(
    arrays: Mapping[str, np.ndarray], cell: str, modules: list[str], name: str
) -> str:
    """The published name of an array in a cell that is not on an edge.

    Such arrays are in the cell's preprocessing, or in GDAS's fixed reduction cell.

    cell: "cells.INDEX".
    name: the last part of the published name.
    """
    part, *inner = modules
    if part == "preprocess":
        # `preprocess/inputI/...`
        number = inner[0].removeprefix("input")
        layer = f"{cell}.preprocess{number}"
        return in_layer(arrays, layer, modules=inner[1:], name=name)

    # `poolI`, `crossedI` and `pointwiseI` of input I of the fixed reduction.
    kind, index = part[:-1], part[-1]
    if kind == "pool":
        return f"{cell}.ops2.{index}.1.{name}"
    place = _FIXED[kind, *inner]
    return f"{cell}.ops1.{index}.{place}.{name}"


# Our modules of a layer -> their possible published names.
_LAYER: dict[tuple[str, ...], tuple[str, ...]] = {
    ("conv",): ("op.1",),
    ("bn",): ("op.2", "bn", "op.1", "1"),
    ("conv0",): ("conv_1", "convs.0"),
    ("conv1",): ("conv_2", "convs.1"),
    ("depthwise0", "conv"): ("op.1", "op_a.op.1"),
    ("pointwise0", "conv"): ("op.2", "op_a.op.2"),
    ("pointwise0", "bn"): ("op.3", "op_a.op.3"),
    ("depthwise1", "conv"): ("op.5", "op_b.op.1"),
    ("pointwise1", "conv"): ("op.6", "op_b.op.2"),
    ("pointwise1", "bn"): ("op.7", "op_b.op.3"),
}


def in_layer(
    arrays: Mapping[str, np.ndarray], layer: str, *, modules: list[str], name: str
) -> str:
    """The published name of an array of a layer: the first that is among the arrays.

    layer: the prefix of the names of the layer's arrays.
    name: the last part of the published name.
    """
    names = [f"{layer}.{part}.{name}" for part in _LAYER[tuple(modules)]]
    for known in names:
        if known in arrays:
            return known
    # None is there: the error will name the first.
    return names[0]
