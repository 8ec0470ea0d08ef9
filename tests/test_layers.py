"""The layer types of Table 3 and what they are made of: against the released code's numbers, and against plain formulas."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core import binarize, layers
from bnas_jax.core.convolution import binary_conv, conv
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import LAYER_TYPES, LEARNABLE, ZEROISE
from bnas_jax.core.layers import (
    BN_EPSILON,
    LAYERS,
    BatchNorm,
    BinaryConv,
    Conv,
    Layer,
    avg_pool,
    layer_type,
    max_pool,
    normalize,
)
from bnas_jax.core.rules import PAPER, RELEASE, Rules

EXACT_RELU = dataclasses.replace(RELEASE, relu=False)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiling takes longer than running here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def hwio(array):
    return jnp.asarray(array.transpose(2, 3, 1, 0))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope="module")
def layer_arrays(reference):
    return dict(np.load(reference / "layer_types.npz"))


@pytest.fixture(params=[f"s{stride}.h{size}" for stride in (1, 2) for size in (7, 8)])
def geometry(request):
    return request.param


def numbers(arrays, type_name, geometry):
    """The reference's numbers of one layer, in our layout."""
    prefix = f"{type_name}.{geometry}."
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return {name: nhwc(a) if name in ("x", "y_train", "grad_x", "grad_y") else a for name, a in found.items()}


def layer_of(type_name, geometry, ref, rules):
    """The layer as a function of (parameters, x), and its parameters from the reference."""
    layer = Layer(type_name, 6, int(geometry[1]), rules)
    params, statistics = {}, {}
    if type_name in LEARNABLE:
        bn = {"scale": jnp.asarray(ref["param.bn.weight"]), "bias": jnp.asarray(ref["param.bn.bias"])}
        params = {"op": {"bn": bn, "conv": {"latent": binarize.project(hwio(ref["param.op.0.weight"]))}}}
        statistics = {"op": {"bn": {"mean": jnp.zeros(6), "var": jnp.ones(6)}}}

    def run(params, x):
        return layer.apply({"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"])[0]

    return run, params


@pytest.mark.parametrize("type_name", LAYER_TYPES)
def test_layers_give_what_the_released_code_gives(layer_arrays, type_name, geometry):
    ref = numbers(layer_arrays, type_name, geometry)
    run, params = layer_of(type_name, geometry, ref, RELEASE)
    y = run(params, ref["x"])
    assert y.shape == ref["y_train"].shape
    assert np.abs(y - ref["y_train"]).max() < 1e-5


@pytest.mark.parametrize("type_name", [name for name in LAYER_TYPES if name not in LEARNABLE])
def test_gradients_of_pools_and_zeroise(layer_arrays, type_name, geometry):
    ref = numbers(layer_arrays, type_name, geometry)
    run, params = layer_of(type_name, geometry, ref, RELEASE)
    _, vjp = jax.vjp(lambda x: run(params, x), ref["x"])
    assert np.abs(vjp(ref["grad_y"])[0] - ref["grad_x"]).max() < 1e-6


@pytest.mark.parametrize("type_name", LEARNABLE)
def test_gradients_of_convolutions(layer_arrays, type_name, geometry):
    """Where a sum of +-beta is 0, the reference gets about 1e-8 or 0, as its rounding falls, and in the first case its ReLU
    lets the gradient pass; ours are sums of integers and exactly 0. So ReLU's mask is taken from the reference's outputs and
    all that lies before ReLU is compared: it agrees to rounding.
    """
    ref = numbers(layer_arrays, type_name, geometry)
    run, params = layer_of(type_name, geometry, ref, EXACT_RELU)
    _, vjp = jax.vjp(run, params, ref["x"])
    gradients, to_x = vjp(ref["grad_y"] * (ref["y_train"] > 0))
    latent = gradients["op"]["conv"]["latent"] * binarize.gradient_factor(params["op"]["conv"]["latent"].shape)
    assert relative_error(to_x, ref["grad_x"]) < 3e-6
    assert relative_error(gradients["op"]["bn"]["scale"], ref["grad.bn.weight"]) < 3e-6
    assert relative_error(gradients["op"]["bn"]["bias"], ref["grad.bn.bias"]) < 3e-6
    assert relative_error(latent, hwio(ref["grad.op.0.weight"])) < 3e-6


