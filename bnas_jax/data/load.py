"""Loads data sets by name. They are held in memory, or read from disk when used."""

import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import defaults
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.halves import split_test
from bnas_jax.data.readers import array_file, folder
from bnas_jax.data.readers.encoded import Encoded, ReadOptions, hold
from bnas_jax.data.readers.images import BadImage
from bnas_jax.data.statistics import Statistics, measured

NAMES = (
    "digits",
    "cifar10",
    "cifar100",
    "imagenet2012",
    "tfds:NAME",
    "folder",
    "npz",
)
# The names of sets that are arrays, and not files of images.
ARRAYS = ("digits", "npz")
_TFDS = "tfds:"


class Dataset(NamedTuple):
    """Both parts of a data set, in memory or on disk, and its default augmentation."""

    train: Arrays | Encoded
    test: Arrays | Encoded
    augmentation: Augmentation


class TestSet(NamedTuple):
    """The part of a data set that evaluation needs: no training images."""

    test: Arrays | Encoded
    augmentation: Augmentation


def load(
    name: str,
    path: Any = None,
    options: ReadOptions | None = None,
    statistics: Statistics | None = None,
) -> Dataset:
    """The data set with a name in `NAMES`.

    A set of at most `options.in_memory_mib` is decoded into memory (`Arrays`); a larger
    one stays on disk (`Encoded`). Raises `UserError` where the name is unknown, or the
    files are missing or cannot be used.

    path: where a set on disk is: the folder, the file of arrays, the TFDS data
      directory (by default ~/tensorflow_datasets), or the directory of one version in
      it.
    statistics: the (mean, std) of each channel, on the scale 0 to 1, to normalise by;
      None takes those of the set.
    """
    options = options or ReadOptions()
    if name in ARRAYS:
        return _of_arrays(name, path, statistics)
    parts, options = open_encoded(name, path, options)
    return from_parts(name, parts=parts, options=options, statistics=statistics)


def from_parts(
    name: str,
    parts: dict[str, Encoded],
    options: ReadOptions,
    statistics: Statistics | None = None,
) -> Dataset:
    """The data set of that name, made of the parts that `open_encoded` gives.

    options: the options that `open_encoded` gives with the parts.
    statistics: see `load`.
    """
    encoded = divided(parts, options)

    # Decoded into memory if both parts fit.
    train: Arrays | Encoded
    test: Arrays | Encoded
    train, test = encoded
    if _fits(encoded, options):
        train, test = (hold(part) for part in encoded)

    # `image_shape` of a streamed set raises for images without a common size.
    augmentation = defaults.augmentation(
        name,
        channels=train.image_shape[-1],
        given=statistics,
        measure=lambda: measured(train),
    )
    return Dataset(train=train, test=test, augmentation=augmentation)


def load_test(
    name: str,
    path: Any = None,
    options: ReadOptions | None = None,
    statistics: Statistics | None = None,
) -> Dataset | TestSet:
    """The test images of a data set, and its training images if they are needed.

    statistics: the statistics that a run was trained with. With None, they are measured
      on the training images, which must then be there.
    """
    options = options or ReadOptions()
    if name in ARRAYS:
        return _of_arrays(name, path, statistics)
    parts, options = open_encoded(name, path, options)
    encoded = _test_part(parts, options)

    # Load the training images if statistics must be measured on them.
    has_training = "train" in parts or ("all" in parts and options.split is not None)
    if statistics is None and has_training:
        return load(name, path, options)

    test: Arrays | Encoded = encoded
    if _fits((encoded,), options):
        test = hold(encoded)

    # Statistics are never measured on test images: a network must not depend on them.
    def measure() -> Statistics:
        raise UserError(
            f"{test.name} has no training images beside it, whose mean and standard "
            "deviation are needed to normalise the test images"
        )

    augmentation = defaults.augmentation(
        name,
        channels=test.image_shape[-1],
        given=statistics,
        measure=measure,
    )
    return TestSet(test=test, augmentation=augmentation)


