"""Loads and exports weights of the authors' PyTorch code.

`counterparts` maps each parameter and running statistic of a model here to its name in
the state_dict of that code. An array of the supernet that holds several edges has
several names. Both loading and exporting use this map.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotypes
from bnas_jax.core.arithmetic import plain_form
from bnas_jax.core.checks import choice
from bnas_jax.core.conventions import conventions as conventions_of
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, TABLE_3, Genotype, leaving
from bnas_jax.core.layers import CONVOLUTION, POOLING, layer_type
from bnas_jax.core.network import Network
from bnas_jax.core.schemes import Xnor
from bnas_jax.core.stack import Place
from bnas_jax.core.supernet import Supernet, float_edges
from bnas_jax.interop.published.torch_arrays import (
    BATCH_NORM,
    from_torch,
    states,
    to_torch,
)
from bnas_jax.training.latents import project_params

Model = Network | Supernet
FORMS = (*genotype_lib.FORMS, "supernet")

# Our names of modules -> the names in the authors' code.
_CIFAR_STEM = {"bn": "stem.bn", "conv": "stem.op.0"}
_IMAGENET_STEM = {
    "conv0": "stem0.0",
    "bn0": "stem0.1",
    "conv1": "stem0.3",
    "bn1": "stem0.4",
    "conv2": "stem1.1",
    "bn2": "stem1.2",
}
# The modules of the skip across a reduction cell, and those of a binary layer.
_SKIP = {"bn": "0", "conv": "1"}
_BINARY_CONV = {"bn": "bn", "conv": "op.0"}


def load_reference(
    arrays: Mapping[str, np.ndarray],
    *,
    form: str,
    genotype: Genotype | str | None = None,
    num_cells: int,
    channels: int,
    num_classes: int,
    conventions: str = "release",
) -> tuple[Model, dict]:
    """(model, variables) from the arrays of a checkpoint of the authors' code.

    arrays: name -> NumPy array (kernels OIHW), as in PyTorch's `state_dict()`;
        `interop.checkpoint_files.read` reads them from a file.
    form: cifar, imagenet or supernet.
    genotype: a `Genotype`, or its name or file; the supernet has none.
    conventions: with `release` the model computes the same as the authors' code; see
        `core.conventions`.

    Latent weights are returned after the projection, because the released code projects
    them before each forward pass. Raises `UserError`, which names the array, for an
    array that is missing, left over or of another shape.

    A network takes images (N, H, W, C) float32, normalised as in its training, and
    gives logits. For instance: `network, variables = load_reference(arrays,
    form="cifar", genotype="latest_cell", num_cells=20, channels=36, num_classes=10)`,
    then `network.apply(variables, images, train=False)`.

    A supernet takes alpha, too, before the softmax: float32 (14 edges, 7 layer types)
    for each kind of cell. Then `supernet.apply(variables, {"normal": alpha, "reduce":
    alpha}, images, train=False)`.
    """
    model = build(
        form=form,
        genotype=genotype,
        num_cells=num_cells,
        channels=channels,
        num_classes=num_classes,
        conventions=conventions,
    )
    return model, load_variables(model, arrays)


def build(
    *,
    form: str,
    genotype: Genotype | str | None,
    num_cells: int,
    channels: int,
    num_classes: int,
    conventions: str = "release",
) -> Model:
    """The model of a checkpoint of the authors' code.

    The arguments are those of `load_reference`.

    Raises `UserError` for a genotype that the authors' code cannot have.
    """
    choice("form", form, choices=FORMS)

    # The fields that networks and supernets share.
    found = conventions_of(conventions)
    common = {
        "num_cells": num_cells,
        "channels": channels,
        "num_classes": num_classes,
        "scheme": Xnor(**found.scheme),
        **found.network,
    }
    if form == "supernet":
        return Supernet(shared_statistics=False, **common)

    # A network also needs a genotype.
    if genotype is None:
        raise UserError(
            f"a network of the form {form} needs a genotype: the name or the file of a "
            "cell"
        )
    if isinstance(genotype, str):
        genotype = genotypes.load(genotype)
    _check_genotype(genotype)
    return Network(genotype=genotype, form=form, **common)


def _check_genotype(genotype: Genotype) -> None:
    """Raises `UserError` for a genotype that the authors' code cannot have."""
    genotype_lib.check_two_a_node(genotype, "checkpoints of the authors' code")
    # The authors' code only has the layer types of Table 3.
    for reduction in (False, True):
        for edge in genotype_lib.edges(genotype.cell(reduction)):
            if edge.layer_type not in TABLE_3:
                raise UserError(
                    f"layer type {edge.layer_type!r} is none of the authors' code; its "
                    f"genotypes have {', '.join(TABLE_3)}"
                )


