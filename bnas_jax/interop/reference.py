"""Weights of the authors' PyTorch code, by the names of its state_dict.

Every parameter and running statistic of a model here has one or, where the supernet keeps edges side by side, several
counterparts there. `counterparts` says which; loading and exporting both follow it.
"""

import re
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, ZEROISE, Genotype, reductions
from bnas_jax.core.layers import layer_type
from bnas_jax.core.network import Network
from bnas_jax.core.rules import Rules
from bnas_jax.core.supernet import Supernet, supernet_float_edges
from bnas_jax.settings import CONVENTION_RULES
from bnas_jax.training.optimizers import project_params

Model = Network | Supernet
FORMS = ("cifar", "imagenet", "supernet")

_LEAF = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_CIFAR_STEM = {"bn": "stem.bn", "conv": "stem.op.0"}
_IMAGENET_STEM = {
    **{"conv0": "stem0.0", "bn0": "stem0.1", "conv1": "stem0.3", "bn1": "stem0.4"},
    **{"conv2": "stem1.1", "bn2": "stem1.2"},
}
_SKIP = {"bn": "preprocess_res.0", "conv": "preprocess_res.1"}
_CONV_LAYER = {"bn": "bn", "conv": "op.0"}


def named_rules(conventions: str | Rules) -> Rules:
    """Those of `paper`, `release` (the authors' code) or `meant` (the same without its index error); `Rules` as they are."""
    if isinstance(conventions, Rules):
        return conventions
    if conventions not in CONVENTION_RULES:
        raise UserError(f"conventions must be one of {', '.join(CONVENTION_RULES)}, got {conventions!r}")
    return CONVENTION_RULES[conventions]


def build(*, form: str, genotype, num_cells: int, channels: int, num_classes: int, rules: Rules) -> Model:
    """The model that a reference checkpoint belongs to. genotype: a `Genotype`, or its name or file; unused by the supernet."""
    if form not in FORMS:
        raise UserError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if form == "supernet":
        return Supernet(num_cells, channels, num_classes, rules=rules, shared_statistics=False)
    genotype = genotype if isinstance(genotype, Genotype) else genotype_lib.load(genotype)
    return Network(genotype, num_cells, channels, num_classes, form=form, rules=rules)


def shapes(model: Model) -> dict:
    """The variables of a model as `ShapeDtypeStruct`s, computing nothing."""
    size = 64 if isinstance(model, Network) and model.form == "imagenet" else 32
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    if isinstance(model, Network):
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    alphas = {name: jnp.zeros((len(EDGES), len(model.layer_types))) for name in ("normal", "reduce")}
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), alphas, x, train=False), images)


def load_reference(
    arrays: Mapping[str, np.ndarray],
    *,
    form: str,
    genotype=None,
    num_cells: int,
    channels: int,
    num_classes: int,
    conventions: str | Rules = "release",
) -> tuple[Model, dict]:
    """A model and its variables from the arrays of a checkpoint of the authors' code.

    arrays: the checkpoint's names to NumPy arrays (kernels OIHW), as `state_dict()` holds them.
    form: cifar, imagenet or supernet. conventions: see `named_rules`; `release` computes what the authors' code computes.
    Latent weights come back projected, as the released code uses them.
    Raises `UserError` that names the first array that is missing, of another shape, or left over.
    """
    rules = named_rules(conventions)
    model = build(form=form, genotype=genotype, num_cells=num_cells, channels=channels, num_classes=num_classes, rules=rules)
    return model, load_variables(model, arrays)


def load_variables(model: Model, arrays: Mapping[str, np.ndarray]) -> dict:
    """The variables of `model` from a checkpoint's arrays; see `load_reference`."""
    arrays = plain_names(arrays)
    flat, used = {}, set()
    for path, leaf in traverse_util.flatten_dict(shapes(model)).items():
        value = np.empty(leaf.shape, leaf.dtype)
        for index, name in counterparts(model, path):
            if name not in arrays:
                raise UserError(f"the checkpoint lacks {name}; check form, genotype, num_cells and conventions")
            array = _from_torch(np.asarray(arrays[name]))
            if array.shape != value[index].shape:
                raise UserError(
                    f"{name} has the shape {array.shape} (HWIO), the network needs {value[index].shape}; "
                    "check channels, num_classes and genotype"
                )
            value[index] = array
            used.add(name)
        flat[path] = jnp.asarray(value)
    left_over = sorted(set(arrays) - used)
    if left_over:
        raise UserError(f"the checkpoint has {left_over[0]}, which this network lacks; check genotype and conventions")
    variables = traverse_util.unflatten_dict(flat)
    return variables | {"params": project_params(variables["params"], model.rules)}


