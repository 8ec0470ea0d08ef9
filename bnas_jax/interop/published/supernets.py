"""Loads supernets of DARTS, SNAS, GDAS and random search with shared weights.

In their state_dicts, a layer of an edge is `cells.C._ops.EDGE._ops.TYPE`, or in GDAS
`cells.C.edges.NODE<-INPUT._ops.TYPE`. Names within layers, of the stem and of the
classifier are those of the final networks (`cells`). Here, one array holds all edges
that leave a state (`core.mixed_edges`).
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core.arithmetic import plain_form
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import DARTS_TYPES, EDGES, INPUTS, leaving
from bnas_jax.core.layers import POOLING, layer_type
from bnas_jax.core.schemes import Float
from bnas_jax.core.supernet import Supernet
from bnas_jax.interop.published.cells import around_cells, beside_edges, in_layer, sizes
from bnas_jax.interop.published.torch_arrays import (
    BATCH_NORM,
    Path,
    array_of,
    from_torch,
    states,
)

# The layer types of DARTS in the order of GDAS's published alphas.
GDAS_TYPES = (
    "none",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "avg_pool_3x3",
    "max_pool_3x3",
)
# Family -> the fields of its `Supernet`.
_FIELDS: dict[str, dict[str, Any]] = {
    "darts_supernet": {"form": "darts", "layer_types": DARTS_TYPES},
    "darts_second_order": {"form": "darts", "layer_types": DARTS_TYPES},
    "random_supernet": {"form": "darts", "layer_types": DARTS_TYPES},
    "snas_supernet": {"form": "snas", "layer_types": DARTS_TYPES},
    "gdas_supernet": {"form": "gdas", "layer_types": GDAS_TYPES, "edges": "chosen"},
    "gdas_frc_supernet": {
        "form": "gdas",
        "layer_types": GDAS_TYPES,
        "edges": "chosen",
        "fixed_reduction": True,
    },
}


def load(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """(model, variables) of a supernet, see `load_published`.

    Alpha is not among the variables. If the batch norms in cells have no running
    statistics, they also use those of the batch in evaluation.
    """
    # `load_published` has checked that the name begins with a family.
    arrays = states(arrays)
    fields = next(fields for known, fields in _FIELDS.items() if name.startswith(known))

    # The arrays determine the model.
    in_cells = [key for key in arrays if key.startswith("cells.")]
    kept = any(".running_mean" in key for key in in_cells)
    model = Supernet(
        skip=False,
        shared_statistics=False,
        batch_statistics=not kept,
        scheme=Float(order="relu_first", bias=fields["form"] == "gdas"),
        **fields,
        **sizes(arrays),
    )

    # Fill in each of its variables.
    flat: dict[Path, Any] = {}
    for path, leaf in traverse_util.flatten_dict(_shapes(model)).items():
        array = _array(arrays, path, model=model)
        # Running statistics that are never used: mean 0, variance 1.
        if array is None:
            start = 1.0 if path[-1] == "var" else 0.0
            array = np.full(leaf.shape, start)
        if array.shape != leaf.shape:
            raise UserError(
                f"{'/'.join(path)} would have the shape {array.shape}, the network "
                f"needs {leaf.shape}"
            )
        flat[path] = jnp.asarray(array, leaf.dtype)
    return model, traverse_util.unflatten_dict(flat)


def _shapes(model: Supernet) -> dict:
    """The variables of a supernet as `ShapeDtypeStruct`s."""
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    model = plain_form(model)  # which is traced faster

    # With an even mixture, all layer types of all edges have variables.
    def create(x):
        key = jax.random.key(0)
        return model.init(key, model.even_mixture(), x, method="mixture")

    return dict(jax.eval_shape(create, images))


def _array(
    arrays: Mapping[str, np.ndarray], path: Path, *, model: Supernet
) -> np.ndarray | None:
    """The array of a variable; None for running statistics that do not exist.

    path: the path of the variable, (collection, module, ..., leaf).
    """
    # A variable that is not on an edge is a single array in the state_dict, too.
    _, top, *modules, leaf = path
    kind = BATCH_NORM.get(leaf, "weight")
    if not top.startswith("cell"):
        name = around_cells(top, modules=modules, name=kind)
        return from_torch(array_of(arrays, name))
    cell = f"cells.{top.removeprefix('cell')}"
    if model.batch_statistics and leaf in ("mean", "var"):
        return None
    if not modules[0].startswith("state"):
        name = beside_edges(arrays, cell, modules=modules, name=kind)
        return from_torch(array_of(arrays, name))

    # Other variables hold the arrays of all edges that leave a state.
    of_edge = functools.partial(
        _of_edge, arrays, cell, kind=kind, types=model.layer_types
    )
    state = int(modules[0].removeprefix("state"))
    edges = leaving(state)

    # BNs of poolings.
    if modules[1] == "pool_bn":
        types = model.layer_types
        pools = [name for name in types if layer_type(name).batching == POOLING]
        rows = []
        for edge in edges:
            row = [of_edge(edge, name, ["bn"]) for name in pools]
            rows.append(np.concatenate(row))  # (poolings * C,)
        return np.stack(rows)  # (edges, poolings * C)

    # All other layers.
    parts = [of_edge(edge, modules[1], modules[2:]) for edge in edges]
    return np.concatenate(parts, axis=-1)  # (..., edges * C)


def _of_edge(
    arrays,
    cell: str,
    edge: int,
    layer_type: str,
    modules: list[str],
    *,
    kind: str,
    types: tuple[str, ...],
) -> np.ndarray:
    """An array of one layer type of one edge, in our layout.

    cell: "cells.INDEX".
    modules: the modules within the layer.
    kind: the last part of the published name.
    types: the layer types in the order of the published code.
    """
    # The name of an edge is its number, or in GDAS its ends.
    source, node = EDGES[edge]
    place = f"_ops.{edge}"
    if not any(key.startswith(f"{cell}._ops.") for key in arrays):
        place = f"edges.{node - INPUTS}<-{source}"
    layer = f"{cell}.{place}._ops.{types.index(layer_type)}"
    name = in_layer(arrays, layer, modules=modules, name=kind)
    return from_torch(array_of(arrays, name))


LOADERS = dict.fromkeys(_FIELDS, load)
