"""The cell template: preprocessing, two edges into each of four nodes, and the inter-cell skip (section 4.2, Figure 5b)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import INPUTS, NODES, ZEROISE, Cell, reductions
from bnas_jax.core.hold import hold
from bnas_jax.core.layers import BatchNorm, BinaryConv, Conv, Layer, layer_type
from bnas_jax.core.rules import REDUCTION_SKIPS, Rules


def check_image_size(size: int, num_cells: int) -> None:
    """`UserError` unless `size`, at the first cell, can be halved at every reduction."""
    steps = 2 ** len(reductions(num_cells))
    if size % steps:
        near = max(steps, size // steps * steps)
        raise UserError(
            f"images of {size} pixels at the first cell cannot be halved by {len(reductions(num_cells))} reduction cells; "
            f"use a multiple of {steps}, for instance {near}"
        )


class Preprocess(nn.Module):
    """Brings the outputs of the two previous cells to this cell's channels and size. Returns the two input states."""

    channels: int
    previous_reduction: bool
    rules: Rules
    binary: tuple[bool, bool] = (True, True)
    affine: tuple[bool, bool] = (True, True)
    sign: bool = True

    @nn.compact
    def __call__(self, before, previous, *, train: bool):
        # The cell before the previous one still has twice the size where the previous one was a reduction.
        kernel, stride = (3, 2) if self.previous_reduction else (1, 1)
        conv = functools.partial(BinaryConv, self.channels, rules=self.rules, sign=self.sign)
        first = conv(kernel=kernel, stride=stride, binary=self.binary[0], affine=self.affine[0], name="input0")
        second = conv(kernel=1, binary=self.binary[1], affine=self.affine[1], name="input1")
        return first(before, train=train), second(previous, train=train)


class ReductionSkip(nn.Module):
    """The inter-cell skip across a reduction cell: a 2x2 convolution of stride 2, as `rules.reduction_skip` says.

    float (release): BN, float convolution with bias. binary_weight: the same with binary weights. binary: BN, sign, binary
    convolution. binary_bn (default): the same and a BN, which keeps the sum of skip and cell in range.
    """

    features: int
    rules: Rules

    @nn.compact
    def __call__(self, x, *, train: bool):
        kind = self.rules.reduction_skip
        if kind not in REDUCTION_SKIPS:
            raise UserError(f"rules.reduction_skip must be one of {', '.join(REDUCTION_SKIPS)}, got {kind!r}")
        if kind in ("float", "binary_weight"):
            x = BatchNorm(self.rules, name="bn")(x, train=train)
            return Conv(self.features, 2, self.rules, 2, padding=0, binary=kind != "float", bias=True, name="conv")(x)
        x = BinaryConv(self.features, 2, self.rules, 2, padding=0, relu=False, name="op")(x, train=train)
        return BatchNorm(self.rules, name="bn_after")(x, train=train) if kind == "binary_bn" else x


class InterCellSkip(nn.Module):
    """Adds the previous cell's output to this one's; nothing to add for the first cell, whose input is the stem's."""

    reduction: bool
    rules: Rules

    @nn.compact
    def __call__(self, output, previous, *, train: bool):
        if self.reduction:
            previous = ReductionSkip(output.shape[-1], self.rules, name="reduction")(previous, train=train)
        return hold(output + previous)


def drop_path(key, rate, cells: int, batch: int, dtype, axis: str | None = None) -> jax.Array:
    """Drop-path: what to multiply the outputs of layers with, for each cell, layer and example, (cells, 8, N).

    0 with probability `rate`, else 1 / (1 - rate) (FractalNet; DARTS section A.2). axis: the mapped axis, if any, over which
    the batch is divided; what is drawn for an example does not depend on it.
    """
    shards = jax.lax.axis_size(axis) if axis else 1
    keep = jax.random.bernoulli(key, 1 - rate, (cells, 2 * NODES, shards * batch))
    if axis:
        keep = jax.lax.dynamic_slice_in_dim(keep, jax.lax.axis_index(axis) * batch, batch, axis=2)
    return jnp.where(keep, 1 / jnp.asarray(1 - rate, dtype), jnp.zeros((), dtype))


def cell_convs(cell: Cell) -> int:
    """Number of convolutions of a final cell that the released code means to binarize: preprocessing and layers."""
    return INPUTS + sum(layer_type(name).learnable for name, _ in cell)


class FinalCell(nn.Module):
    """One cell of the final network.

    float_convs: how many of its last convolutions keep float weights (`network.float_head`).
    resize_affine: whether the BN of a 3x3 preprocessing of stride 2 is affine: in the release only in the ImageNet form.
    """

    cell: Cell
    channels: int
    reduction: bool
    previous_reduction: bool
    first: bool
    skip: bool
    rules: Rules
    float_convs: int = 0
    resize_affine: bool = False

    @nn.compact
    def __call__(self, before, previous, *, train: bool, factors=None):
        """before, previous: outputs of the two cells before, NHWC; factors: None or this cell's `drop_path`, (8, N)."""
        binary = [i < cell_convs(self.cell) - self.float_convs for i in range(cell_convs(self.cell))]
        affine = (self.resize_affine or not self.previous_reduction, True)
        preprocess = Preprocess(
            self.channels, self.previous_reduction, self.rules, (binary[0], binary[1]), affine, name="preprocess"
        )
        states = list(preprocess(before, previous, train=train))
        conv_index = INPUTS
        for node in range(NODES):
            total = None
            for position in (2 * node, 2 * node + 1):
                type_name, source = self.cell[position]
                learnable = layer_type(type_name).learnable
                if type_name != ZEROISE:
                    stride = 2 if self.reduction and source < INPUTS else 1
                    layer = Layer(
                        type_name,
                        self.channels,
                        stride,
                        self.rules,
                        binary=not learnable or binary[conv_index],
                        name=f"layer{position}",
                    )
                    y = layer(states[source], train=train)
                    if factors is not None:
                        y = y * factors[position][:, None, None, None]
                    total = y if total is None else total + y
                conv_index += learnable
            states.append(self._zeros(states[0]) if total is None else total)
        output = jnp.concatenate(states[INPUTS:], axis=-1)
        if self.skip and not self.first:
            output = InterCellSkip(self.reduction, self.rules, name="skip")(output, previous, train=train)
        return output

    def _zeros(self, state):
        stride = 2 if self.reduction else 1
        return jnp.zeros_like(state[:, ::stride, ::stride])
