"""Data sets by name, each with its default normalisation and augmentation.

Settings of `config.dataset` may say otherwise.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.halves import split_test
from bnas_jax.data.readers import folder
from bnas_jax.data.readers.encoded import Encoded, ReadOptions, hold
from bnas_jax.data.readers.images import BadImage
from bnas_jax.data.statistics import Statistics, measured

NAMES = ("digits", "cifar10", "cifar100", "imagenet2012", "tfds:NAME", "folder")
_TFDS = "tfds:"
# The default of `in_memory_mib`: 25 times the size of CIFAR.
IN_MEMORY_MIB = 4096

# Mean and standard deviation of the 1,437 training images, on the scale 0 to 1.
_DIGITS = Augmentation(mean=(0.3054,), std=(0.376,), scale=1 / 16)
CIFAR10 = Augmentation(
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), pad=4, flip=True
)
# As in the release. Training: random resized crop, flip, colour jitter. Evaluation: the
# shorter side is resized to 256, and the centre of 224 pixels is taken.
_IMAGENET = Augmentation(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
    min_area=0.08,
    jitter=(0.4, 0.4, 0.4, 0.2),
)
_IMAGENET_OPTIONS = {"image_size": 224, "in_memory_mib": 0, "channels": 3}
_IMAGENET_ZOOM = 256 / 224
# Sets whose statistics are known, and need not be measured.
_KNOWN = {"digits": _DIGITS, "cifar10": CIFAR10, "imagenet2012": _IMAGENET}
# Sets with a usual augmentation. The others have none (`_PLAIN`): whether a crop or a
# mirror image keeps its label is not known of them.
_AUGMENTED = _KNOWN | {"cifar100": CIFAR10}
_PLAIN = Augmentation(mean=(0.0,), std=(1.0,))


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

    path: of a set on disk: the folder, the TFDS data directory, or the directory of one
      version in it; for TFDS by default ~/tensorflow_datasets.
    statistics: (mean, std) of each channel, on the scale 0 to 1, to normalise by; by
      default those of the set.
    """
    options = options or ReadOptions()
    if name == "digits":
        return _digits(path, statistics)
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
    augmentation = _augmentation(
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
    if name == "digits":
        return _digits(path, statistics)
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

    augmentation = _augmentation(
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
    options = with_defaults(name, options)
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


def with_defaults(name: str, options: ReadOptions) -> ReadOptions:
    """The options with the defaults of a data set in place of None.

    Raises `UserError` for sizes that exclude each other.
    """
    # ImageNet as in the release: the shorter side becomes 256 pixels, and the centre of
    # 224 is taken; another size has the same proportion to its `resize`.
    if name == "imagenet2012":
        options = _with_defaults(options, _IMAGENET_OPTIONS)
        size = options.image_size or 1
        options = _with_defaults(options, {"resize": round(size * _IMAGENET_ZOOM)})
        if (options.resize or 1) < size:
            raise UserError(
                f"config.dataset.resize must be at least {size}, its centre, got "
                f"{options.resize}"
            )
    return _with_defaults(options, {"in_memory_mib": IN_MEMORY_MIB})


def known_statistics(name: str) -> Statistics | None:
    """(mean, std) of a data set for which they are written down here, else None."""
    known = _KNOWN.get(name)
    if known is None:
        return None
    return known.mean, known.std


def white(name: str) -> float:
    """The number that is white in a data set's arrays: 16 in the digits, else 255."""
    if name in _KNOWN:
        return round(1 / _KNOWN[name].scale)
    return 255


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


def _with_defaults(options: ReadOptions, values: dict) -> ReadOptions:
    """The options with these values in place of None."""
    missing = {}
    for name, value in values.items():
        if getattr(options, name) is None:
            missing[name] = value
    return dataclasses.replace(options, **missing)


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


def _digits(path: Any, given: Statistics | None) -> Dataset:
    """The digits, normalised by the statistics that are given, else by their own."""
    if path:
        raise UserError(
            "the digits come with the package: leave config.dataset.path out, got "
            f"{path}"
        )
    # Part of the package, so that a first run needs no download.
    file = pathlib.Path(__file__).parent / "digits.npz"
    parts = {}
    with np.load(file, allow_pickle=False) as stored:
        for split in ("train", "test"):
            parts[split] = Arrays(
                images=stored[f"{split}_images"],
                labels=stored[f"{split}_labels"],
                num_classes=10,
                name="digits",
            )
    return Dataset(**parts, augmentation=_normalized(_DIGITS, given))


def _normalized(augmentation: Augmentation, given: Statistics | None) -> Augmentation:
    """The augmentation with other statistics, if there are some."""
    if given is None:
        return augmentation
    mean, std = given
    return dataclasses.replace(augmentation, mean=mean, std=std)


def _augmentation(
    name: str,
    channels: int,
    given: Statistics | None,
    measure: Callable[[], Statistics],
) -> Augmentation:
    """A set's default augmentation, with the statistics to normalise by.

    given: statistics in place of the set's own, or None.
    measure: makes the set's own statistics, where they are not known.
    """
    # Known statistics are of colour images, and these may be read as gray ones.
    if given is None and channels == 3:
        given = known_statistics(name)
    return _normalized(_AUGMENTED.get(name, _PLAIN), given or measure())
