"""Colour jitter with the ranges and formulas of torchvision.

The functions are pure, and can be jitted; they change whole batches. torchvision draws
the order of the four changes for each image. Here it is drawn for each batch: otherwise
all four would be computed at each of four places. An image by itself sees the same
distribution. Values are not rounded in between.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# ITU-R 601-2, as Pillow's gray.
_LUMA = np.array([0.299, 0.587, 0.114])
# The number that is folded into the key of the step.
_STREAM = 1


def draw(key: jax.Array, size: int, jitter: tuple[float, ...]) -> dict[str, jax.Array]:
    """The random amounts of the four changes, float32 (size,) each.

    For brightness, contrast and saturation they are factors around 1, by up to the
    numbers in `jitter`; for hue, turns of the colour circle, by up to its number to
    either side.
    """
    keys = jax.random.split(jax.random.fold_in(key, _STREAM), 5)

    def uniform(key: jax.Array, low: float, high: float) -> jax.Array:
        return jax.random.uniform(
            key, shape=(size,), dtype=jnp.float32, minval=low, maxval=high
        )

    def factor(key: jax.Array, by: float) -> jax.Array:
        # A factor below 0 would be the negative image.
        return uniform(key, low=max(0.0, 1 - by), high=1 + by)

    brightness, contrast, saturation, hue = jitter
    return {
        "brightness": factor(keys[0], brightness),
        "contrast": factor(keys[1], contrast),
        "saturation": factor(keys[2], saturation),
        "hue": uniform(keys[3], low=-hue, high=hue),
    }


def draw_order(key: jax.Array) -> jax.Array:
    """The order of the four changes, int32 (4,)."""
    # `draw` uses the first four of these keys.
    keys = jax.random.split(jax.random.fold_in(key, _STREAM), 5)
    place = jax.random.uniform(keys[4], shape=(4,), dtype=jnp.float32)
    return jnp.argsort(place).astype(jnp.int32)


def jitter(
    pixels: jax.Array, factors: dict[str, jax.Array], order: jax.Array
) -> jax.Array:
    """Images, float (B, H, W, C) from 0 to 1, changed in the order that is given.

    Gray images have neither saturation nor hue.

    factors: as from `draw`, (B,) each.
    order: as from `draw_order`, int32 (4,).
    """
    changes = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    if pixels.shape[-1] != 3:
        changes |= {"saturation": _same, "hue": _same}

    # One branch a change: a function of the images alone, as `switch` needs it.
    def branch(change: Callable, factor: jax.Array) -> Callable:
        def changed(images):
            by_image = factor.astype(images.dtype)[:, None, None, None]  # [B, 1, 1, 1]
            return change(images, by_image)

        return changed

    branches = []
    for name, change in changes.items():
        branches.append(branch(change, factors[name]))

    # The order says which change is made first, second, third and last.
    for place in range(4):
        pixels = jax.lax.switch(order[place], branches, pixels)
    return pixels


def brightness(images: jax.Array, factor: Any) -> jax.Array:
    """Between black and the images. factor: (B, 1, 1, 1), as in the other changes."""
    return _between(images, other=0.0, factor=factor)


def contrast(images: jax.Array, factor: Any) -> jax.Array:
    """Between the mean gray of each image and the image."""
    mean = _gray(images).mean((1, 2, 3), keepdims=True)  # [B, 1, 1, 1]
    return _between(images, other=mean, factor=factor)


def saturation(images: jax.Array, factor: Any) -> jax.Array:
    """Between the gray images and the images."""
    return _between(images, other=_gray(images), factor=factor)


def hue(images: jax.Array, turn: Any) -> jax.Array:
    """The images with their colours turned on the colour circle, in HSV.

    Value and chroma stay.

    turn: a share of the circle, (B, 1, 1, 1).
    """
    # From RGB to HSV.
    value = images.max(-1, keepdims=True)  # (B, H, W, 1)
    lowest = images.min(-1, keepdims=True)  # (B, H, W, 1)
    chroma = value - lowest
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    by = jnp.where(chroma > 0, chroma, 1)  # a gray pixel has no hue

    # The hue on a circle of length 6; the largest channel decides the sector.
    is_red = value == red
    from_red = (green - blue) / by
    is_green = value == green
    from_green = 2 + (blue - red) / by
    from_blue = 4 + (red - green) / by
    sixth = jnp.where(is_red, from_red, jnp.where(is_green, from_green, from_blue))

    # Back to RGB with the hue turned. A channel is at its maximum within one sixth
    # around its own place on the circle, and at its minimum on the opposite side.
    offsets = jnp.array([5.0, 3.0, 1.0], images.dtype)  # (C,)
    place = (offsets + sixth + 6 * turn) % 6  # (B, H, W, C)
    return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def _same(images: jax.Array, factor: Any) -> jax.Array:
    """The change of gray images that has no effect on them."""
    return images


def _between(images: jax.Array, other: Any, factor: Any) -> jax.Array:
    """The images at factor 1, `other` at 0, exaggerated above 1; within 0 to 1."""
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def _gray(images: jax.Array) -> jax.Array:
    """Gray images (B, H, W, 1), of colour ones by their luma."""
    if images.shape[-1] != 3:
        return images
    return (images * _LUMA.astype(images.dtype)).sum(-1, keepdims=True)
