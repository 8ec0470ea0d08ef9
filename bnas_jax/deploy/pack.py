"""From latent weights to one bit a weight: the variables of a packed network."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.core.modules import PACKED, Convolution
from bnas_jax.core.ops import packed

# How programs are compiled that run once.
QUICKLY: dict = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# What a training alone has.
_AUXILIARY = "auxiliary_head"


def pack(model: nn.Module, variables: Mapping, *, image_shape: tuple[int, ...]) -> dict:
    """{"params", "batch_stats", "packed"}: variables with which the same model gives the same logits in evaluation.

    Each binary convolution has, in place of latent weights, its signs at one bit each and the factors that the scheme makes
    of the latent weights, such as beta (Eq. 1). variables: {"params", "batch_stats"}; image_shape: (H, W, C).

    Raises `UserError` for a network without latent weights, and for weights that are 0, which one bit does not hold.
    Example: `logits = model.apply(bnas.pack(model, variables, image_shape=(32, 32, 3)), images, train=False)`.
    """
    params = _in_evaluation(variables["params"])
    binarized = _binarized(model, variables, image_shape)
    if not binarized:
        raise UserError(
            "this network has no binary weights that could be packed; train one with a binary config.scheme.name"
        )

    packs: dict[tuple[str, ...], Any] = {}
    for path, (signs, operands) in binarized.items():
        # By NumPy: for each shape JAX would compile every operation.
        signs = np.asarray(signs)
        _check_signs(signs, "/".join(path))
        params.pop((*path, "latent"), None)
        packs[(*path, "kernel")] = jax.device_put(packed.pack(signs))
        packs[(*path, "operands")] = operands

    # Only a user's scheme or module can leave some.
    left = ["/".join(path) for path in params if is_latent(path[-1])]
    if left:
        raise UserError(
            f"{left[0]} cannot be packed: its module takes its signs from elsewhere than `Convolution.binarized`; make them in"
            " `Scheme.kernel`"
        )
    return {
        "params": unflatten_dict(params),
        "batch_stats": unflatten_dict(_in_evaluation(variables["batch_stats"])),
        PACKED: unflatten_dict(packs),
    }


def _in_evaluation(tree: Mapping) -> dict[tuple[str, ...], Any]:
    """The leaves by path, without those of the auxiliary head."""
    leaves = flatten_dict(dict(tree))
    return {path: leaf for path, leaf in leaves.items() if path[0] != _AUXILIARY}


def _binarized(model: nn.Module, variables: Mapping, image_shape: tuple[int, ...]) -> dict:
    """{path: (signs, operands)} of all convolutions whose weights are binarized."""
    # In the plain form an operation is traced faster, and the weights are the same.
    model = model.clone(arithmetic=dataclasses.replace(model.arithmetic, plain=True))
    images = jnp.zeros((1, *image_shape), model.arithmetic.dtype)

    # Under jit XLA leaves out all that the weights do not need: no image is convolved.
    def run(variables):
        found = {}

        def intercept(call, args, kwargs, context):
            result = call(*args, **kwargs)
            module = context.module
            if isinstance(module, Convolution) and context.method_name == "binarized":
                found[module.path] = result
            return result

        with nn.intercept_methods(intercept):
            model.apply(variables, images, train=False)
        return found

    given = dict(variables)
    return jax.jit(run).lower(given).compile(QUICKLY)(given)


def _check_signs(signs: np.ndarray, name: str) -> None:
    zeros = int(np.sum(signs == 0))
    if zeros:
        raise UserError(
            f"{zeros} weights of {name} are exactly 0, and with config.scheme.sign_of_zero=0 so are their signs, which one bit"
            " does not hold; train with config.scheme.sign_of_zero=1"
        )
