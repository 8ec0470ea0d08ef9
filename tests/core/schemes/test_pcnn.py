"""PCNN: projections, closed forms and the published block.

They are compared with numbers by hand and with autodiff of the loss.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import hwio, normal, relative_error, signs, with_gradients
from one_layer import layer, row_of
from pcnn_unit import relative_errors
from published import numbers

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.losses import cross_entropy
from bnas_jax.core.modules import BinaryConv, Classifier
from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Pcnn
from bnas_jax.core.schemes.pcnn import ClosedForms, SharedKernels, projected
from bnas_jax.training.optimizers import latent_sgd
from bnas_jax.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("quick_compilation")

RATE, PULL = 0.3, 0.5
SINGLE = Pcnn(activation="none", projection_loss=PULL)
SEVERAL = Pcnn(activation="none", projection_loss=PULL, planes=2)


def example(planes: int, *, channels: int = 4, kernels: int = 3):
    """(C, W_1 to W_J, delta_1 to delta_J); masks cut some of C."""
    c, w = normal(3, 3, channels, kernels), 0.5 + normal(planes, 3, 3, seed=1)
    return c, w, normal(planes, 3, 3, channels, kernels, seed=2)


def projections(c, w):
    """Q_j, by its definition: the element of {-a, a} that is nearest to mean(W_j) C."""
    a = np.abs(c).mean()
    nearest = lambda value: np.where(np.abs(value - a) <= np.abs(value + a), a, -a)
    return np.stack([nearest(plane.mean() * c) for plane in w])


def side_by_side(parts):
    return np.concatenate(list(parts), axis=-1)


def closed(scheme, c, w, deltas):
    """(gradient of C, gradients of W_j) that the optimizer gets.

    They are made of the layer's own gradients.
    """
    params = {"latent": side_by_side([c] * len(w)), "planes": w}
    at_signs = side_by_side(deltas) * np.abs(c).mean()
    of_planes = lambda latent, planes: projected(latent, planes, 1)[0]
    _, both = with_gradients(of_planes, at_signs, params["latent"], params["planes"])
    gradients = dict(zip(("latent", "planes"), both, strict=True))
    np.testing.assert_allclose(gradients["latent"], side_by_side(deltas), rtol=1e-5)
    new = jax.jit(scheme.latents.gradients)(params, gradients, RATE)
    copies = jnp.split(new["latent"], len(w), axis=-1)
    assert all(np.array_equal(copies[0], copy) for copy in copies)
    return np.asarray(copies[0]), np.asarray(new["planes"])


@pytest.mark.parametrize("scheme", [SINGLE, SEVERAL])
def test_the_closed_forms_are_the_gradients_of_both_losses(scheme):
    """The gradients of the projection loss and of the classification's.

    The former is by autodiff with delta and Q constant, the latter through the masked
    product.
    """
    c, w, deltas = example(scheme.planes)
    q = projections(c, w)
    assert 0.05 < np.mean(np.abs(w[:, :, :, None, None] * c) > 1) < 0.95, (
        "the masks cut some and leave some"
    )

    def loss(c, w):
        product = w[:, :, :, None, None] * c
        ahead = w[:, :, :, None, None] * (c + RATE * deltas)
        return jnp.sum(deltas * jnp.clip(product, -1, 1)) + PULL / 2 * jnp.sum(
            (q - ahead) ** 2
        )

    expected = jax.jit(jax.grad(loss, argnums=(0, 1)))(c, w)
    for ours, theirs in zip(closed(scheme, c, w, deltas), expected, strict=True):
        assert relative_error(ours, np.asarray(theirs)) < 1e-5


def test_closed_forms_of_a_single_weight_by_hand():
    """C = 0.5, W = 1, delta = 2, rate 0.3: Q = 0.5, E = 1 * (0.5 + 0.6) - 0.5 = 0.6."""
    c, w, delta = (
        np.full((1, 1, 1, 1), 0.5, np.float32),
        np.ones((1, 1, 1), np.float32),
        np.full((1, 1, 1, 1, 1), 2.0),
    )
    to_c, to_w = closed(SINGLE, c, w, delta.astype(np.float32))
    assert to_c.item() == pytest.approx(2 * 1 * 1 + 0.5 * 0.6 * 1)
    assert to_w.item() == pytest.approx(2 * 1 * 0.5 + 0.5 * 0.6 * (0.5 + 0.3 * 2))


def test_equal_planes_add_up_to_what_a_single_one_gives():
    c, w, deltas = example(1)
    two = (
        np.concatenate([w, w]),
        np.concatenate([deltas, normal(*deltas.shape, seed=5)]),
    )
    of_two = closed(SEVERAL, c, *two)
    first, second = (closed(SINGLE, c, w, part[None]) for part in two[1])
    assert relative_error(of_two[0], first[0] + second[0]) < 1e-5
    assert relative_error(of_two[1], np.concatenate([first[1], second[1]])) < 1e-5


@pytest.mark.parametrize("scheme", [SINGLE, SEVERAL])
@pytest.mark.parametrize("plain", [False, True])
def test_a_layer_is_a_convolution_with_the_projections_and_has_delta_for_a_gradient(
    scheme, plain
):
    x, model = signs(2, 6, 6, 8) / 2, layer(scheme, features=6, stride=2, plain=plain)
    c, w, _ = example(scheme.planes, channels=8, kernels=6 // scheme.planes)
    params = {"latent": side_by_side([c] * scheme.planes), "planes": w}
    gradient = lambda y: normal(*y.shape, seed=3)
    of_params = lambda params, x: model.apply({"params": params}, x)
    of_kernel = lambda kernel, x: plain_conv(x, kernel, square(3, stride=2))
    kernel = side_by_side(projections(c, w)).astype(np.float32)

    y, (to_params, to_x) = with_gradients(of_params, gradient, params, x)
    expected, (delta, to_signs) = with_gradients(
        of_kernel, gradient, kernel, np.sign(x)
    )

    assert relative_error(y, np.asarray(expected)) < 1e-5
    assert relative_error(to_params["latent"], np.asarray(delta)) < 1e-5
    assert relative_error(to_x, np.asarray(to_signs)) < 1e-5
    masked = (
        np.split(np.asarray(delta), scheme.planes, axis=-1)
        * (np.abs(w[..., None, None] * c) <= 1)
        * c
    )
    assert relative_error(to_params["planes"], masked.sum(axis=(3, 4))) < 1e-5


def test_a_kernel_of_zeros_gives_finite_numbers():
    x, model = normal(1, 4, 4, 8), layer(SEVERAL, features=4)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    params["latent"] = jnp.zeros_like(params["latent"])
    apply = lambda params: model.apply({"params": params}, x)
    y, (at_params,) = with_gradients(apply, jnp.ones_like, params)
    gradients = jax.jit(SEVERAL.latents.gradients)(params, at_params, RATE)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((y, gradients)))


@pytest.mark.parametrize(("name", "stride"), [("block.s1", 1), ("block.s2", 2)])
def test_the_published_block(reference, name, stride):
    """Its kernels are signs times a number already.

    So the gradient at them is delta.
    """
    theirs = numbers(reference, "pcnn_test_code", name)
    assert len(np.unique(np.abs(theirs["state.conv.weight"]))) == 1
    scheme = Pcnn(sign_of_zero=0, activation="none")
    planes = {"planes": np.ones((1, 3, 3), np.float32)}
    errors = relative_errors(scheme, theirs, stride=stride, latent=hwio, further=planes)
    assert {
        "y_eval",
        "y_train",
        "unit/conv/latent",
        "prelu/slope",
        "unit/bn/mean",
    } <= set(errors)
    assert max(errors.values()) < 1e-5, errors


def test_training_moves_kernels_and_planes_at_their_own_rates():
    """Two steps of SGD.

    The schedule's rate enters the closed forms, and the planes move at their own.
    """
    scheme = Pcnn(planes=2, projection_loss=PULL, plane_rate=0.25)
    c, w, deltas = example(2)
    params = {
        "conv": {"latent": side_by_side([c, c]), "planes": w},
        "other": {"planes": w},
    }
    grads = {
        "conv": {"latent": side_by_side(deltas), "planes": 0.1 * w},
        "other": {"planes": w},
    }
    rates = (0.5, 0.25)
    optimizer = latent_sgd(
        lambda step: jnp.array(rates)[step], momentum=0.0, scheme=scheme
    )
    state, expected = optimizer.init(params), params
    for rate in rates:
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        of_module = jax.jit(scheme.latents.gradients)(
            expected["conv"], grads["conv"], rate
        )
        expected = {
            "conv": {
                "latent": expected["conv"]["latent"] - rate * of_module["latent"],
                "planes": expected["conv"]["planes"]
                - 0.25 * rate * of_module["planes"],
            },
            "other": {"planes": expected["other"]["planes"] - rate * w},
        }
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    copies = np.split(np.asarray(params["conv"]["latent"]), 2, axis=-1)
    assert np.array_equal(*copies)


class Small(nn.Module):
    """A binary convolution between a BN and a classifier."""

    scheme: Pcnn
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        conv = BinaryConv(
            features=4,
            kernel=3,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            name="layer",
        )
        x = conv(images, train=train)
        return Classifier(num_classes=3, arithmetic=self.arithmetic, name="classifier")(
            x
        )


def test_a_step_of_training_follows_the_closed_forms():
    """From equal copies of the kernels to equal copies.

    With the gradients of the network's own loss.
    """
    scheme = Pcnn(planes=2, projection_loss=PULL)
    step = TrainStep(
        network=Small(scheme), optimizer=latent_sgd(RATE, momentum=0.0, scheme=scheme)
    )
    state = jax.jit(lambda: step.init(image_shape=(5, 5, 8)))()
    batch = {"image": normal(6, 5, 5, 8), "label": np.arange(6) % 3}

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = step.network.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"]
        )
        return jnp.mean(cross_entropy(logits, batch["label"]))

    before, grads = state.params, jax.jit(jax.grad(loss))(state.params)
    after = jax.jit(step)(state, batch).params["layer"]["conv"]
    conv = before["layer"]["conv"]
    assert np.array_equal(*np.split(np.asarray(conv["latent"]), 2, axis=-1))
    assert not np.array_equal(
        *np.split(np.asarray(grads["layer"]["conv"]["latent"]), 2, axis=-1)
    )
    closed_forms = scheme.latents.gradients(conv, grads["layer"]["conv"], RATE)
    for name in ("latent", "planes"):
        np.testing.assert_allclose(
            after[name], conv[name] - RATE * closed_forms[name], rtol=1e-5, atol=1e-6
        )
    assert np.array_equal(*np.split(np.asarray(after["latent"]), 2, axis=-1))


def test_a_kernel_is_stored_once_and_convolved_for_each_plane():
    one, two = (
        row_of(layer(scheme, features=6), (8, 8, 4)) for scheme in (SINGLE, SEVERAL)
    )
    assert one.binary_macs == two.binary_macs == 8 * 8 * 9 * 4 * 6
    assert (one.binary_params, two.binary_params) == (9 * 4 * 6, 9 * 4 * 3)
    assert (one.float_params, two.float_params) == (9, 18)


def test_planes_that_do_not_divide_the_features_are_refused():
    model = layer(Pcnn(planes=4), features=6)
    with pytest.raises(
        UserError,
        match=r"has 6 output channels, which config.scheme.planes=4 does not divide",
    ):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 8))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planes": 0}, "config.scheme.planes must be at least 1, got 0"),
        (
            {"projection_loss": -1.0},
            "config.scheme.projection_loss must be 0 or more, got -1.0",
        ),
        (
            {"plane_rate": float("inf")},
            "config.scheme.plane_rate must be 0 or more, got inf",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Pcnn(**changes)


def test_rules_that_do_the_same_compare_equal():
    assert Pcnn(activation="none").latents == Pcnn().latents
    assert Pcnn(projection_loss=1.0).latents != Pcnn().latents
    assert Pcnn(plane_rate=0.5).latents != Pcnn().latents
    assert (
        ClosedForms(2, PULL, 1) == SEVERAL.latents.gradients
        and SharedKernels(2) == SEVERAL.latents.project
    )
