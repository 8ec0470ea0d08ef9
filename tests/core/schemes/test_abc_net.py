"""ABC-Net: sums of bases against their formulas in NumPy.

Gradients are compared with autodiff, bases with those of a third party.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import hwio, nhwc, normal, relative_error, with_gradients
from one_layer import layer, row_of

from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import AbcNet

pytestmark = pytest.mark.usefixtures("quick_compilation")

SINGLE = AbcNet(activation="none")
SEVERAL = AbcNet(weight_bases=3, activation_bases=2, activation="none")
EACH = AbcNet(weight_bases=2, per_channel=True, activation="none", shift=0.25)


def moved(params):
    """Parameters a little away from where they begin, so that no two are alike."""
    return {
        name: p + 0.1 * normal(*p.shape, seed=9) if name != "latent" else p
        for name, p in params.items()
    }


def by_hand(scheme, params, x, groups=1):
    """The formulas of docs/schemes.md with NumPy's own least squares."""
    w = np.asarray(params["latent"], np.float64)
    offsets = (
        [0.0] if scheme.weight_bases == 1 else np.linspace(-1, 1, scheme.weight_bases)
    )
    bases = [np.where(w - w.mean() + u * w.std() >= 0, 1.0, -1.0) for u in offsets]
    kernel = np.zeros_like(w)
    parts = (
        [np.s_[..., o] for o in range(w.shape[-1])]
        if scheme.per_channel
        else [np.s_[...]]
    )
    for part in parts:
        columns = np.stack([b[part].ravel() for b in bases], axis=1)
        alpha = np.linalg.lstsq(columns, w[part].ravel(), rcond=None)[0]
        kernel[part] = sum(a * b[part] for a, b in zip(alpha, bases, strict=True))
    y = 0
    for v, beta in zip(params["shift"], params["beta"], strict=True):
        a = np.where(x + np.asarray(v) >= 0.5, 1, -1).astype(np.float32)
        y = y + beta * plain_conv(
            a, jnp.asarray(kernel, jnp.float32), square(3, stride=2, groups=groups)
        )
    return y


@pytest.mark.parametrize("scheme", [SINGLE, SEVERAL, EACH])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_output_is_the_sum_over_all_pairs_of_bases(scheme, groups):
    x = normal(2, 6, 6, 16)
    model = layer(scheme, features=6, stride=2, groups=groups)
    params = moved(jax.jit(model.init)(jax.random.key(0), x)["params"])
    y = jax.jit(model.apply)({"params": params}, x)
    assert relative_error(y, np.asarray(by_hand(scheme, params, x, groups))) < 1e-5


def straight(scheme, params, x):
    """`by_hand`, differentiable.

    Each basis passes its gradient on, alpha is a constant.
    """
    sg = jax.lax.stop_gradient
    w = params["latent"]
    bases, alpha = SEVERAL.bases(sg(w))
    passing = sg(bases) + (w - sg(w))[..., None]
    y = 0
    for v, beta in zip(params["shift"], params["beta"], strict=True):
        clipped = jnp.clip(x + v, 0, 1)
        a = clipped + sg(jnp.where(clipped >= 0.5, 1, -1) - clipped)
        for m in range(scheme.weight_bases):
            y = y + beta * sg(alpha[0, m]) * plain_conv(
                a, passing[..., m], square(3, stride=2)
            )
    return y


@pytest.mark.parametrize("plain", [False, True])
def test_gradients_are_those_of_the_clip_and_of_each_basis(plain):
    x = normal(2, 6, 6, 16)
    model = layer(SEVERAL, features=6, stride=2, plain=plain)
    params = moved(jax.jit(model.init)(jax.random.key(0), x)["params"])
    gradient = normal(2, 3, 3, 6, seed=3)
    apply = lambda params, x: model.apply({"params": params}, x)
    formulas = lambda params, x: straight(SEVERAL, params, x)

    y, ours = with_gradients(apply, gradient, params, x)
    expected, theirs = with_gradients(formulas, gradient, params, x)

    assert relative_error(y, np.asarray(expected)) < 1e-5
    assert set(ours[0]) == {"latent", "shift", "beta"}
    for name in ours[0]:
        assert np.all(np.asarray(ours[0][name]) != 0), name
        assert relative_error(ours[0][name], np.asarray(theirs[0][name])) < 1e-5, name
    assert relative_error(ours[1], np.asarray(theirs[1])) < 1e-5