def test_relu_passes_gradients_where_its_output_is_positive(layer_arrays):
    ref = numbers(layer_arrays, "bin_conv_3x3", "s1.h8")
    with_relu, params = layer_of("bin_conv_3x3", "s1.h8", ref, RELEASE)
    without, _ = layer_of("bin_conv_3x3", "s1.h8", ref, EXACT_RELU)
    y, vjp = jax.vjp(with_relu, params, ref["x"])
    sums, vjp_without = jax.vjp(without, params, ref["x"])
    assert np.array_equal(y, np.maximum(sums, 0))
    assert np.mean(sums == 0) > 0.05, "zeros are exact, and many"
    for ours, masked in zip(*map(jax.tree.leaves, (vjp(ref["grad_y"]), vjp_without(ref["grad_y"] * (sums > 0)))), strict=True):
        assert np.array_equal(ours, masked)


def test_the_layers_are_table_3():
    assert set(LAYERS) == set(LAYER_TYPES)
    geometry = {name: (layer_type(name).kernel, layer_type(name).dilation) for name in LEARNABLE}
    assert geometry == {
        "bin_conv_3x3": (3, 1), "bin_conv_5x5": (5, 1), "bin_dil_conv_3x3": (3, 2), "bin_dil_conv_5x5": (5, 2),
    }  # fmt: skip


def test_a_type_without_a_layer_is_refused():
    with pytest.raises(UserError, match=r"layer type .sep_conv_3x3. has no layer in this version; use .*conv_3x3") as caught:
        layer_type("sep_conv_3x3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("stride", "size"), [(1, 7), (2, 7), (2, 8)])
def test_zeroise_gives_zeros_of_the_right_shape_and_no_gradient(stride, size):
    x = normal(2, size, size, 3)
    zeroise = lambda x: Layer(ZEROISE, 3, stride, PAPER).apply({}, x, train=True)
    assert zeroise(x).shape == max_pool(x, stride).shape
    assert not np.any(zeroise(x))
    assert not np.any(jax.grad(lambda x: jnp.sum(zeroise(x)))(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 8), (2, 1)])
def test_max_pooling_and_its_gradient_are_those_of_the_window_function(stride, size):
    x = jnp.asarray(normal(2, *size, 3))
    plain = lambda x: nn.max_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)))
    (ours, pull), (theirs, plain_pull) = jax.vjp(lambda x: max_pool(x, stride), x), jax.vjp(plain, x)
    assert np.array_equal(ours, theirs)
    gradient = jnp.asarray(normal(*ours.shape, seed=1))
    assert np.allclose(pull(gradient)[0], plain_pull(gradient)[0], atol=1e-6)


def test_of_equal_values_the_first_takes_the_gradient_of_max_pooling():
    gradient = jax.grad(lambda x: max_pool(x, 1).sum())(jnp.ones((1, 3, 3, 1)))[0, :, :, 0]
    assert np.array_equal(gradient, [[4, 2, 0], [2, 1, 0], [0, 0, 0]])
    assert np.isnan(max_pool(jnp.array([[[[1.0], [jnp.nan]]]]), 1)).all(), "a NaN is not hidden"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_of_normalisation_is_that_of_its_steps(dtype):
    with jax.enable_x64(dtype is np.float64):
        x, gradient = (jnp.asarray(normal(4, 3, 3, 2, seed=seed), dtype) for seed in (0, 1))

        def steps(x):
            centred = x - x.mean((0, 1, 2))
            return centred / jnp.sqrt((centred**2).mean((0, 1, 2)) + BN_EPSILON)

        (ours, pull), (theirs, plain_pull) = jax.vjp(lambda x: normalize(x)[0], x), jax.vjp(steps, x)
        tolerance = 1e-5 if dtype is np.float32 else 1e-13
        assert np.allclose(ours, theirs, atol=tolerance)
        assert np.allclose(pull(gradient)[0], plain_pull(gradient)[0], atol=tolerance)


