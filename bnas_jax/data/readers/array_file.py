"""A data set of arrays in one file of NumPy, such as the digits of the package."""

import pathlib
import zipfile
from typing import Any

import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays

_SETTING = "config.dataset.path"
# What a file has to have.
_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
_LAYOUT = (
    "a file of numpy.savez with train_images and test_images, uint8 (N, H, W, C), and "
    "train_labels and test_labels, whole numbers (N,)"
)


def read(path: Any) -> tuple[Arrays, Arrays]:
    """(training set, test set) of a file .npz.

    It has the arrays train_images and test_images, uint8 (N, H, W, C), train_labels and
    test_labels, whole numbers (N,) from 0 on, and perhaps class_names, strings in the
    order of the labels.

    Raises `UserError` for what is no such file.
    """
    if not path:
        raise UserError(f"set {_SETTING} to {_LAYOUT}")
    file = paths.local(path, _SETTING)
    arrays = _arrays(file)

    # Without names, there are as many classes as labels are counted up to.
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    num_classes = len(names)
    if not names:
        labels = (arrays["train_labels"], arrays["test_labels"])
        num_classes = 1 + int(max(np.max(part, initial=0) for part in labels))

    train, test = (
        Arrays(
            images=arrays[f"{part}_images"],
            labels=arrays[f"{part}_labels"],
            num_classes=num_classes,
            name=file.stem,
            classes=names,
        )
        for part in ("train", "test")
    )
    return train, test


def _arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by their names.

    Raises `UserError` where it cannot be read, and where one is missing.
    """
    arrays: dict[str, np.ndarray] = {}
    # A single array has no names. One of objects would be unpickled, which is refused.
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays |= stored
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile):
        raise UserError(
            f"{file} cannot be read as arrays; set {_SETTING} to {_LAYOUT}"
        ) from None
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise UserError(f"{file} has no {missing[0]}; set {_SETTING} to {_LAYOUT}")
    return arrays
