"""Kernels of signs with one bit for each weight.

A packed network has them in place of latent weights.
"""

import jax
from flax import struct

from bnas_jax.core.ops.popcount import pack_kernel, unpack_kernel


class Kernel(struct.PyTreeNode):
    """The signs of a kernel in words of 32 bits.

    words: (kh, words, O), as `popcount.pack_kernel` makes them.
    shape: (kh, kw, C / groups, O) of the kernel.
    """

    words: jax.Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def pack_signs(signs) -> Kernel:
    """The packed kernel of the signs (kh, kw, C / groups, O).

    A sign is a single bit, so that 0 becomes 1.
    """
    return Kernel(words=pack_kernel(signs), shape=tuple(signs.shape))


def signs_of(w, dtype):
    """The signs -1 and 1 of a kernel, (kh, kw, C / groups, O), in `dtype`.

    A kernel that is not packed is returned as it is.
    """
    if isinstance(w, Kernel):
        return unpack_kernel(w.words, w.shape, dtype=dtype)
    return w
