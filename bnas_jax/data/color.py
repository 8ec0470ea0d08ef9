"""Colour jitter as in torchvision, whose ranges and formulas these are: pure, jittable functions of whole batches.

torchvision draws the order of the four changes for each image; here it is drawn for each batch, which saves computing all
four at each of four places. Each image by itself sees the same distribution. Values are not rounded in between.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# ITU-R 601-2, as Pillow's gray.
_LUMA = np.array([0.299, 0.587, 0.114])
_STREAM = 1  # of the step's key; 0 would do, but is left to what may come


def draw(key: jax.Array, size: int, jitter: tuple[float, ...]) -> dict[str, jax.Array]:
    """Factors float32 (size,) around 1 by up to `jitter` for brightness, contrast and saturation, and the turn of the hue."""
    keys = jax.random.split(jax.random.fold_in(key, _STREAM), 5)
    factor = lambda k, by: jax.random.uniform(k, (size,), jnp.float32, max(0.0, 1 - by), 1 + by)
    brightness, contrast, saturation, hue = jitter
    return {
        "brightness": factor(keys[0], brightness),
        "contrast": factor(keys[1], contrast),
        "saturation": factor(keys[2], saturation),
        "hue": jax.random.uniform(keys[3], (size,), jnp.float32, -hue, hue),
    }


def draw_order(key: jax.Array) -> jax.Array:
    """The order of the four changes, int32 (4,)."""
    place = jax.random.uniform(
        jax.random.split(jax.random.fold_in(key, _STREAM), 5)[4], (4,), jnp.float32
    )
    return jnp.argsort(place).astype(jnp.int32)


def jitter(pixels: jax.Array, factors: dict[str, jax.Array], order: jax.Array) -> jax.Array:
    """float (B, H, W, C) from 0 to 1, changed in that order. Gray images have neither saturation nor hue."""
    changes = [brightness, contrast] + (
        [saturation, hue] if pixels.shape[-1] == 3 else [_same, _same]
    )
    names = ("brightness", "contrast", "saturation", "hue")
    branches = [
        lambda images, change=change, by=factors[name]: change(
            images, by.astype(images.dtype)[:, None, None, None]
        )
        for change, name in zip(changes, names, strict=True)
    ]
    for place in range(4):
        pixels = jax.lax.switch(order[place], branches, pixels)
    return pixels


def brightness(images: jax.Array, factor: Any) -> jax.Array:
    return _between(images, 0.0, factor)


def contrast(images: jax.Array, factor: Any) -> jax.Array:
    return _between(images, _gray(images).mean((1, 2, 3), keepdims=True), factor)


def saturation(images: jax.Array, factor: Any) -> jax.Array:
    return _between(images, _gray(images), factor)


def hue(images: jax.Array, turn: Any) -> jax.Array:
    """`turn`: a share of the colour circle. Through HSV: value and chroma stay."""
    value, low = images.max(-1, keepdims=True), images.min(-1, keepdims=True)
    chroma = value - low
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    by = jnp.where(chroma > 0, chroma, 1)
    sixth = jnp.where(
        value == red,
        (green - blue) / by,
        jnp.where(value == green, 2 + (blue - red) / by, 4 + (red - green) / by),
    )
    # One channel of a colour at `sixth` on the circle of 6: full for two sixths around its own place, gone for two opposite.
    place = (jnp.array([5.0, 3.0, 1.0], images.dtype) + sixth + 6 * turn) % 6
    return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def _same(images: jax.Array, factor: Any) -> jax.Array:
    return images


def _between(images: jax.Array, other: Any, factor: Any) -> jax.Array:
    """The images at factor 1, `other` at 0, beyond the images above 1; within 0 to 1."""
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def _gray(images: jax.Array) -> jax.Array:
    return (
        (images * _LUMA.astype(images.dtype)).sum(-1, keepdims=True)
        if images.shape[-1] == 3
        else images
    )
