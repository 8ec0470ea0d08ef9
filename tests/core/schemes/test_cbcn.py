"""CBCN: turned kernels against what turning means.

Layers, gradients and blocks are compared with the published code.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import hwio, nhwc, normal, relative_error, with_gradients
from one_layer import layer, row_of
from pcnn_unit import relative_errors
from published import numbers, through_layer

from bnas_jax.baselines.resnet import ResNet
from bnas_jax.core.cost import cost, fit_budget
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotypes import load
from bnas_jax.core.network import Network
from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Cbcn
from bnas_jax.training.state import initial_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")

TORCH = Cbcn(sign_of_zero=0, activation="none")
PLAIN = Cbcn(activation="none")
SIMPLE = Cbcn(orientations=False)


def latent_of(weight):
    """Theirs (co, ci, 4, k, k), the orientations behind the features."""
    return hwio(weight.reshape(weight.shape[0], -1, *weight.shape[-2:]))


def turned(x):
    """Images turned by 90 degrees clockwise, their orientations shifted by one.

    Channels are feature * 4 + orientation.
    """
    x = np.rot90(x, -1, axes=(1, 2))
    return np.roll(x.reshape(*x.shape[:3], -1, 4), 1, axis=-1).reshape(x.shape)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {}),
        (1, {}),
        (5, {"dilation": 2}),
        (3, {"groups": 2}),
        (3, {"groups": 8, "features": 8}),
    ],
)
def test_what_sees_a_turned_image_gives_its_output_turned(kernel, options):
    """A quarter turn of the input is one of the output: the meaning of the scheme.

    The orientations are one further.
    """
    model = layer(PLAIN, **{"features": 16, "kernel": kernel, **options})
    x = normal(2, 7, 7, 8)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    features = options.get("features", 16) // 4
    assert params["latent"].shape == (
        kernel,
        kernel,
        8 // options.get("groups", 1),
        features,
    )
    y, of_turned = (
        np.asarray(jax.jit(model.apply)({"params": params}, images))
        for images in (x, turned(x))
    )
    assert relative_error(of_turned, turned(y)) < 1e-6
    assert relative_error(y, turned(y)) > 0.1


def test_without_orientations_an_output_is_the_mean_of_four_rectified_planes():
    x, model = normal(2, 6, 6, 5), layer(SIMPLE, features=3)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    latent = np.asarray(params["latent"])
    assert latent.shape == (3, 3, 5, 3)
    kernel, signs = np.sign(latent) * np.abs(latent).mean(), np.sign(x)
    planes = [
        np.maximum(plain_conv(signs, np.rot90(kernel, -k), square(3)), 0)
        for k in range(4)
    ]
    assert (
        relative_error(model.apply({"params": params}, x), np.mean(planes, axis=0))
        < 1e-5
    )


@pytest.mark.parametrize("scheme", [PLAIN, SIMPLE])
def test_the_plain_form_gives_the_same_output_and_gradients(scheme):
    x = normal(2, 6, 6, 8)
    params = jax.jit(layer(scheme, features=8).init)(jax.random.key(0), x)["params"]
    results = []
    for plain in (False, True):
        model = layer(scheme, features=8, plain=plain)
        apply = lambda params, x: model.apply({"params": params}, x)
        gradient = lambda y: normal(*y.shape, seed=1)
        results.append(with_gradients(apply, gradient, params, x))
    for ours, plain in zip(*map(jax.tree.leaves, results), strict=True):
        assert relative_error(ours, np.asarray(plain)) < 1e-5
        assert np.any(np.asarray(ours))


def test_signs_have_the_published_gradient(reference):
    theirs = numbers(reference, "cbcn", "activation")
    signs, vjp = jax.vjp(TORCH.signs, theirs["x"])
    # XLA takes denormal numbers as 0.
    seen = np.where(np.abs(theirs["x"]) < np.finfo(np.float32).tiny, 0, theirs["sign"])
    assert np.array_equal(signs, seen)
    np.testing.assert_allclose(
        vjp(theirs["grad_out"])[0], theirs["grad_in"], rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize(("name", "stride"), [("conv.s1", 1), ("conv.s2", 2)])
@pytest.mark.parametrize("plain", [False, True])
def test_the_published_layer(reference, name, stride, plain):
    theirs = numbers(reference, "cbcn", name)
    params = {"latent": latent_of(theirs["state.weight"])}
    y, to_x, to_params = through_layer(
        TORCH, theirs, params, kernel=3, stride=stride, plain=plain
    )
    assert relative_error(y, np.asarray(nhwc(theirs["y"]))) < 1e-5
    assert relative_error(to_x, np.asarray(nhwc(theirs["grad_x"]))) < 1e-5
    assert (
        relative_error(
            to_params["latent"], np.asarray(latent_of(theirs["grad.weight"]))
        )
        < 1e-5
    )


@pytest.mark.parametrize(("name", "stride"), [("block.s1", 1), ("block.s2", 2)])
def test_the_published_block(reference, name, stride):
    theirs = numbers(reference, "cbcn", name)
    errors = relative_errors(TORCH, theirs, stride=stride, latent=latent_of)
    assert {"y_eval", "y_train", "grad_x", "unit/conv/latent", "unit/bn/mean"} <= set(
        errors
    )
    assert max(errors.values()) < 1e-5, errors


def test_the_published_networks_parameters(reference):
    net = ResNet(
        blocks=(2,) * 4, widths=(64, 64, 128, 256), num_classes=10, scheme=Cbcn()
    )
    total = cost(net, image_shape=(32, 32, 3)).total
    theirs = numbers(reference, "cbcn", "cifar_resnet18_m4")
    assert total.params == theirs["params"] == 775_050
    assert total.binary_params == theirs["params_rotated_convs"]


def test_costs_are_the_products_of_the_turned_kernel_and_the_bits_of_the_latent_one():
    row = row_of(layer(Cbcn(), features=16), (8, 8, 8))
    assert (row.binary_macs, row.binary_params) == (8 * 8 * 9 * 8 * 16, 9 * 8 * 4)
    row = row_of(layer(SIMPLE, features=16), (8, 8, 8))
    assert (row.binary_macs, row.binary_params) == (4 * 8 * 8 * 9 * 8 * 16, 9 * 8 * 16)


def test_float_kernels_are_turned_in_the_costs_too():
    products = 8 * 8 * 9 * 8 * 16
    first_stage = dataclasses.replace(SIMPLE, stage="activations")
    assert row_of(layer(first_stage, features=16), (8, 8, 8)).float_macs == 4 * products
    skip = layer(SIMPLE, features=16, binary_input=False)
    assert row_of(skip, (8, 8, 8)).float_macs == 4 * products
    ordinary = layer(SIMPLE, features=16, binary_weights=False)
    assert row_of(ordinary, (8, 8, 8)).float_macs == products


@pytest.mark.parametrize(
    ("features", "channels", "groups", "message"),
    [
        (
            6,
            8,
            1,
            r"has 6 output channels, and the scheme cbcn needs a multiple of 4: one",
        ),
        (
            8,
            10,
            1,
            r"has 10 input channels, and the scheme cbcn needs a multiple of 4: one",
        ),
        (
            8,
            12,
            2,
            (
                r"has 12 input channels, and the scheme cbcn needs a multiple of 4 in "
                r"each of its 2 groups"
            ),
        ),
        (6, 6, 6, r"has 6 output channels"),
    ],
)
def test_widths_without_whole_features_are_refused(features, channels, groups, message):
    model = layer(Cbcn(), features=features, groups=groups)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 4, channels)))
        )


def test_a_network_of_such_widths_is_refused_by_the_layers_name():
    net = Network(
        load("latest_cell"), num_cells=2, channels=6, num_classes=10, scheme=Cbcn()
    )
    with pytest.raises(
        UserError,
        match=(
            r"^cell0/preprocess/input0/conv has 18 input channels, .* needs a multiple "
            r"of 4"
        ),
    ):
        initial_variables(net, (8, 8, 1), seed=0)
    within = cost(net.clone(channels=8), image_shape=(8, 8, 1)).total.flops
    assert fit_budget(net, within, image_shape=(8, 8, 1)).channels == 8, (
        "among the widths that it can have"
    )


def test_in_the_first_of_two_stages_the_float_kernel_is_turned():
    x, model = (
        normal(2, 6, 6, 8),
        layer(Cbcn(stage="activations", activation="none"), features=8),
    )
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    assert params["kernel"].shape == (3, 3, 8, 2)
    y, of_turned = (
        np.asarray(jax.jit(model.apply)({"params": params}, images))
        for images in (x, turned(x))
    )
    assert relative_error(of_turned, turned(y)) < 1e-5
    assert relative_error(y, turned(y)) > 0.1
