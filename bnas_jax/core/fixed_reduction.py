"""`FixedReduction`: GDAS's hand-made reduction cell, which is not searched."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell_parts import Preprocess, with_skip
from bnas_jax.core.errors import UserError
from bnas_jax.core.forms import Form
from bnas_jax.core.genotype import FIXED_REDUCTION
from bnas_jax.core.layer_modules import Crossed, Pooling
from bnas_jax.core.layers import MAX_POOL
from bnas_jax.core.modules import BinaryConv
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.stack import Place


class FixedReduction(nn.Module):
    """GDAS's hand-made reduction cell (arXiv 1910.04465; `genotype.FIXED_REDUCTION`).

    Each preprocessed input is read by two branches:

    - A 1x3 and a 3x1 convolution in 8 groups, each strided along its axis, then a 1x1
      convolution.
    - A 3x3 max pooling of stride 2, then a BN.

    The output concatenates the convolutions of both inputs, then both poolings: (N,
    H / 2, W / 2, 4 * channels).

    Raises `UserError` where the groups do not divide the channels.

    search: True in the supernet, where BN has no scale and shift and the preprocessing
        stays float unless `binary_preprocess`.
    """

    # The groups of the 1x3 and the 3x1 convolution.
    GROUPS: ClassVar[int] = 8
    # The branches that drop-path drops: two of convolutions and two of poolings.
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
        """The cell's output, (N, H / 2, W / 2, 4 * channels).

        before, previous: the outputs of the two preceding cells, (N, H, W, C) each,
            or `Shared`. `previous` is the later one.
        factors: None, or this cell's `drop_path`, (4 or more, N).
        """
        check_groups(self.place.channels)

        # Both inputs: (N, H, W, channels).
        affine = not self.search
        affine_resize = self.form.affine_resize or not self.place.halved
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

        # The convolutions of both inputs, then both poolings: (N, H / 2, W / 2,
        # channels) each.
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

        # Drop-path. `factors` has a row for each layer of the larger kind of cell.
        if factors is not None:
            for index, (y, factor) in enumerate(zip(outputs, factors, strict=False)):
                dropped = y * factor[:, None, None, None]
                outputs[index] = self.arithmetic.between_layers(dropped)
        output = jnp.concatenate(outputs, axis=-1)  # (N, H / 2, W / 2, 4 * channels)
        return with_skip(self, output, previous, train=train)

    def _convs(self, index: int, x, *, train: bool):
        """1x3, 3x1 and 1x1: (N, H, W, channels) to (N, H / 2, W / 2, channels)."""
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
        y = crossed(x, train=train)  # (N, H / 2, W / 2, channels)
        return pointwise(y, train=train)


def check_groups(channels: int) -> None:
    """Raises `UserError` unless the groups of `FixedReduction` divide the channels.

    channels: the width of the reduction cell.
    """
    groups = FixedReduction.GROUPS
    if channels % groups:
        raise UserError(
            f"the reduction cell {FIXED_REDUCTION!r} has convolutions in {groups} "
            f"groups, which do not divide its {channels} channels; write a multiple of "
            f"{groups // 2} for config.network.channels, which the first reduction "
            "doubles"
        )
