"""Kernels of one bit a weight: their signs, and their convolutions with signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import signs

from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import rectangle, square
from bnas_jax.core.ops.packed import pack_signs, signs_of
from bnas_jax.core.ops.popcount import pays
from bnas_jax.core.ops.sign_conv import packed_sign_conv

SUMS = {
    # Counted in words that are full, and in words that are not.
    "16": ((3, 3, 16, 5), square(3)),
    "36": ((3, 3, 36, 5), square(3, stride=2)),
    "dilated": ((5, 5, 8, 3), square(5, dilation=2)),
    # Multiplied: too few channels, groups, and kernels that are not square.
    "few": ((3, 3, 3, 5), square(3)),
    "groups": ((3, 3, 4, 6), square(3, groups=2)),
    "depthwise": ((3, 3, 1, 8), square(3, groups=8)),
    "row": ((1, 7, 8, 4), rectangle((1, 7), stride=(1, 2))),
}


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 3, 36, 4), (1, 7, 9, 2), (5, 5, 1, 33)]
)
def test_a_packed_kernel_gives_its_signs_back_in_one_bit_each(shape):
    w = signs(*shape)
    kernel = pack_signs(w)
    assert np.array_equal(signs_of(kernel, jnp.float32), w)
    assert kernel.shape == shape and kernel.words.dtype == jnp.uint32
    # No more than the bits that fill up the words of a tap's channels and of a row of
    # the kernel.
    rows, columns, channels, features = shape
    assert kernel.words.size <= rows * features * np.ceil(
        (columns * (channels + 15)) / 32
    )


@pytest.mark.parametrize("name", SUMS)
def test_the_convolution_of_a_packed_kernel_is_that_of_its_signs(name):
    shape, geometry = SUMS[name]
    x, w = signs(2, 9, 8, shape[2] * geometry.groups, seed=1), signs(*shape)
    run = jax.jit(
        lambda x, kernel: packed_sign_conv(lambda y: 2 * y, geometry, x, kernel)
    )
    assert np.array_equal(run(x, pack_signs(w)), 2 * plain_conv(x, w, geometry))
    assert pays(shape, geometry) == (name in ("16", "36", "dilated"))


def test_activations_that_may_be_zero_are_not_counted_as_ones():
    x, w = signs(1, 4, 4, 16), signs(3, 3, 16, 2)
    x[0, 0] = 0
    run = lambda one_bit: packed_sign_conv(
        lambda y: y, square(3), x, pack_signs(w), one_bit=one_bit
    )
    assert np.array_equal(run(False), plain_conv(x, w, square(3)))
    assert not np.array_equal(run(True), plain_conv(x, w, square(3)))
