"""CBCN (arXiv 1910.10853): each binary kernel is used in four rotations."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv import float_conv
from bnas_jax.core.schemes.binary_conv import finish
from bnas_jax.core.schemes.scales import kernel_scale
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.straight_through import straight_through, triangle

TURNS = 4  # rotations by 0, 90, 180 and 270 degrees


@dataclasses.dataclass(frozen=True)
class Cbcn(Scheme):
    """y = s * conv(sign x, turned sign W), with s = mean |W| of the whole layer.

    (N, H, W, C) to (N, H', W', O). A feature is 4 neighbouring channels, one for each
    orientation: channel = 4 * feature + orientation. So C and O are multiples of 4, and
    W is (kh, kw, C, O / 4). For orientation k of an output feature, the kernel is
    rotated clockwise by k * 90 degrees, and its weights for input orientation i are
    used for input orientation i + k (modulo 4).

    Kernels that are not square are not rotated: only their input orientations are
    shifted. Depthwise kernels, (kh, kw, 1, O / 4), read and give a single orientation:
    they are only rotated.

    The gradients of the signs of x and of W are multiplied by 2 - 2|.| where that is
    positive, else by 0; s is differentiated. W gets the sum of the gradients of its
    four rotations, and is not projected.

    orientations: False is the simpler reading of the paper. Channels are ordinary ones,
        and W is (kh, kw, C, O). An output is the mean over the four rotations of its
        kernel, with a ReLU before the mean: without the ReLU, the four would amount to
        one symmetric kernel.

    How sure: agrees with the training code of the authors' group, in which the
    activations have the same gradient as the weights. The rotation of kernels other
    than 3x3 and 1x1, depthwise kernels and `orientations=False` are our choice.
    """

    orientations: bool = True

    # Its latent weights have fewer output channels than the convolution.
    batches_edges: ClassVar[bool] = False
    block: ClassVar[str] = "cbcn"
    float_shortcut: ClassVar[bool] = True

    @property
    def width_step(self) -> int:
        return TURNS if self.orientations else 1

    def signs(self, x):
        return straight_through(x, window=triangle, sign_of_zero=self.sign_of_zero)

    def kernel(self, module, x):
        """(the signs of all four rotations of W, (s,))."""
        latent = module.latent(x, self._features(module, x))  # (kh, kw, ci, features)
        signs = straight_through(
            latent, window=triangle, sign_of_zero=self.sign_of_zero
        )
        # s = mean |W|, a scalar.
        return self._turned(signs), (kernel_scale(latent),)

    def convolve_float(self, module, x):
        """In the first of two stages, the float kernels are rotated, too."""
        # A convolution that stays float in both stages is an ordinary one.
        if not module.binary_weights:
            return super().convolve_float(module, x)

        # The rotated float kernels, applied to x or to its signs.
        kernel = module.float_kernel(x, self._features(module, x))
        w = self._turned(kernel)
        if module.binary_input:
            x = self.signs(x)
        y = float_conv(x, w, geometry=module.geometry, arithmetic=module.arithmetic)

        # Float kernels need no scale s.
        y = self.after(y, scale=1)
        return finish(self, y, scale=None, activation=module.activates_sums)

    def after(self, sums, scale):
        y = sums * scale
        if self.orientations:
            return y
        # The mean over the four rotations, each after a ReLU.
        of_turns = nn.relu(y).reshape(*y.shape[:3], -1, TURNS)  # (N, H', W', O, 4)
        return jnp.mean(of_turns, axis=-1)

    def cost(self, row, module):
        """The row with the MACs of all rotations, and with the bits of W alone."""
        # With orientations, the rotations are output channels and counted already. A
        # convolution that stays float is not rotated.
        if self.orientations or not module.binary_weights:
            return row
        return dataclasses.replace(
            row,
            binary_macs=row.binary_macs * TURNS,
            float_macs=row.float_macs * TURNS,
        )

    def _features(self, module, x) -> int:
        """The number of output channels of W.

        Raises `UserError` where 4 orientations do not divide the channels.
        """
        if not self.orientations:
            return module.features
        groups, inputs = module.geometry.groups, module.kernel_shape(x)[2]
        outputs = module.features
        # Depthwise kernels read a single orientation, so that a feature may lie in
        # several groups.
        if inputs == 1:
            _check_multiple(module, side="output", channels=outputs, groups=1)
        else:
            _check_multiple(module, side="output", channels=outputs, groups=groups)
            _check_multiple(module, side="input", channels=x.shape[-1], groups=groups)
        return outputs // TURNS

    def _turned(self, w):
        """All rotations of W (kh, kw, ci, co): (kh, kw, ci, 4 co).

        The rotation is the fastest index of the output channels.
        """
        oriented = self.orientations and w.shape[2] > 1
        turns = [turn(w, quarters, oriented=oriented) for quarters in range(TURNS)]
        stacked = jnp.stack(turns, axis=-1)  # (kh, kw, ci, co, 4)
        return stacked.reshape(*w.shape[:3], -1)


def _check_multiple(module, *, side: str, channels: int, groups: int) -> None:
    """Raises `UserError` unless each group has whole features."""
    if channels % (TURNS * groups) == 0:
        return
    of_groups = ""
    if groups > 1:
        of_groups = f" in each of its {groups} groups"
    path = "/".join(module.path)
    raise UserError(
        f"{path} has {channels} {side} channels, and the scheme cbcn needs a multiple "
        f"of {TURNS}{of_groups}: one for each orientation of a feature; write another "
        "width, or config.scheme.orientations=False"
    )


def turn(w, quarters: int, *, oriented: bool):
    """W (kh, kw, ci, co) rotated clockwise by quarters * 90 degrees.

    oriented: whether to shift its input orientations, too.
    """
    kh, kw, inputs, features = w.shape
    # The taps of a square kernel; `rot90` rotates counterclockwise.
    if kh == kw:
        w = jnp.rot90(w, k=-quarters, axes=(0, 1))
    if not oriented:
        return w

    # The orientations of the inputs: i moves to i + quarters.
    by_orientation = w.reshape(kh, kw, inputs // TURNS, TURNS, features)
    shifted = jnp.roll(by_orientation, shift=quarters, axis=3)
    return shifted.reshape(w.shape)
