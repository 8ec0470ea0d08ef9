"""Gradients of convolutions: in short types, at the precision that is set, and left out where a step is told to."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core import convolution
from bnas_jax.core.layers import BinaryConv
from bnas_jax.core.network import Classifier
from bnas_jax.core.rules import PAPER, RELEASE, Rules

# kernel, stride, padding, dilation, groups
GEOMETRIES = [(3, 1, 1, 1, 1), (5, 2, 2, 1, 1), (3, 1, 2, 2, 1), (5, 2, 4, 2, 1), (3, 2, 1, 1, 2), (3, 3, 0, 1, 1)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_gradient_at_the_kernel_is_that_of_the_convolution(geometry):
    side, *options = geometry
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 8, 9, 4))
    kernel = jax.random.normal(keys[1], (side, side, 4 // options[-1], 6))

    @jax.jit
    def both():
        y, back = jax.vjp(lambda kernel: convolution._conv(x, kernel, *options), kernel)
        gradient = jax.random.normal(keys[2], y.shape)
        return convolution._kernel_gradient(x, gradient, (side, side), *options), back(gradient)[0]

    np.testing.assert_allclose(*both(), rtol=1e-5, atol=1e-5)


def of_bfloat16(*shape, seed: int = 0):
    """Random numbers that bfloat16 holds exactly: whatever is lost then is lost in the sums."""
    return jnp.asarray(np.random.default_rng(seed).integers(-128, 128, shape) / 64, jnp.float32)


BFLOAT16 = Rules(conv_dtype=jnp.bfloat16)
OPTIONS = ("stride", "padding", "dilation", "groups")


@pytest.mark.parametrize("geometry", [(1, 1, 0, 1, 1), (1, 2, 0, 1, 1), (2, 2, 0, 1, 1), *GEOMETRIES])
def test_bfloat16_rounds_factors_and_no_sums_of_a_convolution_and_its_gradients(geometry):
    side, options = geometry[0], dict(zip(OPTIONS, geometry[1:], strict=True))
    x, kernel = of_bfloat16(3, 8, 9, 4), of_bfloat16(side, side, 4 // options["groups"], 6, seed=1)

    def value_and_gradients(dtype):
        y, back = jax.vjp(lambda x, kernel: convolution.conv(x, kernel, **options, dtype=dtype), x, kernel)
        return y, *back(of_bfloat16(*y.shape, seed=2))

    exact, short = (jax.jit(lambda dtype=dtype: value_and_gradients(dtype))() for dtype in (None, jnp.bfloat16))
    for ours, expected in zip(short, exact, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("for_alphas", [None, jnp.array(False)], ids=["always", "conditional"])
def test_bfloat16_rounds_no_sums_of_binary_gradients(for_alphas):
    x, gradient = jnp.sign(of_bfloat16(2, 8, 8, 4) + 0.001), of_bfloat16(2, 8, 8, 3, 4, seed=1)
    latent = 0.5 * jnp.sign(of_bfloat16(3, 3, 4, 12, seed=2) + 0.001)  # beta is 0.5
    arguments = x, latent, jnp.array([1.0, 0.5, 2.0])
    given = lambda rules: jax.jit(lambda: gradients(arguments, gradient, rules, 1, for_alphas))()
    exact, short = given(PAPER), given(BFLOAT16)
    for ours, expected in zip(short, exact, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def products(layer, shape, *, gradient: bool, **call) -> list[tuple[str, str]]:
    """(precision, types of the factors and the sums) of each product of floats in a layer, or in it and its gradient, as a
    GPU's compiler is given it."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda key, x: layer.init(key, x, **call), jax.random.key(0), x)
    loss = lambda variables, x: jnp.sum(layer.apply(variables, x, **call) ** 2)
    function = jax.grad(loss, argnums=(0, 1)) if gradient else loss
    with jax.default_matmul_precision("highest"):
        text = jax.jit(function).trace(variables, x).lower(lowering_platforms=("cuda",)).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line]
    described = []
    for line in lines:
        precisions = set(re.findall(r"HIGHEST|DEFAULT", line))
        types = re.findall(r"x([a-z]+\d+)>", line.rpartition(" : ")[2])
        described.append((" ".join(precisions), " ".join(types)))
    return described


