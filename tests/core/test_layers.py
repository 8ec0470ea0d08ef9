"""The layer types of Table 3 against the released code's numbers, and the table that
holds them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import hwio, nhwc, normal, relative_error

from bnas_jax.core import genotypes
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3, ZEROISE
from bnas_jax.core.layers import (
    LAYERS,
    BinaryConvType,
    is_latent,
    layer_type,
    learnable_share,
)
from bnas_jax.core.ops.pool import avg_pool, max_pool, plain_max_pool
from bnas_jax.core.schemes import Xnor

pytestmark = pytest.mark.usefixtures("quick_compilation")

RELEASE = Xnor(activation_scale=False, sign_of_zero=0)
LEARNABLE = tuple(name for name in TABLE_3 if layer_type(name).learnable)


def module_of(
    name, *, stride, scheme=RELEASE, search=False, features=6, arithmetic=Arithmetic()
):
    return layer_type(name).module(
        features=features,
        stride=stride,
        scheme=scheme,
        arithmetic=arithmetic,
        search=search,
        binary_weights=True,
        name=None,
    )


@pytest.fixture(scope="module")
def layer_arrays(reference):
    return dict(np.load(reference / "layer_types.npz"))


@pytest.fixture(params=[f"s{stride}.h{size}" for stride in (1, 2) for size in (7, 8)])
def geometry(request):
    return request.param


def numbers(arrays, type_name, geometry):
    """The reference's numbers of one layer, in our layout."""
    prefix = f"{type_name}.{geometry}."
    found = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    return {
        name: nhwc(a) if name in ("x", "y_train", "grad_x", "grad_y") else a
        for name, a in found.items()
    }


def layer_of(type_name, geometry, ref, scheme):
    """The layer as a function of (parameters, x), and its parameters from the
    reference.
    """
    layer = module_of(type_name, stride=int(geometry[1]), scheme=scheme)
    params, statistics = {}, {}
    if type_name in LEARNABLE:
        bn = {
            "scale": jnp.asarray(ref["param.bn.weight"]),
            "bias": jnp.asarray(ref["param.bn.bias"]),
        }
        params = {
            "bn": bn,
            "conv": {"latent": scheme.latents.project(hwio(ref["param.op.0.weight"]))},
        }
        statistics = {"bn": {"mean": jnp.zeros(6), "var": jnp.ones(6)}}

    def run(params, x):
        return layer.apply(
            {"params": params, "batch_stats": statistics},
            x,
            train=True,
            mutable=["batch_stats"],
        )[0]

    return run, params


@pytest.mark.parametrize("type_name", TABLE_3)
def test_layers_give_what_the_released_code_gives(layer_arrays, type_name, geometry):
    ref = numbers(layer_arrays, type_name, geometry)
    run, params = layer_of(type_name, geometry, ref, RELEASE)
    y = run(params, ref["x"])
    assert y.shape == ref["y_train"].shape
    assert np.abs(y - ref["y_train"]).max() < 1e-5


@pytest.mark.parametrize(
    "type_name", [name for name in TABLE_3 if name not in LEARNABLE]
)
def test_gradients_of_pools_and_zeroise(layer_arrays, type_name, geometry):
    ref = numbers(layer_arrays, type_name, geometry)
    run, params = layer_of(type_name, geometry, ref, RELEASE)
    _, vjp = jax.vjp(lambda x: run(params, x), ref["x"])
    assert np.abs(vjp(ref["grad_y"])[0] - ref["grad_x"]).max() < 1e-6


WITHOUT_RELU = dataclasses.replace(RELEASE, activation="none")


@pytest.mark.parametrize("type_name", LEARNABLE)
def test_gradients_of_convolutions(layer_arrays, type_name, geometry):
    """Where a sum of +-beta is 0, the reference gets about 1e-8 or 0, as its rounding
    falls, and in the first case its ReLU lets the gradient pass; ours are sums of
    integers and exactly 0.

    So ReLU's mask is taken from the reference's outputs and all that lies before ReLU
    is compared: it agrees to rounding.
    """
    ref = numbers(layer_arrays, type_name, geometry)
    run, params = layer_of(type_name, geometry, ref, WITHOUT_RELU)
    _, vjp = jax.vjp(run, params, ref["x"])
    gradients, to_x = vjp(ref["grad_y"] * (ref["y_train"] > 0))
    latent = gradients["conv"]["latent"] * RELEASE.latents.factor(
        params["conv"]["latent"].shape
    )
    assert relative_error(to_x, ref["grad_x"]) < 3e-6
    assert relative_error(gradients["bn"]["scale"], ref["grad.bn.weight"]) < 3e-6
    assert relative_error(gradients["bn"]["bias"], ref["grad.bn.bias"]) < 3e-6
    assert relative_error(latent, hwio(ref["grad.op.0.weight"])) < 3e-6


