"""Batch norm, binary convolutions and the classifier as modules: their parameters, and
what a compiler is given.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal, relative_error

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.layer_modules import Pooling
from bnas_jax.core.modules import BinaryConv, Classifier
from bnas_jax.core.normalization import BatchNorm, Shared, share
from bnas_jax.core.ops.conv import conv
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.ops.pool import avg_pool
from bnas_jax.core.schemes import Float, Xnor
from bnas_jax.core.schemes.xnor import beta, mean_magnitude

pytestmark = pytest.mark.usefixtures("quick_compilation")

FLOAT32, BFLOAT16 = Arithmetic(), Arithmetic(conv_dtype=jnp.bfloat16)
PAPER, RELEASE = Xnor(), Xnor(activation_scale=False, sign_of_zero=0)


def binary_conv(
    kernel: int, scheme=PAPER, arithmetic=FLOAT32, *, features: int = 4, **options
):
    return BinaryConv(
        features=features,
        kernel=kernel,
        scheme=scheme,
        arithmetic=arithmetic,
        **options,
    )


def convolution(*, features: int, kernel: int, **options):
    sizes = {
        "features": features,
        "kernel": (kernel, kernel),
        "geometry": square(kernel),
    }
    return Convolution(scheme=PAPER, arithmetic=FLOAT32, **sizes, **options)


def running(channels):
    """Running statistics of a layer that has seen nothing."""
    return {
        "batch_stats": {"bn": {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}}
    }


def in_training(layer, params, x):
    return layer.apply(
        {"params": params, **running(x.shape[-1])},
        x,
        train=True,
        mutable=["batch_stats"],
    )[0]


def normalised(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_the_activation_scale_multiplies_the_convolution(binary):
    """That of signs, be the weights signs or, as in the first of two stages, float."""
    x, latent = normal(2, 6, 6, 4), PAPER.latents.project(normal(3, 3, 4, 5, seed=1))
    params = {
        "bn": {"scale": jnp.ones(4), "bias": jnp.zeros(4)},
        "conv": {"latent" if binary else "kernel": latent},
    }
    layer = binary_conv(3, features=5, stride=2, binary_weights=binary)
    y = in_training(layer, params, x)
    kernel = latent
    if binary:
        kernel = np.where(latent >= 0, 1, -1) * np.asarray(beta(latent))
    signs = np.where(normalised(x) >= 0, 1, -1).astype(np.float32)
    geometry = square(3, stride=2)
    expected = conv(signs, kernel, geometry) * mean_magnitude(
        normalised(x), (3, 3), geometry
    )
    assert relative_error(y, np.maximum(expected, 0)) < 1e-5


def test_without_signs_and_activation_a_layer_is_float():
    x = normal(2, 6, 6, 4)
    layer = binary_conv(
        1,
        features=5,
        binary_weights=False,
        binary_input=False,
        affine=False,
        activation=False,
    )
    params = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=True), x)[
        "params"
    ]
    assert list(params) == ["conv"], "a BN that is not affine has no parameters"
    assert list(params["conv"]) == ["kernel"]
    kernel = normal(1, 1, 4, 5, seed=1)
    assert (
        relative_error(
            in_training(layer, {"conv": {"kernel": kernel}}, x),
            normalised(x) @ kernel[0, 0],
        )
        < 1e-5
    )


def test_float_inputs_meet_the_signs_of_the_weights():
    x, latent = normal(2, 6, 6, 4), normal(3, 3, 4, 5, seed=1)
    layer = convolution(features=5, kernel=3, binary_input=False)
    sums = conv(x, np.sign(latent) * np.asarray(beta(latent)), square(3))
    for activation, expected in ((False, sums), (True, np.maximum(sums, 0))):
        y = layer.clone(activation=activation).apply({"params": {"latent": latent}}, x)
        assert relative_error(y, expected) < 1e-5


@pytest.mark.parametrize("binary", [True, False])
def test_weights_begin_uniform_over_the_fan_in(binary):
    layer = convolution(features=64, kernel=3, binary_weights=binary, bias=True)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 16)))["params"]
    assert set(params) == {"latent" if binary else "kernel", "bias"}, (
        "the name tells latent weights from float ones"
    )
    for values in params.values():
        assert np.abs(values).max() == pytest.approx(1 / 12, rel=0.1)
        assert np.abs(values).max() <= 1 / 12
        assert np.mean(np.abs(values)) == pytest.approx(1 / 24, rel=0.3)


def test_bias_is_added_after_the_convolution():
    params = {"kernel": jnp.ones((1, 1, 4, 3)), "bias": jnp.arange(3.0)}
    layer = convolution(
        features=3, kernel=1, binary_weights=False, binary_input=False, bias=True
    )
    assert layer.apply({"params": params}, jnp.ones((1, 2, 2, 4)))[
        0, 1, 1
    ].tolist() == [4, 5, 6]


@pytest.mark.parametrize("scheme", [PAPER, Float(), Xnor(activation="prelu")])
def test_the_activation_follows_the_bias(scheme):
    layer = Convolution(
        features=3,
        kernel=(1, 1),
        geometry=square(1),
        scheme=scheme,
        arithmetic=FLOAT32,
        bias=True,
    )
    x = normal(2, 3, 3, 4)
    params = layer.init(jax.random.key(0), x)["params"]
    sums = layer.clone(activation=False).apply({"params": params}, x)
    slope = 0.25 if scheme.activation == "prelu" else 0
    expected = np.where(sums > 0, sums, slope * sums)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-6)


def batch_norm(x, arithmetic=FLOAT32, **options):
    layer = BatchNorm(arithmetic, **options)
    return layer, layer.init(jax.random.key(0), x, train=True)


def test_batch_norm_normalises_with_the_batch_and_keeps_unbiased_statistics():
    x = 3 * normal(2, 3, 3, 4) + 1
    layer, variables = batch_norm(x)
    statistics = variables["batch_stats"]
    assert not np.any(statistics["mean"]), (
        "the first pass, which makes the variables, counts as no batch"
    )
    assert np.all(np.asarray(statistics["var"]) == 1)
    params = {"scale": jnp.arange(1.0, 5), "bias": jnp.arange(4.0)}
    y, new = layer.apply(
        {"params": params, "batch_stats": statistics},
        x,
        train=True,
        mutable=["batch_stats"],
    )
    assert np.allclose(y, normalised(x) * np.arange(1, 5) + np.arange(4), atol=1e-5)
    assert np.allclose(new["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-6)
    assert np.allclose(
        new["batch_stats"]["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-6
    )


def test_batch_norm_evaluates_with_what_it_kept():
    x = normal(2, 3, 3, 4)
    layer, _ = batch_norm(x, affine=False)
    statistics = {"mean": jnp.arange(4.0), "var": jnp.arange(1.0, 5)}
    y = layer.apply({"batch_stats": statistics}, x, train=False)
    assert np.allclose(
        y, (x - np.arange(4)) / np.sqrt(np.arange(1, 5) + 1e-5), atol=1e-6
    )


def test_batch_norm_in_groups_keeps_unbiased_statistics_of_a_group():
    x = normal(4, 3, 3, 2)
    layer, variables = batch_norm(x, Arithmetic(bn_examples=2))
    _, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    groups = x.reshape(2, 2 * 3 * 3, 2)
    assert np.allclose(new["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-6)
    assert np.allclose(
        new["batch_stats"]["var"], 0.9 + 0.1 * groups.var(1, ddof=1).mean(0), rtol=1e-6
    )


def test_batch_norm_over_devices_is_batch_norm_of_the_whole_batch():
    x = normal(4, 3, 3, 2)
    layer, variables = batch_norm(x)
    expected, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    shared = BatchNorm(Arithmetic(bn_axis="device"))
    run = lambda part: shared.apply(
        variables, part, train=True, mutable=["batch_stats"]
    )
    y, shared_new = jax.vmap(run, axis_name="device")(x.reshape(2, 2, 3, 3, 2))
    assert np.allclose(y.reshape(x.shape), expected, atol=1e-6)
    for name in ("mean", "var"):
        for device in range(2):
            assert np.allclose(
                shared_new["batch_stats"][name][device],
                new["batch_stats"][name],
                rtol=1e-5,
                atol=1e-7,
            )


def products(layer, shape, *, gradient: bool, **call) -> list[tuple[str, str]]:
    """(precision, types of the factors and the sums) of each product of floats in a
    layer, or in it and its gradient, as a TPU's compiler is given it; for GPUs see
    tests/core/ops.
    """
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: layer.init(key, x, **call), jax.random.key(0), x
    )
    loss = lambda variables, x: jnp.sum(layer.apply(variables, x, **call) ** 2)
    function = jax.grad(loss, argnums=(0, 1)) if gradient else loss
    with jax.default_matmul_precision("highest"):
        text = (
            jax.jit(function)
            .trace(variables, x)
            .lower(lowering_platforms=("tpu",))
            .as_text()
        )
    lines = [
        line
        for line in text.splitlines()
        if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    described = []
    for line in lines:
        precisions = set(re.findall(r"HIGHEST|DEFAULT", line))
        types = re.findall(r"x([a-z]+\d+)>", line.rpartition(" : ")[2])
        described.append((" ".join(precisions), " ".join(types)))
    return described


FLOAT = ("HIGHEST", "f32 f32 f32")
SHORT = ("HIGHEST", "bf16 bf16 f32")


@pytest.mark.parametrize("scheme", [PAPER, RELEASE], ids=["paper", "release"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_products_of_floats_have_the_precision_that_is_set_those_of_signs_a_single_pass(
    scheme, kernel
):
    layer, shape = binary_conv(kernel, scheme), (1, 8, 8, 16)
    assert products(layer, shape, gradient=False, train=False) == [
        ("DEFAULT", "f32 f32 f32")
    ]
    with_gradient = products(layer, shape, gradient=True, train=False)
    assert sorted(with_gradient) == [("DEFAULT", "f32 f32 f32"), FLOAT, FLOAT]


def test_what_has_a_float_factor_is_no_convolution_of_signs():
    for options in ({"binary_input": False}, {"binary_weights": False}):
        assert (
            products(
                binary_conv(3, **options), (1, 8, 8, 16), gradient=True, train=False
            )
            == [FLOAT] * 3
        )
    classifier = Classifier(num_classes=10, arithmetic=FLOAT32)
    assert products(classifier, (2, 4, 4, 8), gradient=True) == [FLOAT] * 3


def test_bfloat16_goes_into_every_convolution_and_float32_comes_out():
    of_signs = products(
        binary_conv(3, arithmetic=BFLOAT16), (1, 8, 8, 16), gradient=True, train=False
    )
    assert sorted(of_signs) == [("DEFAULT", "bf16 bf16 f32"), SHORT, SHORT]
    float_weights = binary_conv(3, arithmetic=BFLOAT16, binary_weights=False)
    assert (
        products(float_weights, (1, 8, 8, 16), gradient=True, train=False)
        == [SHORT] * 3
    )


@pytest.mark.parametrize("plain", [False, True])
def test_batch_norm_with_an_epsilon_and_a_least_scale(plain):
    bn = BatchNorm(
        Arithmetic(plain=plain), epsilon=0.5, momentum=0.25, least_scale=0.01
    )
    x = normal(3, 2, 2, 2)
    scale = np.asarray([0.002, 2.0], np.float32)
    variables = bn.init(jax.random.key(0), x, train=False)
    statistics = variables["batch_stats"]

    def output(scale):
        params = {**variables["params"], "scale": scale}
        return bn.apply(
            {"params": params, "batch_stats": statistics},
            x,
            train=True,
            mutable=["batch_stats"],
        )

    (y, after), vjp = jax.vjp(output, scale)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    normalised = (x - mean) / np.sqrt(var + 0.5)
    assert relative_error(y, normalised * np.asarray([0.01, 2.0])) < 1e-5
    assert relative_error(after["batch_stats"]["mean"], 0.75 * mean) < 1e-5
    # As if the least scale were the parameter.
    gradient = normal(*y.shape, seed=1)
    (to_scale,) = vjp((gradient, jax.tree.map(jnp.zeros_like, after)))
    assert relative_error(to_scale, (gradient * normalised).sum((0, 1, 2))) < 1e-5


def test_what_layers_hand_on_is_rounded_and_nothing_else():
    """Parameters, statistics and gradients stay float32; of what is handed on, bfloat16
    keeps eight bits.
    """
    x = normal(2, 6, 6, 4).astype(jnp.bfloat16)
    short = Arithmetic(activations=jnp.bfloat16)
    params = {
        "bn": {"scale": normal(4, seed=1), "bias": normal(4, seed=2)},
        "conv": {"latent": PAPER.latents.project(normal(3, 3, 4, 5, seed=3))},
    }

    def loss(params, arithmetic):
        layer = binary_conv(3, features=5, arithmetic=arithmetic)
        variables = {"params": params, **running(4)}
        y, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.square(y.astype(jnp.float32))), (y, new)

    results = [
        jax.value_and_grad(loss, has_aux=True)(params, arithmetic)
        for arithmetic in (FLOAT32, short)
    ]
    ((_, (long_y, long_new)), long_gradients), ((_, (y, new)), gradients) = results

    assert y.dtype == jnp.bfloat16
    assert long_y.dtype == jnp.float32
    for leaf in jax.tree.leaves((new, gradients)):
        assert leaf.dtype == jnp.float32
    # The statistics are of the same rounded input.
    for ours, theirs in zip(
        jax.tree.leaves(new), jax.tree.leaves(long_new), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert relative_error(y.astype(jnp.float32), long_y) < 2 * 2**-8
    ours, theirs = gradients["conv"]["latent"], long_gradients["conv"]["latent"]
    assert relative_error(ours, theirs) < 0.03


@pytest.mark.parametrize("scheme", [PAPER, RELEASE], ids=["paper", "release"])
def test_layers_that_share_a_state_compute_what_they_compute_alone(scheme):
    x = normal(3, 6, 6, 4)
    layers = [
        binary_conv(kernel, scheme, features=4, name=f"k{kernel}") for kernel in (1, 3)
    ]
    params = [
        {
            "bn": {"scale": normal(4, seed=seed), "bias": normal(4, seed=seed + 1)},
            "conv": {"latent": normal(kernel, kernel, 4, 4, seed=seed + 2)},
        }
        for seed, kernel in ((1, 1), (4, 3))
    ]

    def outputs(x, params, shared: bool):
        if shared:
            x = share(x, scheme=scheme, arithmetic=FLOAT32, train=True)
            assert isinstance(x, Shared)
        results = [
            layer.apply(
                {"params": p, **running(4)}, x, train=True, mutable=["batch_stats"]
            )
            for layer, p in zip(layers, params, strict=True)
        ]
        weights = normal(3, 6, 6, 4, seed=9)
        return sum(jnp.sum(y * weights) for y, _ in results), [
            new for _, new in results
        ]

    alone, together = (
        jax.value_and_grad(outputs, argnums=(0, 1), has_aux=True)(x, params, shared)
        for shared in (False, True)
    )

    for ours, theirs in zip(
        jax.tree.leaves(together), jax.tree.leaves(alone), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_nothing_is_shared_where_nothing_is_in_common():
    """In evaluation each layer has statistics of its own; a float layer begins with a
    ReLU.
    """
    x = normal(2, 4, 4, 3)

    assert share(x, scheme=PAPER, arithmetic=FLOAT32, train=False) is x
    relu_first = Float(order="relu_first")
    assert share(x, scheme=relu_first, arithmetic=FLOAT32, train=True) is x
    assert share(x, scheme=PAPER, arithmetic=Arithmetic(plain=True), train=True) is x


@pytest.mark.parametrize(
    "other",
    [BatchNorm(FLOAT32, epsilon=0.1), BatchNorm(Arithmetic(bn_examples=1))],
    ids=["epsilon", "groups"],
)
def test_a_batch_norm_of_another_kind_does_not_take_what_is_shared(other):
    x = normal(2, 4, 4, 3)
    shared = share(x, scheme=PAPER, arithmetic=FLOAT32, train=True)
    variables = other.init(jax.random.key(0), x, train=True)

    given, alone = (
        other.apply(variables, state, train=True, mutable=["batch_stats"])[0]
        for state in (shared, x)
    )

    np.testing.assert_array_equal(given, alone)
    usual = BatchNorm(FLOAT32).apply(variables, x, train=True, mutable=["batch_stats"])[
        0
    ]
    assert relative_error(usual, alone) > 1e-3


def test_batch_norm_and_pooling_hand_on_what_is_rounded():
    x = normal(2, 4, 4, 3)
    short = Arithmetic(activations=jnp.bfloat16)
    layers = [
        BatchNorm(short),
        Pooling(function=avg_pool, stride=1, arithmetic=short, batch_norm=False),
    ]

    for layer in layers:
        y, _ = layer.init_with_output(jax.random.key(0), x, train=True)
        assert y.dtype == jnp.bfloat16
