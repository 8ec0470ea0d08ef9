"""How the state of a run is stored on GPUs: kernels with their outputs first.

Everywhere in the package a kernel has the shape (rows, columns, inputs / groups,
outputs), and JAX stores the outputs next to each other. cuDNN reads a kernel of each
output after the other. If the state is stored so, XLA need not transpose the kernels in
each step, nor their gradients and momentum. Shapes and numbers stay the same.
"""

import jax
from jax.experimental.layout import Format, Layout

# The platforms whose convolutions read kernels so.
PLATFORMS = ("gpu",)

_OUTPUTS_FIRST = Layout(major_to_minor=(3, 0, 1, 2))


def formats(state):
    """How each leaf of a state is placed and stored, for `jax.jit` and `device_put`.

    state: arrays, or `jax.ShapeDtypeStruct`s with a sharding. Of a state, only kernels
        and what the optimizer keeps of them have four axes.
    """

    def format_of(leaf):
        if leaf.ndim == 4:
            return Format(_OUTPUTS_FIRST, leaf.sharding)
        return leaf.sharding

    return jax.tree.map(format_of, state)