def test_relu_stops_the_gradient_where_a_sum_is_zero(layer_arrays):
    ref = numbers(layer_arrays, "bin_conv_3x3", "s1.h8")
    with_relu, params = layer_of("bin_conv_3x3", "s1.h8", ref, RELEASE)
    without, _ = layer_of("bin_conv_3x3", "s1.h8", ref, WITHOUT_RELU)
    y, vjp = jax.vjp(with_relu, params, ref["x"])
    sums, vjp_without = jax.vjp(without, params, ref["x"])
    assert np.array_equal(y, np.maximum(sums, 0))
    assert np.mean(sums == 0) > 0.05, "zeros are exact, and many"
    ours, masked = vjp(ref["grad_y"]), vjp_without(ref["grad_y"] * (sums > 0))
    for one, other in zip(*map(jax.tree.leaves, (ours, masked)), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "forms"),
    [("max", (max_pool, plain_max_pool)), ("avg", (avg_pool, avg_pool))],
)
def test_a_pooling_has_its_plain_form_in_plain_arithmetic(name, forms):
    """Held equal, with its gradient, in ops/test_pool.py."""
    arithmetic = [Arithmetic(plain=plain) for plain in (False, True)]
    layer = functools.partial(module_of, f"{name}_pool_3x3", stride=2)
    assert tuple(layer(arithmetic=of_form).function for of_form in arithmetic) == forms
    x = normal(2, 8, 8, 6)
    ours, theirs = (
        layer(arithmetic=of_form).apply({}, x, train=True) for of_form in arithmetic
    )
    assert np.array_equal(ours, theirs)


def test_the_layers_of_table_3():
    assert set(LAYERS) > set(TABLE_3)
    convs = {name: LAYERS[name] for name in LEARNABLE}
    assert convs == {
        "bin_conv_3x3": BinaryConvType(3, 1),
        "bin_conv_5x5": BinaryConvType(5, 1),
        "bin_dil_conv_3x3": BinaryConvType(3, 2),
        "bin_dil_conv_5x5": BinaryConvType(5, 2),
    }
    counts = {
        name: [layer_type(name).num_convs(stride) for stride in (1, 2)]
        for name in TABLE_3
    }
    assert counts == {name: [1, 1] if name in LEARNABLE else [0, 0] for name in TABLE_3}


def test_a_type_without_a_layer_is_refused():
    with pytest.raises(
        UserError,
        match=r"layer type .conv_9x9. has no layer in this version; use .*conv_3x3",
    ) as caught:
        layer_type("conv_9x9")
    assert "\n" not in str(caught.value)


def test_a_class_in_the_table_is_refused(monkeypatch):
    monkeypatch.setitem(LAYERS, "mine", type(LAYERS["none"]))
    with pytest.raises(UserError, match=r"LAYERS\['mine'\] must be an object such as"):
        layer_type("mine")


@pytest.mark.parametrize(("stride", "size"), [(1, 7), (2, 7), (2, 8)])
def test_zeroise_gives_zeros_of_the_right_shape_and_no_gradient(stride, size):
    x = normal(2, size, size, 3)
    zeroise = lambda x: module_of(ZEROISE, stride=stride).apply({}, x, train=True)
    assert zeroise(x).shape == max_pool(x, stride).shape
    assert not np.any(zeroise(x))
    assert not np.any(jax.grad(lambda x: jnp.sum(zeroise(x)))(x))


def shapes_of(module, x):
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)


def test_in_the_search_no_layer_has_scale_and_shift_and_poolings_have_a_batch_norm():
    x = normal(1, 8, 8, 6)
    assert set(
        shapes_of(module_of("bin_conv_3x3", stride=1, search=True), x)["params"]
    ) == {"conv"}
    pooling = module_of("avg_pool_3x3", stride=1, search=True)
    variables = shapes_of(pooling, x)
    assert set(variables) == {"batch_stats"}
    y = pooling.apply(
        pooling.init(jax.random.key(0), x, train=True),
        x,
        train=True,
        mutable=["batch_stats"],
    )[0]
    assert np.allclose(np.mean(y, axis=(0, 1, 2)), 0, atol=1e-5) and np.allclose(
        np.var(y, axis=(0, 1, 2)), 1, atol=1e-3
    )
    assert not shapes_of(module_of("avg_pool_3x3", stride=1), x), (
        "none in the final network"
    )


def test_the_learnable_share_is_that_of_the_picked_layers():
    assert learnable_share(genotypes.load("latest_cell")) == 11 / 16
    assert learnable_share(genotypes.load("latest_cell_zeroise")) == 2 / 16
    assert learnable_share(genotypes.load("darts_v2")) == 6 / 16


def test_latent_weights_are_known_by_their_names_alone():
    assert is_latent("latent") and is_latent("latent_bin_conv_3x3")
    # A layer type by itself is a module's name.
    for name in (
        "kernel",
        "kernel_bin_conv_3x3",
        "bin_conv_3x3",
        "skip_connect",
        "latent_",
        "latent_x",
    ):
        assert not is_latent(name), name
