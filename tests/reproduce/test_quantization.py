"""Figure 3 in numbers: the binary convolution of random windows, and how often Zeroise
is nearer.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core.schemes.xnor import beta
from bnas_jax.reproduce.quantization import example, random_windows


def test_the_binary_output_is_eq_1():
    windows = random_windows(3, kernel=3, channels=2, seed=5)
    random = np.random.default_rng(5)
    weights = random.normal(size=(3, 3, 3, 2))
    inputs = random.normal(size=(3, 3, 3, 2))
    # Of a kernel (kh, kw, ci, co) with each window's weights as an output channel.
    kernel = jnp.asarray(np.moveaxis(weights, 0, -1))
    scale = np.abs(inputs).reshape(3, -1).mean(axis=1)
    sums = np.einsum("nhwc,nhwc->n", np.sign(weights), np.sign(inputs))
    expected = np.asarray(beta(kernel)).reshape(-1) * scale * sums
    np.testing.assert_allclose(windows.binary, expected, rtol=1e-5)
    np.testing.assert_allclose(
        windows.floats, np.einsum("nhwc,nhwc->n", weights, inputs)
    )


def test_zeroise_is_nearer_as_often_as_two_normal_numbers_say():
    # For many inputs the two outputs are normal with the correlation r = 2 / pi, and
    # binary = r * float on average. Zeroise is nearer where binary * (binary - 2 *
    # float) > 0, a cone of 1/2 - arctan(1 / sqrt(pi^2 - 4)) / pi. An odd number of
    # inputs has no sum of signs that is 0.
    windows = random_windows(4000, kernel=3, channels=101)
    cone = 0.5 - np.arctan(1 / np.sqrt(np.pi**2 - 4)) / np.pi
    assert windows.zeroise_is_nearer.mean() == pytest.approx(cone, abs=0.025)
    correlation = np.corrcoef(windows.floats, windows.binary)[0, 1]
    assert correlation == pytest.approx(2 / np.pi, abs=0.03)


def test_the_example_is_near_zero_in_float_and_far_from_it_in_binary():
    windows = random_windows()
    chosen = example(windows)
    assert abs(windows.floats[chosen]) < 0.1 * windows.floats.std()
    assert abs(windows.binary[chosen]) > windows.binary.std()
    assert windows.zeroise_is_nearer[chosen]
