"""`materialize` makes XLA store a value; `recompute` makes it compute one again."""

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_vjp
def materialize(x):
    """The identity; XLA stores x once instead of recomputing it in each consumer.

    The same holds for the gradient. XLA's CPU compiler fuses cheap operations into each
    of their consumers. The sums of the inter-cell skips are a chain of such operations
    as long as the network: without `materialize`, every layer of the first cell
    recomputed the gradients of the outputs of all later cells.

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
    """The same function; its gradient recomputes it from its inputs.

    Only the inputs are stored. `jax.checkpoint` does the same by an optimization
    barrier, which XLA's CPU compiler removes too early.

    function: takes arrays and returns an array.
    """

    @jax.custom_vjp
    def recomputed(*inputs):
        return function(*inputs)

    def forward(*inputs):
        return function(*inputs), inputs

    def backward(inputs, gradient):
        # One barrier for both, so that recomputing waits for the gradient.
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
