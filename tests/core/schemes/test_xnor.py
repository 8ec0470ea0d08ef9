"""XNOR-Net's weights, scales and gradient rules.

They are compared with formulas written out here, and the released code's numbers.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import hwio, normal, relative_error, signs, with_gradients

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import rectangle, square
from bnas_jax.core.schemes import Xnor
from bnas_jax.core.schemes.binary_conv import binary_conv
from bnas_jax.core.schemes.xnor import (
    SCALED_GRADIENTS,
    WEIGHT_GRADIENTS,
    beta,
    mean_magnitude,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

RULES = ("bnas", "paper", "allenai")


def binarized(latent, rule="bnas", sign_of_zero=1):
    """beta * sign(W), as the scheme gives both."""
    of_weights, (scale,) = Xnor(
        weight_gradient=rule, sign_of_zero=sign_of_zero
    ).weights(latent)
    return of_weights * scale


def as_the_optimizer_sees(rule, gradient):
    factor = Xnor(weight_gradient=rule).latents.factor
    return gradient if factor is None else factor(gradient.shape) * gradient


def expected_gradient(rule, latent, gradient):
    """The gradient that the optimizer receives, entry by entry.

    gradient: that at beta * sign(W).
    """
    kh, kw, ci, co = latent.shape
    n = kh * kw * ci
    result = np.empty(latent.shape)
    for out in range(co):
        w, g = (
            latent[..., out].astype(np.float64),
            gradient[..., out].astype(np.float64),
        )
        scale = np.abs(w).sum() / n
        if rule == "bnas":
            result[..., out] = (
                scale * (np.abs(w) <= 1) * g + np.sign(w) * (np.sign(w) * g).sum() / n
            )
        else:
            result[..., out] = g * (scale * (np.abs(w) < 1) + 1 / n)
    return result if rule == "paper" else result * (1 - 1 / ci) * n


def example(shape=(3, 3, 4, 5)):
    """(latent weights, a gradient at the binary weights).

    Some latent weights are at and beyond the borders of the masks.
    """
    rng = np.random.default_rng(0)
    latent = rng.normal(size=shape).astype(np.float32) / 2
    latent[0, 0, :2, :2] = [[1, -1], [-1, 1]]
    latent[1, 1, 0] = 1.25
    return latent, rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sign_of_zero", [0, 1])
def test_gradient_rules_have_their_closed_forms(rule, sign_of_zero):
    latent, gradient = example()
    _, (at_latent,) = with_gradients(
        lambda w: binarized(w, rule, sign_of_zero), gradient, latent
    )
    ours = as_the_optimizer_sees(rule, at_latent)
    assert relative_error(ours, expected_gradient(rule, latent, gradient)) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_a_binary_convolution_hands_the_rule_the_gradient_at_the_binary_weights(rule):
    latent, _ = example((3, 3, 8, 5))
    x, geometry = signs(2, 6, 6, 8), square(3)
    scheme = Xnor(weight_gradient=rule, activation_scale=False, activation="none")
    ours = lambda w: binary_conv(
        x, w, scheme=scheme, geometry=geometry, arithmetic=Arithmetic()
    )
    of_binary = lambda binary: plain_conv(x, binary, geometry)
    gradient = lambda y: normal(*y.shape, seed=1)

    y, (to_latent,) = with_gradients(ours, gradient, latent)
    expected, (at_binary,) = with_gradients(of_binary, gradient, binarized(latent))

    assert relative_error(y, np.asarray(expected)) < 1e-6
    received = as_the_optimizer_sees(rule, to_latent)
    of_rule = expected_gradient(rule, latent, np.asarray(at_binary))
    assert relative_error(received, of_rule) < 1e-5


def test_the_rules_are_those_tested_here():
    assert set(WEIGHT_GRADIENTS) == set(RULES)
    assert set(SCALED_GRADIENTS) == {"bnas", "allenai"}
    with pytest.raises(
        UserError,
        match="weight_gradient must be one of bnas, paper, allenai, got 'xnor'",
    ):
        Xnor(weight_gradient="xnor")


def test_bnas_is_the_chain_rule_of_scale_times_sign():
    """Autodiff of beta * sign with a straight-through sign.

    The scale is differentiated, too.
    """
    latent, gradient = example()

    def straight_through(w):
        passed = jnp.where(jnp.abs(w) <= 1, w, jax.lax.stop_gradient(w))
        return passed + jax.lax.stop_gradient(jnp.sign(w) - w)

    chain_rule = jax.grad(
        lambda w: jnp.sum(
            jnp.mean(jnp.abs(w), axis=(0, 1, 2)) * straight_through(w) * gradient
        )
    )(latent)
    ours = jax.grad(lambda w: jnp.sum(binarized(w) * gradient))(latent)
    assert relative_error(ours, np.asarray(chain_rule)) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_binary_weights_are_one_magnitude_per_output_channel(rule):
    latent, _ = example()
    binary = np.asarray(binarized(latent, rule))
    scale = [np.abs(latent[..., out]).mean() for out in range(latent.shape[-1])]
    assert np.allclose(beta(latent), scale, rtol=1e-6)
    assert np.allclose(np.abs(binary), scale, rtol=1e-6)
    assert np.array_equal(binary > 0, latent > 0)


@pytest.mark.parametrize("rule", RULES)
def test_a_zero_weight_has_the_sign_of_the_convention(rule):
    latent = np.array([0.5, 0, -1], np.float32).reshape(1, 1, 3, 1)
    assert binarized(latent, rule, 1).ravel().tolist() == [0.5, 0.5, -0.5]
    assert binarized(latent, rule, 0).ravel().tolist() == [0.5, 0, -0.5]


@pytest.mark.parametrize(
    ("sign_of_zero", "expected"),
    [(1, (5 / 6, 1 / 2, 1 / 6)), (0, (1 / 2, 1 / 2, 1 / 2))],
)
def test_the_gradient_through_the_scale_takes_the_sign_of_zero_of_the_forward_pass(
    sign_of_zero, expected
):
    latent = jnp.array([0.5, 0, -1]).reshape(1, 1, 3, 1)
    total = lambda latent: binarized(latent, "bnas", sign_of_zero).sum()
    assert np.allclose(jax.grad(total)(latent).ravel(), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("channels", [2, 8])
def test_an_output_channel_of_zeros_gives_zeros_and_finite_gradients(rule, channels):
    latent = normal(3, 3, channels, 5, seed=1)
    latent[..., 2] = 0
    scheme = Xnor(weight_gradient=rule)
    function = lambda x, w: binary_conv(
        x, w, scheme=scheme, geometry=square(3), arithmetic=Arithmetic()
    )
    y, (to_x, to_latent) = with_gradients(
        function, jnp.ones_like, normal(1, 4, 4, channels), latent
    )
    assert not np.any(y[..., 2]) and np.any(y)
    assert np.all(np.isfinite(to_x)) and np.all(np.isfinite(to_latent))
    assert not np.any(to_latent[..., 2]), "a ReLU stands behind a sum of 0"


def test_without_an_activation_negative_outputs_pass():
    x, latent = normal(1, 4, 4, 3), normal(3, 3, 3, 2, seed=1)
    conv = lambda scheme: binary_conv(
        x, latent, scheme=scheme, geometry=square(3), arithmetic=Arithmetic()
    )
    without = conv(Xnor(activation="none"))
    assert np.any(without < 0)
    assert np.array_equal(conv(Xnor()), np.maximum(without, 0))
    with pytest.raises(
        UserError,
        match=r"config\.scheme\.activation must be one of relu, .*, got 'gelu'",
    ):
        Xnor(activation="gelu")


@pytest.mark.parametrize("kernel", ["k1", "k3", "k5"])
def test_weights_are_binarized_as_in_the_released_code(reference, kernel):
    arrays = np.load(reference / "weight_binarization.npz")
    theirs = {
        name.split(".")[1]: hwio(arrays[name])
        for name in arrays.files
        if name.startswith(kernel)
    }
    projected = Xnor().latents.project(theirs["latent"])
    assert relative_error(projected, theirs["latent_projected"]) < 1e-5
    binary, vjp = jax.vjp(lambda w: binarized(w, "bnas", 0), projected)
    assert relative_error(binary, theirs["binarized"]) < 1e-5
    gradient = as_the_optimizer_sees("bnas", vjp(theirs["grad_binarized"])[0])
    assert relative_error(gradient, theirs["grad_latent"]) < 1e-5


def test_projection_centres_over_input_channels_and_clips():
    project = Xnor().latents.project
    latent = np.random.default_rng(1).normal(size=(3, 2, 5, 4)).astype(np.float32)
    small, large = project(0.1 * latent), np.asarray(project(10 * latent))
    assert np.allclose(
        small, 0.1 * latent - 0.1 * latent.mean(2, keepdims=True), atol=1e-7
    )
    assert np.allclose(np.mean(small, axis=2), 0, atol=1e-7)
    assert np.allclose(project(small), small, atol=1e-7), "what is projected stays"
    centred = 10 * (latent - latent.mean(2, keepdims=True))
    assert np.allclose(
        large, np.where(np.abs(centred) < 1, centred, np.sign(centred)), atol=1e-5
    )
    assert np.abs(large).max() == 1


def test_a_single_input_channel_is_projected_to_zero_where_it_is_centred():
    """The trap of depthwise kernels.

    Centred over one channel nothing is left, and the factor stops all learning.
    """
    latent = np.full((3, 3, 1, 4), 0.3, np.float32)
    centred, plain = Xnor(depthwise_center=True).latents, Xnor().latents
    assert not np.any(centred.project(latent))
    assert centred.factor(latent.shape) == 0
    assert np.array_equal(plain.project(latent), latent) and np.all(
        plain.project(10 * latent) == 1
    )
    assert plain.factor(latent.shape) == 1
    more = example()[0]
    assert np.array_equal(plain.project(more), centred.project(more))
    assert Xnor(weight_gradient="paper", depthwise_center=True).latents.factor is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 3, 4, 8), 27), ((1, 1, 12, 4), 11), ((5, 5, 8, 3), 175)],
)
def test_the_factor_of_gradients(shape, expected):
    assert Xnor().latents.factor(shape) == pytest.approx(expected)
    assert Xnor(weight_gradient="allenai").latents.factor(shape) == pytest.approx(
        expected
    )
    assert Xnor(weight_gradient="paper").latents.factor is None


def mean_magnitude_by_loops(x, kernel, stride, padding, dilation):
    """D = mean over channels of |x|; K = D convolved with 1 / kernel^2."""
    n, height, width, _ = x.shape
    reach = dilation * (kernel - 1)
    result = np.zeros(
        (
            n,
            (height + 2 * padding - reach - 1) // stride + 1,
            (width + 2 * padding - reach - 1) // stride + 1,
            1,
        )
    )
    for image, row, column in np.ndindex(*result.shape[:3]):
        for i, j in itertools.product(range(kernel), repeat=2):
            y, x_ = (
                row * stride - padding + i * dilation,
                column * stride - padding + j * dilation,
            )
            if 0 <= y < height and 0 <= x_ < width:
                result[image, row, column] += np.abs(x[image, y, x_]).mean() / kernel**2
    return result


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_activation_scale_is_the_mean_magnitude_under_the_kernel(
    kernel, stride, dilation
):
    x = np.random.default_rng(2).normal(size=(2, 7, 8, 3)).astype(np.float32)
    geometry = square(kernel, stride=stride, dilation=dilation)
    scale = jax.jit(lambda x: mean_magnitude(x, (kernel, kernel), geometry))(x)
    expected = mean_magnitude_by_loops(x, kernel, stride, geometry.padding[0], dilation)
    assert scale.shape == expected.shape
    assert np.allclose(scale, expected, rtol=1e-5)


def test_activation_scale_of_the_skip_has_no_border():
    x = np.random.default_rng(3).normal(size=(1, 6, 6, 4)).astype(np.float32)
    scale = mean_magnitude(x, (2, 2), square(2, stride=2, padding=0))
    assert np.allclose(scale, mean_magnitude_by_loops(x, 2, 2, 0, 1), rtol=1e-5)


def test_the_activation_scale_of_a_row_of_taps_is_a_mean_over_that_row():
    """A 1x3 kernel, as on the ways of GDAS's reduction cell."""
    x = normal(2, 4, 5, 3)
    border = np.pad(np.abs(x).mean(-1), ((0, 0), (0, 0), (1, 1)))
    expected = (border[:, :, :-2] + border[:, :, 1:-1] + border[:, :, 2:]) / 3
    scale = mean_magnitude(x, (1, 3), rectangle((1, 3)))
    assert np.allclose(scale[..., 0], expected, rtol=1e-5)


def test_activation_scale_keeps_further_axes_apart():
    x = np.random.default_rng(4).normal(size=(2, 5, 5, 3, 4)).astype(np.float32)
    together = mean_magnitude(x, (3, 3), square(3))
    assert together.shape == (2, 5, 5, 3, 1)
    for index in range(3):
        assert np.allclose(
            together[:, :, :, index],
            mean_magnitude(x[:, :, :, index], (3, 3), square(3)),
            rtol=1e-6,
        )


def test_no_gradient_flows_through_the_activation_scale():
    x = np.random.default_rng(5).normal(size=(1, 4, 4, 2)).astype(np.float32)
    assert not np.any(
        jax.grad(lambda x: jnp.sum(mean_magnitude(x, (3, 3), square(3))))(x)
    )
