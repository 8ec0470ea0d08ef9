"""Encoded images to pixels: for a random crop only as much is decoded as it needs, for the centre all of it.

Images of more than 8 bits become 8: the number `white_level` becomes 255, 0 stays 0, and what lies beyond is cut off. Without a
`white_level` that number is 65535 for 16 bits and 1 for floating point. Where that would be a guess, the image is refused:
16 bits of which no number reaches 4096, as of cameras and scanners of 10 or 12 bits; 32-bit whole numbers; floating-point
numbers that are not from 0 to 1. Of several frames or pages the first is read.
"""

import contextlib
import io
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_GRAY = ("1", "L", "LA", "La", "I", "F")
# A set whose 16-bit images stay below has fewer bits than 16, or is all but black.
_FEWEST = 4096
_ADVICE = "set config.dataset.white_level to the number that is white: 4095 for 12 bits, 65535 for 16, 1 for shares"


class BadImage(UserError):
    """The bytes are no image that can be decoded."""


class UnknownScale(UserError):
    """The numbers of an image do not say which of them is white."""


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Picture(NamedTuple):
    """An encoded image whose header was read. mode: Pillow's name of its kind of pixels.

    reducible: a whole JPEG, gray or in colours. Those OpenCV decodes, faster than Pillow; but it fills up one that is cut
    short without a word, and takes CMYK differently, so that Pillow decodes everything else.
    deep: of more than 8 bits a channel. white_level: see above.
    """

    data: bytes
    height: int
    width: int
    mode: str
    reducible: bool
    deep: bool = False
    white_level: float | None = None

    @property
    def gray(self) -> bool:
        return self.mode in _GRAY or self.mode.startswith("I;16")


def read_header(data: bytes, white_level: float | None = None) -> Picture:
    """Raises `BadImage` where the bytes do not start like an image."""
    from PIL import Image

    with _decoding(), Image.open(io.BytesIO(data)) as image:
        whole = data.startswith(_JPEG_START) and _JPEG_END in data[-64:]
        reducible = whole and image.mode in ("L", "RGB")
        # The raw mode, which names the numbers in the file, stands among the decoder's arguments: RGB;16B, for instance.
        deep = image.mode in ("I", "F") or ";16" in image.mode + str(
            [tile[3] for tile in image.tile]
        )
        return Picture(data, image.height, image.width, image.mode, reducible, deep, white_level)


def decode(picture: Picture, channels: int, scale: int = 1) -> np.ndarray:
    """The whole image: uint8 (H, W, channels); 1 channel is gray, 3 are red, green and blue. Raises `BadImage`.

    Palettes become colours, transparency is dropped, CMYK converted, more bits become 8: `UnknownScale` where it is not clear
    how. scale: 2, 4 or 8 decodes a reducible image at that fraction of its size.
    """
    return (
        _opencv(picture.data, channels, scale) if picture.reducible else _pillow(picture, channels)
    )


def take(picture: Picture, box: Box, side: int, channels: int) -> np.ndarray:
    """The part `box` of an image, resized to uint8 (side, side, channels).

    A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 at which the box still has `side` pixels each way.
    """
    scale = scale_for(picture, box, side)
    top, left, height, width = (
        box.top // scale,
        box.left // scale,
        box.height // scale,
        box.width // scale,
    )
    return resize(decode(picture, channels, scale)[top : top + height, left : left + width], side)


