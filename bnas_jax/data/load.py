"""Loads data sets by name, in memory or ready to be streamed."""

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
# Those that are arrays, and not files of images.
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
    """The data set of a name in `NAMES`.

    It is held in memory up to `options.in_memory_mib`; a larger one is ready to be
    streamed. Raises `UserError` when the name is unknown, or the files are missing or
    unfit.

    path: of a set on disk: the folder, the file of arrays, the TFDS data directory, or
      the directory of one version in it; for TFDS by default ~/tensorflow_datasets.
    statistics: (mean, std) of each channel, on the scale 0 to 1, to normalise by; by
      default those of the set.
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
    """The data set of that name from its parts, as `open_encoded` gives them.

    options: those that `open_encoded` gives with the parts.
    statistics: see `load`.
    """
    encoded = divided(parts, options)

    # In memory, decoded once, if both parts fit.
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
    """The test images of a data set, and its training images where they are needed.

    statistics: those that a run was trained with, so that no training images are
      needed. None measures those of the set's training images.
    """
    options = options or ReadOptions()
    if name in ARRAYS:
        return _of_arrays(name, path, statistics)
    parts, options = open_encoded(name, path, options)
    encoded = _test_part(parts, options)

    # Statistics are measured on training images, if the set has some.
    has_training = "train" in parts or ("all" in parts and options.split is not None)
    if statistics is None and has_training:
        return load(name, path, options)

    test: Arrays | Encoded = encoded
    if _fits((encoded,), options):
        test = hold(encoded)

    # Never on test images: a network must not depend on them.
    def measure() -> Statistics:
        raise UserError(
            f"{test.name} has no training images beside it, by whose mean and "
            "deviation its own are normalised"
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
    """(the parts of a data set on disk, its options); nothing is decoded.

    The parts are "train" and "test" or one of them, or "all" of a folder without parts.
    Options that were None have the defaults of the set.
    """
    options = defaults.with_defaults(name, options)
    if name == "folder":
        return folder.read(path, options), options

    # Three sets of TFDS go by their name alone, the others are written tfds:NAME.
    tfds_name = name.removeprefix(_TFDS)
    by_prefix = name != tfds_name and tfds_name
    if name not in ("cifar10", "cifar100", "imagenet2012") and not by_prefix:
        raise UserError(
            f"there is no dataset {name!r}: set config.dataset.name to one of "
            f"{', '.join(NAMES)}"
        )
    # Not at the top: it needs libraries that arrays alone do not.
    from bnas_jax.data.readers import tfds_examples

    return tfds_examples.read(tfds_name, path, options), options


def divided(parts: dict[str, Encoded], options: ReadOptions) -> tuple[Encoded, Encoded]:
    """(training set, test set) of a data set's parts.

    `config.dataset.split` makes a test set where there is none, and only there. Raises
    `UserError` where a part is missing, and where that setting is not needed.
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
            f"{train.name} has no test images beside it (a folder train or a split of "
            "theirs); set config.dataset.split to the share of the images that is for "
            "tests, such as 0.1"
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
    """The part that an evaluation takes: the test set, where there is one.

    Else it is the test set that `config.dataset.split` makes, or all of a set without
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
    """Whether these parts, decoded, need at most `in_memory_mib`.

    Sizes are the first image's where none is set.
    """
    if not options.in_memory_mib:
        return False

    # Where no size is set one image is decoded; the others should be of its size.
    if options.image_size:
        shape = parts[0].image_shape
    else:
        shape = _first(parts[0]).shape  # (height, width, channels)

    # A byte for each channel of a pixel.
    images = sum(len(part) for part in parts)
    size = images * float(np.prod(shape))
    return size <= options.in_memory_mib * 2**20


def _first(encoded: Encoded) -> np.ndarray:
    """The first image that decodes."""
    for number in range(len(encoded)):
        try:
            return encoded.example(number)[0]
        except BadImage:
            if not encoded.options.skip_bad:
                raise
    raise UserError(f"{encoded.name}: there is no image that decodes")


def _of_arrays(name: str, path: Any, given: Statistics | None) -> Dataset:
    """A set of arrays, normalised by the statistics that are given, else by its own."""
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
