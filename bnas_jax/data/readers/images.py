"""From encoded images to pixels.

For a random crop, a JPEG may be decoded at a reduced scale; for the centre, an image is
decoded in full. Of several frames or pages, the first is read. The orientation in the
file is not applied, see `is_turned`.

Images of more than 8 bits are converted to 8: the value `white_level` becomes 255, 0
stays 0, and values outside are clipped. Without a `white_level`, white is 65535 for 16
bits and 1 for floating point. Where this would be a guess, the image is refused:

- 16 bits with all values below 4096, as from cameras and scanners of 10 or 12 bits;
- 32-bit integers;
- floating-point values outside 0 to 1.
"""

import contextlib
import io
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError, first_line

# The first and the last marker of a JPEG file.
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Pillow's modes of gray images.
_GRAY = ("1", "L", "LA", "La", "I", "F")
# A 16-bit image whose values are all below this has fewer bits than 16, or is nearly
# black.
_FEWEST = 4096
_ADVICE = (
    "set config.dataset.white_level to the number that is white: 4095 for 12 bits, "
    "65535 for 16, 1 for shares"
)


class BadImage(UserError):
    """The bytes are not an image that can be decoded."""


class UnknownScale(UserError):
    """The values of an image do not tell which value is white."""


class Box(NamedTuple):
    """A rectangular part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Picture(NamedTuple):
    """An encoded image whose header was read.

    OpenCV decodes the reducible images, as it is faster than Pillow. Pillow decodes all
    others: OpenCV fills up a truncated file without an error, and converts CMYK
    differently.

    data: the contents of the file.
    mode: Pillow's name for the type of pixels.
    reducible: whether the file is a complete JPEG, gray or RGB.
    deep: whether a channel has more than 8 bits.
    white_level: see above; None if it is not set.
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
        """Whether the image is gray."""
        return self.mode in _GRAY or self.mode.startswith("I;16")


def read_header(data: bytes, white_level: float | None = None) -> Picture:
    """The size and the type of an image.

    Raises `BadImage` where the bytes do not begin like an image.
    """
    from PIL import Image

    with _decoding(), Image.open(io.BytesIO(data)) as image:
        # A truncated JPEG lacks its end marker; some programs write a few bytes after
        # the marker.
        whole = data.startswith(_JPEG_START) and _JPEG_END in data[-64:]
        # The mode is the type of Pillow's values. The type in the file is one of the
        # decoder's arguments, for instance RGB;16B.
        raw_modes = str([tile[3] for tile in image.tile])
        deep = image.mode in ("I", "F") or ";16" in image.mode + raw_modes
        return Picture(
            data=data,
            height=image.height,
            width=image.width,
            mode=image.mode,
            reducible=whole and image.mode in ("L", "RGB"),
            deep=deep,
            white_level=white_level,
        )


def is_turned(data: bytes) -> bool:
    """Whether viewers rotate or mirror an image before they show it.

    Cameras do not rotate the pixels of a photograph, but write their orientation into
    the file. As in torchvision, images are read as they are stored, except for TIFF,
    which Pillow itself rotates.
    """
    from PIL import ExifTags, Image

    with _decoding(), Image.open(io.BytesIO(data)) as image:
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        # The entry may be damaged, which does not affect the pixels.
        except Exception:
            return False
        return image.format != "TIFF" and orientation in range(2, 9)


def decode(picture: Picture, channels: int, scale: int = 1) -> np.ndarray:
    """The whole image, uint8 (H, W, channels), with 1 channel of gray or 3 of RGB.

    Palettes become colours, transparency is dropped, CMYK and more than 8 bits are
    converted. Raises `BadImage`, and `UnknownScale` where it is not clear which value
    is white.

    scale: 2, 4 or 8 decodes a reducible image at that fraction of its size.
    """
    if picture.reducible:
        return _opencv(picture.data, channels=channels, scale=scale)
    return _pillow(picture, channels)