def scale_for(picture: Picture, box: Box, side: int) -> int:
    """1, 2, 4 or 8: the fraction of its size at which an image may be decoded for a part that becomes `side` pixels wide."""
    scale = 1
    while picture.reducible and scale < 8 and min(box.height, box.width) >= 2 * scale * side:
        scale *= 2
    return scale


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, C) -> (side, side, C)."""
    import cv2

    height, width, channels = pixels.shape
    if height == width == side:
        return np.ascontiguousarray(pixels)
    # Linear interpolation reads 2x2 pixels, enough down to half the size; below that the mean over the area.
    method = cv2.INTER_AREA if min(height, width) > 2 * side else cv2.INTER_LINEAR
    return cv2.resize(pixels, (side, side), interpolation=method).reshape(side, side, channels)


def centre(pixels: np.ndarray, side: int, resize: int) -> np.ndarray:
    """The middle of an image whose shorter side is brought to `resize` pixels: uint8 (H, W, C) -> (side, side, C).

    resize: at least `side`. Pillow's bilinear filter, which averages over all pixels that it leaves out: what torchvision's
    Resize(resize) and CenterCrop(side) give, on which published networks are evaluated, up to 1 of 255 by rounding.
    """
    from PIL import Image

    height, width, channels = pixels.shape
    left, right = _middle(width, min(height, width), side, resize)
    top, bottom = _middle(height, min(height, width), side, resize)
    # The filter still reads what lies around the box.
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    resized = image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return np.asarray(resized).reshape(side, side, channels)


def _middle(length: int, shorter: int, side: int, resize: int) -> tuple[float, float]:
    """From where to where, in pixels of the image, the middle `side` pixels lie of a line that is resized."""
    resized = int(resize * length / shorter)
    first = round((resized - side) / 2)
    return first * length / resized, min((first + side) * length / resized, length)


def _opencv(data: bytes, channels: int, scale: int) -> np.ndarray:
    import cv2

    cv2.setNumThreads(1)  # the pipeline has threads and processes of its own
    reduced = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    # Colours in this order from the start: turning them round afterwards took a third as long as decoding.
    flags = (
        reduced[scale]
        | cv2.IMREAD_IGNORE_ORIENTATION
        | (cv2.IMREAD_COLOR_RGB if channels == 3 else 0)
    )
    with _decoding():
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise BadImage("does not decode")
    return pixels if channels == 3 else pixels[..., None]


def _pillow(picture: Picture, channels: int) -> np.ndarray:
    from PIL import Image

    with _decoding(), Image.open(io.BytesIO(picture.data)) as image:
        eight_bits: Image.Image = image
        if picture.deep:
            eight_bits = Image.fromarray(
                _shortened(_deep_values(picture, image), picture.white_level, image.format)
            )
        pixels = np.asarray(eight_bits.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _deep_values(picture: Picture, image: Any) -> np.ndarray:
    """The numbers of an image of more than 8 bits: (H, W) of gray or (H, W, 3) of red, green and blue."""
    if picture.gray and picture.mode != "LA":
        return np.asarray(image)
    import cv2

    image.load()  # notices what is cut short, but keeps 8 bits of several channels
    values = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] < 3:
        raise BadImage(
            f"is of more than 8 bits in a form that is not read here ({image.format}, {picture.mode})"
        )
    return values[..., 2::-1]  # from blue, green, red and transparency


def _shortened(
    values: np.ndarray, white_level: float | None, file_format: str | None
) -> np.ndarray:
    """uint8 of the same shape, `white_level` at 255."""
    if not np.isfinite(values).all():
        raise BadImage("holds numbers that are none (NaN or infinity)")
    white = white_level or _white(values, file_format)
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


def _white(values: np.ndarray, file_format: str | None) -> float:
    """The number that is white as far as an image says so."""
    lowest, highest = values.min(), values.max()
    if values.dtype.kind == "f":
        if lowest < 0 or highest > 1:
            raise UnknownScale(
                f"holds floating-point numbers from {lowest:g} to {highest:g} instead of 0 to 1; {_ADVICE}"
            )
        return 1.0
    if file_format == "PPM" or not (
        lowest or highest
    ):  # Pillow brings the maximum in its header to 65535
        return 65535.0
    if values.dtype != np.uint16:
        raise UnknownScale(f"holds whole numbers of 32 bits, from {lowest} to {highest}; {_ADVICE}")
    if highest < _FEWEST:
        raise UnknownScale(f"holds numbers of 16 bits, none above {highest}; {_ADVICE}")
    return 65535.0


@contextlib.contextmanager
def _decoding():
    """Decoders raise whatever their libraries do."""
    try:
        yield
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadImage(
            f"does not decode ({'of an unknown format' if 'cannot identify' in text else text})"
        ) from error