def shapes(model: Model) -> dict:
    """The variables of a model as `ShapeDtypeStruct`s; nothing is computed."""
    model = plain_form(model)  # which is traced faster
    # ImageNet's stem divides the image size by 8, so that it needs larger images.
    size = 64 if _is_imagenet(model) else 32
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    inputs: list = [images]

    # A supernet takes alpha before the images.
    if isinstance(model, Supernet):
        shape = (len(EDGES), len(model.layer_types))  # [edges, layer types]
        alphas = jax.ShapeDtypeStruct(shape, jnp.float32)
        inputs.insert(0, {"normal": alphas, "reduce": alphas})

    def create(*inputs):
        return model.init(jax.random.key(0), *inputs, train=False)

    return jax.eval_shape(create, *inputs)


def _is_imagenet(model: Model) -> bool:
    """Whether a model is a network with ImageNet's stem."""
    return isinstance(model, Network) and model.form == "imagenet"


def load_variables(model: Model, arrays: Mapping[str, np.ndarray]) -> dict:
    """The variables of `model` from a checkpoint's arrays; see `load_reference`."""
    # Fill each array of the model from its counterparts; there are several if the array
    # holds several edges.
    arrays = plain_names(arrays)
    flat, used = {}, set()
    for path, leaf in traverse_util.flatten_dict(shapes(model)).items():
        value = np.empty(leaf.shape, leaf.dtype)
        for index, name in counterparts(model, path):
            value[index] = _fitting(arrays, name, shape=value[index].shape)
            used.add(name)
        flat[path] = jnp.asarray(value)

    # An array that is left over means that genotype or conventions do not fit.
    left_over = sorted(set(arrays) - used)
    if left_over:
        raise UserError(
            f"the checkpoint has {left_over[0]}, which this network lacks; check "
            "genotype and conventions"
        )
    variables = traverse_util.unflatten_dict(flat)
    # One program: as single operations, each shape would be compiled by itself.
    project = jax.jit(lambda params: project_params(params, model.scheme.latents))
    params = project(variables["params"])
    return {**variables, "params": params}


def _fitting(
    arrays: Mapping[str, np.ndarray], name: str, *, shape: tuple[int, ...]
) -> np.ndarray:
    """An array of the checkpoint in our layout (kernels HWIO).

    Raises `UserError` if it is missing or has another shape.
    """
    if name not in arrays:
        raise UserError(
            f"the checkpoint lacks {name}; check form, genotype, num_cells and "
            "conventions"
        )
    array = from_torch(np.asarray(arrays[name]))
    if array.shape != shape:
        raise UserError(
            f"{name} has the shape {array.shape} (HWIO), the network needs {shape}; "
            "check channels, num_classes and genotype"
        )
    return array


def to_reference(model: Model, variables: Mapping) -> dict[str, np.ndarray]:
    """Variables with the names and the layout of the authors' code (kernels OIHW).

    variables: the variables of `model`, or gradients of the same structure.
    """
    result = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        # An array that holds several edges becomes several arrays.
        array = np.asarray(leaf)
        for index, name in counterparts(model, path):
            result[name] = to_torch(array[index])
    return result


