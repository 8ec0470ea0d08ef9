"""`predict`: what a packed network says about images, of an array or of files."""

import csv
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data import load as load_data
from bnas_jax.data.augment import Augmentation, normalize
from bnas_jax.data.readers import images as images_lib
from bnas_jax.data.readers import walk
from bnas_jax.deploy.load import PackedNetwork
from bnas_jax.training.evaluate import read_options
from bnas_jax.workdir.files import whole

# Of files with predictions.
FORMATS = (".csv", ".npz")


class Predictions(NamedTuple):
    """names: of the images, N; classes: of the network, in the order of the logits; logits: (N, classes)."""

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
    """names: N; pixels: uint8 (N, H, W, C); white: the number that is white in them."""

    names: tuple[str, ...]
    pixels: np.ndarray
    white: float


def predict(network: PackedNetwork, images: Images, *, batch_size: int = 64) -> Predictions:
    """The logits of all images, computed in batches of one size."""
    facts = network.facts
    statistics = facts.statistics
    if statistics is None:
        raise UserError(
            "the file does not say how pixels are normalised; export it anew from a work directory that does"
        )
    mean, std = statistics
    augmentation = Augmentation(mean, std, scale=1 / images.white)
    dtype = network.model.arithmetic.dtype

    @jax.jit
    def logits_of(variables, pixels):
        inputs = normalize(pixels, augmentation, dtype)
        return network.model.apply(variables, inputs, train=False)

    # The weights are on the device once; the last batch is filled up, so that one program does for all.
    variables = jax.device_put(network.variables)
    batch_size = min(batch_size, len(images.pixels))
    found = []
    for start in range(0, len(images.pixels), batch_size):
        batch = images.pixels[start : start + batch_size]
        filled = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
        found.append(np.asarray(logits_of(variables, filled))[: len(batch)])
    classes = facts.class_names or tuple(map(str, range(facts.num_classes)))
    return Predictions(names=images.names, classes=classes, logits=np.concatenate(found))


def read_images(given: str, network: PackedNetwork) -> Images:
    """The images of `--input`: an array in a .npy file, an image file, or a folder with images at any depth.

    Those of files become the size that the network was trained on, as evaluation makes it; an array has that size.
    Raises `UserError` for what is not there, holds no images, or has another size.
    """
    path = paths.local(given, "--input")
    if path.is_dir():
        names, others = walk.images(path)
        if not names:
            known = ", ".join(suffix[1:] for suffix in walk.SUFFIXES)
            raise UserError(f"{path} holds no image ({known}), but {others.total()} other files")
        return _of_files(path, names, network)
    if not path.is_file():
        raise UserError(
            f"there is no {path}; write --input=IMAGES.npy, an image file or a folder of images"
        )
    if path.suffix == ".npy":
        return _of_array(path, network)
    return _of_files(path.parent, [path.name], network)


def _of_array(path: pathlib.Path, network: PackedNetwork) -> Images:
    shape = network.facts.image_shape
    try:
        pixels = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise UserError(
            f"{path} is no whole .npy file of numbers; save it anew by numpy.save"
        ) from None
    expected = f"uint8 (N, {', '.join(map(str, shape))})"
    # A single image, and gray ones without an axis of channels.
    if pixels.shape == shape:
        pixels = pixels[None]
    if shape[2] == 1 and pixels.shape[1:] == shape[:2]:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or not len(pixels):
        raise UserError(
            f"{path} is {pixels.dtype} {pixels.shape}; the network takes pixels {expected}, as they are before normalisation"
        )
    names = tuple(f"{path.name}[{number}]" for number in range(len(pixels)))
    return Images(names, pixels, white=load_data.white(network.run.dataset.name))


def _of_files(folder: pathlib.Path, names: Sequence[str], network: PackedNetwork) -> Images:
    height, width, channels = network.facts.image_shape
    options = load_data.with_defaults(network.run.dataset.name, read_options(network.run.dataset))
    pixels = []
    for name in names:
        try:
            picture = images_lib.read_header((folder / name).read_bytes(), options.white_level)
            decoded = images_lib.decode(picture, channels)
        except images_lib.BadImage as error:
            raise UserError(
                f"{folder / name} {error}; replace the image, or take it away"
            ) from None
        except OSError as error:
            raise UserError(f"cannot read {folder / name} ({error.strerror or error})") from None
        # Square images are brought to the network's size; a set of one size is taken as it is.
        if decoded.shape[:2] != (height, width):
            if height != width:
                raise UserError(
                    f"{folder / name} is {decoded.shape[0]}x{decoded.shape[1]}, the network takes {height}x{width}; resize it"
                )
            decoded = images_lib.centre(decoded, side=height, resize=options.resize or height)
        pixels.append(decoded)
    return Images(tuple(names), np.stack(pixels), white=255)


def write(path: pathlib.Path, predictions: Predictions) -> None:
    """Writes predictions: .csv has a line for each image, .npz names, classes and logits."""
    with whole(path) as part:
        if path.suffix == ".npz":
            with part.open("wb") as file:
                np.savez(
                    file,
                    names=np.array(predictions.names),
                    classes=np.array(predictions.classes),
                    logits=predictions.logits,
                )
            return
        with part.open("w", newline="") as text:
            table = csv.writer(text)
            table.writerow(("image", "class", "probability"))
            for name, label, probability in predictions.rows():
                table.writerow((name, label, f"{probability:.6f}"))
