"""A packed network as one program, which runs where JAX is and this package is not."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.data.augment import Augmentation, normalize
from bnas_jax.data.facts import Facts

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


def program(model: nn.Module, variables: dict, facts: Facts, *, white: float) -> bytes:
    """The program of a network: pixels (N, H, W, C), uint8, to logits (N, classes).

    It holds the variables, and brings pixels to the scale of the training. N is any
    number. The format is that of `jax.export` (docs/packed.md).

    Example: `jax.export.deserialize(program).call(pixels)`.

    Raises `UserError` for a network that does not say how pixels are normalised, or
    that computes what no such program can, and without the package flatbuffers.

    variables: of `pack`, or as they were trained.
    white: the number that is white among the pixels.
    """
    if facts.statistics is None:
        raise UserError(
            "this network does not say how pixels are normalised; write "
            '"mean" and "std" into the run.json of its run'
        )
    mean, std = facts.statistics
    augmentation = Augmentation(mean, std, scale=1 / white)

    def logits_of(pixels):
        images = normalize(pixels, augmentation, model.arithmetic.dtype)
        return model.apply(variables, images, train=False)

    # The number of images is a symbol, so that any number will do.
    (number,) = jax.export.symbolic_shape("images")
    pixels = jax.ShapeDtypeStruct((number, *facts.image_shape), jnp.uint8)
    try:
        exported = jax.export.export(jax.jit(logits_of), platforms=PLATFORMS)(pixels)
    except _NO_PROGRAM as error:
        reason, *_ = str(error).splitlines()
        raise UserError(
            "the network cannot be written as one program for any number of images on "
            f"{', '.join(PLATFORMS)} ({reason}); mend its modules, which may need "
            "x.shape[0] in place of len(x), or leave --format out"
        ) from error
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise UserError(
            "a program is written by the package flatbuffers: pip install flatbuffers"
        ) from None
