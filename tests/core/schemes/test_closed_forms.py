"""The schemes' convolutions on small arrays against sums written out here.

These are the output, and the gradients at x, W and parameters.
"""

import jax
import numpy as np
import pytest
from arrays import normal, relative_error

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.geometry import Geometry
from bnas_jax.core.schemes import BinaryNet, BiReal, ReActNet, Scheme, XnorPlusPlus
from bnas_jax.core.schemes.straight_through import triangle

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLOSE = 1e-5
FEATURES = 3
OUTPUT = (3, 4, FEATURES)


def example():
    """(x, a latent kernel 2x3, the gradient at the output).

    x is (2, 4, 6, 4), the gradient (2, 3, 4, 3). Some entries are at the windows'
    borders.
    """
    x, latent = normal(2, 4, 6, 4), normal(2, 3, 4, FEATURES, seed=1)
    for array in (x, latent):
        array.ravel()[:6] = [1, -1, 0, 0.5, -0.5, 2]
    return x, latent, normal(2, *OUTPUT, seed=2)


def run(scheme, params: dict, x, gradient, **options):
    """(y, to_params, to_x) of the convolution without padding.

    y is its output, the others are the gradients for `gradient` at the output.
    """
    layer = Convolution(
        features=FEATURES,
        kernel=(2, 3),
        geometry=Geometry(),
        scheme=scheme,
        arithmetic=Arithmetic(),
        **options,
    )
    y, vjp = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
    return y, *vjp(gradient)


def correlate(x, w):
    """The convolution without padding, in float64.

    sums[n, i, j, o] = sum of x[n, i + a, j + b, c] * w[a, b, c, o].
    """
    windows = np.lib.stride_tricks.sliding_window_view(
        np.float64(x), w.shape[:2], axis=(1, 2)
    )
    return np.einsum("nijcab,abco->nijo", windows, np.float64(w))


