"""From encoded images to pixels.

For a random crop only as much is decoded as it needs, for the centre all of it. Of
several frames or pages the first is read. Images are not turned, see `is_turned`.

Images of more than 8 bits become 8: the number `white_level` becomes 255, 0 stays 0,
and what lies beyond is cut off. Without a `white_level` that number is 65535 for 16
bits and 1 for floating point. Where that would be a guess, the image is refused:

- 16 bits of which no number reaches 4096, as of cameras and scanners of 10 or 12 bits;
- 32-bit integers;
- floating-point numbers that are not from 0 to 1.
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
# A 16-bit image whose numbers all stay below has fewer bits than 16, or is all but
# black.
_FEWEST = 4096
_ADVICE = (
    "set config.dataset.white_level to the number that is white: 4095 for 12 bits, "
    "65535 for 16, 1 for shares"
)


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
    """An encoded image whose header was read.

    OpenCV decodes reducible images, faster than Pillow. But it fills up a file that is
    cut short without a word, and takes CMYK differently: so Pillow decodes all others.

    data: the file.
    mode: Pillow's name of the kind of pixels.
    reducible: whether it is a whole JPEG, gray or in colours.
    deep: whether it has more than 8 bits a channel.
    white_level: see above; None where it is not set.
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
        """Whether the image has no colours."""
        return self.mode in _GRAY or self.mode.startswith("I;16")


def read_header(data: bytes, white_level: float | None = None) -> Picture:
    """The size and the kind of an image.

    Raises `BadImage` where the bytes do not start like one.
    """
    from PIL import Image

    with _decoding(), Image.open(io.BytesIO(data)) as image:
        # A JPEG that is cut short lacks its end marker; some programs write a little
        # behind the marker.
        whole = data.startswith(_JPEG_START) and _JPEG_END in data[-64:]
        # The mode says how Pillow holds the numbers; how the file holds them is among
        # the decoder's arguments, as RGB;16B, for instance.
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
    """Whether viewers turn or mirror an image before they show it.

    Cameras do not turn the pixels of a photograph, but note in it how they were held.
    As in torchvision, images are read as they are stored. Pillow itself turns TIFF.
    """
    from PIL import ExifTags, Image

    with _decoding(), Image.open(io.BytesIO(data)) as image:
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        # What is noted there may be damaged, which does not matter for the pixels.
        except Exception:
            return False
        return image.format != "TIFF" and orientation in range(2, 9)


def decode(picture: Picture, channels: int, scale: int = 1) -> np.ndarray:
    """The whole image: uint8 (H, W, channels), 1 channel of gray or 3 of RGB.

    Palettes become colours, transparency is dropped, CMYK is converted, more bits
    become 8. Raises `BadImage`, and `UnknownScale` where it is not clear which number
    is white.

    scale: 2, 4 or 8 decodes a reducible image at that fraction of its size.
    """
    if picture.reducible:
        return _opencv(picture.data, channels=channels, scale=scale)
    return _pillow(picture, channels)


def take(picture: Picture, box: Box, side: int, channels: int) -> np.ndarray:
    """The part `box` of an image, resized to uint8 (side, side, channels).

    A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 at which the box
    still has `side` pixels each way.
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
    """1, 2, 4 or 8: the fraction of its size at which an image may be decoded.

    box: the part of the image that is used.
    side: of the part after resizing, in pixels.
    """
    if not picture.reducible:
        return 1
    # The largest fraction at which the shorter side of the box still has `side` pixels.
    shorter = min(box.height, box.width)
    scale = 1
    while scale < 8 and shorter >= 2 * scale * side:
        scale *= 2
    return scale


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, C) -> (side, side, C)."""
    import cv2

    height, width, channels = pixels.shape
    if height == width == side:
        return np.ascontiguousarray(pixels)
    # Linear interpolation reads 2x2 pixels, which is enough down to half the size.
    # Below that, the mean over the area is taken.
    method = cv2.INTER_LINEAR
    if min(height, width) > 2 * side:
        method = cv2.INTER_AREA
    resized = cv2.resize(pixels, (side, side), interpolation=method)
    # OpenCV drops the axis of a single channel.
    return resized.reshape(side, side, channels)


