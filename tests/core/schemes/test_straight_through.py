"""Signs and the gradients that stand in for theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes import Xnor
from bnas_jax.core.schemes.straight_through import (
    closed_clip,
    open_clip,
    sign,
    straight_through,
)


@pytest.mark.parametrize(
    ("sign_of_zero", "expected"), [(1, [1, 1, -1, 1, -1]), (0, [0, 0, -1, 1, -1])]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_sign_of_zero_is_a_convention(sign_of_zero, expected, dtype):
    x = jnp.array([0.0, -0.0, -1e-30, 1e-30, -3.0], dtype)
    scheme = Xnor(sign_of_zero=sign_of_zero)
    for signs in (
        sign(x, sign_of_zero),
        straight_through(x, open_clip, sign_of_zero),
        scheme.signs(x),
    ):
        assert signs.dtype == dtype
        assert signs.tolist() == expected
    assert sign(x).tolist() == [1, 1, -1, 1, -1], "the default fits into one bit"


def test_the_sign_of_zero_is_zero_or_one():
    with pytest.raises(
        UserError, match=r"config\.scheme\.sign_of_zero must be 0 or 1, got -1"
    ):
        Xnor(sign_of_zero=-1)


def test_signs_of_activations_are_those_of_the_released_code(reference):
    theirs = np.load(reference / "activation_binarization.npz")
    signs, vjp = jax.vjp(Xnor(sign_of_zero=0).signs, theirs["x"])
    assert np.array_equal(signs, theirs["sign"])
    assert np.array_equal(vjp(theirs["grad_out"])[0], theirs["grad_in"])
    assert {-1, 0, 1} <= set(theirs["x"].tolist()), (
        "the borders of the mask are among the numbers"
    )


@pytest.mark.parametrize("sign_of_zero", [0, 1])
@pytest.mark.parametrize(
    ("window", "at_the_border"), [(open_clip, [0, 0]), (closed_clip, [1, 2])]
)
def test_the_windows_differ_at_one(window, at_the_border, sign_of_zero):
    inside = np.nextafter(np.float32(1), np.float32(0))
    x = np.array([1, -1, inside, -inside, 0, 1.5, -7, np.inf], np.float32)
    total = lambda x: jnp.sum(
        straight_through(x, window, sign_of_zero) * jnp.arange(1.0, 9.0)
    )
    assert jax.grad(total)(x).tolist() == [*at_the_border, 3, 4, 5, 0, 0, 0]


def test_a_window_can_be_any_function():
    triangle = lambda x: jnp.maximum(0, 2 - 2 * jnp.abs(x))
    x = jnp.array([-2.0, -0.75, 0.0, 0.25])
    assert jax.grad(lambda x: straight_through(x, triangle).sum())(x).tolist() == [
        0,
        0.5,
        2,
        1.5,
    ]
