"""The parts of a cell apart from its edges (section 4.2, Figure 5b).

These are the preprocessing, the inter-cell skip and drop-path.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.modules import BinaryConv, FactorizedReduce
from bnas_jax.core.normalization import BatchNorm, value_of
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.ops.materialize import materialize
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.stack import Place

# The kinds of `ReductionSkip`.
REDUCTION_SKIPS = ("float", "binary_weight", "binary", "binary_bn")


class Preprocess(nn.Module):
    """Brings the outputs of the two preceding cells to this cell's channels and size.

    It maps (N, 2H or H, 2W or W, C1) and (N, H, W, C2) to two input states (N, H, W,
    channels).

    binary_weights: for both convolutions, whether their weights are binary.
    affine: for both convolutions, whether their BN has scale and shift.
    binary_input: False keeps the activations float.
    factorized: see `forms.Form`.
    """

    place: Place
    scheme: Scheme
    arithmetic: Arithmetic
    binary_weights: tuple[bool, bool] = (True, True)
    affine: tuple[bool, bool] = (True, True)
    binary_input: bool = True
    factorized: bool = False

    @nn.compact
    def __call__(self, before, previous, *, train: bool):
        # `before` has twice the size of `previous` if the previous cell is a reduction:
        # then its convolution is strided.
        if self.place.halved and self.factorized:
            first = self._input(FactorizedReduce, index=0)
        elif self.place.halved:
            first = self._input(BinaryConv, index=0, kernel=3, stride=2)
        else:
            first = self._input(BinaryConv, index=0, kernel=1)
        second = self._input(BinaryConv, index=1, kernel=1)
        return first(before, train=train), second(previous, train=train)

    def _input(self, module: type[nn.Module], *, index: int, **sizes) -> nn.Module:
        """The convolution of input `index`.

        sizes: the fields in which the two inputs differ.
        """
        return module(
            **sizes,
            features=self.place.channels,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.binary_weights[index],
            binary_input=self.binary_input,
            affine=self.affine[index],
            name=f"input{index}",
        )


class ReductionSkip(nn.Module):
    """The inter-cell skip across a reduction cell: a 2x2 convolution of stride 2.

    It maps (N, H, W, C) to (N, H / 2, W / 2, features). The values of `kind`, which are
    `REDUCTION_SKIPS`:

    - `float`, the released code's: BN, float convolution with bias.
    - `binary_weight`: as `float`, but with binary weights.
    - `binary`: BN, sign, binary convolution.
    - `binary_bn`, the default: as `binary`, followed by a BN, which normalises the skip
      before it is added.

    Raises `UserError` for any other kind.
    """

    kind: str
    features: int
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        choice("config.network.reduction_skip", self.kind, choices=REDUCTION_SKIPS)

        # BN -> sign, if the kind is binary -> convolution.
        binary = self.kind in ("binary", "binary_bn")
        x = BatchNorm(self.arithmetic, name="bn")(x, train=train)
        conv = Convolution(
            features=self.features,
            kernel=(2, 2),
            geometry=square(2, stride=2, padding=0),
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.kind != "float",
            binary_input=binary,
            activation=False,  # so that the skip adds values of both signs
            bias=not binary,
            name="conv",
        )
        y = conv(x)  # (N, H / 2, W / 2, features)
        if self.kind == "binary_bn":
            y = BatchNorm(self.arithmetic, name="bn_after")(y, train=train)
        return y


class InterCellSkip(nn.Module):
    """Adds the output of the previous cell to the output of this cell (Figure 5b).

    In a reduction cell, the previous output passes through a `ReductionSkip` first.
    """

    reduction: bool
    kind: str
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, output, previous, *, train: bool):
        # A reduction halves the size and doubles the channels: the skip needs a
        # convolution.
        if self.reduction:
            skip = ReductionSkip(
                kind=self.kind,
                features=output.shape[-1],
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name="reduction",
            )
            previous = skip(previous, train=train)
        # Every later skip contains this sum: XLA should store it, not recompute it.
        total = output + value_of(previous)
        if self.arithmetic.plain:
            return total
        return materialize(total)


def with_skip(cell: Any, output, previous, *, train: bool):
    """A cell's output plus the inter-cell skip, if the cell has one (section 4.2).

    cell: the module of the cell, which calls this in its `__call__`. It has the fields
        `place`, `skip`, `reduction_skip`, `scheme` and `arithmetic`.
    output: the cell's output, (N, H, W, 4 * channels).
    previous: the previous cell's output, (N, H, W, C), or `Shared`.
    """
    if not cell.skip or not cell.place.follows_a_cell:
        return output
    skip = InterCellSkip(
        reduction=cell.place.reduction,
        kind=cell.reduction_skip,
        scheme=cell.scheme,
        arithmetic=cell.arithmetic,
        name="skip",
    )
    return skip(output, previous, train=train)


def drop_path(
    key, rate, *, cells: int, layers: int, batch: int, arithmetic: Arithmetic
) -> jax.Array:
    """The factors of drop-path for each cell, layer and example, (cells, layers, N).

    Each factor multiplies the output of one layer for one example. It is 0 with
    probability `rate`, else 1 / (1 - rate) (FractalNet; DARTS section A.2). It does not
    depend on the number of devices that the batch is divided over.

    batch: N, the number of examples on this device.
    """
    axis, dtype = arithmetic.batch_axis, arithmetic.dtype
    # Each device draws the factors of the whole batch and keeps those of its examples.
    shards = jax.lax.axis_size(axis) if axis else 1
    keep = jax.random.bernoulli(key, p=1 - rate, shape=(cells, layers, shards * batch))
    if axis:
        first = jax.lax.axis_index(axis) * batch  # this device's first example
        keep = jax.lax.dynamic_slice_in_dim(keep, first, slice_size=batch, axis=2)

    # 1 / (1 - rate) keeps the expectation of the outputs.
    return jnp.where(keep, 1 / jnp.asarray(1 - rate, dtype), jnp.zeros((), dtype))
