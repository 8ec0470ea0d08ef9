"""Counts the operations of convolutions and matrix products in a traced program.

A multiplication and an addition are two operations. XLA counts each loop once, and its
compiler for GPUs gives no count. Here, each iteration of a `scan` counts, a `while`
loop counts once, and of the branches of a `cond` the one with the most operations
counts. Products with padding or with the zeros of a dilated operand do not count. The
count is a lower bound, provided that those branches are taken.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend import core


def products(jaxpr: core.Jaxpr) -> float:
    """The operations of a traced program's convolutions and matrix products.

    For a sharded program, they are the operations of one device.

    >>> traced = jax.jit(lambda a, b: a @ b).trace(np.ones((2, 3)), np.ones((3, 4)))
    >>> products(traced.jaxpr.jaxpr)
    48.0
    """
    return float(sum(_of_equation(equation) for equation in jaxpr.eqns))


def _of_equation(equation: Any) -> float:
    """The operations of one equation of a jaxpr."""
    name = equation.primitive.name
    if name == "dot_general":
        return _matrix_product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)

    # The programs that the equation calls: the body of a loop, branches, a function
    # that is jitted or has a custom gradient.
    inner = [products(jaxpr) for jaxpr in _inner(equation.params)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        return max(inner, default=0.0)
    return sum(inner)


def _inner(params: dict) -> Iterator[core.Jaxpr]:
    """The programs among the parameters of an equation."""
    for value in params.values():
        listed = value if isinstance(value, (tuple, list)) else (value,)
        for each in listed:
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def _matrix_product(equation: Any) -> float:
    """The operations of a dot_general."""
    # Each number of the result is a sum over the contracted axes.
    ((contracting, _), _) = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    out = equation.outvars[0].aval.shape
    terms = math.prod(left[axis] for axis in contracting)
    return 2.0 * math.prod(out) * terms


def _convolution(equation: Any) -> float:
    """The operations of a conv_general_dilated."""
    params = equation.params
    axes = params["dimension_numbers"]
    images, kernel = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape

    # Along each axis of an image, count the pairs of an output and a tap of the kernel
    # that meet an input. In each spec these axes follow two others.
    pairs = 1
    for number, (low, _) in enumerate(params["padding"]):
        pairs *= _pairs(
            inputs=images[axes.lhs_spec[2 + number]],
            taps=kernel[axes.rhs_spec[2 + number]],
            outputs=out[axes.out_spec[2 + number]],
            stride=params["window_strides"][number],
            low=low,
            input_dilation=params["lhs_dilation"][number],
            tap_dilation=params["rhs_dilation"][number],
        )

    # Each pair is a product for every example, output feature and input feature.
    examples, features = out[axes.out_spec[0]], out[axes.out_spec[1]]
    input_features = kernel[axes.rhs_spec[1]]  # of a group
    return 2.0 * examples * features * input_features * pairs


def _pairs(
    *,
    inputs: int,
    taps: int,
    outputs: int,
    stride: int,
    low: int,
    input_dilation: int,
    tap_dilation: int,
) -> int:
    """The number of pairs (output, tap of the kernel) that meet an input, on one axis.

    low: the padding before the first input.
    """
    # The place of each pair among the dilated inputs.
    starts = np.arange(outputs)[:, None] * stride - low  # (outputs, 1)
    places = starts + np.arange(taps) * tap_dilation  # (outputs, taps)

    # Places outside are padding, and places between inputs are zeros of the dilation.
    last = (inputs - 1) * input_dilation
    inside = (places >= 0) & (places <= last)
    met = inside & (places % input_dilation == 0)
    return int(met.sum())
