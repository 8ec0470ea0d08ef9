"""PyTorch's arrays by name, brought into the variables of a Flax model."""

import collections
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core.errors import UserError

# Our names of a batch norm's leaves -> PyTorch's.
BATCH_NORM = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# The same for all leaves.
LEAVES = {**BATCH_NORM, "kernel": "weight", "latent": "weight"}

Path = tuple[str, ...]
# A path such as ("params", "stem", "conv", "kernel") -> the array's name in PyTorch, or
# (its name, a function that converts the array).
Counterpart = Callable[[Path], str | tuple[str, Callable[[np.ndarray], np.ndarray]]]


def variables_of(
    model: nn.Module,
    arrays: Mapping[str, np.ndarray],
    counterpart: Counterpart,
    *,
    image_shape: tuple[int, int, int],
) -> dict:
    """The variables of `model`, each leaf from the array that `counterpart` names.

    image_shape: (H, W, C) of images that the model takes.

    Raises `UserError` as `load_published` does.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    create = lambda x: model.init(jax.random.key(0), x, train=False)
    shapes = jax.eval_shape(create, images)
    return fill(shapes, arrays=arrays, counterpart=counterpart)


def fill(
    shapes: Mapping, arrays: Mapping[str, np.ndarray], counterpart: Counterpart
) -> dict:
    """A tree like `shapes`, each leaf from the array that `counterpart` names."""
    arrays = states(arrays)
    flat: dict[Path, Any] = {}
    paths = traverse_util.flatten_dict(dict(shapes))
    for path, leaf in paths.items():
        # A name alone has the usual conversion.
        found = counterpart(path)
        if isinstance(found, str):
            found = (found, from_torch)
        name, convert = found

        # The converted array must fit.
        array = convert(array_of(arrays, name))
        if array.shape != leaf.shape:
            raise UserError(
                f"{name} has the shape {array.shape} in our layout, the network needs "
                f"{leaf.shape}"
            )
        flat[path] = jnp.asarray(array, leaf.dtype)
    return traverse_util.unflatten_dict(flat)


def array_of(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The array of that name; raises `UserError` where there is none."""
    if name not in arrays:
        raise UserError(f"the published weights lack {name}")
    return np.asarray(arrays[name])


def by_module(rules: Sequence[tuple[str, str]]) -> Counterpart:
    """A `Counterpart` that makes published names of modules from ours.

    rules: (pattern, replacement) pairs of `re.sub`, all of which are applied, one after
        the other. They take the names of the modules that lead to a leaf, joined by
        "/". Leaves have PyTorch's usual names.
    """

    def counterpart(path: Path) -> str:
        # (collection, module, ..., leaf)
        _, *modules, leaf = path
        module = "/".join(modules)
        for pattern, replacement in rules:
            module = re.sub(pattern, replacement, module)
        module = module.replace("/", ".")
        return f"{module}.{LEAVES[leaf]}"

    return counterpart


def blocks_of(arrays: Mapping[str, np.ndarray], stages: str) -> tuple[int, ...]:
    """The number of blocks of each stage.

    stages: a pattern for names, with two groups: the numbers of the stage and of the
        block.
    """
    # (stage, block) of each block.
    blocks = set()
    for name in arrays:
        found = re.match(stages, name)
        if found:
            stage, block = found.groups()
            blocks.add((int(stage), int(block)))

    # Stages are numbered from 0 or from 1.
    numbers = sorted({stage for stage, _ in blocks})
    if not numbers:
        raise UserError("the published weights have no blocks of this network")
    counts = collections.Counter(stage for stage, _ in blocks)
    return tuple(counts[number] for number in numbers)


def states(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a state_dict by their plain names.

    Plain names lack the "module." of PyTorch's DataParallel. Where some names begin
    with "state.", as in our reference files, only those arrays are taken, without that
    prefix.
    """
    # Reference files hold more than a state_dict.
    prefix = "state."
    prefixed = [name for name in arrays if name.startswith(prefix)]
    if prefixed:
        arrays = {name.removeprefix(prefix): arrays[name] for name in prefixed}
    return {name.removeprefix("module."): array for name, array in arrays.items()}


def from_torch(array: np.ndarray) -> np.ndarray:
    """An array in our layout.

    Kernels (O, I, H, W) become (H, W, I, O), matrices (O, I) become (I, O). All else
    stays as it is.
    """
    # `.T` would exchange rows and columns of a kernel, too.
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2:
        return array.T
    return array


def to_torch(array: np.ndarray) -> np.ndarray:
    """The inverse of `from_torch`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2:
        return array.T
    return array
