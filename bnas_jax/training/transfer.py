"""Which parameters of a trained network another one begins with, where their schemes differ: float twin and binary network.

Both are networks of the same settings, so that their modules have the same names. A weight of the name `kernel` in one may be
`latent` in the other. What the other lacks begins as initialised: parameters that a scheme has of its own, and a batch
norm that its blocks have in another place.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from bnas_jax.core.errors import UserError

# The two names of a convolution's weights: binarized and float.
_TWINS = {"latent": "kernel", "kernel": "latent"}
# Where the classes are in a network: the classifier, and one that only training has.
HEADS = ("classifier", "auxiliary_head")

Path = tuple[str, ...]


class Transfer(NamedTuple):
    """taken: a leaf of ours to the leaf of theirs that it begins with. initialised: leaves of ours that they lack.
    left_out: leaves of theirs that are of no use here. All are paths such as ("params", "stem", "conv", "kernel")."""

    taken: dict[Path, Path]
    initialised: list[Path]
    left_out: list[Path]

    def summary(self) -> dict[str, Any]:
        """What became of the weights, as run.json has it: counts by the names of the parameters."""
        renamed = Counter(ours[-1] for ours, theirs in self.taken.items() if ours[-1] != theirs[-1])
        return {
            "renamed": dict(renamed),
            "initialised": dict(Counter(path[-1] for path in self.initialised)),
            "left_out": dict(Counter(path[-1] for path in self.left_out)),
        }


def plan(ours: Mapping, theirs: Mapping, *, new_heads: bool, source: str) -> Transfer:
    """How a network of the variables `ours` begins with `theirs`: {"params", "batch_stats"}, arrays or their shapes.

    new_heads: for other classes, so that what is theirs of `HEADS` stays out. source: where theirs are, for errors.
    `UserError` for the first weight of ours that theirs lack, and for the first leaf in another shape.
    """
    ours, theirs = _leaves(ours, new_heads), _leaves(theirs, new_heads)
    taken: dict[Path, Path] = {}
    initialised = []
    for path, leaf in ours.items():
        name = "/".join(path)
        twin = (*path[:-1], _TWINS.get(path[-1], path[-1]))
        found = next((p for p in (path, twin) if p in theirs), None)
        if found is None and path[-1] in _TWINS:
            shape = tuple(leaf.shape)
            raise UserError(
                f"--init={source} lacks {name}, {shape} here; leave --init out, or name a run that has it"
            )
        if found is None:
            initialised.append(path)
            continue
        shape = tuple(theirs[found].shape)
        if shape != tuple(leaf.shape):
            raise UserError(
                f"--init={source} has {'/'.join(found)} in another shape: {shape} there, {tuple(leaf.shape)} for {name} here;"
                " leave --init out, or name a run of the same shapes"
            )
        taken[path] = found
    used = set(taken.values())
    return Transfer(taken, initialised, [path for path in theirs if path not in used])


def _leaves(variables: Mapping, new_heads: bool) -> dict[Path, Any]:
    found = flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    return {path: leaf for path, leaf in found.items() if not (new_heads and path[1] in HEADS)}