def centre(pixels: np.ndarray, side: int, resize: int) -> np.ndarray:
    """The middle of a resized image: uint8 (H, W, C) -> (side, side, C).

    The shorter side of the image is brought to `resize` pixels, at least `side`, by
    Pillow's bilinear filter, which averages over all pixels that it leaves out.
    Published networks are evaluated on what torchvision's Resize(resize) and
    CenterCrop(side) give: this is the same, up to 1 of 255 by rounding.
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
    # By `box`, and not by cropping first: the filter still reads the pixels around it.
    resized = image.resize(
        (side, side),
        resample=Image.Resampling.BILINEAR,
        box=(left, top, right, bottom),
    )
    return np.asarray(resized).reshape(side, side, channels)


def _middle(length: int, shorter: int, side: int, resize: int) -> tuple[float, float]:
    """Where the middle `side` pixels of a resized line lie in the line before.

    Returns where they begin and end, in pixels of the line before.

    length: of the line before, in pixels.
    shorter: the length of the image's shorter side, which becomes `resize`.
    """
    # Rounded as torchvision does.
    resized = int(resize * length / shorter)
    first = round((resized - side) / 2)
    begin = first * length / resized
    end = (first + side) * length / resized
    return begin, min(end, length)


def _opencv(data: bytes, channels: int, scale: int) -> np.ndarray:
    """`decode` of a reducible image by OpenCV."""
    import cv2

    # The pipeline has threads and processes; those of OpenCV would get in their way.
    cv2.setNumThreads(1)

    reduced = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    flags = reduced[scale] | cv2.IMREAD_IGNORE_ORIENTATION
    # Red, green and blue from the start: turning the order round afterwards took a
    # third as long as decoding.
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
        # Pillow itself would cut off all numbers at 255.
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
    """The numbers of an image of more than 8 bits.

    They are (H, W) of gray, or (H, W, 3) of red, green and blue.
    """
    if picture.gray and picture.mode != "LA":
        return np.asarray(image)
    import cv2

    # Of several channels Pillow keeps only 8 bits, and OpenCV reads all. But Pillow
    # notices a file that is cut short: it loads the image first.
    image.load()
    data = np.frombuffer(picture.data, np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    is_deep = values is not None and values.dtype == np.uint16
    if values is None or not is_deep or values.ndim != 3 or values.shape[2] < 3:
        raise BadImage(
            f"is of more than 8 bits in a form that is not read here ({image.format}, "
            f"{picture.mode})"
        )
    return values[..., 2::-1]  # from blue, green, red and transparency


def _shortened(
    values: np.ndarray, white_level: float | None, file_format: str | None
) -> np.ndarray:
    """Numbers of more than 8 bits as uint8 of the same shape, `white_level` at 255."""
    if not np.isfinite(values).all():
        raise BadImage("holds numbers that are none (NaN or infinity)")
    white = white_level or _white(values, file_format)
    shares = np.clip(values / white, 0, 1)
    return np.rint(shares * 255).astype(np.uint8)


def _white(values: np.ndarray, file_format: str | None) -> float:
    """The number that is white, as far as an image says so.

    Raises `UnknownScale` where it does not.
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

    # Pillow brings the maximum in the header of a PPM to 65535. An image of zeros is
    # black on any scale.
    all_zero = not (lowest or highest)
    if file_format == "PPM" or all_zero:
        return 65535.0

    # Integers. Those of 16 bits may be in either byte order, see ImageJ.
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

    Their exceptions have no class in common.
    """
    try:
        yield
    # These say already what is wrong, or are no fault of the image.
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:
        text = first_line(error)
        if "cannot identify" in text:
            text = "of an unknown format"
        # Pillow suspects an attack where an image is only large.
        text = text.partition(", could be decompression bomb")[0]
        raise BadImage(f"does not decode ({text})") from error