@pytest.mark.parametrize(("kernel", "padding", "dilation"), [(5, 4, 2), (3, 2, 2), (2, 0, 2), (1, 0, 1), (3, 1, 1), (2, 0, 1)])
@pytest.mark.parametrize("size", [7, 8])
def test_every_way_to_compute_a_strided_convolution_gives_its_sums(kernel, padding, dilation, size):
    x, w = normal(2, size, size, 3), normal(kernel, kernel, 3, 4, seed=1)
    ours = conv(jnp.asarray(x), jnp.asarray(w), stride=2, padding=padding, dilation=dilation)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for row in range(ours.shape[1]):
        taps = padded[:, 2 * row : 2 * row + dilation * kernel : dilation, : dilation * kernel : dilation]
        assert np.allclose(ours[:, row, 0], np.einsum("nhwi,hwio->no", taps, w), atol=1e-4)
    assert ours.shape[1] == (size + 2 * padding - dilation * (kernel - 1) - 1) // 2 + 1


def test_pools_know_where_the_image_ends():
    assert np.allclose(avg_pool(jnp.ones((1, 5, 5, 2)), 1), 1), "padding is not averaged in"
    x = normal(1, 4, 4, 1)
    assert np.allclose(avg_pool(x, 2)[0, 0, 0], x[0, :2, :2].mean())
    assert np.array_equal(max_pool(-jnp.ones((1, 5, 5, 2)), 1), -np.ones((1, 5, 5, 2))), "padding is no 0"


