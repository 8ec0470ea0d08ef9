"""A data set of arrays in one .npz file of NumPy, such as the package's digits."""

import pathlib
import zipfile
from typing import Any

import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays

_SETTING = "config.dataset.path"
# The arrays that a file must have.
_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
_LAYOUT = (
    "a file of numpy.savez with train_images and test_images, uint8 (N, H, W, C), and "
    "train_labels and test_labels, whole numbers (N,)"
)


def read(path: Any) -> tuple[Arrays, Arrays]:
    """(training set, test set) of an .npz file.

    It has the arrays train_images and test_images, uint8 (N, H, W, C); train_labels and
    test_labels, integers (N,) from 0; and optionally class_names, strings in the order
    of the labels.

    Raises `UserError` for any other file.
    """
    if not path:
        raise UserError(f"set {_SETTING} to {_LAYOUT}")
    file = paths.local(path, _SETTING)
    arrays = _arrays(file)

    # Without names, the largest label gives the number of classes.
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
    """{name: array} of a file.

    Raises `UserError` where it cannot be read, and where an array is missing.
    """
    arrays: dict[str, np.ndarray] = {}
    # A file of a single array (.npy) has no names, and fails here. So does an array of
    # objects, which would have to be unpickled.
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
