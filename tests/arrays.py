"""Random arrays, reference files' layouts in ours, and how far numbers are apart."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def signs(*shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape).astype(np.float32)


def of_bfloat16(*shape, seed: int = 0):
    """Random numbers that bfloat16 holds exactly: whatever is lost then is lost in the
    sums.
    """
    return jnp.asarray(
        np.random.default_rng(seed).integers(-128, 128, shape) / 64, jnp.float32
    )


def nhwc(array):
    """Images of the reference files, which are NCHW."""
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def hwio(array):
    """A kernel of the reference files, which are OIHW."""
    return jnp.asarray(array.transpose(2, 3, 1, 0))


def with_gradients(function, gradient, *inputs):
    """(the output of a function, its gradients at the inputs for a gradient at the
    output), all in one program.

    gradient: an array, or a function that makes one from the output.
    """

    @jax.jit
    def both(*inputs):
        y, vjp = jax.vjp(function, *inputs)
        at_output = gradient
        if callable(gradient):
            at_output = gradient(y)
        return y, vjp(at_output)

    return both(*inputs)


def relative_error(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def close(one, other, **tolerance) -> bool:
    """Whether two trees agree, by default to 1e-5."""
    near = lambda a, b: np.allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})
    return jax.tree.all(jax.tree.map(near, one, other))
