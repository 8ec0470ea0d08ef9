"""Networks of a search of the codes of DARTS, SNAS, GDAS and of random search, by the names of their state_dicts.

Their edges have modules of their own, ours lie side by side: `counterparts` says which part of our arrays is which of theirs.
The random search is DARTS's network.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, INPUTS, ZEROISE
from bnas_jax.core.schemes import Float
from bnas_jax.core.stack import reductions
from bnas_jax.core.supernet import Supernet
from bnas_jax.interop.published import cells
from bnas_jax.interop.published.torch_arrays import BATCH_NORM, Path, from_torch, states

_POOLS = ("max_pool_3x3", "avg_pool_3x3")
_CONVS = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
# The order of their operations.
DARTS = (ZEROISE, *_POOLS, "skip_connect", *_CONVS)
GDAS = (ZEROISE, "skip_connect", *_CONVS, "avg_pool_3x3", "max_pool_3x3")


def load(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[Supernet, dict]:
    """The supernet of the family in `name`: darts_, snas_, random_, gdas_ or gdas_frc_supernet; see `load_published`.

    `model.apply(variables, alphas, images)` takes the softmax of alpha, but GDAS's the largest of each edge.
    """
    arrays = states(arrays)
    sizes = cells.sizes(arrays)
    gdas = name.startswith("gdas")
    fixed = name.startswith("gdas_frc")
    options: dict[str, Any] = {"layer_types": DARTS, "form": "darts"}
    if name.startswith("snas"):
        options["form"] = "snas"
    if gdas:
        options = {"layer_types": GDAS, "form": "gdas", "edges": "chosen", "fixed_reduction": fixed}
        # Cells of GDAS keep statistics where their arrays say so.
        options["batch_statistics"] = "cells.0.preprocess1.op.2.running_mean" not in arrays
    scheme = Float(order="relu_first", bias=gdas)
    model = Supernet(skip=False, shared_statistics=False, scheme=scheme, **sizes, **options)
    return model, variables_of(model, arrays)


def shapes(model: Supernet) -> dict:
    """The variables of a supernet as `ShapeDtypeStruct`s, computing nothing."""
    size = 2 ** (1 + len(reductions(model.num_cells)))
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = lambda images: model.init(jax.random.key(0), model.even_mixture(), images, method="mixture")
    return jax.eval_shape(init, images)


def variables_of(model: Supernet, arrays: Mapping[str, np.ndarray]) -> dict:
    """The variables from a state_dict's arrays; `UserError` for one that is missing or has another shape."""
    flat: dict[Path, Any] = {}
    for path, leaf in traverse_util.flatten_dict(shapes(model)).items():
        value = np.zeros(leaf.shape, leaf.dtype)
        if path[-1] == "var":
            value[...] = 1
        in_cell = path[1].startswith("cell")
        if not (path[0] == "batch_stats" and in_cell and model.batch_statistics):
            for index, name in counterparts(model, arrays, path, leaf.shape):
                value[index] = _fitting(arrays, name, value[index].shape)
        flat[path] = jnp.asarray(value)
    return traverse_util.unflatten_dict(flat)


def _fitting(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"the published weights lack {name}; load them by the name of their network")
    array = from_torch(np.asarray(arrays[name]))
    if array.shape != shape:
        raise UserError(f"{name} has the shape {array.shape} in our layout, the network needs {shape}")
    return array


def counterparts(
    model: Supernet,
    arrays: Mapping[str, np.ndarray],
    path: Path,
    shape: tuple[int, ...],
) -> Iterator[tuple[tuple, str]]:
    """(index into our array, published name) of the variable at `path`, of that shape. arrays: those of the state_dict."""
    _, top, *modules, leaf = path
    name = BATCH_NORM.get(leaf, "weight")
    if not top.startswith("cell"):
        yield (...,), cells.around_cells(top, modules, name)
        return
    cell = f"cells.{top.removeprefix('cell')}"
    if not modules[0].startswith("state"):
        yield (...,), cells.beside_edges(arrays, cell, modules, name)
        return
    state = int(modules[0].removeprefix("state"))
    leaving = [edge for edge, (start, _) in enumerate(EDGES) if start == state]
    for position, edge in enumerate(leaving):
        for layer_type, inner, index in _layers(model, modules[1:], position, len(leaving), shape):
            layer = f"{_edge(arrays, cell, edge)}._ops.{model.layer_types.index(layer_type)}"
            yield index, cells.in_layer(arrays, layer, inner, name)


def _layers(model: Supernet, modules: list[str], position: int, edges: int, shape: tuple[int, ...]) -> Iterator:
    """(layer type, modules in it, index) of what an edge has of an array. position: the edge's among those of its state."""
    if modules == ["pool_bn"]:
        pools = [name for name in model.layer_types if name in _POOLS]
        size = shape[-1] // len(pools)
        for number, pool in enumerate(pools):
            yield pool, ["bn"], (position, slice(number * size, (number + 1) * size))
        return
    size = shape[-1] // edges
    yield modules[0], modules[1:], (..., slice(position * size, (position + 1) * size))


def _edge(arrays: Mapping[str, np.ndarray], cell: str, edge: int) -> str:
    start, end = EDGES[edge]
    named = f"{cell}.edges.{end - INPUTS}<-{start}"
    return named if any(name.startswith(named + ".") for name in arrays) else f"{cell}._ops.{edge}"
