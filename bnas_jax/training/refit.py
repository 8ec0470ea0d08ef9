"""Converts a saved state to the form that the state of its run has now.

The forms differ after a change of settings by `--change`, or if an earlier version of
this package saved the state.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# Fields of a state with rows for epochs, whose number may change.
PER_EPOCH = ("test_top1", "valid_top1", "history")


def by_name(tree, links: bool = True) -> dict[str, Any]:
    """{name such as params/cell0/...: leaf} of a tree.

    Orbax keeps the names of dict keys and fields, and the positions in tuples.

    links: whether names include positions in tuples. Without positions, the state of an
        optimizer has the same names whether or not its chain has another transformation
        without state, such as clipping. Names that would be ambiguous keep them.
    """
    # Each leaf, its name with positions, and its name without them.
    leaves: list[Any] = []
    whole: list[str] = []
    short: list[str] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = [_part(key) for key in path]
        leaves.append(leaf)
        whole.append("/".join(parts))
        short.append("/".join(part for part in parts if not part.isdigit()))
    if links:
        return dict(zip(whole, leaves, strict=True))

    # The short name, where it is unique.
    times = Counter(short)
    named = {}
    for name, long_name, leaf in zip(short, whole, leaves, strict=True):
        if times[name] > 1:
            name = long_name
        named[name] = leaf
    return named


def _part(key) -> str:
    """A part of a path as text: a field's name, a dict's key, or a tuple's position."""
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def as_saved(wanted, saved):
    """The shapes to restore: the saved shapes, with the number types of the run.

    wanted: the shapes of the run's state.
    saved: Orbax's metadata of the checkpoint. The result has its structure.
    """
    named = by_name(wanted, links=False)
    types = {name: leaf.dtype for name, leaf in named.items()}
    leaves = []
    for name, leaf in by_name(saved, links=False).items():
        # A vector of several leaves (`in_leaves`) is cast when it is cut.
        dtype = types.get(name, leaf.dtype)
        leaves.append(jax.ShapeDtypeStruct(leaf.shape, dtype))
    return jax.tree.unflatten(jax.tree.structure(saved), leaves)


def restructured(restored, wanted):
    """The leaves of `restored` in the structure of `wanted`, found by their names."""
    named = by_name(wanted, links=False)
    leaves = in_leaves(by_name(restored, links=False), named, cut=_cut)
    ordered = [leaves[name] for name in named]
    return jax.tree.unflatten(jax.tree.structure(wanted), ordered)


def in_leaves(
    saved: Mapping[str, Any],
    wanted: Mapping[str, Any],
    cut: Callable[[Any, int, Any], Any],
) -> dict[str, Any]:
    """{name: saved leaf}, where vectors of several leaves are cut into the leaves.

    Optimizers of earlier versions had one vector of all parameters, `trace`; now it is
    a tree of leaves `trace/cell0/...`, in the same order.

    wanted: {name: leaf} of the run's state.
    cut: (vector, position, wanted leaf) -> the part of the vector from that position
        on, in the form of the leaf.
    """
    found = {}
    for name, leaf in saved.items():
        parts = {}
        if name not in wanted:
            parts = {key: wanted[key] for key in wanted if key.startswith(f"{name}/")}
        # Anything but such a vector stays as it is.
        sizes = [math.prod(part.shape) for part in parts.values()]
        if not parts or leaf.shape != (sum(sizes),):
            found[name] = leaf
            continue

        position = 0
        for (key, part), size in zip(parts.items(), sizes, strict=True):
            found[key] = cut(leaf, position, part)
            position += size
    return found


def _cut(vector: jax.Array, position: int, leaf: Any) -> jax.Array:
    """The values of a vector from a position on, as an array like the leaf."""
    size = math.prod(leaf.shape)
    numbers = np.asarray(vector)[position : position + size]
    return _placed(numbers.reshape(leaf.shape).astype(leaf.dtype), like=vector)


def _placed(numbers: np.ndarray, *, like: jax.Array) -> jax.Array:
    """An array with these values, and with the sharding of another array."""
    return jax.make_array_from_callback(
        numbers.shape, like.sharding, lambda index: numbers[index]
    )


def with_epochs(state, shapes):
    """A state with as many rows for epochs as `shapes` has.

    Added rows are NaN; rows beyond the last epoch are dropped.
    """

    def fit(leaf: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.shape == shape.shape:
            return leaf

        # A leaf with a row for each epoch: only these differ in shape.
        rows = np.full(shape.shape, np.nan, dtype=shape.dtype)  # (epochs, ...)
        kept = np.asarray(leaf)[: len(rows)]
        rows[: len(kept)] = kept
        return _placed(rows, like=leaf)

    return jax.tree.map(fit, state, shapes)
