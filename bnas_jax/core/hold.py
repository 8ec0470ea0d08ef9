"""Keeps XLA from working a value out again in each place that reads it, or long before it is needed."""

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_vjp
def hold(x):
    """x itself, an array or a tree of them; each is written to memory once, after all of them are known. So is its gradient.

    XLA's CPU compiler fuses cheap operations into all who read them. Along the inter-cell skips the chain of such operations is
    as long as the network: every layer of the first cell worked the gradient of the cells' outputs out of all cells behind it.
    """
    return jax.lax.platform_dependent(x, cpu=_unfused, default=jax.lax.optimization_barrier)


hold.defvjp(lambda x: (hold(x), None), lambda _, gradient: (hold(gradient),))


def remat(function):
    """The same function of arrays, which keeps its inputs alone for its gradient and works the rest out again when that comes.

    jax.checkpoint asks for the same by optimization_barrier, with which XLA's CPU compiler does not comply.
    """

    @jax.custom_vjp
    def kept(*inputs):
        return function(*inputs)

    def backward(inputs, gradient):
        gradient, inputs = hold((gradient, inputs))
        return jax.vjp(function, *inputs)[1](gradient)

    kept.defvjp(lambda *inputs: (function(*inputs), inputs), backward)
    return kept


def _unfused(x):
    """A call that stays one: the barrier in it is gone before XLA's CPU compiler fuses, but it fuses nothing across calls."""
    with set_xla_metadata(inlineable="false"):
        return _barrier(x)


_barrier = jax.jit(jax.lax.optimization_barrier)
