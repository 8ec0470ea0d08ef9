"""Brings a state that was saved before some settings changed into the form that the run has now."""

from collections import Counter
from typing import Any

import jax
import numpy as np

# Fields of a state with rows for epochs, whose number may change.
PER_EPOCH = ("test_top1", "valid_top1", "history")


def by_name(tree, links: bool = True) -> dict[str, Any]:
    """The leaves of a tree by names such as params/cell0/..., which Orbax keeps of tuples and classes, too.

    links: with the positions in tuples. Without them an optimizer's state has the same names whether or not its chain has
    a link more that keeps no state, such as clipping. Names that would occur twice keep their positions.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    whole = ["/".join(map(_part, path)) for path in paths]
    short = ["/".join(part for part in map(_part, path) if not part.isdigit()) for path in paths]
    times = Counter(short)
    names = (
        whole if links else [s if times[s] == 1 else w for s, w in zip(short, whole, strict=True)]
    )
    return dict(zip(names, jax.tree.leaves(tree), strict=True))


def _part(key) -> str:
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))


def as_saved(wanted, saved):
    """What to restore: the structure and the shapes of `saved`, metadata by Orbax, in the number types of `wanted`."""
    types = {name: leaf.dtype for name, leaf in by_name(wanted, links=False).items()}
    found = by_name(saved, links=False)
    leaves = [jax.ShapeDtypeStruct(leaf.shape, types[name]) for name, leaf in found.items()]
    return jax.tree.unflatten(jax.tree.structure(saved), leaves)


def restructured(restored, wanted):
    """The leaves of `restored` in the structure of `wanted`."""
    leaves = by_name(restored, links=False)
    return jax.tree.unflatten(
        jax.tree.structure(wanted), [leaves[name] for name in by_name(wanted, links=False)]
    )


def with_epochs(state, shapes):
    """A state with as many rows for epochs as `shapes` has: NaN for those to come, none beyond."""

    def fit(leaf: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.shape == shape.shape:
            return leaf
        rows = np.full(shape.shape, np.nan, shape.dtype)
        kept = np.asarray(leaf)[: len(rows)]
        rows[: len(kept)] = kept
        return jax.make_array_from_callback(rows.shape, leaf.sharding, lambda index: rows[index])

    return jax.tree.map(fit, state, shapes)
