"""A data set of encoded images on disk.

`hold` decodes a small one into `Arrays`; a large one is streamed (`data.stream`).
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.digest import digest_of
from bnas_jax.data.readers import images
from bnas_jax.data.readers.images import BadImage, Box, UnknownScale

# (height, width) of an image -> its crop.
ChooseBox = Callable[[int, int], Box]
Result = TypeVar("Result")
# The number of examples that are given to the threads at a time. If all were given to
# them, all results would be in memory twice.
_CHUNK = 1024


class Unreadable(UserError):
    """The file system failed, perhaps for a moment; no image is damaged."""


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How images are read; see the same settings in `settings.DatasetSettings`."""

    # The side of an image in pixels; None keeps the size of the images.
    image_size: int | None = None
    # The length in pixels to which the shorter side is resized, before the centre of
    # `image_size` is cropped; None is image_size.
    resize: int | None = None
    # The channels of an image: 1, 3, or None for those of the data.
    channels: int | None = None
    # The number that is white in images of more than 8 bits, see `images`.
    white_level: float | None = None
    # The share of a set without test images that becomes its test set, and the seed by
    # which it is drawn.
    split: float | None = None
    split_seed: int = 0
    # A set whose decoded images take more MiB is streamed.
    in_memory_mib: int | None = None
    # True leaves out images that cannot be read, and prints their number on stderr;
    # False makes them an error.
    skip_bad: bool = False
    # The number of processes that read a streamed set; with 0, threads read it.
    workers: int = 0