def take(picture: Picture, box: Box, side: int, channels: int) -> np.ndarray:
    """The part `box` of an image, resized to uint8 (side, side, channels).

    A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 at which both
    sides of the box still have `side` pixels.
    """
    scale = scale_for(picture, box, side)
    pixels = decode(picture, channels=channels, scale=scale)  # (H, W, channels)

    # The box in the reduced image.
    top, left = box.top // scale, box.left // scale
    bottom = top + box.height // scale
    right = left + box.width // scale
    part = pixels[top:bottom, left:right]  # (H, W, channels)
    return resize(part, side)


def scale_for(picture: Picture, box: Box, side: int) -> int:
    """n = 1, 2, 4 or 8, such that an image may be decoded at 1/n of its size.

    box: the part of the image that is used.
    side: the side of that part after resizing, in pixels.
    """
    if not picture.reducible:
        return 1
    # The largest n with which the shorter side of the box still has `side` pixels.
    shorter = min(box.height, box.width)
    scale = 1
    while scale < 8 and shorter >= 2 * scale * side:
        scale *= 2
    return scale


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """The image uint8 (H, W, C) resized to (side, side, C)."""
    import cv2

    height, width, channels = pixels.shape
    if height == width == side:
        return np.ascontiguousarray(pixels)
    # Linear interpolation reads 2x2 pixels, which is enough down to half the size. For
    # smaller sizes, take the mean over the area.
    method = cv2.INTER_LINEAR
    if min(height, width) > 2 * side:
        method = cv2.INTER_AREA
    resized = cv2.resize(pixels, (side, side), interpolation=method)
    # OpenCV drops the axis of a single channel.
    return resized.reshape(side, side, channels)


def centre(pixels: np.ndarray, side: int, resize: int) -> np.ndarray:
    """The centre of a resized image: uint8 (H, W, C) -> (side, side, C).

    The shorter side of the image is resized to `resize` pixels, at least `side`, by
    Pillow's antialiased bilinear filter. The result equals that of torchvision's
    Resize(resize) and CenterCrop(side), on which published networks are evaluated, up
    to rounding by at most 1 of 255.
    """
    from PIL import Image

    height, width, channels = pixels.shape
    shorter = min(height, width)
    left, right = _middle(width, shorter=shorter, side=side, resize=resize)
    top, bottom = _middle(height, shorter=shorter, side=side, resize=resize)

    # Pillow's gray images have no axis of channels.
    if channels == 1:
        pixels = pixels[..., 0]
    image = Image.fromarray(pixels)
    # Pass a `box` instead of cropping first: the filter reads the pixels around it.
    resized = image.resize(
        (side, side),
        resample=Image.Resampling.BILINEAR,
        box=(left, top, right, bottom),
    )
    return np.asarray(resized).reshape(side, side, channels)


def _middle(length: int, shorter: int, side: int, resize: int) -> tuple[float, float]:
    """(begin, end) in an axis of the image, in pixels, of the centre after resizing.

    length: the length of the axis before resizing, in pixels.
    shorter: the length of the image's shorter side, which is resized to `resize`.
    side: the length of the centre after resizing, in pixels.
    """
    # Rounded as in torchvision.
    resized = int(resize * length / shorter)
    first = round((resized - side) / 2)
    begin = first * length / resized
    end = (first + side) * length / resized
    return begin, min(end, length)


def _opencv(data: bytes, channels: int, scale: int) -> np.ndarray:
    """`decode` of a reducible image by OpenCV."""
    import cv2

    # The pipeline has its own threads or processes; OpenCV's would compete with them.
    cv2.setNumThreads(1)

    reduced = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    flags = reduced[scale] | cv2.IMREAD_IGNORE_ORIENTATION
    # Decode as RGB: reversing the channels of BGR afterwards took a third of the time
    # of decoding.
    if channels == 3:
        flags |= cv2.IMREAD_COLOR_RGB

    with _decoding():
        encoded = np.frombuffer(data, np.uint8)
        pixels = cv2.imdecode(encoded, flags)
    if pixels is None:
        raise BadImage("does not decode")
    if channels == 1:
        return pixels[..., None]  # (H, W, 1)
    return pixels


