"""A small TFDS data set in ArrayRecord format, read completely into memory, without TensorFlow."""

import contextlib
import pathlib
from typing import Any

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import tfds_directory
from bnas_jax.data.arrays import Arrays

# Larger sets are streamed, not held: 4 GiB is 25 times CIFAR.
MEMORY_LIMIT = 4 * 2**30
_CHUNK = 1024
_TEST_SPLITS = ("test", "validation")


def read(name: str, path: str | pathlib.Path | None) -> tuple[Arrays, Arrays]:
    """The training and the test examples of `name` (NAME or NAME/CONFIG; `path` as in `tfds_directory.find`).

    The set needs the features `image` and `label`, images of one size, and the splits train and test (or validation).
    """
    directory = tfds_directory.find(name, path)
    builder = _open(directory)
    _check_builder(builder, name, directory)
    test = next((s for s in _TEST_SPLITS if s in builder.info.splits), None)
    if test is None or "train" not in builder.info.splits:
        raise UserError(f"{name}: needs the splits train and test, {directory} has {', '.join(builder.info.splits)}")
    return _split(builder, name, "train", directory), _split(builder, name, test, directory)


def _open(directory: pathlib.Path) -> Any:
    with _reading(directory):
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(directory)


def _check_builder(builder: Any, name: str, directory: pathlib.Path) -> None:
    if builder.name != name.split("/")[0]:
        raise UserError(f"{directory} holds {builder.name}, not {name}: change config.dataset.path or config.dataset.name")
    formats = {f.value for f in builder.info.available_file_formats()}
    if "array_record" not in formats:
        found = ", ".join(sorted(formats)) or "an unnamed format"
        raise UserError(
            f"{directory} is in {found}, but only array_record can be read here:"
            f" convert it (with tensorflow installed) by `tfds convert_format --dataset_dir={directory}"
            " --out_file_format=array_record`"
        )
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "num_classes"):
        raise UserError(f"{name}: needs the features image and label (a class), {directory} has {', '.join(features)}")


def _split(builder: Any, name: str, split: str, directory: pathlib.Path) -> Arrays:
    with _reading(directory):
        source = builder.as_data_source(split=split)
    # Only now: where the directory holds several formats, the line above has chosen the one whose files are listed here.
    missing = [f for f in builder.info.splits[split].filepaths if not f.exists()]
    if missing:
        raise UserError(f"{name}: {missing[0]} is missing; copy or prepare the dataset again")
    with _reading(directory):
        images, labels = _collect(source, name)
    return Arrays(images, labels, num_classes=builder.info.features["label"].num_classes, name=name)


def _collect(source: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All images uint8 (N, H, W, C) and labels int32 (N,) of a random-access source of examples."""
    size = len(source)
    if not size:
        raise UserError(f"{name}: a split without examples; prepare the dataset again")
    shape, dtype = source[0]["image"].shape, source[0]["image"].dtype
    if size * np.prod(shape, dtype=float) > MEMORY_LIMIT:
        raise UserError(f"{name}: {size} images of shape {shape} are too many to hold in memory; choose a smaller dataset")
    images, labels = np.empty((size, *shape), dtype), np.empty(size, np.int32)
    for start in range(0, size, _CHUNK):
        rows = range(start, min(start + _CHUNK, size))
        for row, example in zip(rows, source.__getitems__(list(rows)), strict=True):
            if example["image"].shape != shape:
                raise UserError(f"{name}: images of several shapes ({shape}, {example['image'].shape}) do not fit one array")
            images[row], labels[row] = example["image"], example["label"]
    return images, labels


@contextlib.contextmanager
def _reading(directory: pathlib.Path):
    """Turns what the reading libraries raise into a `UserError`; they share no base class, hence `Exception`."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        raise UserError(
            f"reading {directory} needs more libraries ({_first_line(error)}):"
            " pip install tensorflow-datasets array_record pillow"
        ) from error
    except Exception as error:
        raise UserError(f"cannot read {directory} ({_first_line(error)}); copy or prepare the dataset again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
