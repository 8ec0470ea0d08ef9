"""Which parameters of a trained network a new one begins with.

The schemes of the two may differ, such as float and binary. All other settings of the
networks are equal, so that their modules have the same names. A weight of the name
`kernel` in one may be `latent` in the other. Parameters that the trained network lacks
begin as initialised: those that only the new network's scheme has, and a batch norm
that its blocks have in another place.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from bnas_jax.core.errors import UserError

# The two names of a convolution's weights, binarized and float: each with the other
# one.
_TWINS = {"latent": "kernel", "kernel": "latent"}
# The modules whose shapes depend on the number of classes: the classifier, and an
# auxiliary one that only training has.
HEADS = ("classifier", "auxiliary_head")

Path = tuple[str, ...]


class Transfer(NamedTuple):
    """What a new network (ours) takes from a trained one (theirs).

    Paths are such as ("params", "stem", "conv", "kernel").

    taken: {path of ours: path of theirs}, the parameters that begin with a trained
        value.
    initialised: paths of ours that theirs have no value for.
    left_out: paths of theirs that ours have no use for.
    """

    taken: dict[Path, Path]
    initialised: list[Path]
    left_out: list[Path]

    def summary(self) -> dict[str, Any]:
        """What became of the weights, as run.json notes it.

        {"renamed", "initialised", "left_out"}: for each, how many parameters of each
        name, as {name: count}.
        """
        renamed: Counter[str] = Counter()
        for ours, theirs in self.taken.items():
            if ours[-1] != theirs[-1]:
                renamed[ours[-1]] += 1
        initialised = Counter(path[-1] for path in self.initialised)
        left_out = Counter(path[-1] for path in self.left_out)
        return {
            "renamed": dict(renamed),
            "initialised": dict(initialised),
            "left_out": dict(left_out),
        }


def plan(ours: Mapping, theirs: Mapping, *, new_heads: bool, source: str) -> Transfer:
    """How a network of the variables `ours` begins with the variables `theirs`.

    ours, theirs: {"params", "batch_stats"}, of arrays or their shapes.
    new_heads: the classes are others, so that the trained `HEADS` are left out.
    source: the directory of `theirs`, for errors.

    Raises `UserError` for the first weight of ours that theirs lack, and for the first
    leaf in another shape.
    """
    ours, theirs = _leaves(ours, new_heads), _leaves(theirs, new_heads)
    taken: dict[Path, Path] = {}
    initialised = []
    for path, leaf in ours.items():
        name = "/".join(path)
        shape = tuple(leaf.shape)
        found = _path_in(theirs, path)

        # A network must not begin with some of its weights untrained. Other parameters
        # have a neutral start.
        if found is None and path[-1] in _TWINS:
            raise UserError(
                f"--init={source} lacks {name}, {shape} here; leave --init out, or "
                "name a run that has it"
            )
        if found is None:
            initialised.append(path)
            continue

        # A value of another shape cannot be taken.
        their_shape = tuple(theirs[found].shape)
        if their_shape != shape:
            raise UserError(
                f"--init={source} has {'/'.join(found)} in another shape: "
                f"{their_shape} there, {shape} for {name} here; leave --init out, or "
                "name a run of the same shapes"
            )
        taken[path] = found

    # What is left over, in the order of the trained network.
    used = set(taken.values())
    left_out = [path for path in theirs if path not in used]
    return Transfer(taken=taken, initialised=initialised, left_out=left_out)


def _path_in(theirs: Mapping, path: Path) -> Path | None:
    """The path in the trained network of a parameter of ours, None where it has none.

    It is found by its name, or by the name that the other kind of scheme gives the
    weights of a convolution.
    """
    *module, leaf_name = path
    twin = (*module, _TWINS.get(leaf_name, leaf_name))
    for candidate in (path, twin):
        if candidate in theirs:
            return candidate
    return None


def _leaves(variables: Mapping, new_heads: bool) -> dict[Path, Any]:
    """The leaves of "params" and "batch_stats" by their paths.

    new_heads: whether the heads are left out.
    """
    leaves = flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    if not new_heads:
        return leaves
    return {path: leaf for path, leaf in leaves.items() if path[1] not in HEADS}
