"""Colour jitter with the ranges and formulas of torchvision: pure, jittable functions
of whole batches.

torchvision draws the order of the four changes for each image; here it is drawn for
each batch, which saves computing all four at each of four places. Each image by itself
sees the same distribution. Values are not rounded in between.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# ITU-R 601-2, as Pillow's gray.
_LUMA = np.array([0.299, 0.587, 0.114])
# What is folded into the step's key.
_STREAM = 1


def draw(key: jax.Array, size: int, jitter: tuple[float, ...]) -> dict[str, jax.Array]:
    """Factors around 1, by up to `jitter`, for brightness, contrast and saturation, and
    turns of the hue: float32 (size,).
    """
    keys = jax.random.split(jax.random.fold_in(key, _STREAM), 5)
    uniform = lambda key, low, high: jax.random.uniform(
        key, shape=(size,), dtype=jnp.float32, minval=low, maxval=high
    )
    # A factor below 0 would be the negative image.
    factor = lambda key, by: uniform(key, max(0.0, 1 - by), 1 + by)
    brightness, contrast, saturation, hue = jitter
    return {
        "brightness": factor(keys[0], brightness),
        "contrast": factor(keys[1], contrast),
        "saturation": factor(keys[2], saturation),
        "hue": uniform(keys[3], -hue, hue),
    }


def draw_order(key: jax.Array) -> jax.Array:
    """The order of the four changes, int32 (4,)."""
    # The fifth of the keys of `draw`.
    keys = jax.random.split(jax.random.fold_in(key, _STREAM), 5)
    place = jax.random.uniform(keys[4], shape=(4,), dtype=jnp.float32)
    return jnp.argsort(place).astype(jnp.int32)


def jitter(
    pixels: jax.Array, factors: dict[str, jax.Array], order: jax.Array
) -> jax.Array:
    """Images, float (B, H, W, C) from 0 to 1, changed in that order.

    Gray images have neither saturation nor hue.

    factors: as from `draw`, (B,) each. order: as from `draw_order`.
    """
    changes = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    if pixels.shape[-1] != 3:
        changes |= {"saturation": _same, "hue": _same}

    def branch(change: Callable, factor: jax.Array) -> Callable:
        def changed(images):
            return change(images, factor.astype(images.dtype)[:, None, None, None])

        return changed

    # At each of four places, that one of the changes which the order says.
    branches = []
    for name, change in changes.items():
        branches.append(branch(change, factors[name]))
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
    """The images with their colours moved on the colour circle. turn: a share of the
    circle, (B, 1, 1, 1).

    Through HSV: value and chroma stay.
    """
    value, low = (
        images.max(-1, keepdims=True),
        images.min(-1, keepdims=True),
    )  # [B, H, W, 1]
    chroma = value - low
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    by = jnp.where(chroma > 0, chroma, 1)

    # The place of the colour on a circle of 6, by the channel that is largest.
    is_red = value == red
    from_red = (green - blue) / by
    is_green = value == green
    from_green = 2 + (blue - red) / by
    from_blue = 4 + (red - green) / by
    sixth = jnp.where(is_red, from_red, jnp.where(is_green, from_green, from_blue))

    # One channel of a colour at `sixth`: full for two sixths around the channel's
    # place, gone for two opposite.
    offsets = jnp.array([5.0, 3.0, 1.0], images.dtype)  # [C]
    place = (offsets + sixth + 6 * turn) % 6  # [B, H, W, C]
    return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def _same(images: jax.Array, factor: Any) -> jax.Array:
    return images


def _between(images: jax.Array, other: Any, factor: Any) -> jax.Array:
    """The images at factor 1, `other` at 0, exaggerated above 1; within 0 to 1."""
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def _gray(images: jax.Array) -> jax.Array:
    """Gray images (B, H, W, 1), of colour ones by their luma."""
    if images.shape[-1] != 3:
        return images
    return (images * _LUMA.astype(images.dtype)).sum(-1, keepdims=True)
