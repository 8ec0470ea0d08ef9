"""Data sets by name, with how their pixels are normalised and augmented unless a setting says otherwise."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import folder, order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.encoded import Encoded, ReadOptions, hold
from bnas_jax.data.halves import split_test
from bnas_jax.data.images import BadImage

NAMES = ("digits", "cifar10", "cifar100", "imagenet2012", "tfds:NAME", "folder")
_TFDS = "tfds:"
IN_MEMORY_MIB = 4096  # 25 times CIFAR
_SAMPLE = 1024

# Mean and standard deviation of the 1,437 training images, on the scale 0 to 1.
_DIGITS = Augmentation(mean=(0.3054,), std=(0.376,), scale=1 / 16)
_CIFAR10 = Augmentation(
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), pad=4, flip=True
)
# The release's: random resized crop, flip, colour jitter; 256 and the centre 224 for evaluation.
_IMAGENET = Augmentation(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
    min_area=0.08,
    jitter=(0.4, 0.4, 0.4, 0.2),
)
_IMAGENET_OPTIONS = {"image_size": 224, "in_memory_mib": 0, "channels": 3}
_IMAGENET_ZOOM = 256 / 224
# Sets whose statistics need not be computed.
_KNOWN = {"digits": _DIGITS, "cifar10": _CIFAR10, "imagenet2012": _IMAGENET}

# (mean, std) of each channel, on the scale 0 to 1.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class Dataset(NamedTuple):
    """Both parts of a data set, in memory or on disk, and its default augmentation."""

    train: Arrays | Encoded
    test: Arrays | Encoded
    augmentation: Augmentation


class TestSet(NamedTuple):
    """What evaluation needs of a data set: no training images."""

    test: Arrays | Encoded
    augmentation: Augmentation


def load(
    name: str,
    path: Any = None,
    options: ReadOptions | None = None,
    statistics: Statistics | None = None,
) -> Dataset:
    """The data set of a name in `NAMES`: in memory up to `options.in_memory_mib`, else ready to be streamed.

    `path` is for the sets on disk: the folder, the TFDS data directory, or the directory of one version in it; for TFDS
    without a path, ~/tensorflow_datasets. statistics: (mean, std) of each channel, on the scale 0 to 1, to normalise by; the
    set's own unless given. Raises `UserError` when the name is unknown or the files are missing or unfit.
    """
    options = options or ReadOptions()
    if name == "digits":
        return _digits(path, statistics)
    parts, options = open_encoded(name, path, options)
    return from_parts(name, parts, options, statistics)


def from_parts(
    name: str, parts: dict[str, Encoded], options: ReadOptions, statistics: Statistics | None = None
) -> Dataset:
    """The data set of that name from its parts, as `open_encoded` gives them with the options."""
    encoded = divided(parts, options)
    fits = _fits(encoded, options)
    train, test = (hold(part) if fits else part for part in encoded)
    channels = train.image_shape[-1]  # refuses images without a common size
    return Dataset(train, test, _augmentation(name, channels, statistics, lambda: _measured(train)))


def load_test(
    name: str,
    path: Any = None,
    options: ReadOptions | None = None,
    statistics: Statistics | None = None,
) -> Dataset | TestSet:
    """As `load`, for evaluation. statistics: those that a run was trained with, so that no training images are needed; None
    measures those of this set, which then needs them.
    """
    options = options or ReadOptions()
    if name == "digits":
        return _digits(path, statistics)
    parts, options = open_encoded(name, path, options)
    test = _test_part(parts, options)
    trained_on = "train" in parts or ("all" in parts and options.split is not None)
    if statistics is None and trained_on:
        return load(name, path, options)

    def measure() -> Statistics:
        raise UserError(
            f"{test.name} has no training images beside it, by whose mean and deviation its own are normalised"
        )

    in_memory = hold(test) if _fits((test,), options) else test
    return TestSet(in_memory, _augmentation(name, in_memory.image_shape[-1], statistics, measure))


def open_encoded(
    name: str, path: Any, options: ReadOptions
) -> tuple[dict[str, Encoded], ReadOptions]:
    """The parts of a data set on disk, "train" and "test" or one of them, or "all" of a folder without parts: nothing decoded;
    and the options with the set's own where they were None."""
    options = with_defaults(name, options)
    if name == "folder":
        return folder.read(path, options), options
    tfds_name = name.removeprefix(_TFDS)
    if name not in ("cifar10", "cifar100", "imagenet2012") and (name == tfds_name or not tfds_name):
        raise UserError(
            f"there is no dataset {name!r}: set config.dataset.name to one of {', '.join(NAMES)}"
        )
    from bnas_jax.data import (
        tfds_examples,
    )  # not at the top: it needs libraries that arrays alone do not

    return tfds_examples.read(tfds_name, path, options), options


