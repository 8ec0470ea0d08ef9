"""Reading all of a data set (`data check`).

It counts the examples of each class, their sizes, and what cannot be read.
"""

import collections
import sys
from typing import Any

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import load
from bnas_jax.data.readers import images
from bnas_jax.data.readers.encoded import Encoded, ReadOptions, in_threads

# The number of unreadable images that the summary names.
_NAMED = 100


def check(name: str, path: Any, options: ReadOptions) -> dict:
    """Reads every image of a data set, and counts.

    The summary has the examples by class and part, the range of sizes, the number of
    unreadable images (each is named on stderr, the first 100 are returned), and the
    files left out as they are no images, by suffix. A folder without parts is one part,
    "all", unless `options.split` divides it.

    Raises `UserError` for arrays, for an unknown name and for missing files. An
    image that cannot be read is counted, and no error.

    name: as in `config.dataset.name`.
    path: where its files are, see `load.load`.
    options: how images are read; of them the split and the channels have a part in it.
    """
    if name == "digits":
        raise UserError(
            "the digits come with the package and are whole; name a dataset on disk"
        )
    if name == "npz":
        raise UserError(
            "arrays are checked whenever a run reads them; name a dataset of image "
            "files"
        )
    encoded, _ = load.open_encoded(name, path, options)

    # Divided as a run with this split would divide it.
    if options.split is not None:
        train, test = load.divided(encoded, options)
        encoded = {"train": train, "test": test}

    # All parts have the same classes and channels: the first one says them.
    parts = {part: _check_part(examples) for part, examples in encoded.items()}
    first = next(iter(encoded.values()))
    return {
        "num_examples": sum(len(examples) for examples in encoded.values()),
        "num_classes": first.num_classes,
        "channels": first.channels,
        "unreadable": sum(part["unreadable"] for part in parts.values()),
        "splits": parts,
        "out": str(path or ""),
    }


def _check_part(examples: Encoded) -> dict:
    """The summary of one part."""
    counts: collections.Counter = collections.Counter()
    shapes: list[tuple[int, int]] = []
    unreadable: list[str] = []

    # Every image is read.
    read = lambda number: _check_example(examples, number)
    for label, shape, problem in in_threads(read, len(examples)):
        if problem:
            print(problem, file=sys.stderr)
            unreadable.append(problem)
            continue
        counts[examples.classes[label]] += 1
        shapes.append(shape)

    # Heights and widths; 0 where no image can be read.
    sizes = np.zeros((1, 2), int)
    if shapes:
        sizes = np.array(shapes)  # (images, 2)
    heights = sizes[:, 0]
    widths = sizes[:, 1]
    return {
        "num_examples": len(examples),
        "classes": {name: counts[name] for name in examples.classes},
        "height": [int(heights.min()), int(heights.max())],
        "width": [int(widths.min()), int(widths.max())],
        "unreadable": len(unreadable),
        "files": unreadable[:_NAMED],
        "left_out": dict(getattr(examples.reader, "left_out", {})),
    }


def _check_example(examples: Encoded, number: int) -> tuple[int, tuple[int, int], str]:
    """(label, (height, width), "") of an example that can be read.

    Else the last of them says what is wrong.
    """
    try:
        pixels, label = examples.whole(number)
    except images.BadImage as error:
        # Without the advice behind the semicolon, which is for a training.
        return -1, (0, 0), str(error).partition(";")[0]
    except UserError as error:
        return -1, (0, 0), str(error)
    return label, (pixels.shape[0], pixels.shape[1]), ""
