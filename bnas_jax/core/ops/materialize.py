"""Where XLA stores a value, and where it computes one again."""

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_vjp
def materialize(x):
    """x as it is, which XLA stores once instead of recomputing it in every consumer.

    The gradient of x is stored once, too. XLA's CPU compiler fuses cheap operations
    into each of their consumers. Along the inter-cell skips such a chain is as long as
    the network: without this, every layer of the first cell recomputed the gradient of
    the outputs of all later cells.

    x: an array or a tree of arrays.
    """
    return jax.lax.platform_dependent(
        x, cpu=_uninlined_barrier, default=jax.lax.optimization_barrier
    )


def _forward(x):
    return materialize(x), None


def _backward(_, gradient):
    return (materialize(gradient),)


materialize.defvjp(_forward, _backward)


def recompute(function):
    """The same function of arrays, whose gradient computes it again from its inputs.

    Nothing but the inputs is stored. `jax.checkpoint` does the same by an optimization
    barrier, which XLA's CPU compiler removes too early.
    """

    @jax.custom_vjp
    def recomputed(*inputs):
        return function(*inputs)

    def forward(*inputs):
        return function(*inputs), inputs

    def backward(inputs, gradient):
        # Both together, so that the inputs are not read before the gradient is there.
        gradient, inputs = materialize((gradient, inputs))
        _, vjp = jax.vjp(function, *inputs)
        return vjp(gradient)

    recomputed.defvjp(forward, backward)
    return recomputed


def _uninlined_barrier(x):
    """A barrier inside a call that XLA does not inline.

    XLA's CPU compiler of jax 0.10 removes a barrier before it fuses, but it never fuses
    across a call.
    """
    with set_xla_metadata(inlineable="false"):
        return _barrier(x)


_barrier = jax.jit(jax.lax.optimization_barrier)
