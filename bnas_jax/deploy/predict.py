"""`predict`: what a packed network says about images of an array or of files."""

import csv
import itertools
import pathlib
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data import defaults
from bnas_jax.data.readers import images as images_lib
from bnas_jax.data.readers import walk
from bnas_jax.data.readers.encoded import ReadOptions, in_threads
from bnas_jax.data.readers.folder import of_one_file
from bnas_jax.deploy.load import PackedNetwork, model_of
from bnas_jax.deploy.pixels import logits_of_pixels
from bnas_jax.training.run_data import read_options
from bnas_jax.workdir.files import whole

# How names of files with predictions end.
FORMATS = (".csv", ".npz")


class Predictions(NamedTuple):
    """The logits of a network for N images."""

    # Of the images, N.
    names: tuple[str, ...]
    # Of the network's classes, in the order of the logits.
    classes: tuple[str, ...]
    logits: np.ndarray  # (N, classes)

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, (N, classes)."""
        return np.asarray(jax.nn.softmax(self.logits, axis=-1))

    def rows(self, top: int = 1) -> Iterator[tuple[str, str, float]]:
        """(name, class, probability) of each image's `top` likeliest classes."""
        for name, of_image in zip(self.names, self.probabilities, strict=True):
            for number in np.argsort(-of_image, kind="stable")[:top]:
                yield name, self.classes[number], float(of_image[number])


class Images(NamedTuple):
    """Images that are read batch by batch."""

    # size -> the names and the pixels of each batch, uint8 (size or less, H, W, C).
    batches: Callable[[int], Iterator[tuple[list[str], np.ndarray]]]
    # The number that is white among the pixels.
    white: float


def predict(
    network: PackedNetwork, images: Images, *, batch_size: int = 64
) -> Predictions:
    """The logits of all images; both are read and computed batch by batch.

    Raises `UserError` for a network that does not say how pixels are normalised, and
    where no image could be read.
    """
    # A program for one batch: pixels to logits.
    facts = network.facts
    logits_of = logits_of_pixels(
        model_of(network, network.run),
        facts,
        white=images.white,
        source=str(network.file),
    )
    logits_of = jax.jit(logits_of)

    # The weights are put on the device once. The last batch is filled up to the size of
    # the others, so that one program does for all.
    variables = jax.device_put(network.variables)
    names: list[str] = []
    found: list[np.ndarray] = []
    for of_batch, pixels in images.batches(batch_size):
        # The first batch is a full one, or all there is.
        size = len(found[0]) if found else len(pixels)
        missing = (0, size - len(pixels))
        filled = np.pad(pixels, (missing, (0, 0), (0, 0), (0, 0)))  # (size, H, W, C)
        logits = np.asarray(logits_of(variables, filled))  # (size, classes)
        found.append(logits[: len(pixels)])
        names += of_batch
    if not found:
        raise UserError(
            "none of the images could be read; replace them, or name others"
        )

    # Classes without names are called by their numbers.
    classes = facts.class_names or tuple(map(str, range(facts.num_classes)))
    logits = np.concatenate(found)  # (N, classes)
    return Predictions(names=tuple(names), classes=classes, logits=logits)


def read_images(given: str, network: PackedNetwork) -> Images:
    """The images of `--input`.

    given: an array in a .npy file, an image file, or a folder with images at any depth.

    Images of files get the size that the network was trained on, as in an evaluation;
    an array must have that size. Raises `UserError` for what is not there, contains no
    images, or has another size.
    """
    path = paths.local(given, "--input")

    # A folder.
    if path.is_dir():
        names, others = walk.images(path)
        if not names:
            known = ", ".join(suffix[1:] for suffix in walk.SUFFIXES)
            raise UserError(
                f"{path} contains no image ({known}) and {others.total()} other files; "
                "name a folder of images"
            )
        if others:
            print(f"{path}: left out {walk.no_images(others)}", file=sys.stderr)
        return _of_files(path, names, network)

    # A file: an array, or one image.
    if not path.is_file():
        raise UserError(
            f"there is no {path}; write --input=IMAGES.npy, an image file or a folder "
            "of images"
        )
    if path.suffix.lower() == ".npy":
        return _of_array(path, network)
    return _of_files(path.parent, [path.name], network)


