"""Initializers of kernels and biases: PyTorch's defaults."""

from collections.abc import Callable

import jax
import numpy as np


def uniform_fan_in(key, shape, dtype):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels.

    shape: the kernel's shape, (kh, kw, ci, co) or (ci, co). fan_in is the product of
        all axes but the last.
    """
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)


def bias_init(fan_in: int) -> Callable:
    """The initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a bias.

    fan_in: the fan-in of the kernel that the bias belongs to.
    """
    bound = 1 / np.sqrt(fan_in)

    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init
