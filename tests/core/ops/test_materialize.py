"""A value that is stored, or computed again, on purpose is the same value.

So is its gradient.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core.ops.materialize import materialize, recompute


def test_what_is_stored_is_the_same_and_so_is_its_gradient():
    x = jnp.array([[1.5, -2.0], [jnp.inf, jnp.nan]])
    assert jnp.array_equal(jax.jit(materialize)(x), x, equal_nan=True)
    tree = {"float": x, "int": jnp.arange(3, dtype=jnp.int16)}
    stored = jax.jit(materialize)(tree)
    assert (
        jnp.array_equal(stored["int"], tree["int"]) and stored["int"].dtype == jnp.int16
    )
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(materialize(x) ** 3)))(
        jnp.array([2.0, -1.0])
    )
    assert jnp.array_equal(gradient, jnp.array([12.0, 3.0]))


def sums_in_memory(function, dtype) -> int:
    """How many arrays of 64x64 a compiled chain of sums, each read twice, writes."""

    def chain(x):
        read = []
        for _ in range(3):
            x = function(x + jnp.abs(x))
            read += [2 * x[:, :1], 3 * x[:1]]
        return read

    compiled = (
        jax.jit(chain)
        .lower(jnp.ones((64, 64), dtype))
        .compile()
        .as_text()
        .partition("ENTRY")[2]
    )
    return len(re.findall(r"= \w+\[64,64\]\S* fusion", compiled))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int16])
def test_what_is_materialized_is_written_once(dtype):
    assert sums_in_memory(materialize, dtype) == 3
    assert sums_in_memory(lambda x: x, dtype) == 0


def test_what_is_computed_again_keeps_its_inputs_alone():
    function = lambda x, y: jnp.sin(jnp.exp(x) * y)
    inputs = (jnp.arange(4.0), jnp.arange(4.0) + 1)
    plain = jax.vjp(function, *inputs)
    again = jax.vjp(recompute(function), *inputs)
    assert jnp.array_equal(plain[0], again[0])
    for one, other in zip(plain[1](jnp.ones(4)), again[1](jnp.ones(4)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert len(jax.tree.leaves(again[1])) == len(inputs)
