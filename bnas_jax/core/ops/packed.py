"""Kernels of signs at one bit a weight: what a packed network holds in place of latent
weights.
"""

import jax
from flax import struct

from bnas_jax.core.ops.popcount import pack_kernel, unpack_kernel


class Kernel(struct.PyTreeNode):
    """The signs of a kernel (kh, kw, C / groups, O) in words of 32 bits. shape: that of
    the kernel.

    words: (kh, words, O), as `popcount.pack_kernel` makes them.
    """

    words: jax.Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def pack_signs(signs) -> Kernel:
    """The kernel of the signs (kh, kw, C / groups, O): one bit each, so that 0 is taken
    as 1.
    """
    return Kernel(words=pack_kernel(signs), shape=tuple(signs.shape))


def signs_of(w, dtype):
    """The signs (kh, kw, C / groups, O) of a kernel, -1 and 1 of that dtype; those that
    are not packed as they are.
    """
    if isinstance(w, Kernel):
        return unpack_kernel(w.words, w.shape, dtype=dtype)
    return w
