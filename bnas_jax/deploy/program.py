"""A packed network as one program, which runs where JAX is and this package is not."""

import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError

# Where the program runs. One program serves all: on a CPU it counts bits, elsewhere it
# multiplies signs.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# What `jax.export` raises for modules of a user's own that need to know the number of
# images, or that compute what a program cannot hold, such as a function of Python.
_NO_PROGRAM = (
    TypeError,
    ValueError,
    NotImplementedError,
    jax.errors.InconclusiveDimensionOperation,
)


def check_flatbuffers() -> None:
    """Raises `UserError` without flatbuffers, which `jax.export` writes with."""
    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        raise UserError(
            "a program is written by the package flatbuffers: pip install flatbuffers"
        ) from None


def program(
    logits_of: Callable[[jax.Array], jax.Array], image_shape: tuple[int, ...]
) -> bytes:
    """A function of pixels as one program, in the format of `jax.export`.

    The function takes pixels (N, H, W, C), uint8, and returns logits (N, classes), as
    `pixels.logits_of_pixels` does; what it closes over, the program holds. N is any
    number.

    Example: `jax.export.deserialize(program).call(pixels)`.

    Raises `UserError` for a network that computes what no such program can.

    image_shape: (H, W, C).
    """
    # The number of images is a symbol, so that any number will do.
    (number,) = jax.export.symbolic_shape("images")
    pixels = jax.ShapeDtypeStruct((number, *image_shape), jnp.uint8)
    try:
        exported = jax.export.export(jax.jit(logits_of), platforms=PLATFORMS)(pixels)
    except _NO_PROGRAM as error:
        reason, *_ = str(error).splitlines()
        raise UserError(
            "the network cannot be written as one program for any number of images on "
            f"{', '.join(PLATFORMS)} ({reason}); mend its modules, which may need "
            "x.shape[0] in place of len(x), or leave --format out"
        ) from error
    return bytes(exported.serialize())
