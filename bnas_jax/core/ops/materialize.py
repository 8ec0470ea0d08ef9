"""Where XLA stores a value, and where it computes one again."""

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_vjp
def materialize(x):
    """Identity.

    Makes XLA store x, an array or a tree of arrays, once instead of recomputing it in
    every consumer.

    It does the same to its gradient. XLA's CPU compiler fuses cheap operations into
    each of their consumers. Along the inter-cell skips such a chain is as long as the
    network: without this, every layer of the first cell recomputed the gradient of the
    outputs of all later cells.
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
    """The same function of arrays; for its gradient only the inputs are stored, the
    rest is computed again.

    `jax.checkpoint` does the same by an optimization barrier, which XLA's CPU compiler
    removes too early.
    """

    @jax.custom_vjp
    def recomputed(*inputs):
        return function(*inputs)

    def forward(*inputs):
        return function(*inputs), inputs

    def backward(inputs, gradient):
        # Together, so that the inputs are not read before the gradient is there.
        gradient, inputs = materialize((gradient, inputs))
        _, vjp = jax.vjp(function, *inputs)
        return vjp(gradient)

    recomputed.defvjp(forward, backward)
    return recomputed


def _uninlined_barrier(x):
    # XLA's CPU compiler of jax 0.10 removes a barrier before it fuses, but it never
    # fuses across a call.
    with set_xla_metadata(inlineable="false"):
        return _barrier(x)


_barrier = jax.jit(jax.lax.optimization_barrier)
