"""Second-order DARTS: alpha's gradient through a virtual step.

It is compared with automatic differentiation of the whole of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.losses import cross_entropy
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Float, Xnor
from bnas_jax.core.schemes.binary_conv import binary_conv
from bnas_jax.core.schemes.xnor import factor_of_centred
from bnas_jax.core.supernet import Supernet
from bnas_jax.search import Darts, darts
from bnas_jax.training.latents import on_latents, project_params
from bnas_jax.training.optimizers import latent_sgd
from bnas_jax.training.search_step import SearchStep

pytestmark = pytest.mark.usefixtures("quick_compilation")

TYPES = ("max_pool_3x3", "bin_conv_3x3")
RATE, MOMENTUM, DECAY = 0.5, 0.9, 0.01


def batch(seed: int, dtype) -> dict:
    draw = np.random.default_rng(seed)
    images = draw.normal(size=(4, 8, 8, 1)).astype(dtype)
    return {
        "image": jnp.asarray(images),
        "label": jnp.asarray(draw.integers(0, 4, 4), jnp.int32),
    }


def batches(dtype=np.float32) -> dict:
    return {"train": batch(0, dtype), "valid": batch(1, dtype)}


def step_of(scheme, unrolled: str, **fields) -> SearchStep:
    """One cell, whose gradients pass from node to node.

    Clipping to next to nothing, which a virtual step has none of; plain descent moves
    alpha by its gradient.
    """
    supernet = Supernet(
        num_cells=1,
        channels=2,
        num_classes=4,
        layer_types=TYPES,
        scheme=scheme,
        **fields,
    )
    weights = latent_sgd(
        RATE, momentum=MOMENTUM, weight_decay=DECAY, clip_norm=1e-3, scheme=scheme
    )
    return SearchStep(
        supernet, Darts(unrolled=unrolled), weights=weights, alphas=optax.sgd(1.0)
    )


def begun(step: SearchStep):
    """A state with momentum, and alphas far from equal."""
    state = step.init(seed=0, image_shape=(8, 8, 1))
    draw = np.random.default_rng(2)
    random = lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), leaf.dtype)
    momentum = lambda path, leaf: (
        random(leaf) if "trace" in jax.tree_util.keystr(path) else leaf
    )
    opt_state = jax.tree_util.tree_map_with_path(momentum, state.opt_state)
    return state.replace(alphas=jax.tree.map(random, state.alphas), opt_state=opt_state)


def gradient_of(step: SearchStep, state, data):
    """What the stage of alpha moves it by; the running statistics stay."""
    after = jax.jit(lambda state: step.stage(0, state, data))(state)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, after.batch_stats, state.batch_stats)
    )
    return jax.tree.map(
        lambda before, after: before - after, state.alphas, after.alphas
    )


def apart(one, other) -> float:
    """The largest difference, relative to the largest entry."""
    (one, _), (other, _) = ravel_pytree(one), ravel_pytree(other)
    return float(jnp.abs(one - other).max() / jnp.abs(other).max())


@pytest.mark.long
@pytest.mark.parametrize("edges", ["shared", "plain"])
def test_exact_is_the_derivative_through_the_virtual_step_of_a_binary_supernet(edges):
    """The derivative with respect to the weights first, and to alpha then.

    Straight-through gradients are those of no function, so that orders differ.
    """
    scheme, data = Xnor(), batches()
    step = step_of(scheme, "exact")
    state = begun(step)
    loss = plain_loss(step, state, data, edges=edges)

    def virtual(grads):
        """The whole chain, by hand: factor, decay, momentum and projection."""
        gradient, _ = ravel_pytree(
            on_latents(lambda g: g * factor_of_centred(g.shape), grads)
        )
        weights, restored = ravel_pytree(state.params)
        momentum, _ = ravel_pytree(optax.tree_utils.tree_get(state.opt_state, "trace"))
        moved = weights - RATE * (MOMENTUM * momentum + gradient + DECAY * weights)
        return project_params(restored(moved), scheme.latents)

    def unrolled(alphas):
        ahead = virtual(jax.grad(loss)(state.params, alphas, "train"))
        return loss(ahead, alphas, "valid")

    exact = gradient_of(step, state, data)
    assert apart(exact, jax.jit(jax.grad(unrolled))(state.alphas)) < 1e-4


def plain_loss(step: SearchStep, state, data, *, edges: str):
    supernet = step.supernet.clone(edges=edges, arithmetic=Arithmetic(plain=True))

    def loss(params, alphas, name):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = supernet.apply(
            variables, alphas, data[name]["image"], train=True, mutable=["batch_stats"]
        )
        return jnp.mean(cross_entropy(logits, data[name]["label"]))

    return loss


@pytest.mark.parametrize("first", ["weights", "alphas"])
def test_mixed_derivatives_of_two_binary_convolutions_are_those_of_their_composition(
    first,
):
    """In both orders, against signs, clips and convolutions as one writes them."""
    draw = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
    x, weights, alphas = (
        normal(2, 5, 5, 3),
        {"a": normal(3, 3, 3, 4) / 2, "b": normal(3, 3, 4, 2) / 2},
        normal(2),
    )
    to_weights, to_alphas = jax.tree.map(jnp.sin, weights), jnp.array([0.3, -0.7])
    scheme, geometry = Xnor(activation_scale=False), square(3)

    def ours(weights, alphas):
        options = {
            "scheme": scheme,
            "geometry": geometry,
            "arithmetic": Arithmetic(plain=True),
        }
        y = binary_conv(x, weights["a"], **options) * alphas[0]
        return jnp.sum(jnp.cos(binary_conv(y, weights["b"], **options) * alphas[1]))

    def signs(x):
        clipped = jnp.clip(x, -1, 1)
        return clipped + jax.lax.stop_gradient(jnp.where(x >= 0, 1.0, -1.0) - clipped)

    def composed(weights, alphas):
        y = x
        for name, alpha in zip(("a", "b"), alphas, strict=True):
            sums = jax.lax.conv_general_dilated(
                signs(y),
                signs(weights[name]),
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            y = (
                jax.nn.relu(sums * jnp.mean(jnp.abs(weights[name]), axis=(0, 1, 2)))
                * alpha
            )
        return jnp.sum(jnp.cos(y))

    def mixed(loss):
        if first == "weights":
            slope = lambda alphas: optax.tree_utils.tree_vdot(
                jax.grad(loss)(weights, alphas), to_weights
            )
            return jax.grad(slope)(alphas)
        slope = lambda weights: jnp.vdot(
            jax.grad(loss, argnums=1)(weights, alphas), to_alphas
        )
        return jax.grad(slope)(weights)

    by_us, expected = (
        jax.jit(lambda loss=loss: mixed(loss))() for loss in (ours, composed)
    )
    assert apart(by_us, expected) < 1e-5


@pytest.mark.parametrize("unrolled", ["exact", "difference"])
def test_alphas_gradient_is_that_of_the_validation_loss_behind_a_training_step(
    unrolled,
):
    """For losses of two batches, of which a central difference is exact."""
    draw = np.random.default_rng(0)
    weights, alphas = (jnp.asarray(draw.normal(size=3), jnp.float32) for _ in range(2))
    of_train, of_valid = draw.normal(size=(2, 3, 3)).astype(np.float32)
    losses = {
        "train": lambda w, a: w @ of_train @ a + jnp.sum(w**2),
        "valid": lambda w, a: jnp.sum((of_valid @ w) ** 2) + w @ jnp.sin(a),
    }
    virtual = lambda w, grads: w - 0.1 * grads

    def behind_a_step(alphas):
        ahead = virtual(weights, jax.grad(losses["train"])(weights, alphas))
        return losses["valid"](ahead, alphas)

    mean = lambda function, name: function(losses[name])
    found = Darts(unrolled=unrolled).gradient(mean, virtual, weights, alphas)
    assert apart(found, jax.grad(behind_a_step)(alphas)) < 1e-3


@pytest.mark.long
def test_on_a_float_supernet_a_small_difference_is_exact(monkeypatch):
    """At the published distance ReLU and pooling switch between both sides.

    At one millionth of it none does.
    """
    monkeypatch.setattr(darts, "DISTANCE", 1e-8)
    with jax.enable_x64(True):
        arithmetic = Arithmetic(dtype=jnp.float64)
        found = []
        for unrolled in ("exact", "difference"):
            step = step_of(Float(), unrolled, arithmetic=arithmetic)
            found.append(gradient_of(step, begun(step), batches(np.float64)))
        assert apart(*found) < 1e-5
