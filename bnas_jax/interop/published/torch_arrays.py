"""Converts named PyTorch arrays to the variables of a Flax model."""

import collections
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core.arithmetic import plain_form
from bnas_jax.core.errors import UserError

# Our leaves of a batch norm -> their names in PyTorch.
BATCH_NORM = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# All of our leaves -> their names in PyTorch.
LEAVES = {**BATCH_NORM, "kernel": "weight", "latent": "weight"}

Path = tuple[str, ...]
# The path of our variable, such as ("params", "stem", "conv", "kernel") -> the name of
# the PyTorch array, or (its name, a function that converts the array).
Counterpart = Callable[[Path], str | tuple[str, Callable[[np.ndarray], np.ndarray]]]


def variables_of(
    model: nn.Module,
    arrays: Mapping[str, np.ndarray],
    counterpart: Counterpart,
    *,
    image_shape: tuple[int, int, int],
) -> dict:
    """The variables of `model`, each leaf from the array that `counterpart` names.

    image_shape: (H, W, C) of images that fit the model.

    Raises `UserError` as `load_published` does.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    plain = plain_form(model)  # which is traced faster
    create = lambda x: plain.init(jax.random.key(0), x, train=False)
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
        # Without a function, the usual conversion is used.
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
    """The array with a name; raises `UserError` if it is missing."""
    if name not in arrays:
        raise UserError(f"the published weights lack {name}")
    return np.asarray(arrays[name])


def by_module(rules: Sequence[tuple[str, str]]) -> Counterpart:
    """A `Counterpart` that replaces our names of modules by published names.

    Leaves get PyTorch's usual names.

    rules: pairs (pattern, replacement) for `re.sub`. All are applied, in order, to the
        path of modules, joined by "/".
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

    stages: a pattern of array names, with two groups: the number of the stage and the
        number of the block.
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

    Plain names do not have the prefix "module." of PyTorch's DataParallel. If some
    names begin with "state.", as in our reference files, only those arrays are taken,
    without that prefix.
    """
    # Reference files have more than a state_dict.
    prefix = "state."
    prefixed = [name for name in arrays if name.startswith(prefix)]
    if prefixed:
        arrays = {name.removeprefix(prefix): arrays[name] for name in prefixed}
    return {name.removeprefix("module."): array for name, array in arrays.items()}


def from_torch(array: np.ndarray) -> np.ndarray:
    """An array in our layout.

    Kernels (O, I, H, W) become (H, W, I, O), and matrices (O, I) become (I, O). Other
    arrays are unchanged.
    """
    # `.T` would also swap H and W of a kernel.
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
