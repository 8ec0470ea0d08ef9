"""Reading everything of a data set: how many examples of each class, what sizes, and what cannot be read."""

import collections
import concurrent.futures
import os
import sys
from typing import Any

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import images, load
from bnas_jax.data.encoded import Encoded, ReadOptions

_CHUNK = 1024
_NAMED = 100


def check(name: str, path: Any, options: ReadOptions) -> dict:
    """Counts by class and split, the range of sizes, the unreadable images (named on stderr, the first 100 returned), and the
    files that are left out as they are no images, by suffix. A folder without parts is one, "all", unless it is divided."""
    if name == "digits":
        raise UserError("the digits come with the package and are whole; name a dataset on disk")
    encoded, _ = load.open_encoded(name, path, options)
    if options.split is not None:
        encoded = dict(zip(("train", "test"), load.divided(encoded, options), strict=True))
    parts = {part: _check_part(examples) for part, examples in encoded.items()}
    first = next(iter(encoded.values()))
    return {
        "num_examples": sum(map(len, encoded.values())),
        "num_classes": first.num_classes,
        "channels": first.channels,
        "unreadable": sum(part["unreadable"] for part in parts.values()),
        "splits": parts,
        "out": str(path or ""),
    }


def _check_part(examples: Encoded) -> dict:
    counts: collections.Counter = collections.Counter()
    shapes: list[tuple[int, int]] = []
    unreadable: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(examples), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(examples)))
            for label, shape, problem in threads.map(
                lambda row: _check_example(examples, row), rows
            ):
                if problem:
                    print(problem, file=sys.stderr)
                    unreadable.append(problem)
                else:
                    counts[examples.classes[label]] += 1
                    shapes.append(shape)
    sizes = np.array(shapes) if shapes else np.zeros((1, 2), int)
    return {
        "num_examples": len(examples),
        "classes": {name: counts[name] for name in examples.classes},
        "height": [int(sizes[:, 0].min()), int(sizes[:, 0].max())],
        "width": [int(sizes[:, 1].min()), int(sizes[:, 1].max())],
        "unreadable": len(unreadable),
        "files": unreadable[:_NAMED],
        "left_out": dict(getattr(examples.reader, "left_out", {})),
    }


def _check_example(examples: Encoded, number: int) -> tuple[int, tuple[int, int], str]:
    """(label, (height, width), "") of one that can be read, else what is wrong with it."""
    try:
        pixels, label = examples.whole(number)
    except images.BadImage as error:
        return -1, (0, 0), str(error).partition(";")[0]
    except UserError as error:
        return -1, (0, 0), str(error)
    return label, (pixels.shape[0], pixels.shape[1]), ""
