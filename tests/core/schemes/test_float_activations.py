"""The activations of Bi-Real's float networks, from which its binary one begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.baselines.bireal_block import BiRealUnit
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.schemes import Float
from bnas_jax.core.schemes.activations import ACTIVATIONS


def test_leaky_clip_and_its_gradient_are_the_published_ones(reference):
    theirs = np.load(reference / "schemes" / "bireal.npz")
    y, vjp = jax.vjp(ACTIVATIONS["leaky_clip"], jnp.asarray(theirs["leaky_clip.x"]))
    (gradient,) = vjp(jnp.asarray(theirs["leaky_clip.grad_out"]))
    assert np.allclose(y, theirs["leaky_clip.y"], rtol=1e-6)
    assert np.allclose(gradient, theirs["leaky_clip.grad_in"], rtol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "clip", "leaky_clip"])
def test_they_take_the_place_of_the_sign_in_the_float_block(activation):
    x = 3 * jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    unit = lambda name: BiRealUnit(2, 1, Float(activation=name), Arithmetic())
    variables = unit("none").init(jax.random.key(1), x, train=False)
    ours = unit(activation).apply(variables, x, train=False)
    activated = ACTIVATIONS[activation](x)
    plain = unit("none").apply(variables, activated, train=False)
    assert np.allclose(ours - x, plain - activated, atol=1e-5)