def projected_latent(size=3, inputs=4, outputs=6):
    return binarize.project(normal(size, size, inputs, outputs, seed=1))


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({"padding": 1}, PAPER),
        ({"padding": 1}, RELEASE),
        ({"padding": 1}, Rules(weight_gradient="paper")),
        ({"stride": 2, "padding": 2, "dilation": 2}, PAPER),
        ({"stride": 2, "padding": 0}, PAPER),
        ({"padding": 1, "groups": 2}, PAPER),
    ],
)
def test_binary_conv_is_the_convolution_with_binary_weights(options, rules):
    x, latent = np.sign(normal(2, 8, 8, 4)), np.array(projected_latent(inputs=4 // options.get("groups", 1)))
    latent[0, 1, 0] = 0

    def composed(x, latent):
        return conv(x, binarize.binarize_weights(latent, rules.weight_gradient, rules.sign_of_zero), **options)

    y, vjp = jax.vjp(lambda x, latent: binary_conv(x, latent, rules, **options), x, latent)
    expected, vjp_composed = jax.vjp(composed, x, latent)
    assert relative_error(y, expected) < 1e-6
    gradient = normal(*y.shape, seed=2)
    for ours, theirs in zip(vjp(gradient), vjp_composed(gradient), strict=True):
        assert relative_error(ours, theirs) < 1e-6


BFLOAT16 = Rules(conv_dtype=jnp.bfloat16)


@pytest.mark.parametrize("rules", [PAPER, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_binary_conv_sums_integers(size, rules):
    """A sum of signs that is 0 is exactly 0, whatever the order of summation."""
    x, latent = np.sign(normal(2, 8, 8, 16)), projected_latent(size, 16)
    signs = np.where(latent >= 0, 1, -1).astype(np.int32)
    sums = np.asarray(conv(x.astype(np.int32), signs, padding=size // 2))
    y = binary_conv(x, latent, rules, padding=size // 2)
    assert np.array_equal(y, sums.astype(np.float32) * binarize.weight_scale(latent))
    assert np.mean(sums == 0) > 0.02


@pytest.mark.parametrize("size", [1, 3, 5])
def test_bfloat16_loses_nothing_on_signs(size):
    # Sums over 5x5x64 inputs reach 1,600, and bfloat16 counts one by one up to 256 only: the sums must be float32.
    x, latent = np.sign(normal(1, 8, 8, 64) + 1.5), normal(size, size, 64, 6)
    latent[..., 0] = np.abs(latent[..., 0])
    full, half = (binary_conv(x, latent, rules, padding=size // 2) for rules in (PAPER, BFLOAT16))
    assert half.dtype == jnp.float32
    assert np.array_equal(full, half)
    assert half[..., 0].max() > 0.75 * 64 * size**2 * binarize.weight_scale(latent)[0]


def test_bfloat16_gradients_and_float_convolutions_are_close():
    x, latent = np.sign(normal(2, 8, 8, 8)), projected_latent(inputs=8)
    gradient = normal(2, 8, 8, 6, seed=3)

    def gradients(rules):
        return jax.vjp(lambda x, latent: binary_conv(x, latent, rules, padding=1), x, latent)[1](gradient)

    for full, half in zip(gradients(PAPER), gradients(BFLOAT16), strict=True):
        assert half.dtype == jnp.float32
        assert relative_error(half, full) < 2e-2
    for options in ({"padding": 1}, {"stride": 2, "padding": 2, "dilation": 2}):
        half = conv(x, latent, **options, dtype=jnp.bfloat16)
        assert half.dtype == jnp.float32
        assert relative_error(half, conv(x, latent, **options)) < 1e-2


def test_a_kernel_of_zeros_gives_zeros():
    """A latent kernel of one input channel is projected to 0 (methods A2)."""
    y, vjp = jax.vjp(lambda x, w: binary_conv(x, w, PAPER, padding=1), normal(1, 4, 4, 2), jnp.zeros((3, 3, 2, 5)))
    assert y.shape == (1, 4, 4, 5)
    assert not np.any(y)
    assert not any(np.any(g) for g in vjp(jnp.ones_like(y)))


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_a_1x1_convolution_is_a_matrix_product(dtype):
    x, kernel = np.sign(normal(2, 5, 5, 8)), np.sign(normal(1, 1, 8, 3, seed=1))

    def general(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    y, vjp = jax.vjp(lambda x, k: conv(x, k, dtype=dtype), x, kernel)
    expected, vjp_general = jax.vjp(general, x, kernel)
    assert np.array_equal(y, expected)
    integers = np.round(normal(*y.shape, seed=2))
    for ours, theirs in zip(vjp(integers), vjp_general(integers), strict=True):
        assert np.array_equal(ours, theirs)


def running(channels):
    """Running statistics of a layer that has seen nothing."""
    return {"batch_stats": {"bn": {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}}}


def test_the_activation_scale_multiplies_the_convolution():
    x = normal(2, 6, 6, 4)
    layer = BinaryConv(5, 3, PAPER, stride=2)
    latent = projected_latent(3, 4, 5)
    params = {"bn": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}, "conv": {"latent": latent}}
    y, _ = layer.apply({"params": params, **running(4)}, x, train=True, mutable=["batch_stats"])
    normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    kernel = binarize.binarize_weights(latent)
    signs = np.where(normalised >= 0, 1, -1).astype(np.float32)
    expected = conv(signs, kernel, stride=2, padding=1) * binarize.activation_scale(normalised, 3, 2, 1, 1)
    assert relative_error(y, np.maximum(expected, 0)) < 1e-5


def test_without_relu_and_sign_a_layer_is_float():
    x = normal(2, 6, 6, 4)
    layer = BinaryConv(5, 1, PAPER, binary=False, sign=False, affine=False, relu=False)
    params = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=True), x)["params"]
    assert list(params) == ["conv"], "a BN that is not affine has no parameters"
    assert list(params["conv"]) == ["kernel"]
    kernel = normal(1, 1, 4, 5, seed=1)
    y, _ = layer.apply({"params": {"conv": {"kernel": kernel}}, **running(4)}, x, train=True, mutable=["batch_stats"])
    normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    assert relative_error(y, normalised @ kernel[0, 0]) < 1e-5


@pytest.mark.parametrize("binary", [True, False])
def test_weights_begin_uniform_over_the_fan_in(binary):
    params = Conv(64, 3, PAPER, binary=binary, bias=True).init(jax.random.key(0), jnp.zeros((1, 8, 8, 16)))["params"]
    assert set(params) == {"latent" if binary else "kernel", "bias"}, "the name tells latent weights from float ones"
    for values in params.values():
        assert np.abs(values).max() == pytest.approx(1 / 12, rel=0.1)
        assert np.abs(values).max() <= 1 / 12
        assert np.mean(np.abs(values)) == pytest.approx(1 / 24, rel=0.3)


def test_bias_is_added_after_the_convolution():
    params = {"kernel": jnp.ones((1, 1, 4, 3)), "bias": jnp.arange(3.0)}
    y = Conv(3, 1, PAPER, binary=False, bias=True).apply({"params": params}, jnp.ones((1, 2, 2, 4)))
    assert y[0, 1, 1].tolist() == [4, 5, 6]


def batch_norm(x, rules=PAPER, **options):
    layer = BatchNorm(rules, **options)
    variables = layer.init(jax.random.key(0), x, train=True)
    return layer, variables


def test_batch_norm_normalises_with_the_batch_and_keeps_unbiased_statistics():
    x = 3 * normal(2, 3, 3, 4) + 1
    layer, variables = batch_norm(x)
    statistics = variables["batch_stats"]
    assert not np.any(statistics["mean"]), "the first pass, which makes the variables, counts as no batch"
    assert np.all(np.asarray(statistics["var"]) == 1)
    params = {"scale": jnp.arange(1.0, 5), "bias": jnp.arange(4.0)}
    y, new = layer.apply({"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"])
    normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    assert np.allclose(y, normalised * np.arange(1, 5) + np.arange(4), atol=1e-5)
    assert np.allclose(new["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-6)
    assert np.allclose(new["batch_stats"]["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-6)


def test_batch_norm_evaluates_with_what_it_kept():
    x = normal(2, 3, 3, 4)
    layer, _ = batch_norm(x, affine=False)
    statistics = {"mean": jnp.arange(4.0), "var": jnp.arange(1.0, 5)}
    y = layer.apply({"batch_stats": statistics}, x, train=False)
    assert np.allclose(y, (x - np.arange(4)) / np.sqrt(np.arange(1, 5) + 1e-5), atol=1e-6)


def test_batch_norm_keeps_several_statistics_of_one_input():
    x = normal(2, 3, 3, 4)
    y, new = layers.batch_norm(x, layers.initial_statistics((2, 3, 4), np.float32), PAPER, train=True)
    expected, single = layers.batch_norm(x, layers.initial_statistics((4,), np.float32), PAPER, train=True)
    assert np.array_equal(y, expected), "in training all share those of the batch"
    for name in ("mean", "var"):
        assert new[name].shape == (2, 3, 4)
        assert np.all(new[name] == single[name])

    running = {"mean": normal(2, 3, 4, seed=1), "var": np.exp(normal(2, 3, 4, seed=2))}
    y, kept = layers.batch_norm(x, running, PAPER, train=False)
    assert kept is running
    assert y.shape == (2, 3, 3, 2, 3, 4)
    for copy in np.ndindex(2, 3):
        own = {name: values[copy] for name, values in running.items()}
        assert np.allclose(y[:, :, :, *copy], layers.batch_norm(x, own, PAPER, train=False)[0], atol=1e-6)


@functools.partial(jax.jit, static_argnums=1)
def plain_groups(x, examples):
    """(y, means of the groups' means and variances) of x (N, H, W, C), as one writes it first."""
    groups = x.reshape(-1, examples, *x.shape[1:])
    mean = groups.mean((1, 2, 3), keepdims=True)
    var = ((groups - mean) ** 2).mean((1, 2, 3), keepdims=True)
    y = (groups - mean) / jnp.sqrt(var + BN_EPSILON)
    return y.reshape(x.shape), mean.mean((0, 1, 2, 3)), var.mean((0, 1, 2, 3))


@functools.partial(jax.jit, static_argnums=(1, 2))
def on_devices(x, devices, examples, gradient):
    """(y, mean, var, the gradient of x) where each of several devices has its part of x."""

    def one(x, gradient):
        results, pull = jax.vjp(lambda x: normalize(x, "device", examples), x)
        statistics = [jax.lax.pmean(result, "device") for result in results[1:]]
        return results[0], *statistics, *pull((gradient, *jax.tree.map(jnp.zeros_like, results[1:])))

    shards = [v.reshape(devices, -1, *v.shape[1:]) for v in (x, gradient)]
    y, mean, var, pulled = jax.vmap(one, axis_name="device")(*shards)
    return y.reshape(x.shape), mean[-1], var[-1], pulled.reshape(x.shape)


@pytest.mark.parametrize("examples", [None, 3, 8, 12])
def test_groups_hold_the_same_examples_on_any_number_of_devices(examples):
    """Of 24 examples each device has 24, 12 or 6: groups of 8 lie across devices, within one alone, or both."""
    with jax.enable_x64(True):
        x, gradient = (jnp.asarray(normal(24, 2, 3, 4, seed=seed), jnp.float64) for seed in (0, 1))
        scale = 1 + jnp.arange(24.0)[:, None, None, None]
        (y, *statistics), pull = jax.vjp(lambda x: plain_groups(x, examples or 24), scale * x)
        expected = (y, *statistics, *pull((gradient, *jax.tree.map(jnp.zeros_like, statistics))))
        for devices in (1, 2, 4):
            for one, other in zip(on_devices(scale * x, devices, examples, gradient), expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-12)
        (alone, *_), _ = jax.vjp(lambda x: normalize(x, None, examples), scale * x)
        np.testing.assert_allclose(alone, y, atol=1e-12)


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(UserError, match="batch norm over 5 examples: a batch of 12 cannot be divided"):
        normalize(jnp.ones((12, 2, 2, 1)), None, 5)


@pytest.mark.parametrize("examples", [None, 16])
def test_a_mean_a_thousand_times_the_deviation_loses_no_digits_over_devices(examples):
    x, gradient = 1000 + normal(32, 4, 4, 3), normal(32, 4, 4, 3, seed=1)
    with jax.enable_x64(True):
        whole = np.asarray(plain_groups(jnp.asarray(x, jnp.float64), examples or 32)[0])
    one, several = (on_devices(jnp.asarray(x), devices, examples, gradient) for devices in (1, 8))
    for apart in (several[0] - one[0], one[0] - whole, several[3] - one[3]):
        assert np.abs(apart).max() < 1e-5
    for name in (1, 2):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-5)


def collectives(function, *inputs) -> int:
    """How many a function of a device contains."""
    jaxpr = jax.make_jaxpr(function, axis_env=[("device", 4)])(*inputs)
    return len(re.findall(r" (all_gather|psum\w*|pmax|all_to_all|ppermute)\[", str(jaxpr)))


@pytest.mark.parametrize(("examples", "messages"), [(None, 1), (8, 1), (4, 0), (2, 0)])
def test_batch_norm_over_devices_sends_one_message_each_way_or_none(examples, messages):
    x = jnp.ones((4, 2, 2, 3))
    forward = lambda x: normalize(x, "device", examples)[0]
    assert collectives(forward, x) == messages
    assert collectives(jax.grad(lambda x: forward(x).sum()), x) == 2 * messages


def test_batch_norm_in_groups_keeps_unbiased_statistics_of_a_group():
    x = normal(4, 3, 3, 2)
    layer, variables = batch_norm(x, Rules(bn_examples=2))
    _, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    groups = x.reshape(2, 2 * 3 * 3, 2)
    assert np.allclose(new["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-6)
    assert np.allclose(new["batch_stats"]["var"], 0.9 + 0.1 * groups.var(1, ddof=1).mean(0), rtol=1e-6)


def test_batch_norm_over_devices_is_batch_norm_of_the_whole_batch():
    x = normal(4, 3, 3, 2)
    layer, variables = batch_norm(x)
    expected, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    shared = BatchNorm(Rules(bn_axis="device"))
    run = lambda part: shared.apply(variables, part, train=True, mutable=["batch_stats"])
    y, shared_new = jax.vmap(run, axis_name="device")(x.reshape(2, 2, 3, 3, 2))
    assert np.allclose(y.reshape(x.shape), expected, atol=1e-6)
    for name in ("mean", "var"):
        for device in range(2):
            assert np.allclose(shared_new["batch_stats"][name][device], new["batch_stats"][name], rtol=1e-5, atol=1e-7)
