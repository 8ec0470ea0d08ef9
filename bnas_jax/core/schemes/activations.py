"""`ACTIVATIONS`: the table of the activations that can follow a convolution."""

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic


def clip(y):
    """y clipped to [-1, 1], of any shape.

    The activation of the last stage of Bi-Real Net's float pretraining.
    """
    return jnp.clip(y, min=-1, max=1)


def leaky_clip(y):
    """`clip` with a slope of 0.1 outside [-1, 1], of any shape.

    The activation of the second stage of Bi-Real Net's float pretraining.
    """
    within = jnp.abs(y) <= 1
    return jnp.where(within, y, 0.1 * y + 0.9 * jnp.sign(y))


# A PReLU has a parameter and is a module: here it is the identity, and `activated`
# calls the module.
ACTIVATIONS = {
    "relu": nn.relu,
    "none": lambda y: y,
    "prelu": lambda y: y,
    "clip": clip,
    "leaky_clip": leaky_clip,
}


class PRelu(nn.Module):
    """x where it is positive, else slope * x (arXiv 1502.01852), in the shape of x.

    Each channel has a learned slope.
    """

    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        # The slope begins at 0.25, as in PyTorch.
        start = nn.initializers.constant(0.25)
        slope = self.param("slope", start, (x.shape[-1],), self.arithmetic.dtype)
        return jnp.where(x > 0, x, slope * x)


def activated(x, activation: str, *, arithmetic: Arithmetic):
    """x after an activation, one of `ACTIVATIONS`.

    Call it within a module's `__call__`: a PReLU becomes a submodule of that module.
    """
    # The one activation with a parameter.
    if activation == "prelu":
        return PRelu(arithmetic, name="prelu")(x)
    return ACTIVATIONS[activation](x)
