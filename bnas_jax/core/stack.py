"""The plan of a network: its cells in order, their widths, and which are reductions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import whole
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.schemes.scheme import check_scheme


@dataclasses.dataclass(frozen=True)
class Place:
    """A cell's place in the stack.

    index: from 0.
    channels: the number of channels of each node.
    reduction: whether the cell has half the size, and twice the channels, of the
        previous cell.
    halved: whether the cell's first input has twice the size of its second, as it does
        after a reduction cell.
    """

    index: int
    channels: int
    reduction: bool
    halved: bool

    @property
    def name(self) -> str:
        """The name of the cell's module."""
        return f"cell{self.index}"

    @property
    def kind(self) -> str:
        """Which cell of a genotype or of the alphas is here: `normal` or `reduce`."""
        return "reduce" if self.reduction else "normal"

    @property
    def follows_a_cell(self) -> bool:
        """Whether the cell follows another cell, and not the stem.

        An inter-cell skip adds the output of that other cell.
        """
        return self.index > 0

    def stride(self, source: int) -> int:
        """The stride of an edge that leaves the state `source`.

        It is 2 from the two inputs of a reduction cell, else 1.
        """
        return 2 if self.reduction and source < 2 else 1


def reductions(num_cells: int) -> tuple[int, ...]:
    """The indices of the reduction cells, which halve the image and double the width.

    They stand at one and two thirds of the depth (DARTS section 2.1).
    """
    # A set, since both are cell 0 in a network of a single cell.
    return tuple(sorted({num_cells // 3, 2 * num_cells // 3}))


def stack(num_cells: int, channels: int, *, halved: bool = False) -> tuple[Place, ...]:
    """The places of all cells, in order.

    channels: the width before the first reduction, which doubles it.
    halved: whether the stem gives the first cell two sizes (ImageNet's does).
    """
    places = []
    for index in range(num_cells):
        reduction = index in reductions(num_cells)
        if reduction:
            channels = 2 * channels
        place = Place(
            index=index, channels=channels, reduction=reduction, halved=halved
        )
        places.append(place)
        # The next cell also reads the output of the cell before this one, which has
        # twice the size if this one is a reduction.
        halved = reduction
    return tuple(places)


def check_fields(network: Any) -> None:
    """Raises `UserError` for sizes below 1, and for a wrong scheme or arithmetic.

    network: a `Network` or a `Supernet`.
    """
    for name in ("num_cells", "channels", "num_classes"):
        whole(name, getattr(network, name))
    check_scheme(network.scheme)
    # A common mistake is a number type.
    if not isinstance(network.arithmetic, Arithmetic):
        raise UserError(
            "arithmetic must be an object such as Arithmetic(conv_dtype=jnp.bfloat16), "
            f"got {shown(network.arithmetic)}"
        )


def check_image_shape(image_shape: Any) -> None:
    """Raises `UserError` unless this is a tuple of sizes, the shape of an image.

    The network checks how many there are.
    """
    if not isinstance(image_shape, (tuple, list)):
        raise UserError(
            "image_shape must be (H, W, C), such as (32, 32, 3), got "
            f"{shown(image_shape)}"
        )
    for size in image_shape:
        whole("each size of image_shape=(H, W, C)", size)


def check_images(images: jax.Array) -> None:
    """Raises `UserError` for images that are not floats (N, H, W, C), or are empty."""
    if not hasattr(images, "shape"):
        raise UserError(f"images must be an array, got a {type(images).__name__}")
    shape = images.shape
    if len(shape) != 4 or 0 in shape:
        raise UserError(
            f"images must be (N, H, W, C), got {shape}; one image is written "
            "image[None], and image_shape=(H, W, C)"
        )
    # A network of signs answers for pixels that are not normalised, too, but wrongly.
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images must be floats, normalised as in training, got {images.dtype}; "
            "write (pixels / white - mean) / std"
        )


def check_image_size(
    shape: tuple[int, ...], num_cells: int, *, image_stride: int = 1
) -> None:
    """Raises `UserError` for images that cannot be halved at every reduction.

    shape: the shape of the first cell's second input, (N, H, W, C).
    image_stride: the number by which the stem divides the size of images.
    """
    times = len(reductions(num_cells))
    steps = 2**times
    for size in shape[1:3]:
        if size % steps:
            # The next smaller size that fits.
            near = max(steps, size // steps * steps)
            advice = f"use a multiple of {steps}, for instance {near}"
            # Perhaps the channels stand first, as in PyTorch.
            if size < steps:
                advice += ", and images (N, H, W, C)"
            if image_stride > 1:
                advice = (
                    f"the stem of this form divides the side by {image_stride}: use "
                    f"images of a multiple of {image_stride * steps}, for instance "
                    f"{image_stride * near}, or, for small images, "
                    "config.network.form=cifar"
                )
            raise UserError(
                f"images of {size} pixels at the first cell cannot be halved by "
                f"{times} reduction cells; {advice}"
            )