def open_encoded(
    name: str, path: Any, options: ReadOptions
) -> tuple[dict[str, Encoded], ReadOptions]:
    """(the parts of a data set on disk, its options), without decoding an image.

    The parts are "train" and "test", or one of them; a folder without parts has the
    single part "all". In the options, the set's defaults have replaced None.
    """
    options = defaults.with_defaults(name, options)
    if name == "folder":
        return folder.read(path, options), options

    # Three sets of TFDS need no prefix; the others are written tfds:NAME.
    tfds_name = name.removeprefix(_TFDS)
    by_prefix = name != tfds_name and tfds_name
    if name not in ("cifar10", "cifar100", "imagenet2012") and not by_prefix:
        raise UserError(
            f"there is no data set {name!r}: set config.dataset.name to one of "
            f"{', '.join(NAMES)}"
        )
    # Imported here because it needs libraries that arrays do not need.
    from bnas_jax.data.readers import tfds_examples

    return tfds_examples.read(tfds_name, path, options), options


def divided(parts: dict[str, Encoded], options: ReadOptions) -> tuple[Encoded, Encoded]:
    """(training set, test set) of a data set's parts.

    If there are no test images, `config.dataset.split` takes a share of the training
    images. Raises `UserError` where a part is missing, and where that setting is given
    although there are test images.
    """
    train = parts.get("train", parts.get("all"))
    test = parts.get("test")
    if train is None:
        raise UserError(
            f"{parts['test'].name} has no training images beside it; it can only be "
            "evaluated: to train, set config.dataset.path to a set with both"
        )

    # Test images are never taken from the training images silently.
    if test is None and options.split is None:
        raise UserError(
            f"{train.name} has no test images beside it; set config.dataset.split to "
            "the share of the images that is used for testing, such as 0.1"
        )
    if test is None:
        share = float(options.split or 0)
        return split_test(train, share=share, seed=options.split_seed)

    # The set has both parts.
    if options.split is not None:
        raise UserError(
            f"{train.name} comes with test images, {test.name}: leave "
            "config.dataset.split out"
        )
    return train, test


def _test_part(parts: dict[str, Encoded], options: ReadOptions) -> Encoded:
    """The part that an evaluation takes.

    It is the test set if there is one, otherwise the test set that
    `config.dataset.split` makes, or without that setting all images of a folder without
    parts.
    """
    if "test" in parts:
        if options.split is not None:
            print(
                f"{parts['test'].name} is the test set: config.dataset.split divides "
                "nothing",
                file=sys.stderr,
            )
        return parts["test"]

    # Evaluation takes all images of a folder of classes, such as new photographs.
    if "all" in parts and options.split is None:
        return parts["all"]
    return divided(parts, options)[1]


def _fits(parts: tuple[Encoded, ...], options: ReadOptions) -> bool:
    """Whether the decoded images of these parts need at most `in_memory_mib`."""
    if not options.in_memory_mib:
        return False

    # If no size is set, decode one image: the others should have the same size.
    if options.image_size:
        shape = parts[0].image_shape
    else:
        shape = _first(parts[0]).shape  # (height, width, channels)

    # One byte for each channel of a pixel.
    images = sum(len(part) for part in parts)
    size = images * float(np.prod(shape))
    return size <= options.in_memory_mib * 2**20


def _first(encoded: Encoded) -> np.ndarray:
    """The first image that can be decoded, uint8 (H, W, C)."""
    for number in range(len(encoded)):
        try:
            return encoded.example(number)[0]
        except BadImage:
            if not encoded.options.skip_bad:
                raise
    raise UserError(f"{encoded.name}: there is no image that decodes")


def _of_arrays(name: str, path: Any, given: Statistics | None) -> Dataset:
    """A set of arrays. given: the statistics to normalise by; None takes the set's."""
    if name == "digits" and path:
        raise UserError(
            "the digits come with the package: leave config.dataset.path out, got "
            f"{path}"
        )
    # The digits are part of the package, so that a first run needs no download.
    if name == "digits":
        path = pathlib.Path(__file__).parent / "digits.npz"
    train, test = array_file.read(path)
    augmentation = defaults.augmentation(
        name,
        channels=train.image_shape[-1],
        given=given,
        measure=lambda: measured(train),
    )
    return Dataset(train=train, test=test, augmentation=augmentation)