def test_float_inputs_meet_the_sum_of_the_weights_bases():
    x = normal(2, 6, 6, 16)
    model = layer(SEVERAL, features=6, stride=2, binary_input=False)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    assert set(params) == {"latent"}
    bases, alpha = jax.jit(SEVERAL.bases)(params["latent"])
    expected = plain_conv(x, jnp.sum(bases * alpha, axis=-1), square(3, stride=2))
    assert (
        relative_error(model.apply({"params": params}, x), np.asarray(expected)) < 1e-5
    )


@pytest.mark.parametrize("scheme", [SINGLE, SEVERAL, EACH])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_kernel_of_equal_weights_gives_finite_numbers(scheme, value):
    """Its bases are all the same, and the normal equations singular.

    Nothing remains of zeros.
    """
    x, model = normal(1, 6, 6, 16), layer(scheme, features=6)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    params["latent"] = jnp.full_like(params["latent"], value)
    apply = lambda params: model.apply({"params": params}, x)
    numbers = with_gradients(apply, jnp.ones_like, params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(numbers))
    bases, alpha = jax.jit(scheme.bases)(params["latent"])
    np.testing.assert_allclose(
        jnp.sum(bases * alpha, axis=-1), params["latent"], atol=1e-5
    )


@pytest.mark.parametrize("name", ["m1.k3", "m3.k3", "m3.k5"])
def test_a_third_partys_bases_and_their_sum(reference, name):
    """The published layer: BN -> convolutions -> ReLU of real inputs.

    With the alphas that it found.
    """
    arrays = np.load(reference / "schemes" / "abcnet_thirdparty.npz")
    theirs = {
        key.removeprefix(f"{name}."): arrays[key]
        for key in arrays.files
        if key.startswith(f"{name}.")
    }
    count, features, _, size, _ = theirs["bases"].shape
    scheme = AbcNet(weight_bases=count, sign_of_zero=0)
    bases, _ = jax.jit(scheme.bases)(hwio(theirs["latent_clamped"]))
    assert np.array_equal(
        np.moveaxis(np.asarray(bases), -1, 0),
        np.stack([hwio(b) for b in theirs["bases"]]),
    )

    x = nhwc(theirs["x"])
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-4)  # its epsilon
    x = x * theirs["state.bn.weight"] + theirs["state.bn.bias"]
    stride = theirs["x"].shape[-1] // theirs["y_train"].shape[-1]
    sums = plain_conv(
        x, bases.reshape(size, size, -1, features * count), square(size, stride=stride)
    )
    y = scheme.after(sums, theirs["alphas"][None], jnp.ones(1))
    y = y + sum(theirs[f"state.bases_conv2d_{m + 1}.bias"] for m in range(count))
    assert relative_error(np.maximum(y, 0), np.asarray(nhwc(theirs["y_train"]))) < 1e-5


def test_costs_are_those_of_all_bases():
    single, several = (
        row_of(layer(scheme, features=6), (8, 8, 4)) for scheme in (SINGLE, SEVERAL)
    )
    assert (single.binary_macs, single.binary_params) == (8 * 8 * 6 * 9 * 4, 6 * 9 * 4)
    assert several.binary_macs == 6 * single.binary_macs
    assert several.binary_params == 3 * single.binary_params
    assert (single.float_params, several.float_params) == (2, 4), (
        "a shift and a beta for each basis of the activations"
    )


@pytest.mark.parametrize(
    ("stage", "binary_input", "times"),
    [("activations", True, 2), ("all", False, 3), ("activations", False, 1)],
)
def test_costs_are_of_the_bases_of_one_side_where_the_other_is_float(
    stage, binary_input, times
):
    scheme = dataclasses.replace(SEVERAL, stage=stage)
    row = row_of(layer(scheme, features=6, binary_input=binary_input), (8, 8, 4))
    assert (row.binary_macs, row.float_macs) == (0, times * 8 * 8 * 6 * 9 * 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_bases": 0}, "config.scheme.weight_bases must be at least 1, got 0"),
        (
            {"activation_bases": -1},
            "config.scheme.activation_bases must be at least 1, got -1",
        ),
        ({"spread": -0.5}, "config.scheme.spread must be 0 or more, got -0.5"),
        (
            {"shift": float("inf")},
            "config.scheme.shift must be a finite number, got inf",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        AbcNet(**changes)
