"""Supernets against the numbers of the codes of DARTS, SNAS, GDAS and random search:
what one pass gives.

test_published_searches.py has whole steps of the searches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import nhwc
from published import loaded

from bnas_jax.core.losses import cross_entropy

pytestmark = pytest.mark.usefixtures("quick_compilation")


def of_cells(arrays, name, index=None):
    """{"normal": ..., "reduce": ...} of the arrays that are there."""
    found = {
        cell: arrays[name.format(cell)]
        for cell in ("normal", "reduce")
        if name.format(cell) in arrays
    }
    return {
        cell: jnp.asarray(array if index is None else array[index], jnp.float32)
        for cell, array in found.items()
    }


def apart(ours, theirs):
    """Of the logits' spread."""
    return np.abs(ours - theirs).max() / np.ptp(theirs)


# The images, the weights of one pass (and which of several), and its logits in
# evaluation.
PASSES = [
    ("random_supernet_c4_l3", "x_train", "weights_{}", "eval.logits", 0),
    (
        "gdas_frc_supernet_c4_l6",
        "x_base",
        "draw0.tau1.hard_{}",
        "eval.draw0.logits",
        None,
    ),
    ("gdas_supernet_c4_l6", "x_base", "draw0.tau1.hard_{}", "eval.draw0.logits", None),
    ("snas_supernet_c4_l5", "x", "weights.temp1.{}", "eval.logits", 0),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "images", "weights", "logits", "index"), PASSES)
def test_logits_in_evaluation_at_weights(
    reference, name, images, weights, logits, index
):
    arrays, model, variables = loaded(reference, name)
    mixture = jax.jit(functools.partial(model.apply, train=False, method="mixture"))
    ours = mixture(variables, of_cells(arrays, weights, index), nhwc(arrays[images]))
    theirs = arrays[logits]
    if theirs.ndim == 3:
        theirs = theirs[index]
    assert apart(ours, theirs) < 1e-4


@pytest.mark.long
def test_logits_of_darts_at_alphas(reference):
    arrays, model, variables = loaded(reference, "darts_supernet_c4_l5")
    ours = jax.jit(functools.partial(model.apply, train=False))(
        variables, of_cells(arrays, "alphas_{}"), nhwc(arrays["x_train"])
    )
    assert apart(ours, arrays["eval.train.logits"]) < 1e-4


@pytest.mark.long
def test_alphas_with_their_noise_choose_what_gdas_chose(reference):
    """Alpha itself is what the published code adds its noise to; the largest of an edge
    runs.
    """
    arrays, model, variables = loaded(reference, "gdas_frc_supernet_c4_l6")
    noisy = (
        jax.nn.log_softmax(arrays["state.arch_parameters"]) + arrays["gumbel_normal"][0]
    )
    ours = jax.jit(functools.partial(model.apply, train=False))(
        variables, {"normal": noisy}, nhwc(arrays["x_base"])
    )
    assert apart(ours, arrays["eval.draw0.logits"]) < 1e-4


@pytest.mark.long
def test_a_pass_of_gdas_gives_its_loss_and_the_gradient_of_alpha(reference):
    """Through the chosen layers alone: weights that are one-hot, with the gradient of
    the softmax at temperature 1.
    """
    arrays, model, variables = loaded(reference, "gdas_frc_supernet_c4_l6")
    labels = jnp.asarray(arrays["y_base"], jnp.int32)

    def loss_of(alphas):
        p = jax.nn.softmax(jax.nn.log_softmax(alphas) + arrays["gumbel_normal"][0])
        hard = jax.nn.one_hot(jnp.argmax(p, axis=-1), p.shape[-1])
        weights = {"normal": hard + p - jax.lax.stop_gradient(p)}
        images = nhwc(arrays["x_base"])
        logits, _ = model.apply(
            variables,
            weights,
            images,
            train=True,
            method="mixture",
            mutable=["batch_stats"],
        )
        return cross_entropy(logits, labels).mean(), logits

    compute = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    (loss, logits), gradient = compute(jnp.asarray(arrays["state.arch_parameters"]))
    assert loss == pytest.approx(float(arrays["draw0.tau1.loss"]), rel=1e-5)
    assert apart(logits, arrays["draw0.tau1.logits"]) < 1e-4
    expected = arrays["draw0.tau1.grad_arch_parameters"]
    assert np.abs(gradient - expected).max() < 1e-4 * np.abs(expected).max()