def _of_array(path: pathlib.Path, network: PackedNetwork) -> Images:
    """The images of an array in a .npy file, uint8 (N, H, W, C)."""
    white = defaults.white(network.run.dataset.name)
    pixels = _pixels_of_array(path, network.facts.image_shape, white)

    def batches(size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        for first in range(0, len(pixels), size):
            part = pixels[first : first + size]
            numbers = range(first, first + len(part))
            yield [f"{path.name}[{number}]" for number in numbers], part

    return Images(batches, white=white)


def _pixels_of_array(
    path: pathlib.Path, shape: tuple[int, ...], white: float
) -> np.ndarray:
    """The array of a .npy file, uint8 (N, H, W, C).

    shape: (H, W, C) of the network's images.
    white: the largest number that a pixel may have.

    Raises `UserError` for another array, and for a file that has none.
    """
    # Mapped into memory, it is read batch by batch. And a header with a shape that the
    # file has no room for is noticed before memory is taken.
    try:
        pixels = np.load(path, allow_pickle=False, mmap_mode="r")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from None
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError):
        pixels = None
    if not isinstance(pixels, np.ndarray):
        raise UserError(
            f"{path} is not a complete .npy file of numbers; save it again with "
            "numpy.save"
        )

    # Gray images may lack the axis of channels, a single image the axis of images.
    found = f"{pixels.dtype} {pixels.shape}"
    if shape[2] == 1 and pixels.shape[-2:] == shape[:2]:
        pixels = pixels[..., None]
    if pixels.shape == shape:
        pixels = pixels[None]

    # It must have the network's shape, and whole numbers from 0 to white.
    fits = pixels.dtype == np.uint8 and pixels.shape[1:] == shape and len(pixels) > 0
    if not fits or pixels.max() > white:
        if fits:
            found += f" with numbers up to {pixels.max()}"
        expected = f"uint8 (N, {', '.join(map(str, shape))}) from 0 to {white:g}"
        raise UserError(
            f"{path} is {found}; the network takes pixels {expected}, as they are "
            "before normalisation"
        )
    return pixels


def _of_files(
    folder: pathlib.Path, names: Sequence[str], network: PackedNetwork
) -> Images:
    """The images of files. names: of the files, in the folder."""
    # They are decoded and resized by the settings of the network's own data.
    dataset = network.run.dataset
    options = defaults.with_defaults(dataset.name, read_options(dataset))

    def read(number: int) -> np.ndarray | images_lib.BadImage:
        try:
            path = folder / names[number]
            return _pixels(path, options, network.facts.image_shape)
        except images_lib.BadImage as error:
            if not options.skip_bad:
                raise
            return error

    # (name, pixels) of each image; a bad one is left out where the settings say so.
    def readable() -> Iterator[tuple[str, np.ndarray]]:
        found = in_threads(read, len(names))
        for name, pixels in zip(names, found, strict=True):
            if isinstance(pixels, images_lib.BadImage):
                print(f"left out: {pixels}", file=sys.stderr)
            else:
                yield name, pixels

    def batches(size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        rest = readable()
        while batch := list(itertools.islice(rest, size)):
            of_batch, pixels = zip(*batch, strict=True)
            yield list(of_batch), np.stack(pixels)

    return Images(batches, white=255)


def _pixels(
    path: pathlib.Path, options: ReadOptions, shape: tuple[int, ...]
) -> np.ndarray:
    """The pixels of an image file, uint8 of the network's shape (H, W, C).

    They are those that `Encoded.example` gives in an evaluation. Raises `BadImage` for
    a file that cannot be opened, or does not decode.
    """
    # Decode it.
    height, width, channels = shape
    try:
        picture = images_lib.read_header(path.read_bytes(), options.white_level)
        pixels = images_lib.decode(picture, channels)
    except images_lib.UnknownScale:
        raise UserError(
            f"{path} has more than 8 bits a channel, and does not say which number is "
            "white; save it with 8 bits"
        ) from None
    except images_lib.BadImage as error:
        raise images_lib.BadImage(
            f"{path} {error}; replace the image, or take it away"
        ) from None
    except OSError as error:
        message = f"cannot read {path} ({error.strerror or error})"
        # Where the disk is away, no image may be left out.
        if of_one_file(error):
            raise images_lib.BadImage(message) from None
        raise UserError(message) from None

    # Resize it. Without a size in the settings, the network was trained on images as
    # they are.
    if options.image_size is None and pixels.shape[:2] == (height, width):
        return pixels
    if height != width:
        raise UserError(
            f"{path} is {pixels.shape[0]}x{pixels.shape[1]}, the network takes "
            f"{height}x{width}; resize it"
        )
    return images_lib.centre(pixels, side=height, resize=options.resize or height)


def write(path: pathlib.Path, predictions: Predictions, *, top: int = 1) -> None:
    """Writes predictions to a file, whole or not at all.

    .csv has a line for each of the `top` likeliest classes of each image; .npz has
    names, classes and all logits.
    """
    with whole(path) as part:
        if path.suffix.lower() == ".npz":
            with part.open("wb") as file:
                np.savez(
                    file,
                    names=np.array(predictions.names),
                    classes=np.array(predictions.classes),
                    logits=predictions.logits,
                )
            return

        # Names of files need not be UTF-8; they are written as the bytes that they are.
        with part.open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as text:
            table = csv.writer(text)
            table.writerow(("image", "class", "probability"))
            for name, label, probability in predictions.rows(top):
                table.writerow((name, label, f"{probability:.6f}"))
