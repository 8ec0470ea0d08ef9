"""The schemes' layers against numbers computed with published code, to rounding.

The numbers are those of tests/reference/schemes.
"""

import jax
import numpy as np
import pytest
from arrays import hwio, nhwc, relative_error, with_gradients
from published import binarized, numbers, through_layer

from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import BinaryNet, BiReal, ReActNet, Xnor, XnorPlusPlus

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLOSE = 1e-5
TORCH = {"sign_of_zero": 0, "activation": "none"}
# Layers of BiBench and of the library of XNOR-Net++'s author, by their place in the
# files.
LAYERS = {
    **{
        ("binarynet_bibench", name): BinaryNet(**TORCH)
        for name in ("k3.s1", "k3.s2", "k1.s1")
    },
    **{
        ("xnorpp", f"case4.{name}"): XnorPlusPlus(closed_window=True, **TORCH)
        for name in ("k3.s1", "k3.s2", "k1.s1")
    },
    **{
        ("xnorpp", f"case{case}.{name}"): XnorPlusPlus(case=case, **TORCH)
        for case in (1, 2)
        for name in ("s1", "s2")
    },
    ("xnorpp", "recipe.s1"): XnorPlusPlus(
        case=1, center=True, analytic_scale=True, **TORCH
    ),
}
# Our parameters of a layer: their names, and their axes brought into ours.
PARAMETERS = {
    "latent": ("weight", hwio),
    "alpha": ("o_scale", np.ravel),
    "beta": ("h_scale", np.ravel),
    "gamma": ("w_scale", np.ravel),
}
ALPHA = ("activation_post_process.alpha", lambda array: np.squeeze(nhwc(array)))


def parameters(theirs: dict, kind: str) -> dict:
    """Their arrays `KIND.NAME` by our names."""
    found = {}
    for ours, (name, convert) in [*PARAMETERS.items(), ("alpha", ALPHA)]:
        if f"{kind}.{name}" in theirs:
            found[ours] = convert(theirs[f"{kind}.{name}"])
    return found


@pytest.mark.parametrize("place", LAYERS, ids="-".join)
@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
def test_layers(reference, place, plain):
    """The output, and the gradients at the input and at every parameter.

    In the fast form and in the plain composition.
    """
    theirs = numbers(reference, *place)
    stride, size = 1 + place[1].endswith("s2"), theirs["state.weight"].shape[-1]
    state, gradients = parameters(theirs, "state"), parameters(theirs, "grad")
    y, to_x, to_params = through_layer(
        LAYERS[place], theirs, state, kernel=size, stride=stride, plain=plain
    )
    assert relative_error(y, nhwc(theirs["y"])) < CLOSE
    assert relative_error(to_x, nhwc(theirs["grad_x"])) < CLOSE
    assert set(to_params) == set(gradients)
    for name, gradient in to_params.items():
        assert relative_error(gradient, np.asarray(gradients[name])) < CLOSE, name


@pytest.mark.parametrize(
    ("file", "scheme"), [("bireal", BiReal(**TORCH)), ("reactnet", ReActNet(**TORCH))]
)
def test_signs_have_the_gradient_of_the_triangle(reference, file, scheme):
    theirs = numbers(reference, file, "activation")
    assert {-1, 0, 1} <= set(theirs["x"].tolist()), (
        "the corners of the triangle are among the numbers"
    )
    signs, vjp = jax.vjp(scheme.signs, theirs["x"])
    np.testing.assert_allclose(
        vjp(theirs["grad_out"])[0], theirs["grad_in"], rtol=1e-5, atol=1e-6
    )
    # XLA takes numbers below the least normal one for 0.
    normal = (np.abs(theirs["x"]) >= np.finfo(np.float32).tiny) | (theirs["x"] == 0)
    assert np.array_equal(signs[normal], theirs["sign"][normal])


@pytest.mark.parametrize(
    ("file", "kernel"),
    [
        ("bireal", "k1"),
        ("bireal", "k3"),
        ("bireal", "k3_zeros"),
        ("reactnet", "k1"),
        ("reactnet", "k3"),
    ],
)
def test_weights_of_bireal_and_reactnet(reference, file, kernel):
    """With the authors' gradient; their convolution here has real inputs."""
    theirs = numbers(reference, file, kernel)
    latent = hwio(theirs["latent"])
    assert 1 in np.abs(latent) and np.max(np.abs(latent)) > 1
    scheme = BiReal(weight_gradient="torch", **TORCH)
    signs, (scale,) = jax.jit(scheme.weights)(latent)
    assert relative_error(signs * scale, hwio(theirs["binarized"])) < CLOSE

    function = lambda x, latent: scheme.after(
        plain_conv(x, scheme.weights(latent)[0], square(latent.shape[0])), scale
    )
    y, (to_x, _) = with_gradients(
        function, nhwc(theirs["grad_y"]), nhwc(theirs["x"]), latent
    )
    assert relative_error(y, nhwc(theirs["y"])) < CLOSE
    # The file's gradient at the latent weights is for a gradient at the kernel of its
    # own.
    assert relative_error(to_x, nhwc(theirs["grad_x"])) < CLOSE
    of_latent = lambda latent: scheme.weights(latent)[0] * scale
    _, (to_latent,) = with_gradients(of_latent, hwio(theirs["grad_binarized"]), latent)
    assert relative_error(to_latent, np.asarray(hwio(theirs["grad_latent"]))) < CLOSE


@pytest.mark.parametrize("kernel", ["k1", "k3", "k5", "k3_zeros"])
def test_the_rules_of_xnor(reference, kernel):
    """`bnas` with its factor is the rule of CIFAR's and MNIST's code.

    The rule of ImageNet's code is 1e9 times as much.
    """
    theirs = {
        name: hwio(array)
        for name, array in numbers(reference, "xnor_rules", kernel).items()
    }
    scheme = Xnor(sign_of_zero=0, depthwise_center=True)
    latent = jax.jit(scheme.latents.project)(theirs["latent"])
    assert relative_error(latent, theirs["latent_projected"]) < CLOSE
    of_latent = lambda latent: binarized(scheme, latent)
    binary, (gradient,) = with_gradients(
        of_latent, theirs["grad_binarized"], theirs["latent_projected"]
    )
    assert relative_error(binary, theirs["binarized"]) < CLOSE
    to_latent = scheme.latents.factor(latent.shape) * gradient
    for name, times in (("cifar", 1), ("mnist", 1), ("imagenet", 1e9)):
        assert (
            relative_error(times * to_latent, np.asarray(theirs[f"grad_latent_{name}"]))
            < CLOSE
        ), name


def test_the_trap_of_depthwise_kernels(reference):
    theirs = {
        name: hwio(array)
        for name, array in numbers(reference, "xnor_rules", "k3_depthwise").items()
    }
    for name in ("latent_projected", "binarized", "grad_latent_cifar"):
        assert not np.any(theirs[name])
    rule = Xnor(depthwise_center=True).latents
    assert (
        not np.any(rule.project(theirs["latent"]))
        and rule.factor(theirs["latent"].shape) == 0
    )