def _pillow(picture: Picture, channels: int) -> np.ndarray:
    """`decode` of any image by Pillow."""
    from PIL import Image

    mode = "L"
    if channels == 3:
        mode = "RGB"
    with _decoding(), Image.open(io.BytesIO(picture.data)) as image:
        eight_bits: Image.Image = image
        # Pillow itself would clip all values at 255.
        if picture.deep:
            values = _shortened(
                _deep_values(picture, image),
                white_level=picture.white_level,
                file_format=image.format,
            )
            eight_bits = Image.fromarray(values)
        pixels = np.asarray(eight_bits.convert(mode))
    # Pillow gives gray images as (H, W).
    return pixels.reshape(*pixels.shape[:2], channels)


def _deep_values(picture: Picture, image: Any) -> np.ndarray:
    """The values of an image of more than 8 bits: gray (H, W), or RGB (H, W, 3)."""
    if picture.gray and picture.mode != "LA":
        return np.asarray(image)
    import cv2

    # For several channels, Pillow keeps only 8 bits, while OpenCV reads all. But only
    # Pillow detects a truncated file: load the image with it first.
    image.load()
    data = np.frombuffer(picture.data, np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    is_deep = values is not None and values.dtype == np.uint16
    if values is None or not is_deep or values.ndim != 3 or values.shape[2] < 3:
        raise BadImage(
            f"is of more than 8 bits in a form that is not read here ({image.format}, "
            f"{picture.mode})"
        )
    return values[..., 2::-1]  # from BGR or BGRA to RGB


def _shortened(
    values: np.ndarray, white_level: float | None, file_format: str | None
) -> np.ndarray:
    """Values of more than 8 bits as uint8 of the same shape, `white_level` as 255."""
    if not np.isfinite(values).all():
        raise BadImage("holds NaN or infinite values")
    white = white_level or _white(values, file_format)
    shares = np.clip(values / white, 0, 1)
    return np.rint(shares * 255).astype(np.uint8)


def _white(values: np.ndarray, file_format: str | None) -> float:
    """The value of white in an image.

    Raises `UnknownScale` where the image does not tell.
    """
    lowest, highest = values.min(), values.max()

    # Floating point.
    if values.dtype.kind == "f":
        if lowest < 0 or highest > 1:
            raise UnknownScale(
                f"holds floating-point numbers from {lowest:g} to {highest:g} instead "
                f"of 0 to 1; {_ADVICE}"
            )
        return 1.0

    # Pillow scales the maximum in the header of a PPM to 65535. An image of zeros is
    # black on any scale.
    all_zero = not (lowest or highest)
    if file_format == "PPM" or all_zero:
        return 65535.0

    # Integers. Those of 16 bits may be in either byte order, as in files of ImageJ.
    if values.dtype.newbyteorder("=") != np.uint16:
        raise UnknownScale(
            f"holds whole numbers of 32 bits, from {lowest} to {highest}; {_ADVICE}"
        )
    if highest < _FEWEST:
        raise UnknownScale(f"holds numbers of 16 bits, none above {highest}; {_ADVICE}")
    return 65535.0


@contextlib.contextmanager
def _decoding():
    """Turns whatever decoders raise into `BadImage`.

    Their exceptions have no common base class.
    """
    try:
        yield
    # These already say what is wrong, or are not caused by the image.
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:
        text = first_line(error)
        if "cannot identify" in text:
            text = "of an unknown format"
        # Pillow adds its suspicion of an attack to the error of a large image.
        text = text.partition(", could be decompression bomb")[0]
        raise BadImage(f"does not decode ({text})") from error