def to_reference(model: Model, variables: Mapping) -> dict[str, np.ndarray]:
    """Variables, or gradients of the same structure, by the names and in the layout of the authors' code."""
    result = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        for index, name in counterparts(model, path):
            result[name] = _to_torch(np.asarray(leaf)[index])
    return result


def plain_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays less counters, by their plain names (without `state.` of the reference files, `module.` of DataParallel)."""
    if any(name.startswith("state.") for name in arrays):
        arrays = {name: arrays[name] for name in arrays if name.startswith("state.")}
    plain = {re.sub(r"^(state\.)?(module\.)?", "", name): arrays[name] for name in arrays}
    return {name: value for name, value in plain.items() if not name.endswith("num_batches_tracked")}


def _from_torch(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def _to_torch(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array


def counterparts(model: Model, path: tuple[str, ...]) -> Iterator[tuple[tuple, str]]:
    """(index into our array, name in the checkpoint) for the variable at `path` (collection, module, ..., leaf)."""
    _, top, *modules, leaf = path
    name = _LEAF.get(leaf, "weight")
    if top == "classifier":
        yield (...,), f"classifier.{name}"
    elif top == "stem":
        stem = _CIFAR_STEM if isinstance(model, Supernet) or model.form == "cifar" else _IMAGENET_STEM
        yield (...,), f"{stem[modules[0]]}.{name}"
    else:
        cell = int(top.removeprefix("cell"))
        for index, inner in _in_cell(model, cell, modules, leaf, name):
            yield index, f"cells.{cell}.{inner}"


def _in_cell(model: Model, cell: int, modules: list[str], leaf: str, name: str):
    part = modules[0]
    if part == "preprocess":
        suffix = "_red" if isinstance(model, Network) and _is_red(model, cell) else ""
        yield (...,), f"preprocess{modules[1][-1]}{suffix}.{_CONV_LAYER[modules[2]]}.{name}"
    elif part == "skip":
        yield (...,), f"{_SKIP.get(modules[-1], 'preprocess_res.' + modules[-1])}.{name}"
    elif part.startswith("layer"):
        yield (...,), f"_ops.{part.removeprefix('layer')}.{_CONV_LAYER[modules[2]]}.{name}"
    elif isinstance(model, Supernet):
        yield from _in_state(model, cell, int(part.removeprefix("state")), modules[1:], leaf, name)


def _is_red(model: Network, cell: int) -> bool:
    return model.form == "imagenet" and cell in reductions(model.num_cells)


def _in_state(model: Supernet, cell: int, state: int, modules: list[str], leaf: str, name: str):
    """The edges that leave a state stand side by side in our arrays."""
    edges = [e for e, (start, _) in enumerate(EDGES) if start == state]
    types = model.layer_types
    learnable = [t for t in types if layer_type(t).learnable]
    width = model.channels * 2 ** sum(r <= cell for r in reductions(model.num_cells))
    if not modules:
        kind, _, layer = leaf.partition("_")
        binary = len(edges) - supernet_float_edges(model)[cell][state][learnable.index(layer)]
        for column, edge in enumerate(edges[:binary] if kind == "latent" else edges[binary:]):
            index = (..., slice(column * width, (column + 1) * width))
            yield index, f"_ops.{edge}._ops.{types.index(layer)}.op.0.{name}"
    elif modules[0] == "bn":
        for row, layer in enumerate(learnable):
            for column, edge in enumerate(edges):
                yield (row, column), f"_ops.{edge}._ops.{types.index(layer)}.bn.{name}"
    else:
        pools = [t for t in types if t not in learnable and t != ZEROISE]
        for row, layer in enumerate(pools):
            for column, edge in enumerate(edges):
                yield (column, slice(row * width, (row + 1) * width)), f"_ops.{edge}._ops.{types.index(layer)}.1.{name}"
