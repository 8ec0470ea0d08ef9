"""The cell template: preprocessing, the edges into each of four nodes, and the inter-cell skip (section 4.2, Figure 5b)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import INPUTS, ZEROISE, Cell, edges
from bnas_jax.core.layers import layer_type
from bnas_jax.core.modules import BatchNorm, BinaryConv, Convolution
from bnas_jax.core.ops.conv import square
from bnas_jax.core.ops.materialize import materialize
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.stack import Place

REDUCTION_SKIPS = ("float", "binary_weight", "binary", "binary_bn")


class Preprocess(nn.Module):
    """Brings the outputs of the two cells before to this cell's channels and size. Returns the two input states.

    binary_weights: of its two convolutions. affine: of their two BN. binary_input: False keeps the activations float.
    """

    place: Place
    scheme: Scheme
    arithmetic: Arithmetic
    binary_weights: tuple[bool, bool] = (True, True)
    affine: tuple[bool, bool] = (True, True)
    binary_input: bool = True

    @nn.compact
    def __call__(self, before, previous, *, train: bool):
        conv = functools.partial(
            BinaryConv,
            features=self.place.channels,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_input=self.binary_input,
        )
        # The cell before the previous one still has twice the size where the previous one was a reduction.
        kernel, stride = (3, 2) if self.place.halved else (1, 1)
        first = conv(
            kernel=kernel,
            stride=stride,
            binary_weights=self.binary_weights[0],
            affine=self.affine[0],
            name="input0",
        )
        second = conv(kernel=1, binary_weights=self.binary_weights[1], affine=self.affine[1], name="input1")
        return first(before, train=train), second(previous, train=train)


class ReductionSkip(nn.Module):
    """The inter-cell skip across a reduction cell: a 2x2 convolution of stride 2.

    kind, one of `REDUCTION_SKIPS`: float (release): BN, float convolution with bias. binary_weight: the same with binary
    weights. binary: BN, sign, binary convolution. binary_bn (default): the same and a BN, which keeps the sum of skip and
    cell in range.
    """

    kind: str
    features: int
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        if self.kind not in REDUCTION_SKIPS:
            known = ", ".join(REDUCTION_SKIPS)
            raise UserError(f"config.network.reduction_skip must be one of {known}, got {self.kind!r}")
        binary = self.kind in ("binary", "binary_bn")
        x = BatchNorm(self.arithmetic, name="bn")(x, train=train)
        y = Convolution(
            features=self.features,
            kernel=(2, 2),
            geometry=square(2, stride=2, padding=0),
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.kind != "float",
            binary_input=binary,
            activation=False,
            bias=not binary,
            name="conv",
        )(x)
        if self.kind == "binary_bn":
            y = BatchNorm(self.arithmetic, name="bn_after")(y, train=train)
        return y


class InterCellSkip(nn.Module):
    """Adds the output of the previous cell to this one's; across a reduction cell through a `ReductionSkip`."""

    reduction: bool
    kind: str
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, output, previous, *, train: bool):
        if self.reduction:
            skip = ReductionSkip(
                kind=self.kind,
                features=output.shape[-1],
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name="reduction",
            )
            previous = skip(previous, train=train)
        if self.arithmetic.plain:
            return output + previous
        return materialize(output + previous)


def drop_path(key, rate, *, cells: int, layers: int, batch: int, arithmetic: Arithmetic) -> jax.Array:
    """Drop-path: what to multiply the outputs of layers with, for each cell, layer and example, (cells, layers, N).

    0 with probability `rate`, else 1 / (1 - rate) (FractalNet; DARTS section A.2). What is drawn for an example does not
    depend on how many devices `arithmetic.batch_axis` divides the batch over.
    """
    axis = arithmetic.batch_axis
    shards = jax.lax.axis_size(axis) if axis else 1
    keep = jax.random.bernoulli(key, 1 - rate, (cells, layers, shards * batch))
    if axis:
        keep = jax.lax.dynamic_slice_in_dim(keep, jax.lax.axis_index(axis) * batch, batch, axis=2)
    dtype = arithmetic.dtype
    return jnp.where(keep, 1 / jnp.asarray(1 - rate, dtype), jnp.zeros((), dtype))


def num_convs(cell: Cell, place: Place) -> int:
    """Number of convolutions of a final cell with binary weights: preprocessing and layers."""
    return INPUTS + sum(layer_type(edge.layer_type).num_convs(place.stride(edge.source)) for edge in edges(cell))


class FinalCell(nn.Module):
    """One cell of the final network.

    cell: the (layer type, input) pairs of its nodes. skip: whether the previous cell's output is added.
    float_convs: how many of its last convolutions keep float weights (`network.float_convs`).
    affine_resize: whether the BN of a 3x3 preprocessing of stride 2 is affine; in the release only in the ImageNet form.
    """

    cell: Cell
    place: Place
    scheme: Scheme
    arithmetic: Arithmetic
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_convs: int = 0
    affine_resize: bool = False

    @nn.compact
    def __call__(self, before, previous, *, train: bool, factors=None):
        """before, previous: outputs of the two cells before, NHWC; factors: None or this cell's `drop_path`, (layers, N)."""
        num_binary = num_convs(self.cell, self.place) - self.float_convs
        states = list(self._preprocess(num_binary)(before, previous, train=train))

        # Each node adds up its edges. Layers are numbered through the cell, convolutions from the preprocessing on.
        position, conv_index = 0, INPUTS
        for node in self.cell:
            total = None
            for name, source in node:
                if name != ZEROISE:
                    layer = self._layer(name, source, position, binary_weights=conv_index < num_binary)
                    y = layer(states[source], train=train)
                    if factors is not None:
                        y = y * factors[position][:, None, None, None]
                    total = y if total is None else total + y
                position += 1
                conv_index += layer_type(name).num_convs(self.place.stride(source))
            states.append(self._zeros(states[0]) if total is None else total)
        output = jnp.concatenate(states[INPUTS:], axis=-1)

        if self.skip and self.place.follows_a_cell:
            skip = InterCellSkip(
                reduction=self.place.reduction,
                kind=self.reduction_skip,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name="skip",
            )
            output = skip(output, previous, train=train)
        return output

    def _preprocess(self, num_binary: int) -> Preprocess:
        return Preprocess(
            place=self.place,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=(num_binary > 0, num_binary > 1),
            affine=(self.affine_resize or not self.place.halved, True),
            name="preprocess",
        )

    def _layer(self, name: str, source: int, position: int, *, binary_weights: bool) -> nn.Module:
        return layer_type(name).module(
            features=self.place.channels,
            stride=self.place.stride(source),
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            search=False,
            binary_weights=binary_weights,
            name=f"layer{position}",
        )

    def _zeros(self, state):
        stride = self.place.stride(0)
        return jnp.zeros_like(state[:, ::stride, ::stride])