FLOAT = ("HIGHEST", "f32 f32 f32")
SHORT = ("HIGHEST", "bf16 bf16 f32")


@pytest.mark.parametrize("rules", [PAPER, RELEASE])
@pytest.mark.parametrize("kernel", [1, 3])
def test_products_of_floats_have_the_precision_that_is_set_and_those_of_signs_a_single_pass(rules, kernel):
    layer, shape = BinaryConv(4, kernel, rules), (1, 8, 8, 16)
    assert products(layer, shape, gradient=False, train=False) == [("DEFAULT", "f32 f32 f32")]
    with_gradient = products(layer, shape, gradient=True, train=False)
    assert sorted(with_gradient) == [("DEFAULT", "f32 f32 f32"), FLOAT, FLOAT]


def test_what_has_a_float_factor_is_no_convolution_of_signs():
    for layer in (BinaryConv(4, 3, PAPER, sign=False), BinaryConv(4, 3, PAPER, binary=False)):
        assert products(layer, (1, 8, 8, 16), gradient=True, train=False) == [FLOAT] * 3
    assert products(Classifier(10, PAPER), (2, 4, 4, 8), gradient=True) == [FLOAT] * 3


def test_bfloat16_goes_into_every_convolution_and_float32_comes_out():
    of_signs = products(BinaryConv(4, 3, BFLOAT16), (1, 8, 8, 16), gradient=True, train=False)
    assert sorted(of_signs) == [("DEFAULT", "bf16 bf16 f32"), SHORT, SHORT]
    of_floats = products(BinaryConv(4, 3, BFLOAT16, binary=False), (1, 8, 8, 16), gradient=True, train=False)
    assert of_floats == [SHORT] * 3


def inputs(stride: int):
    keys = jax.random.split(jax.random.key(0), 4)
    edges, channels = 3, 4
    x = jnp.sign(jax.random.normal(keys[0], (2, 8, 8, channels)))
    latent = 0.1 * jax.random.normal(keys[1], (3, 3, channels, edges * channels))
    weights = jax.random.uniform(keys[2], (edges,))
    return (x, latent, weights), jax.random.normal(keys[3], (2, 8 // stride, 8 // stride, edges, channels))


def gradients(arguments, gradient, rules, stride, for_alphas):
    function = lambda x, latent, weights: convolution.weighted_binary_conv(
        x, latent, None, weights, rules, for_alphas, stride=stride, padding=1
    )
    return jax.vjp(function, *arguments)[1](gradient)


@pytest.mark.parametrize("rules", [PAPER, RELEASE])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_half_of_a_step_that_is_told_so_leaves_out_the_latent_weights_alone(rules, stride):
    arguments, gradient = inputs(stride)
    expected = jax.jit(lambda: gradients(arguments, gradient, rules, stride, None))()
    told = jax.jit(lambda flag: gradients(arguments, gradient, rules, stride, flag))
    of_weights, of_alphas = told(jnp.array(False)), told(jnp.array(True))
    for one, other in zip(of_weights, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for position in (0, 2):
        np.testing.assert_allclose(of_alphas[position], expected[position], rtol=1e-5, atol=1e-6)
    assert not of_alphas[1].any() and expected[1].any()


@pytest.mark.parametrize("stride", [1, 2])
def test_inside_the_condition_a_convolution_has_its_axes_in_the_order_of_fast_kernels(stride):
    arguments, gradient = inputs(stride)
    told = jax.jit(lambda arguments, flag: gradients(arguments, gradient, PAPER, stride, flag)[1])
    text = told.lower(arguments, jnp.array(True)).compile().as_text()
    assert " conditional(" in text
    assert set(re.findall(r"dim_labels=(\S+?)[,\s]", text)) == {"b01f_01io->b01f"}
