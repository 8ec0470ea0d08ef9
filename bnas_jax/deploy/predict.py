"""`predict`: what a packed network says about images, of an array or of files."""

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
from bnas_jax.data import load as load_data
from bnas_jax.data.augment import Augmentation, normalize
from bnas_jax.data.readers import images as images_lib
from bnas_jax.data.readers import walk
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.deploy.load import PackedNetwork, model_of
from bnas_jax.training.run_data import read_options
from bnas_jax.workdir.files import whole

# Of files with predictions.
FORMATS = (".csv", ".npz")


class Predictions(NamedTuple):
    """names: of the images, N; classes: of the network, in the order of the logits;
    logits: (N, classes).
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """(N, classes), which sum up to 1."""
        return np.asarray(jax.nn.softmax(self.logits, axis=-1))

    def rows(self) -> Iterator[tuple[str, str, float]]:
        """(name, the likeliest class, its probability) of each image."""
        for name, of_image in zip(self.names, self.probabilities, strict=True):
            best = int(of_image.argmax())
            yield name, self.classes[best], float(of_image[best])


class Images(NamedTuple):
    """batches: (size) -> names and pixels, uint8 (size or less, H, W, C), batch by
    batch. white: the number that is white.
    """

    batches: Callable[[int], Iterator[tuple[list[str], np.ndarray]]]
    white: float


def predict(
    network: PackedNetwork, images: Images, *, batch_size: int = 64
) -> Predictions:
    """The logits of all images, which are read and computed batch by batch.

    Raises `UserError` for a network that does not say how pixels are normalised, and
    where no image could be read.
    """
    facts = network.facts
    if facts.statistics is None:
        raise UserError(
            f'{network.file} does not say how pixels are normalised; write "mean" and "std" into the'
            " run.json of its run, and export it again"
        )
    mean, std = facts.statistics
    augmentation = Augmentation(mean, std, scale=1 / images.white)
    model = model_of(network, network.run)

    @jax.jit
    def logits_of(variables, pixels):
        inputs = normalize(pixels, augmentation, model.arithmetic.dtype)
        return model.apply(variables, inputs, train=False)

    # The weights are on the device once; the last batch is filled up, so that one
    # program does for all.
    variables = jax.device_put(network.variables)
    names: list[str] = []
    found: list[np.ndarray] = []
    for of_batch, pixels in images.batches(batch_size):
        # The first batch is a full one, or all there is.
        size = len(found[0]) if found else len(pixels)
        filled = np.pad(pixels, ((0, size - len(pixels)), (0, 0), (0, 0), (0, 0)))
        logits = np.asarray(logits_of(variables, filled))
        found.append(logits[: len(pixels)])
        names += of_batch
    if not found:
        raise UserError(
            "none of the images could be read; replace them, or name others"
        )
    classes = facts.class_names or tuple(map(str, range(facts.num_classes)))
    return Predictions(
        names=tuple(names), classes=classes, logits=np.concatenate(found)
    )


def read_images(given: str, network: PackedNetwork) -> Images:
    """The images of `--input`: an array in a .npy file, an image file, or a folder with
    images at any depth.

    Those of files become the size that the network was trained on, as evaluation makes
    it; an array has that size. Raises `UserError` for what is not there, holds no
    images, or has another size.
    """
    path = paths.local(given, "--input")
    if path.is_dir():
        names, others = walk.images(path)
        if not names:
            known = ", ".join(suffix[1:] for suffix in walk.SUFFIXES)
            raise UserError(
                f"{path} holds no image ({known}) and {others.total()} other files; "
                "name a folder of images"
            )
        return _of_files(path, names, network)
    if not path.is_file():
        raise UserError(
            f"there is no {path}; write --input=IMAGES.npy, an image file or a folder "
            "of images"
        )
    if path.suffix.lower() == ".npy":
        return _of_array(path, network)
    return _of_files(path.parent, [path.name], network)


def _of_array(path: pathlib.Path, network: PackedNetwork) -> Images:
    shape, white = network.facts.image_shape, load_data.white(network.run.dataset.name)
    try:
        # Read batch by batch; and a shape in its header that the file has no room for
        # is noticed before memory is taken.
        pixels = np.load(path, allow_pickle=False, mmap_mode="r")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from None
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError):
        pixels = None
    if not isinstance(pixels, np.ndarray):
        raise UserError(
            f"{path} is no whole .npy file of numbers; save it anew by numpy.save"
        )

    # Gray images may lack the axis of channels, and a single image that of images.
    found = f"{pixels.dtype} {pixels.shape}"
    if shape[2] == 1 and pixels.shape[-2:] == shape[:2]:
        pixels = pixels[..., None]
    if pixels.shape == shape:
        pixels = pixels[None]
    fits = pixels.dtype == np.uint8 and pixels.shape[1:] == shape and len(pixels) > 0
    if not fits or pixels.max() > white:
        if fits:
            found += f" with numbers up to {pixels.max()}"
        expected = f"uint8 (N, {', '.join(map(str, shape))}) from 0 to {white:g}"
        raise UserError(
            f"{path} is {found}; the network takes pixels {expected}, as they are "
            "before normalisation"
        )

    def batches(size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        for first in range(0, len(pixels), size):
            part = pixels[first : first + size]
            yield (
                [f"{path.name}[{first + number}]" for number in range(len(part))],
                part,
            )

    return Images(batches, white=white)


def _of_files(
    folder: pathlib.Path, names: Sequence[str], network: PackedNetwork
) -> Images:
    dataset = network.run.dataset
    options = load_data.with_defaults(dataset.name, read_options(dataset))

    def readable() -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            try:
                yield name, _pixels(folder / name, options, network.facts.image_shape)
            except images_lib.BadImage as error:
                if not options.skip_bad:
                    raise
                print(f"left out: {error}", file=sys.stderr)

    def batches(size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        rest = readable()
        while batch := list(itertools.islice(rest, size)):
            of_batch, pixels = zip(*batch, strict=True)
            yield list(of_batch), np.stack(pixels)

    return Images(batches, white=255)


def _pixels(
    path: pathlib.Path, options: ReadOptions, shape: tuple[int, ...]
) -> np.ndarray:
    """An image file as uint8 of the network's shape (H, W, C), as `Encoded.example`
    gives it in an evaluation.

    Raises `BadImage` for one that does not decode.
    """
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
        raise UserError(f"cannot read {path} ({error.strerror or error})") from None

    # Without a size that was set, the network was trained on images as they are.
    if options.image_size is None and pixels.shape[:2] == (height, width):
        return pixels
    if height != width:
        raise UserError(
            f"{path} is {pixels.shape[0]}x{pixels.shape[1]}, the network takes "
            f"{height}x{width}; resize it"
        )
    return images_lib.centre(pixels, side=height, resize=options.resize or height)


def write(path: pathlib.Path, predictions: Predictions) -> None:
    """Writes predictions: .csv has a line for each image, .npz names, classes and
    logits.
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
            for name, label, probability in predictions.rows():
                table.writerow((name, label, f"{probability:.6f}"))
