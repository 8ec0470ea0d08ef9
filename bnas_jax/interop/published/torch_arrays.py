"""PyTorch's arrays by name, brought into the variables of a Flax model."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bnas_jax.core.errors import UserError

# Our names of a batch norm's leaves, and PyTorch's.
BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# And of all leaves.
LEAVES = {**BATCH_NORM, "kernel": "weight", "latent": "weight"}

Path = tuple[str, ...]
# A path such as ("params", "stem", "conv", "kernel") -> the array's name there, or (name, array -> our array).
Counterpart = Callable[[Path], str | tuple[str, Callable[[np.ndarray], np.ndarray]]]


def variables_of(
    model: nn.Module,
    arrays: Mapping[str, np.ndarray],
    counterpart: Counterpart,
    *,
    image_shape: tuple[int, int, int],
) -> dict:
    """The variables of `model`, each leaf from the array that `counterpart` names; see `load_published` for the errors.

    image_shape: (H, W, C) of images that the model takes.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return fill(
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images),
        arrays,
        counterpart,
    )


def fill(shapes: Mapping, arrays: Mapping[str, np.ndarray], counterpart: Counterpart) -> dict:
    """A tree like `shapes`, each leaf from the array that `counterpart` names."""
    arrays = states(arrays)
    flat: dict[Path, Any] = {}
    for path, leaf in traverse_util.flatten_dict(dict(shapes)).items():
        found = counterpart(path)
        name, convert = (found, from_torch) if isinstance(found, str) else found
        array = convert(array_of(arrays, name))
        if array.shape != leaf.shape:
            raise UserError(
                f"{name} has the shape {array.shape} in our layout, the network needs {leaf.shape}"
            )
        flat[path] = jnp.asarray(array, leaf.dtype)
    return traverse_util.unflatten_dict(flat)


def array_of(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The array of that name; `UserError` where there is none."""
    if name not in arrays:
        raise UserError(
            f"the published weights lack {name}; load them by the name of their network"
        )
    return np.asarray(arrays[name])


def by_module(rules: Sequence[tuple[str, str]]) -> Counterpart:
    """The `Counterpart` of a network whose modules' names follow each other in ours by rules of `re.sub`.

    rules: (pattern, replacement) pairs for the names of the modules that lead to a leaf, joined by "/"; all are applied,
    one after the other. Leaves have PyTorch's usual names.
    """

    def counterpart(path: Path) -> str:
        module = "/".join(path[1:-1])
        for pattern, replacement in rules:
            module = re.sub(pattern, replacement, module)
        return f"{module.replace('/', '.')}.{LEAVES[path[-1]]}"

    return counterpart


def blocks_of(arrays: Mapping[str, np.ndarray], stages: str) -> tuple[int, ...]:
    """The number of blocks of each stage. stages: a pattern with two groups, the numbers of the stage and of the block."""
    found = filter(None, (re.match(stages, name) for name in arrays))
    blocks = {(int(match[1]), int(match[2])) for match in found}
    numbers = sorted({stage for stage, _ in blocks})
    if not numbers:
        raise UserError(
            "the published weights have no blocks of this network; load them by the name of their network"
        )
    return tuple(sum(stage == number for stage, _ in blocks) for number in numbers)


def states(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a state_dict by their plain names: those behind "state." where names begin so, without that prefix, and
    without the "module." of a network that several GPUs shared."""
    prefix = "state."
    if any(name.startswith(prefix) for name in arrays):
        arrays = {
            name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)
        }
    return {name.removeprefix("module."): array for name, array in arrays.items()}


def from_torch(array: np.ndarray) -> np.ndarray:
    """Kernels OIHW to HWIO, matrices transposed, the rest as it is."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2:
        return array.T
    return array


def to_torch(array: np.ndarray) -> np.ndarray:
    """The other way round."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2:
        return array.T
    return array