class Reader(Protocol):
    """Random access to encoded examples. It is pickled for worker processes."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> tuple[bytes, int]:
        """(encoded image, label).

        Raises `BadImage` where only this image cannot be opened, `Unreadable` where the
        file system fails.
        """

    def where(self, row: int) -> str:
        """The name of the example, for messages."""

    def labels(self) -> np.ndarray:
        """The labels of all examples, int (N,), without decoding an image."""

    def digest(self) -> str:
        """A hash by which a run notices that the examples have changed.

        It is computed without reading the images.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Renumbered:
    """A reader with other labels: n becomes `numbers[n]`, or -1 out of range."""

    reader: Any
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, row: int) -> tuple[bytes, int]:
        data, label = self.reader.read(row)
        renumbered = self._renumbered(np.array([label]))
        return data, int(renumbered[0])

    def where(self, row: int) -> str:
        return self.reader.where(row)

    def labels(self) -> np.ndarray:
        return self._renumbered(self.reader.labels())

    def digest(self) -> str:
        return self.reader.digest()

    def _renumbered(self, labels: np.ndarray) -> np.ndarray:
        known = (labels >= 0) & (labels < len(self.numbers))  # (N,)
        # An index out of range would be an error, or count from the end.
        numbers = self.numbers[np.where(known, labels, 0)]  # (N,)
        return np.where(known, numbers, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Some examples of a reader, whose images are decoded when they are read.

    With an `image_size`, an image becomes uint8 (image_size, image_size, channels).

    reader: a `Reader`.
    rows: the numbers of the examples in the reader, int (N,).
    classes: the names of the classes, in the order of the labels.
    name: the name of the data set, for messages.
    """

    reader: Any
    rows: np.ndarray
    classes: tuple[str, ...]
    name: str
    channels: int
    options: ReadOptions

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> "Encoded":
        """The examples at `rows`, in that order."""
        return dataclasses.replace(self, rows=self.rows[rows])

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        side = self.options.image_size
        if side is None:
            raise UserError(
                f"{self.name}: a set that is streamed needs images of one size; set "
                "config.dataset.image_size"
            )
        return side, side, self.channels

    @cached_property
    def labels(self) -> np.ndarray:
        """The labels, int32 (N,), without decoding an image."""
        labels = self.reader.labels()[self.rows]
        return labels.astype(np.int32)

    def digest(self) -> str:
        """A hash by which a run notices that the examples have changed.

        It is computed without reading the images.
        """
        of_reader = self.reader.digest()
        return digest_of(of_reader, self.rows.astype(np.int64))

    def example(
        self, number: int, choose: ChooseBox | None = None
    ) -> tuple[np.ndarray, int]:
        """(pixels uint8 (H, W, C), label) of an example.

        Raises `BadImage`, which names the image, where it cannot be decoded, and
        `UserError` for a label out of range.

        choose: (height, width) -> the crop of the image; None takes `images.centre`.
        """
        side = self.options.image_size
        if side is None:
            return self.whole(number)

        with self._naming(number):
            data, label = self._read(number)
            picture = images.read_header(data, self.options.white_level)

            # The centre.
            if choose is None:
                whole = images.decode(picture, self.channels)
                resize = self.options.resize or side
                return images.centre(whole, side=side, resize=resize), label

            # A random crop, decoded at no higher a scale than it needs.
            box = choose(picture.height, picture.width)
            part = images.take(picture, box=box, side=side, channels=self.channels)
            return part, label

    def whole(self, number: int) -> tuple[np.ndarray, int]:
        """Like `example`, but with the whole image in its original size."""
        with self._naming(number):
            data, label = self._read(number)
            picture = images.read_header(data, self.options.white_level)
            return images.decode(picture, self.channels), label

    def _read(self, number: int) -> tuple[bytes, int]:
        """(encoded image, label). Raises `UserError` for a label out of range."""
        row = int(self.rows[number])
        data, label = self.reader.read(row)
        # A label is -1 in `Renumbered`, and in a split without labels.
        if not 0 <= label < self.num_classes:
            classes = f"0 to {self.num_classes - 1} for {self.num_classes} classes"
            raise UserError(
                f"{self.name}: labels must be from {classes}, got {label} "
                f"({self.reader.where(row)})"
            )
        return data, label

    @contextlib.contextmanager
    def _naming(self, number: int):
        """Adds the name of the image to the error if it cannot be decoded."""
        where = lambda: self.reader.where(int(self.rows[number]))
        try:
            yield
        # This error already says which setting to change.
        except UnknownScale as error:
            raise UnknownScale(f"{where()} {error}") from None
        except BadImage as error:
            message = f"{where()} {error}"
            if not self.options.skip_bad:
                message += "; replace the image, or set config.dataset.bad_images=skip"
            raise BadImage(message) from None


def hold(encoded: Encoded) -> Arrays:
    """All examples, decoded into memory.

    With `skip_bad`, images that cannot be decoded are left out, with a message. Raises
    `UserError` for images of several shapes, and where there are none.
    """
    pixels: np.ndarray | None = None
    labels = np.empty(len(encoded), np.int32)  # (N,)
    kept, bad = 0, []
    for number, (image, label) in enumerate(_decoded(encoded)):
        if isinstance(image, BadImage):
            bad.append(image)
            continue
        # All images must have the shape of the first one.
        if pixels is None:
            shape = (len(encoded), *image.shape)
            pixels = np.empty(shape, np.uint8)  # (N, H, W, C)
        if image.shape != pixels.shape[1:]:
            raise _several_shapes(encoded, number, first=pixels[0], image=image)
        pixels[kept] = image
        labels[kept] = label
        kept += 1

    # Report the images that were left out, and check that any are left.
    if bad:
        print(
            f"{encoded.name}: left out {len(bad)} images that do not decode; the "
            f"first: {bad[0]}",
            file=sys.stderr,
        )
    if pixels is None and bad:
        raise UserError(f"{encoded.name}: there is no image that decodes")
    if pixels is None:
        raise UserError(f"{encoded.name}: there are no images")
    return Arrays(
        images=pixels[:kept],
        labels=labels[:kept],
        num_classes=encoded.num_classes,
        name=encoded.name,
        classes=encoded.classes,
    )


def _several_shapes(
    encoded: Encoded, number: int, first: np.ndarray, image: np.ndarray
) -> UserError:
    """The error for an image whose shape differs from that of the first one."""
    row = int(encoded.rows[number])
    where = encoded.reader.where(row)
    return UserError(
        f"{encoded.name}: images of several shapes ({_size(first)}, and "
        f"{_size(image)} in {where}) do not fit one array; set "
        "config.dataset.image_size"
    )


def _size(pixels: np.ndarray) -> str:
    """The size of an image as WIDTHxHEIGHTxCHANNELS."""
    height, width, channels = pixels.shape
    return f"{width}x{height}x{channels}"


def _decoded(encoded: Encoded):
    """(pixels, label) of each example in order; (BadImage, -1) for one to be skipped.

    Images are decoded in threads.
    """

    def one(number: int):
        try:
            return encoded.example(number)
        except BadImage as error:
            if not encoded.options.skip_bad:
                raise
            return error, -1

    yield from in_threads(one, len(encoded))


def in_threads(read: Callable[[int], Result], count: int) -> Iterator[Result]:
    """read(0) to read(count - 1), in order, by as many threads as there are cores."""
    with concurrent.futures.ThreadPoolExecutor(cores()) as threads:
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            yield from threads.map(read, range(start, stop))


def cores() -> int:
    """The number of cores that this process may use.

    A task of a Slurm job, for instance, may use only some of its machine's cores.
    """
    # Not every system has the function.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
