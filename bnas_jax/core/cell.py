"""The cell template: preprocessing, the edges into each of four nodes, and the inter-cell skip (section 4.2, Figure 5b)."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.forms import Form
from bnas_jax.core.genotype import FIXED_REDUCTION, INPUTS, ZEROISE, Cell, edges
from bnas_jax.core.layer_modules import Crossed, Identity, Pooling
from bnas_jax.core.layers import MAX_POOL, BinaryConvType, layer_module, layer_type
from bnas_jax.core.modules import (
    BatchNorm,
    BinaryConv,
    Convolution,
    FactorizedReduce,
    share,
    value_of,
)
from bnas_jax.core.ops.conv import square
from bnas_jax.core.ops.materialize import materialize
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.stack import Place

# The kinds of `ReductionSkip`.
REDUCTION_SKIPS = ("float", "binary_weight", "binary", "binary_bn")


class Preprocess(nn.Module):
    """Brings the outputs of the two cells before to this cell's channels and size.

    (N, 2H or H, 2W or W, C1) and (N, H, W, C2) to two input states (N, H, W, channels).

    binary_weights: of its two convolutions. affine: of their two BN. binary_input: False keeps the activations float.
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
        # The output of the cell before the previous one has twice the size where the previous one is a reduction.
        if self.place.halved and self.factorized:
            first = self._input(FactorizedReduce, index=0)
        elif self.place.halved:
            first = self._input(BinaryConv, index=0, kernel=3, stride=2)
        else:
            first = self._input(BinaryConv, index=0, kernel=1)
        second = self._input(BinaryConv, index=1, kernel=1)
        return first(before, train=train), second(previous, train=train)

    def _input(self, module: type[nn.Module], *, index: int, **sizes) -> nn.Module:
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
    """The inter-cell skip across a reduction cell: a 2x2 convolution of stride 2, (N, H, W, C) to (N, H / 2, W / 2, features).

    kind, one of `REDUCTION_SKIPS`:

    - `float`, the released code's: BN, float convolution with bias.
    - `binary_weight`: the same with binary weights.
    - `binary`: BN, sign, binary convolution.
    - `binary_bn`, the default: the same and a BN, which keeps the sum of skip and cell in range.

    `UserError` for another one.
    """

    kind: str
    features: int
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        if self.kind not in REDUCTION_SKIPS:
            known = ", ".join(REDUCTION_SKIPS)
            raise UserError(
                f"config.network.reduction_skip must be one of {known}, got {self.kind!r}"
            )
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
            activation=False,  # what is added has both signs
            bias=not binary,
            name="conv",
        )
        y = conv(x)  # (N, H / 2, W / 2, features)
        if self.kind == "binary_bn":
            y = BatchNorm(self.arithmetic, name="bn_after")(y, train=train)
        return y


class InterCellSkip(nn.Module):
    """Adds the output of the previous cell to this one's; across a reduction cell through a `ReductionSkip` (Figure 5b)."""

    reduction: bool
    kind: str
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, output, previous, *, train: bool):
        # Half the size and twice the channels need a convolution.
        if self.reduction:
            skip = ReductionSkip(
                kind=self.kind,
                features=output.shape[-1],
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name="reduction",
            )
            previous = skip(previous, train=train)
        # The sum runs through the whole network, and every cell reads it.
        total = output + value_of(previous)
        if self.arithmetic.plain:
            return total
        return materialize(total)


def drop_path(
    key, rate, *, cells: int, layers: int, batch: int, arithmetic: Arithmetic
) -> jax.Array:
    """Drop-path: what to multiply the outputs of layers with, for each cell, layer and example, (cells, layers, N).

    0 with probability `rate`, else 1 / (1 - rate) (FractalNet; DARTS section A.2). What is drawn for an example does not
    depend on how many devices `Arithmetic.batch_axis` divides the batch over. batch: N, the examples of this device.
    """
    axis, dtype = arithmetic.batch_axis, arithmetic.dtype
    # Drawn for the whole batch, of which a device takes its part.
    shards = jax.lax.axis_size(axis) if axis else 1
    keep = jax.random.bernoulli(key, p=1 - rate, shape=(cells, layers, shards * batch))
    if axis:
        first = jax.lax.axis_index(axis) * batch
        keep = jax.lax.dynamic_slice_in_dim(keep, first, slice_size=batch, axis=2)
    return jnp.where(keep, 1 / jnp.asarray(1 - rate, dtype), jnp.zeros((), dtype))


