"""Means and sums over devices, to be called inside a step."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np


def average(tree, axis: str | None):
    """The mean of each leaf over devices; the tree itself without an axis.

    All leaves of a number type are concatenated and sent in one collective, because
    many small collectives are slow (300 leaves of 9 numbers on 4 CPU devices: 34 ms one
    by one, 3 ms as one).

    axis: the mapped axis of the devices; None for one device.
    """
    if axis is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)

    # {number type: positions of its leaves}.
    groups = defaultdict(list)
    for position, leaf in enumerate(leaves):
        groups[jnp.result_type(leaf)].append(position)

    for positions in groups.values():
        # The mean of all leaves of the type, as one vector.
        vectors = [jnp.ravel(leaves[position]) for position in positions]
        flat = jnp.concatenate(vectors)  # (elements of all leaves of the type,)
        means = jax.lax.pmean(flat, axis)

        # Back from the vector to the leaves and their shapes.
        first = 0
        for position in positions:
            shape = jnp.shape(leaves[position])
            size = int(np.prod(shape))
            leaves[position] = means[first : first + size].reshape(shape)
            first += size
    return jax.tree.unflatten(structure, leaves)


def total(tree, axis: str | None):
    """The sum of each leaf over the devices; the tree itself without an axis."""
    if axis is None:
        return tree
    return jax.lax.psum(tree, axis)
