"""From latent weights to one bit a weight: the variables of a packed network."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnas_jax.core.arithmetic import Arithmetic, plain_form
from bnas_jax.core.convolution import PACKED, Convolution
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.core.ops.packed import pack_signs
from bnas_jax.core.stack import check_image_shape
from bnas_jax.runtime import devices

# The module of a network's second classifier, which only training has.
_AUXILIARY = "auxiliary_head"

Path = tuple[str, ...]


def pack(model: nn.Module, variables: Mapping, *, image_shape: tuple[int, ...]) -> dict:
    """Packs a network's variables: {"params", "batch_stats", "packed"}.

    With them the same model gives the same logits in evaluation. In place of latent
    weights, each binary convolution has its signs, at one bit each, and the factors
    that the scheme makes of the latent weights, such as beta (Eq. 1).

    variables: {"params", "batch_stats"}.
    image_shape: (H, W, C).

    Raises `UserError` for a network without latent weights, a packed one, and weights
    whose signs are not -1 or 1.

    Example: `logits = model.apply(bnas.pack(model, variables, image_shape=(32, 32, 3)),
    images, train=False)`.
    """
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise UserError(
            'variables must be {"params", "batch_stats"}, such as state.variables, got '
            f"a {type(variables).__name__}"
        )
    check_image_shape(image_shape)
    if PACKED in variables:
        raise UserError(
            "these are the variables of a packed network already; use them as they are"
        )

    # The signs and the operands of each binary convolution, {path: (signs, operands)}.
    found = devices.ONE.create(_binarized(model, image_shape), dict(variables))
    if not found:
        raise UserError(
            "this network has no binary weights that could be packed: "
            f"{float_weights(model)}"
        )

    # Pack them. In NumPy, as JAX would compile every operation for each shape.
    packs: dict[Path, Any] = {}
    for path, (signs, operands) in found.items():
        signs = np.asarray(signs)  # (kernel rows, columns, channels / groups, outputs)
        _check_signs(signs, "/".join(path))
        packs[(*path, "kernel")] = jax.device_put(pack_signs(signs))
        packs[(*path, "operands")] = operands

    # All else stays as it is, but for latent weights and the second classifier.
    params = params_kept(model, variables["params"], found)
    batch_stats = _without_auxiliary(model, variables.get("batch_stats", {}))
    return {
        "params": unflatten_dict(params),
        "batch_stats": unflatten_dict(batch_stats),
        PACKED: unflatten_dict(packs),
    }


def float_weights(model: nn.Module) -> str:
    """Why a network has no binary weights and what to do, as part of a sentence."""
    scheme = getattr(model, "scheme", None)
    advice = "choose a binary config.scheme.name, and config.scheme.stage=all"
    if scheme is None:
        return advice
    return f"its scheme is {type(scheme).__name__} with stage={scheme.stage}; {advice}"


def shapes_of(
    model: nn.Module, variables: Mapping, image_shape: tuple[int, ...]
) -> dict:
    """The shapes of a packed network's arrays, {path: shape}, without computing any.

    The shape of a packed kernel is that of the kernel itself, not of the words that its
    signs are packed into. Operands of a kernel have a tuple of shapes.

    variables: `ShapeDtypeStruct`s of {"params", "batch_stats"}.
    image_shape: (H, W, C).
    """
    # Those of the packed convolutions.
    found = jax.eval_shape(_binarized(model, image_shape), dict(variables))
    shapes: dict[Path, tuple] = {}
    for path, (signs, operands) in found.items():
        of_operands = tuple(operand.shape for operand in operands)
        shapes[(PACKED, *path, "kernel")] = tuple(signs.shape)
        shapes[(PACKED, *path, "operands")] = of_operands

    # Those of all other arrays.
    parts = {
        "params": params_kept(model, variables["params"], found),
        "batch_stats": _without_auxiliary(model, variables["batch_stats"]),
    }
    for part, leaves in parts.items():
        for path, leaf in leaves.items():
            shapes[(part, *path)] = tuple(leaf.shape)
    return shapes


def params_kept(
    model: nn.Module, params: Mapping, found: Mapping[Path, Any]
) -> dict[Path, Any]:
    """The parameters that a packed network keeps, by path.

    found: has the paths of the convolutions that are packed.

    Raises `UserError` where latent weights would be left.
    """
    left = _without_auxiliary(model, params)
    for path in found:
        left.pop((*path, "latent"), None)

    # Only a user's scheme or module can leave latent weights.
    latents = ["/".join(path) for path in left if is_latent(path[-1])]
    if latents:
        raise UserError(
            f"{latents[0]} cannot be packed: evaluation does not use it, or its scheme "
            "overrides `convolve` and takes the signs of the weights from elsewhere "
            "than `module.binarized(x)`"
        )
    return left


def _without_auxiliary(model: nn.Module, tree: Mapping) -> dict[Path, Any]:
    """The leaves by path, without those of the second classifier of a training."""
    leaves = flatten_dict(dict(tree))
    if not getattr(model, "auxiliary", False):
        return leaves
    return {path: leaf for path, leaf in leaves.items() if path[0] != _AUXILIARY}


def _binarized(model: nn.Module, image_shape: tuple[int, ...]) -> Callable:
    """A function (variables) -> {path: (signs, operands)}.

    The paths are those of all convolutions whose weights are binarized.
    """
    # The plain form is traced faster, and the weights are the same.
    model = plain_form(model)
    # A user's module around a network need not have an arithmetic of its own.
    dtype = getattr(model, "arithmetic", Arithmetic()).dtype

    # Once it is compiled, no image is convolved: XLA leaves out all that the weights do
    # not need.
    def run(variables):
        found = {}

        def note(module, x, binarized):
            del x
            found[module.path] = binarized

        # A blank image, (1, rows, columns, channels).
        images = jnp.zeros((1, *image_shape), dtype)
        with each_binarized(note):
            model.apply(variables, images, train=False)
        return found

    return run


def each_binarized(note: Callable[[Convolution, Any, tuple], None]):
    """A context that reports each convolution whose weights are binarized.

    note: is called with (module, x, (signs, operands)).
    """

    # Flax calls it in place of each method of a module.
    def intercept(call, args, kwargs, context):
        result = call(*args, **kwargs)
        module = context.module
        if isinstance(module, Convolution) and context.method_name == "binarized":
            note(module, args[0], result)
        return result

    return nn.intercept_methods(intercept)


def _check_signs(signs: np.ndarray, name: str) -> None:
    """Raises `UserError` unless all signs are -1 or 1.

    name: of the convolution.
    """
    zeros = int(np.sum(signs == 0))
    if zeros:
        raise UserError(
            f"{zeros} weights of {name} are exactly 0, and with "
            "config.scheme.sign_of_zero=0 so are their signs, which one bit does not "
            "hold; train with config.scheme.sign_of_zero=1"
        )
    # Only a user's scheme can give others.
    if not np.all(np.abs(signs) == 1):
        raise UserError(
            f"the scheme's signs of {name} are not all -1 or 1, and one bit stores no "
            "others; return signs from `weights`, and factors as its operands"
        )