def num_layers(cell: Cell | str) -> int:
    """Number of layers of a cell, which drop-path drops one by one."""
    if cell == FIXED_REDUCTION:
        return FixedReduction.LAYERS
    return len(edges(cell))


def num_convs(cell: Cell | str, place: Place) -> int:
    """Number of convolutions of a final cell with binary weights: preprocessing and layers."""
    count = INPUTS
    for edge in edges(cell):
        stride = place.stride(edge.source)
        count += layer_type(edge.layer_type).num_convs(stride)
    return count


class FinalCell(nn.Module):
    """One cell of the final network: outputs of the two cells before to (N, H, W, 4 * channels).

    cell: the (layer type, input) pairs of its nodes. skip: whether the previous cell's output is added.
    float_convs: how many of its last convolutions keep float weights (`network.float_convs`). form: see `forms.Form`.
    """

    cell: Cell
    place: Place
    form: Form
    scheme: Scheme
    arithmetic: Arithmetic
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_convs: int = 0

    @nn.compact
    def __call__(self, before, previous, *, train: bool, factors=None):
        """before, previous: outputs of the two cells before, NHWC, perhaps `Shared`; factors: None or this cell's `drop_path`,
        (layers, N)."""
        # The first convolutions are binary, the last ones may stay float.
        num_binary = num_convs(self.cell, self.place) - self.float_convs
        preprocess = self._preprocess(num_binary)
        states = list(preprocess(before, previous, train=train))
        shared = self._shared(states, train=train)

        # Each node adds up its edges. Layers are numbered through the cell, convolutions from the preprocessing on.
        position, conv_index = 0, INPUTS
        for node in self.cell:
            total = None
            for name, source in node:
                if name != ZEROISE:
                    layer = self._layer(
                        name,
                        source=source,
                        position=position,
                        binary_weights=conv_index < num_binary,
                    )
                    x = states[source]
                    # A subclass may do something else with what it is given.
                    if type(layer) is BinaryConv:
                        x = shared[source]
                    y = layer(x, train=train)
                    # As in DARTS's code, an identity is never dropped.
                    if factors is not None and not isinstance(layer, Identity):
                        y = self.arithmetic.between_layers(
                            y * factors[position][:, None, None, None]
                        )
                    total = _added(total, y)
                # A zeroise layer has a number, too, as in the authors' code.
                position += 1
                conv_index += layer_type(name).num_convs(self.place.stride(source))
            if total is None:
                total = self._zeros(states[0])
            states.append(total)
            shared |= self._shared([total], train=train, first=len(states) - 1)
        output = jnp.concatenate(states[INPUTS:], axis=-1)

        # The skip of section 4.2 over the whole cell.
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
            # The first two of the cell's convolutions.
            binary_weights=(num_binary > 0, num_binary > 1),
            affine=(self.form.affine_resize or not self.place.halved, True),
            factorized=self.form.factorized,
            name="preprocess",
        )

    def _layer(self, name: str, *, source: int, position: int, binary_weights: bool) -> nn.Module:
        return layer_module(
            name,
            bn_of_pools=self.form.bn_of_pools,
            features=self.place.channels,
            stride=self.place.stride(source),
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            search=False,
            binary_weights=binary_weights,
            layer=f"layer{position}",
        )

    def _shared(self, states: list, *, train: bool, first: int = 0) -> dict[int, Any]:
        """Number of a state, from `first` on -> the state, `Shared` where several layers begin with a BN of it."""
        # The states that are read by layers that begin with a BN.
        readers = []
        for edge in edges(self.cell):
            if type(layer_type(edge.layer_type)) is BinaryConvType:
                readers.append(edge.source)
        found = {}
        for number, state in enumerate(states, first):
            # A single reader has nothing in common with another.
            if readers.count(number) > 1:
                state = share(state, scheme=self.scheme, arithmetic=self.arithmetic, train=train)
            found[number] = state
        return found

    def _zeros(self, state):
        """A node whose edges are all zeroise. state: an input state of the cell."""
        stride = self.place.stride(0)
        return jnp.zeros_like(state[:, ::stride, ::stride])


