"""Keeps XLA from working a value out again in each place that reads it."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def hold(x: jax.Array) -> jax.Array:
    """x itself, written to memory once, and so is its gradient.

    XLA's CPU compiler fuses cheap operations into all who read them. Along the inter-cell skips the chain of such operations is
    as long as the network: every layer of the first cell worked the gradient of the cells' outputs out of all cells behind it.
    """
    return jax.lax.platform_dependent(x, cpu=_unfused, default=jax.lax.optimization_barrier)


hold.defvjp(lambda x: (hold(x), None), lambda _, gradient: (hold(gradient),))


def _unfused(x):
    """A loop that never runs: optimization_barrier is gone before this compiler fuses, loops are not, and they copy nothing."""
    never = jnp.isnan(jnp.ravel(x)[0]).astype(jnp.int32)  # 0 or 1, which the compiler cannot know
    return jax.lax.while_loop(lambda carry: carry[0] < 0, lambda carry: (carry[0] + 1, 2 * carry[1]), (never, x))[1]
