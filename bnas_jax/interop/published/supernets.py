"""Supernets of the codes of DARTS, SNAS, GDAS and random search with shared weights, by
the names of their state_dicts.

An edge's layer is `cells.C._ops.EDGE._ops.TYPE` there, in GDAS
`cells.C.edges.NODE<-INPUT._ops.TYPE`; names within layers, of the stem and of the
classifier are those of the final networks (`cells`). Here the arrays of all edges that
leave a state lie side by side (`core.mixed_edges`).
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, INPUTS, leaving
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

# Layer types in the order of the published alphas.
DARTS_TYPES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
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
# The fields of `Supernet` for each family.
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
    """A supernet of the family in `name`, see `load_published`; alpha is not among its
    variables.

    A family whose BN in cells keeps no running statistics takes the batch's in
    evaluation, too.
    """
    arrays = states(arrays)
    # `load_published` has found that there is one.
    fields = next(fields for known, fields in _FIELDS.items() if name.startswith(known))
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

    # The variables that it needs, by their paths.
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)

    def create(x):
        key = jax.random.key(0)
        return model.init(key, model.even_mixture(), x, method="mixture")

    variables = dict(jax.eval_shape(create, images))
    shapes = traverse_util.flatten_dict(variables)

    flat: dict[Path, Any] = {}
    for path, leaf in shapes.items():
        array = _array(arrays, path, model=model)
        # Statistics that nobody reads: means of 0, variances of 1.
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


def _array(
    arrays: Mapping[str, np.ndarray], path: Path, *, model: Supernet
) -> np.ndarray | None:
    """The array at `path` (collection, module, ..., leaf); None of running statistics
    that are not kept.
    """
    # Those that are a single array there, too.
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

    # Those of all edges that leave a state, side by side.
    of_edge = functools.partial(
        _of_edge, arrays, cell, kind=kind, types=model.layer_types
    )
    state = int(modules[0].removeprefix("state"))
    edges = leaving(state)
    if modules[1] == "pool_bn":
        pools = [
            name for name in model.layer_types if layer_type(name).batching == POOLING
        ]
        rows = []
        for edge in edges:
            row = [of_edge(edge, name, ["bn"]) for name in pools]
            rows.append(np.concatenate(row))
        return np.stack(rows)  # (edges, poolings * C)
    parts = [of_edge(edge, modules[1], modules[2:]) for edge in edges]
    return np.concatenate(parts, axis=-1)


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
    """The array of a layer type of one edge. modules: those within the layer. kind: the
    last part of its name there.
    """
    source, node = EDGES[edge]
    # By the edge's number, or in GDAS by its ends.
    place = f"_ops.{edge}"
    if not any(key.startswith(f"{cell}._ops.") for key in arrays):
        place = f"edges.{node - INPUTS}<-{source}"
    layer = f"{cell}.{place}._ops.{types.index(layer_type)}"
    name = in_layer(arrays, layer, modules=modules, name=kind)
    return from_torch(array_of(arrays, name))


LOADERS = dict.fromkeys(_FIELDS, load)