def plain_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by their plain names, see `torch_arrays.states`.

    Batch norm's `num_batches_tracked` is left out.
    """
    plain = {}
    for name, array in states(arrays).items():
        if not name.endswith("num_batches_tracked"):
            plain[name] = array
    return plain


def counterparts(model: Model, path: tuple[str, ...]) -> Iterator[tuple[tuple, str]]:
    """Pairs (index into our array, name in the checkpoint) for one variable.

    An array of the supernet that holds several edges has a pair for each of them. Any
    other array has one pair, whose index is `...`.

    path: the path of the variable, (collection, module, ..., leaf).
    """
    _, top, *modules, leaf = path
    name = BATCH_NORM.get(leaf, "weight")
    if top == "classifier":
        yield (...,), f"classifier.{name}"
    elif top == "stem":
        stem = _IMAGENET_STEM if _is_imagenet(model) else _CIFAR_STEM
        yield (...,), f"{stem[modules[0]]}.{name}"
    else:
        # The variable is in a cell; its place has the cell's name and number.
        places = {place.name: place for place in model.places}
        place = places[top]
        for index, inner in _in_cell(model, place, modules, leaf=leaf, name=name):
            yield index, f"cells.{place.index}.{inner}"


def _in_cell(model: Model, place: Place, modules: list[str], *, leaf: str, name: str):
    """Pairs (index, name after `cells.INDEX.`) for an array of a cell.

    name: the last part of the name in the checkpoint.
    """
    part = modules[0]
    if part == "preprocess":
        # The release names the preprocessing of ImageNet's reduction cells differently.
        suffix = ""
        if _is_imagenet(model) and place.reduction:
            suffix = "_red"
        number = modules[1].removeprefix("input")
        module = _BINARY_CONV[modules[2]]
        yield (...,), f"preprocess{number}{suffix}.{module}.{name}"
    elif part == "skip":
        # Only our code can have a BN after the convolution; a checkpoint has no such
        # array.
        module = modules[-1]
        yield (...,), f"preprocess_res.{_SKIP.get(module, module)}.{name}"
    elif part.startswith("layer"):
        # A layer of a network.
        layer = part.removeprefix("layer")
        yield (...,), f"_ops.{layer}.{_BINARY_CONV[modules[1]]}.{name}"
    elif isinstance(model, Supernet):
        # The layers of all edges that leave a state of the supernet.
        state = int(part.removeprefix("state"))
        inner = modules[1:]
        yield from _in_state(model, place, state, inner=inner, leaf=leaf, name=name)


def _in_state(
    model: Supernet, place: Place, state: int, *, inner: list[str], leaf: str, name: str
):
    """Pairs (index, name after `cells.INDEX.`) for an array of a supernet's state.

    A state is a cell's input or node. Its arrays hold all edges that leave it
    (`core.mixed_edges`).

    inner: the modules within the state.
    leaf, name: the last part of our name, and of the name in the checkpoint.
    """
    # The order of the layer types in the arrays.
    edges = leaving(state)
    types = model.layer_types
    convs = [layer for layer in types if layer_type(layer).batching == CONVOLUTION]
    pools = [layer for layer in types if layer_type(layer).batching == POOLING]

    def layer_of(edge: int, layer: str) -> str:
        return f"_ops.{edge}._ops.{types.index(layer)}"

    if not inner:
        # Kernels, (k, k, C, edges * C): `latent_TYPE` has the first edges, which are
        # binary, and `kernel_TYPE` the last edges, which are float.
        kind, _, layer = leaf.partition("_")
        of_state = float_edges(model)[place.index][state]
        floats = of_state[convs.index(layer)]
        binary = len(edges) - floats
        of_kind = edges[:binary]
        if kind == "kernel":
            of_kind = edges[binary:]
        for column, edge in enumerate(of_kind):
            yield (..., _columns(column, place)), f"{layer_of(edge, layer)}.op.0.{name}"
    elif inner[0] == "bn":
        # BNs of convolutions, (convolutions, edges, C).
        for row, layer in enumerate(convs):
            for column, edge in enumerate(edges):
                yield (row, column), f"{layer_of(edge, layer)}.bn.{name}"
    else:
        # BNs of poolings, (edges, poolings * C).
        for number, layer in enumerate(pools):
            columns = _columns(number, place)
            for row, edge in enumerate(edges):
                yield (row, columns), f"{layer_of(edge, layer)}.1.{name}"


def _columns(index: int, place: Place) -> slice:
    """The channels of edge or layer number `index` in an array that holds several."""
    return slice(index * place.channels, (index + 1) * place.channels)