def at_kernel(x, gradient, kernel=(2, 3)):
    """The gradient at the kernel of `correlate`."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.float64(x), kernel, axis=(1, 2)
    )
    return np.einsum("nijcab,nijo->abco", windows, np.float64(gradient))


def at_input(w, gradient, shape):
    """The gradient at the input of `correlate`."""
    result = np.zeros(shape)
    for a, b in np.ndindex(w.shape[:2]):
        part = np.einsum("nijo,co->nijc", np.float64(gradient), np.float64(w[a, b]))
        result[:, a : a + gradient.shape[1], b : b + gradient.shape[2]] += part
    return result


def sign(x):
    return np.where(np.asarray(x) >= 0, 1.0, -1.0)


def test_binarynet():
    x, latent, gradient = example()
    y, to_params, to_x = run(
        BinaryNet(activation="none"), {"latent": latent}, x, gradient
    )
    assert np.array_equal(y, correlate(sign(x), sign(latent))), "whole numbers"
    assert (
        relative_error(
            to_x, (np.abs(x) <= 1) * at_input(sign(latent), gradient, x.shape)
        )
        < CLOSE
    )
    assert (
        relative_error(
            to_params["latent"], (np.abs(latent) <= 1) * at_kernel(sign(x), gradient)
        )
        < CLOSE
    )
    project = BinaryNet().latents.project
    assert (
        np.array_equal(project(latent), np.clip(latent, -1, 1))
        and BinaryNet().latents.factor is None
    )


@pytest.mark.parametrize("rule", ["paper", "torch"])
def test_bireal(rule):
    x, latent, gradient = example()
    scale = np.abs(latent).mean((0, 1, 2))
    y, to_params, to_x = run(
        BiReal(weight_gradient=rule), {"latent": latent}, x, gradient
    )
    assert relative_error(y, scale * correlate(sign(x), sign(latent))) < CLOSE
    assert np.any(y < 0), "no ReLU"

    slope = np.where(np.abs(x) < 1, 2 - 2 * np.abs(x), 0)
    assert (
        relative_error(to_x, slope * at_input(sign(latent), scale * gradient, x.shape))
        < CLOSE
    )
    # The gradient at beta * sign(W).
    at_binary = at_kernel(sign(x), gradient)
    factor = scale if rule == "paper" else 1
    assert (
        relative_error(to_params["latent"], factor * (np.abs(latent) <= 1) * at_binary)
        < CLOSE
    )
    assert BiReal().latents.project is None


def test_the_triangle_is_two_in_the_middle_and_zero_from_one_on():
    inside = np.nextafter(np.float32(1), np.float32(0))
    x = np.array([0, 0.25, -0.75, inside, 1, -1, 3], np.float32)
    assert triangle(x).tolist() == [2, 1.5, 0.5, 2 * (1 - float(inside)), 0, 0, 0]


@pytest.mark.parametrize("rule", ["paper", "torch"])
def test_a_kernel_of_zeros_gives_finite_gradients(rule):
    x, latent, gradient = example()
    latent[..., 1] = 0
    y, to_params, _ = run(BiReal(weight_gradient=rule), {"latent": latent}, x, gradient)
    assert not np.any(y[..., 1]) and np.all(np.isfinite(to_params["latent"]))
    with pytest.raises(
        UserError, match="weight_gradient must be one of paper, torch, got 'caffe'"
    ):
        BiReal(weight_gradient="caffe")


# The axes of each factor of Gamma, an output's being h, w, o.
GAMMA = {
    1: {"alpha": "o"},
    2: {"alpha": "hwo"},
    3: {"alpha": "o", "beta": "hw"},
    4: {"alpha": "o", "beta": "h", "gamma": "w"},
}


def product(factors: dict, axes: dict):
    """Factors multiplied to (h, w, o)."""
    terms = [axes[name] for name in factors]
    return np.einsum(",".join([*terms, "hwo->hwo"]), *factors.values(), np.ones(OUTPUT))


@pytest.mark.parametrize("case", GAMMA)
def test_xnor_plus_plus(case):
    x, latent, gradient = example()
    axes, sizes = GAMMA[case], dict(zip("hwo", OUTPUT, strict=True))
    factors = {
        name: normal(*(sizes[axis] for axis in letters), seed=len(name))
        for name, letters in axes.items()
    }
    gamma = product(factors, axes)

    scheme = XnorPlusPlus(case=case, activation="none")
    y, to_params, to_x = run(scheme, {"latent": latent, **factors}, x, gradient)
    sums = correlate(sign(x), sign(latent))
    assert relative_error(y, gamma * sums) < CLOSE
    assert (
        relative_error(
            to_x, (np.abs(x) < 1) * at_input(sign(latent), gamma * gradient, x.shape)
        )
        < CLOSE
    )
    assert (
        relative_error(
            to_params["latent"],
            (np.abs(latent) < 1) * at_kernel(sign(x), gamma * gradient),
        )
        < CLOSE
    )
    for name, letters in axes.items():
        others = product(
            {other: factors[other] for other in factors if other != name}, axes
        )
        expected = np.einsum(f"nhwo,nhwo,hwo->{letters}", sums, gradient, others)
        assert relative_error(to_params[name], expected) < CLOSE, name


def test_gamma_begins_with_ones_and_belongs_to_a_size_of_images():
    x = example()[0]
    sizes = {
        "features": FEATURES,
        "kernel": (2, 3),
        "geometry": Geometry(),
        "arithmetic": Arithmetic(),
    }
    layer = Convolution(scheme=XnorPlusPlus(), **sizes)
    params = layer.init(jax.random.key(0), x)["params"]
    assert {
        name: value.tolist() for name, value in params.items() if name != "latent"
    } == {"alpha": [1] * 3, "beta": [1] * 3, "gamma": [1] * 4}
    message = (
        r"^beta was learned for outputs of the size \(3,\), and these images give "
        r"\(2,\); .* config\.scheme\.case=1"
    )
    with pytest.raises(UserError, match=message):
        layer.apply({"params": params}, x[:, :-1])
    any_size = {"latent": params["latent"], "alpha": params["alpha"]}
    assert layer.clone(scheme=XnorPlusPlus(case=1)).apply(
        {"params": any_size}, x[:, :-1]
    ).shape == (2, 2, 4, FEATURES)
    with pytest.raises(
        UserError, match=r"config\.scheme\.case must be one of 1, 2, 3, 4, got 5"
    ):
        XnorPlusPlus(case=5)


def test_reactnet():
    """Bi-Real's convolution of x + b0.

    The gradient of b0 sums that at x over images and pixels.
    """
    x, latent, gradient = example()
    shift = np.array([0.5, -0.25, 0, 1], np.float32)
    y, to_params, to_x = run(
        ReActNet(), {"latent": latent, "shift": shift}, x, gradient
    )
    expected_y, expected_params, expected_x = run(
        BiReal(weight_gradient="torch"), {"latent": latent}, x + shift, gradient
    )
    assert np.array_equal(y, expected_y) and np.array_equal(to_x, expected_x)
    assert np.array_equal(to_params["latent"], expected_params["latent"])
    assert relative_error(to_params["shift"], np.asarray(to_x).sum((0, 1, 2))) < CLOSE


def test_the_first_of_two_stages_has_float_kernels_and_the_learned_parameters():
    x, kernel, gradient = example()
    shift, alpha = normal(4, seed=3), normal(FEATURES, seed=4)
    y, _, _ = run(
        ReActNet(stage="activations"), {"kernel": kernel, "shift": shift}, x, gradient
    )
    assert relative_error(y, correlate(sign(x + shift), kernel)) < CLOSE
    scheme = XnorPlusPlus(case=1, stage="activations", activation="none")
    y, to_params, _ = run(scheme, {"kernel": kernel, "alpha": alpha}, x, gradient)
    assert relative_error(y, alpha * correlate(sign(x), kernel)) < CLOSE
    assert np.all(to_params["alpha"] != 0)
    for scheme in (ReActNet(stage="activations"), XnorPlusPlus(stage="activations")):
        y, _, to_x = run(
            scheme,
            {"kernel": kernel},
            x,
            gradient,
            binary_input=False,
            activation=False,
        )
        assert relative_error(y, correlate(x, kernel)) < CLOSE, "no sign, no parameter"
        assert relative_error(to_x, at_input(kernel, gradient, x.shape)) < CLOSE
    with pytest.raises(
        UserError,
        match=r"config\.scheme\.stage must be one of all, activations, got 'weights'",
    ):
        BiReal(stage="weights")


def test_xnor_pp_centres_no_depthwise_kernel():
    """The mean over a single input channel is the kernel itself.

    Nothing would be left of it.
    """
    _, latent, _ = example()
    depthwise = latent[:, :, :1]
    centred, plain = (
        XnorPlusPlus(case=1, center=center, analytic_scale=True).weights(depthwise)
        for center in (True, False)
    )
    np.testing.assert_array_equal(centred[0], plain[0])
    np.testing.assert_array_equal(centred[1][0], plain[1][0])


def test_a_method_that_a_scheme_lacks_is_named_with_what_to_write():
    x, latent, gradient = example()
    with pytest.raises(UserError, match=r"^Scheme lacks a method: write weights\("):
        run(Scheme(), {"latent": latent}, x, gradient)
    with pytest.raises(UserError, match=r"^Scheme lacks a method: write after\("):
        Scheme().after(x)
