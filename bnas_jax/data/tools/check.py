"""Reads all images of a data set, and counts them (`data check`).

It counts the examples of each class, the sizes of images, and unreadable files.
"""

import collections
import sys
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import load
from bnas_jax.data.readers import images
from bnas_jax.data.readers.encoded import Encoded, ReadOptions, in_threads

# The largest number of unreadable images that the summary names.
_NAMED = 100


class _Example(NamedTuple):
    """The result of reading an example."""

    # The error of an image that cannot be read; the other fields then have no meaning.
    problem: str = ""
    label: int = -1
    # (height, width).
    shape: tuple[int, int] = (0, 0)
    # A hash, equal for images with the same pixels.
    pixels: Hashable = None
    # See `images.is_turned`.
    turned: bool = False


def check(name: str, path: Any, options: ReadOptions) -> dict:
    """Reads every image of a data set; returns a summary.

    For each part, the summary has the number of examples by class, the range of sizes,
    the number of unreadable images (all are named on stderr, the first 100 in the
    summary), the number of images that viewers rotate (`images.is_turned`), and the
    number of files that are not images, by suffix. Test images that are also training
    images are counted and named on stderr. A folder without parts is one part, "all",
    unless `options.split` divides it.

    Raises `UserError` for arrays, for an unknown name and for missing files. An
    unreadable image is counted, and is not an error.

    name: as in `config.dataset.name`.
    path: where the files are, see `load.load`.
    options: how images are read; only the split, the channels and the value of white
        matter here.
    """
    if name == "digits":
        raise UserError(
            "the digits come with the package and are complete; name a data set on disk"
        )
    if name == "npz":
        raise UserError(
            "arrays are checked whenever a run reads them; name a data set of image "
            "files"
        )
    encoded, _ = load.open_encoded(name, path, options)

    # Divided as a run with this split would divide it.
    if options.split is not None:
        train, test = load.divided(encoded, options)
        encoded = {"train": train, "test": test}

    # All parts have the same classes and channels: take those of the first one.
    parts: dict[str, dict] = {}
    rows: dict[str, dict] = {}
    for part, examples in encoded.items():
        parts[part], rows[part] = _check_part(examples)
    first = next(iter(encoded.values()))
    return {
        "num_examples": sum(len(examples) for examples in encoded.values()),
        "num_classes": first.num_classes,
        "channels": first.channels,
        "unreadable": sum(part["unreadable"] for part in parts.values()),
        "in_both": _in_both(encoded, rows),
        "splits": parts,
        "out": str(path or ""),
    }


def _check_part(examples: Encoded) -> tuple[dict, dict[Hashable, int]]:
    """(the summary of one part, {hash of the pixels: row of the image})."""
    counts: collections.Counter = collections.Counter()
    shapes: list[tuple[int, int]] = []
    unreadable: list[str] = []
    rows: dict[Hashable, int] = {}
    turned = 0

    # Read every image.
    read = lambda number: _check_example(examples, number)
    for number, example in enumerate(in_threads(read, len(examples))):
        if example.problem:
            print(example.problem, file=sys.stderr)
            unreadable.append(example.problem)
            continue
        counts[examples.classes[example.label]] += 1
        shapes.append(example.shape)
        rows.setdefault(example.pixels, int(examples.rows[number]))
        turned += example.turned

    if turned:
        print(
            f"{examples.name}: viewers turn {turned} images by what their files note "
            "(Exif); here they are read as they are stored",
            file=sys.stderr,
        )

    # The heights and widths; 0 if no image can be read.
    sizes = np.zeros((1, 2), int)
    if shapes:
        sizes = np.array(shapes)  # (images, 2)
    heights = sizes[:, 0]
    widths = sizes[:, 1]
    summary = {
        "num_examples": len(examples),
        "classes": {name: counts[name] for name in examples.classes},
        "height": [int(heights.min()), int(heights.max())],
        "width": [int(widths.min()), int(widths.max())],
        "turned": turned,
        "unreadable": len(unreadable),
        "files": unreadable[:_NAMED],
        "left_out": dict(getattr(examples.reader, "left_out", {})),
    }
    return summary, rows


def _in_both(encoded: dict[str, Encoded], rows: dict[str, dict[Hashable, int]]) -> int:
    """The number of test images that are also training images; each is named.

    Accuracies on such images are too high.

    rows: part -> the rows that `_check_part` returns.
    """
    found = 0
    for pixels, row in rows.get("test", {}).items():
        same = rows.get("train", {}).get(pixels)
        if same is not None:
            name = encoded["test"].reader.where(row)
            of_training = encoded["train"].reader.where(same)
            print(f"{name} is a training image, too: {of_training}", file=sys.stderr)
            found += 1
    return found


def _check_example(examples: Encoded, number: int) -> _Example:
    """Reads an example."""
    try:
        pixels, label = examples.whole(number)
        data, _ = examples.reader.read(int(examples.rows[number]))
    except images.BadImage as error:
        # Leave out the advice after the semicolon, which is for a training.
        return _Example(problem=str(error).partition(";")[0])
    except UserError as error:
        return _Example(problem=str(error))
    return _Example(
        label=label,
        shape=pixels.shape[:2],
        pixels=hash((pixels.shape, pixels.tobytes())),
        turned=images.is_turned(data),
    )