def with_defaults(name: str, options: ReadOptions) -> ReadOptions:
    """The options of a data set, with its own values where they were None."""
    if name == "imagenet2012":
        options = _with_defaults(options, _IMAGENET_OPTIONS)
        options = _with_defaults(
            options, {"resize": round((options.image_size or 1) * _IMAGENET_ZOOM)}
        )
        if (options.resize or 1) < (options.image_size or 1):
            size = options.image_size
            raise UserError(
                f"config.dataset.resize must be at least {size}, its centre, got {options.resize}"
            )
    return _with_defaults(options, {"in_memory_mib": IN_MEMORY_MIB})


def known_statistics(name: str) -> Statistics | None:
    """Those of the data sets that are known by name."""
    known = _KNOWN.get(name)
    return None if known is None else (known.mean, known.std)


def divided(parts: dict[str, Encoded], options: ReadOptions) -> tuple[Encoded, Encoded]:
    """The training and the test set; `config.dataset.split` makes a test set where there is none, and only there."""
    train, test = parts.get("train", parts.get("all")), parts.get("test")
    if train is None:
        raise UserError(
            f"{parts['test'].name} has no training images beside it; it can only be evaluated"
        )
    if test is None and options.split is None:
        raise UserError(
            f"{train.name} has no test images beside it (a folder train or a split of theirs); set config.dataset.split to the"
            " share of the images that is for tests, such as 0.1"
        )
    if test is None:
        return split_test(train, float(options.split or 0), options.split_seed)
    if options.split is not None:
        raise UserError(
            f"{train.name} comes with test images, {test.name}: leave config.dataset.split out"
        )
    return train, test


def _test_part(parts: dict[str, Encoded], options: ReadOptions) -> Encoded:
    """The test set, else what `config.dataset.split` makes one, else all of a set without parts."""
    if "test" in parts:
        if options.split is not None:
            print(
                f"{parts['test'].name} is the test set: config.dataset.split divides nothing",
                file=sys.stderr,
            )
        return parts["test"]
    if "all" in parts and options.split is None:
        return parts["all"]
    return divided(parts, options)[1]


def statistics(images: np.ndarray) -> Statistics:
    """Mean and standard deviation of each channel of uint8 (N, H, W, C), on the scale 0 to 1; 1 for a constant channel."""
    counts = [
        np.bincount(images[..., c].ravel(), minlength=256) / images[..., c].size
        for c in range(images.shape[-1])
    ]
    values = np.arange(256) / 255
    means = [float(values @ p) for p in counts]
    variances = [float((values - m) ** 2 @ p) for p, m in zip(counts, means, strict=True)]
    return tuple(means), tuple(v**0.5 or 1.0 for v in variances)


def _with_defaults(options: ReadOptions, values: dict) -> ReadOptions:
    return dataclasses.replace(
        options, **{k: v for k, v in values.items() if getattr(options, k) is None}
    )


def _fits(parts: tuple[Encoded, ...], options: ReadOptions) -> bool:
    """Whether these parts, decoded, stay within `in_memory_mib`. Sizes are the first image's where none is set."""
    if not options.in_memory_mib:
        return False
    shape = parts[0].image_shape if options.image_size else _first(parts[0]).shape
    return sum(map(len, parts)) * float(np.prod(shape)) <= options.in_memory_mib * 2**20


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
    if path:
        raise UserError(
            f"the digits come with the package: leave config.dataset.path out, got {path}"
        )
    with np.load(pathlib.Path(__file__).parent / "digits.npz", allow_pickle=False) as stored:
        train, test = (
            Arrays(
                stored[f"{split}_images"], stored[f"{split}_labels"], num_classes=10, name="digits"
            )
            for split in ("train", "test")
        )
    return Dataset(train, test, _normalized(_DIGITS, given))


def _normalized(augmentation: Augmentation, given: Statistics | None) -> Augmentation:
    if given is None:
        return augmentation
    return dataclasses.replace(augmentation, mean=given[0], std=given[1])


def _augmentation(
    name: str, channels: int, given: Statistics | None, measure: Callable[[], Statistics]
) -> Augmentation:
    """given: mean and standard deviation that stand in for the set's own; measure: gives its own where none are known."""
    if channels == 3 and name in _KNOWN:
        return _normalized(_KNOWN[name], given)
    mean, std = given or measure()
    if name in ("cifar10", "cifar100"):
        return Augmentation(mean, std, pad=_CIFAR10.pad, flip=_CIFAR10.flip)
    # Whether a crop or a mirror image keeps its label is not known for an arbitrary set.
    return Augmentation(mean, std)


def _measured(train: Arrays | Encoded) -> Statistics:
    return statistics(train.images if isinstance(train, Arrays) else _sample(train))


def _sample(train: Encoded) -> np.ndarray:
    """Some images drawn at random, the same ones always: statistics of a set too large for memory."""
    return hold(train.take(np.sort(order.shuffled(len(train), 0, order.SAMPLE)[:_SAMPLE]))).images
