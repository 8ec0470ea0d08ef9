"""Colour jitter with the ranges and formulas of torchvision.

The functions are pure, and can be jitted; they change whole batches. torchvision draws
the order of the four changes for each image. Here it is drawn for each batch: with
another order for each image, all four changes would have to be computed four times. The
distribution of a single image is the same. Values are not rounded between the changes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The weights of red, green and blue in gray: ITU-R 601-2, as in Pillow.
_LUMA = np.array([0.299, 0.587, 0.114])
# The number that is folded into the key of the step.
_STREAM = 1


def draw(key: jax.Array, size: int, jitter: tuple[float, ...]) -> dict[str, jax.Array]:
    """The random amounts of the four changes, float32 (size,) each.

    For brightness, contrast and saturation, an amount is a factor in [max(0, 1 - j),
    1 + j], where j is the entry of `jitter`. For hue it is a turn of the colour circle
    in [-j, j], where 1 is a whole turn.

    jitter: the entries for brightness, contrast, saturation and hue.
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
    """Images with the four changes applied in an order: float (B, H, W, C) in [0, 1].

    The saturation and the hue of gray images are not changed.

    pixels: float (B, H, W, C) in [0, 1].
    factors: the amounts that `draw` returns, (B,) each.
    order: the order that `draw_order` returns, int32 (4,).
    """
    changes = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    if pixels.shape[-1] != 3:
        changes |= {"saturation": _same, "hue": _same}

    # `switch` needs a function of the images for each change.
    def branch(change: Callable, factor: jax.Array) -> Callable:
        def changed(images):
            by_image = factor.astype(images.dtype)[:, None, None, None]  # (B, 1, 1, 1)
            return change(images, by_image)

        return changed

    branches = []
    for name, change in changes.items():
        branches.append(branch(change, factors[name]))

    for place in range(4):
        pixels = jax.lax.switch(order[place], branches, pixels)
    return pixels


def brightness(images: jax.Array, factor: Any) -> jax.Array:
    """Interpolates between black (factor 0) and the images (factor 1).

    factor: (B, 1, 1, 1), as in the other changes.
    """
    return _between(images, other=0.0, factor=factor)


def contrast(images: jax.Array, factor: Any) -> jax.Array:
    """Interpolates between the mean gray of each image and the image."""
    mean = _gray(images).mean((1, 2, 3), keepdims=True)  # (B, 1, 1, 1)
    return _between(images, other=mean, factor=factor)


def saturation(images: jax.Array, factor: Any) -> jax.Array:
    """Interpolates between the gray images and the images."""
    return _between(images, other=_gray(images), factor=factor)


def hue(images: jax.Array, turn: Any) -> jax.Array:
    """Turns the hue of the images on the colour circle, in HSV.

    Value and chroma do not change.

    turn: the angle, where 1 is a whole turn, (B, 1, 1, 1).
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
    """No change, in place of `saturation` and `hue` for gray images."""
    return images


def _between(images: jax.Array, other: Any, factor: Any) -> jax.Array:
    """factor * images + (1 - factor) * other, clipped to [0, 1]."""
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def _gray(images: jax.Array) -> jax.Array:
    """The images in gray, (B, H, W, 1)."""
    if images.shape[-1] != 3:
        return images
    return (images * _LUMA.astype(images.dtype)).sum(-1, keepdims=True)
