"""A packed network as one program, which runs where JAX is and this package is not."""

import dataclasses
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError

# Where a program can run. One can serve all: on a CPU it counts bits, elsewhere it
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where a program runs, and how many images it takes.

    A program of one platform and one number of images is as fast as the packed network.
    Any other is changed by JAX before it is compiled, and then XLA's CPU compiler
    computes again what `core.ops.materialize` would have stored.
    """

    platforms: tuple[str, ...] = PLATFORMS
    # None: any number.
    batch_size: int | None = None


def check_flatbuffers() -> None:
    """Raises `UserError` without flatbuffers, which `jax.export` writes with."""
    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        raise UserError(
            "a program is written by the package flatbuffers: pip install flatbuffers"
        ) from None


def program(
    logits_of: Callable[[jax.Array], jax.Array],
    image_shape: tuple[int, ...],
    target: Target = Target(),
) -> bytes:
    """A function of pixels as one program, in the format of `jax.export`.

    The function takes pixels (N, H, W, C), uint8, and returns logits (N, classes), as
    `pixels.logits_of_pixels` does; what it closes over, the program holds.

    Example: `jax.export.deserialize(program).call(pixels)`.

    Raises `UserError` for a network that computes what no such program can.

    image_shape: (H, W, C).
    """
    # A symbol stands for any number of images.
    (any_number,) = jax.export.symbolic_shape("images")
    number = target.batch_size or any_number
    pixels = jax.ShapeDtypeStruct((number, *image_shape), jnp.uint8)
    export = jax.export.export(jax.jit(logits_of), platforms=target.platforms)
    try:
        exported = export(pixels)
    except _NO_PROGRAM as error:
        raise UserError(_refusal(error, target)) from error
    return bytes(exported.serialize())


def _refusal(error: Exception, target: Target) -> str:
    """Why a network cannot be written, and what to do."""
    reason, *_ = str(error).splitlines()
    images, advice = f"{target.batch_size} images", "change its modules"
    if target.batch_size is None:
        images = "any number of images"
        advice += (
            ", which may need x.shape[0] in place of len(x), name a number by "
            "--batch_size,"
        )
    return (
        f"the network cannot be written as one program for {images} on "
        f"{', '.join(target.platforms)} ({reason}); {advice} or leave --format out"
    )
