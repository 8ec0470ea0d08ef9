"""Data sets by name, with how their pixels are normalised and augmented unless a setting says otherwise."""

import pathlib
from typing import NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation

NAMES = ("digits", "cifar10", "cifar100", "tfds:NAME")
_NOT_YET = {
    "imagenet2012": "sets too large for memory",
    "folder": "folders of images",
}
_TFDS = "tfds:"

# Mean and standard deviation of the 1,437 training images, on the scale 0 to 1.
_DIGITS = Augmentation(mean=(0.3054,), std=(0.376,), scale=1 / 16)
_CIFAR10 = Augmentation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), pad=4, flip=True)


class Dataset(NamedTuple):
    """Both parts of a data set, and its default augmentation."""

    train: Arrays
    test: Arrays
    augmentation: Augmentation


def load(name: str, path: str | pathlib.Path | None = None) -> Dataset:
    """The data set of a name in `NAMES`.

    `path` is for the sets on disk: the TFDS data directory, or the directory of one version in it; without a path,
    ~/tensorflow_datasets. Raises `UserError` when the name is unknown or the files are missing or unfit.
    """
    if name == "digits":
        return _digits(path)
    if name in ("cifar10", "cifar100"):
        return _from_tfds(name, path)
    if name.startswith(_TFDS) and name != _TFDS:
        return _from_tfds(name.removeprefix(_TFDS), path)
    if name in _NOT_YET:
        raise UserError(f"config.dataset.name={name}: {_NOT_YET[name]} are not available yet in this version; {_choices()}")
    raise UserError(f"there is no dataset {name!r}: {_choices()}")


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 (N, H, W, C), on the scale 0 to 1; 1 for a constant channel."""
    counts = [np.bincount(images[..., c].ravel(), minlength=256) / images[..., c].size for c in range(images.shape[-1])]
    values = np.arange(256) / 255
    means = [float(values @ p) for p in counts]
    variances = [float((values - m) ** 2 @ p) for p, m in zip(counts, means, strict=True)]
    return tuple(means), tuple(v**0.5 or 1.0 for v in variances)


def _choices() -> str:
    return f"set config.dataset.name to one of {', '.join(NAMES)}"


def _digits(path) -> Dataset:
    if path:
        raise UserError(f"the digits come with the package: leave config.dataset.path out, got {path}")
    with np.load(pathlib.Path(__file__).parent / "digits.npz", allow_pickle=False) as stored:
        train, test = (
            Arrays(stored[f"{split}_images"], stored[f"{split}_labels"], num_classes=10, name="digits")
            for split in ("train", "test")
        )
    return Dataset(train, test, _DIGITS)


def _from_tfds(name: str, path) -> Dataset:
    from bnas_jax.data import tfds_arrays  # not at the top: it needs libraries that arrays alone do not

    train, test = tfds_arrays.read(name, path)
    return Dataset(train, test, _augmentation(name, train))


def _augmentation(name: str, train: Arrays) -> Augmentation:
    if name == "cifar10":
        return _CIFAR10
    mean, std = statistics(train.images)
    if name == "cifar100":
        return Augmentation(mean, std, pad=_CIFAR10.pad, flip=_CIFAR10.flip)
    # Whether a crop or a mirror image keeps its label is not known for an arbitrary set.
    return Augmentation(mean, std)