def _added(total, y):
    """A sum with one more summand. total: None where y is the first."""
    if total is None:
        return y
    return total + y


class FixedReduction(nn.Module):
    """GDAS's hand-made reduction cell (arXiv 1910.04465; `genotype.FIXED_REDUCTION`).

    Each preprocessed input goes through a 1x3 and a 3x1 convolution in 8 groups, each strided along its axis, and a 1x1 one;
    and through a 3x3 max pooling of stride 2 with a BN behind it. The output joins both convolutions, then both poolings:
    (N, H / 2, W / 2, 4 * channels). `UserError` where the groups do not divide the channels.

    search: in the supernet, where BN has no scale and shift and the preprocessing stays float unless `binary_preprocess`.
    """

    # Of both crossed convolutions; and what drop-path drops: two chains of convolutions and two poolings.
    GROUPS: ClassVar[int] = 8
    LAYERS: ClassVar[int] = 4

    place: Place
    form: Form
    scheme: Scheme
    arithmetic: Arithmetic
    search: bool
    skip: bool = True
    reduction_skip: str = "binary_bn"
    binary_preprocess: bool = True

    @nn.compact
    def __call__(self, before, previous, *, train: bool, factors=None):
        """before, previous: outputs of the two cells before, NHWC, perhaps `Shared`; factors: None or `drop_path`, (at least 4,
        N)."""
        check_groups(self.place.channels)
        affine = not self.search
        affine_resize = self.form.affine_resize or not self.place.halved

        # Both inputs: (N, H, W, channels).
        preprocess = Preprocess(
            place=self.place,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=(self.binary_preprocess, self.binary_preprocess),
            affine=(affine and affine_resize, affine),
            binary_input=self.binary_preprocess,
            factorized=self.form.factorized,
            name="preprocess",
        )
        states = preprocess(before, previous, train=train)

        # Two convolutions, then two poolings: (N, H / 2, W / 2, channels) each.
        outputs = []
        for index, state in enumerate(states):
            outputs.append(self._convs(index, state, train=train))
        for index, state in enumerate(states):
            pooling = Pooling(
                function=MAX_POOL.form(self.arithmetic),
                stride=2,
                arithmetic=self.arithmetic,
                batch_norm=True,
                affine=affine,
                name=f"pool{index}",
            )
            outputs.append(pooling(state, train=train))
        # There are as many factors as the cell with the most layers needs.
        if factors is not None:
            for index, (y, factor) in enumerate(zip(outputs, factors, strict=False)):
                outputs[index] = self.arithmetic.between_layers(y * factor[:, None, None, None])
        output = jnp.concatenate(outputs, axis=-1)

        if self.skip and self.place.follows_a_cell:
            skip = InterCellSkip(
                reduction=True,
                kind=self.reduction_skip,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name="skip",
            )
            output = skip(output, previous, train=train)
        return output

    def _convs(self, index: int, x, *, train: bool):
        """1x3 and 3x1, then 1x1: (N, H, W, channels) to (N, H / 2, W / 2, channels)."""
        common: dict[str, Any] = {
            "features": self.place.channels,
            "scheme": self.scheme,
            "arithmetic": self.arithmetic,
            "binary_weights": True,
            "affine": not self.search,
        }
        crossed = Crossed(
            kernel=3,
            stride=2,
            groups=self.GROUPS,
            name=f"crossed{index}",
            **common,
        )
        pointwise = BinaryConv(kernel=1, name=f"pointwise{index}", **common)
        return pointwise(crossed(x, train=train), train=train)


def check_groups(channels: int) -> None:
    """`UserError` unless the groups of GDAS's fixed reduction divide the channels of its nodes."""
    groups = FixedReduction.GROUPS
    if channels % groups:
        raise UserError(
            f"the reduction cell {FIXED_REDUCTION!r} has convolutions in {groups} groups, which do not divide its {channels}"
            f" channels; write a multiple of {groups // 2} for config.network.channels, half of those of the first reduction"
        )
