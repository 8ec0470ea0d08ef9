"""Layers of other systems' published code: a reference file's numbers, and a `Convolution` on them."""

import pathlib

import jax
import numpy as np
from arrays import nhwc

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import Convolution
from bnas_jax.core.ops.conv import square


def numbers(reference: pathlib.Path, file: str, prefix: str) -> dict:
    """The arrays `PREFIX.NAME` of a file by NAME, as they lie there."""
    arrays = np.load(reference / "schemes" / f"{file}.npz")
    return {name.removeprefix(f"{prefix}."): arrays[name] for name in arrays.files if name.startswith(f"{prefix}.")}


def through_layer(scheme, theirs: dict, params: dict, *, kernel: int, stride: int = 1, plain: bool = False):
    """(y, gradient at x, gradients at the parameters) of a convolution in the scheme, for the file's `x` and `grad_y`."""
    layer = Convolution(
        features=theirs["grad_y"].shape[1],
        kernel=(kernel, kernel),
        geometry=square(kernel, stride=stride),
        scheme=scheme,
        arithmetic=Arithmetic(plain=plain),
    )
    y, vjp = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, nhwc(theirs["x"]))
    to_params, to_x = vjp(nhwc(theirs["grad_y"]))
    return y, to_x, to_params


def binarized(scheme, latent):
    """The weights that the signs meet: the scale taken into the signs of the weights."""
    signs, operands = scheme.weights(latent)
    return scheme.after(signs, *operands)
