"""Whether facts about a run's data, as a file has them, can be true.

They are those of `data.facts.Facts`. A file may be damaged, or edited by hand.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Sizes and labels are int32.
_MOST = 2**31 - 1
# Images are normalised in float32: other magnitudes would become infinite, or 0.
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


def misfit(facts: Mapping[str, Any]) -> str | None:
    """The name of the first fact that is missing or cannot be; None if all fit.

    >>> misfit({"num_classes": 10, "image_shape": [8, 8, 1], "std": [0]})
    'std'
    """
    return next((name for name, fits in _checked(facts) if not fits), None)


def _checked(facts: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """(name, whether it fits) of each fact; one may rely on those before it."""
    # These two are always known, all others may be missing or None.
    classes: Any = facts.get("num_classes")
    shape: Any = facts.get("image_shape")
    yield "num_classes", type(classes) is int and 0 < classes <= _MOST
    is_shape = _is_list(shape, int, length=3)
    yield "image_shape", is_shape and min(shape) > 0 and max(shape) <= _MOST

    # Pixels are divided by std.
    for name, smallest in (("mean", -_LARGEST), ("std", _SMALLEST)):
        numbers = facts.get(name)
        if numbers is not None:
            fits = _is_list(numbers, int, float, length=shape[2])
            yield name, fits and all(smallest <= item <= _LARGEST for item in numbers)

    names = facts.get("class_names")
    if names is not None:
        fits = _is_list(names, str, length=classes)
        yield "class_names", fits and all(map(_is_text, names))


def _is_list(value: Any, *kinds: type, length: int) -> bool:
    """Whether a value is a list of that length with items of these kinds."""
    if not isinstance(value, list) or len(value) != length:
        return False
    return all(type(item) in kinds for item in value)


def _is_text(name: str) -> bool:
    """Whether a name can be written into a file of text.

    The name of a folder that is no UTF-8 can: it is written as the bytes that it is.
    """
    try:
        name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
