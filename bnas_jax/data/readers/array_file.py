"""A data set of arrays in one .npz file of NumPy, such as the package's digits."""

import pathlib
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays

_SETTING = "config.dataset.path"
# The arrays that a file must have.
_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
# What NumPy raises for a file that is damaged, or of another kind.
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    SyntaxError,
    NotImplementedError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
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

    names = _class_names(arrays, file)
    train, test = (
        Arrays(
            images=arrays[f"{part}_images"],
            labels=arrays[f"{part}_labels"],
            num_classes=len(names) or _num_classes(arrays, file),
            name=file.stem,
            classes=names,
        )
        for part in ("train", "test")
    )
    if train.image_shape != test.image_shape:
        raise UserError(
            f"{file}: training images have the shape {train.image_shape}, test images "
            f"{test.image_shape}; give both the same shape"
        )
    return train, test


def _class_names(arrays: dict[str, np.ndarray], file: pathlib.Path) -> tuple[str, ...]:
    """The names of the classes; () if the file has none."""
    if "class_names" not in arrays:
        return ()
    names = arrays["class_names"]
    # Labels of other data are found by their names (`facts.with_labels`).
    fits = names.ndim == 1 and names.dtype.kind == "U"
    if not fits or len(set(names.tolist())) < len(names):
        raise UserError(
            f"{file}: class_names must be a list of different strings, one for each "
            "class"
        )
    return tuple(names.tolist())


def _num_classes(arrays: dict[str, np.ndarray], file: pathlib.Path) -> int:
    """One more than the largest label."""
    largest = 0
    for part in ("train", "test"):
        labels = arrays[f"{part}_labels"]
        # `Arrays` refuses all others.
        if labels.size and np.issubdtype(labels.dtype, np.integer):
            largest = max(largest, int(labels.max()))

    # A number that is no label, such as an identifier, would give a huge network.
    images = arrays["train_labels"].size
    if largest >= images:
        raise UserError(
            f"{file}: there are {images} training images, and labels up to {largest}; "
            "number the classes from 0"
        )
    return 1 + largest


def _arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    """{name: array} of a file.

    Raises `UserError` where it cannot be read, and where an array is missing.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}; set {_SETTING} to {_LAYOUT}")
    arrays: dict[str, np.ndarray] = {}
    # A file of a single array (.npy) has no names, and fails here. So does an array of
    # objects, which would have to be unpickled.
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays |= stored
    except _DAMAGE:
        raise UserError(
            f"{file} cannot be read as arrays; set {_SETTING} to {_LAYOUT}"
        ) from None
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise UserError(f"{file} has no {missing[0]}; set {_SETTING} to {_LAYOUT}")
    return arrays
