"""Which parameters of a trained network initialise which parameters of a new one.

The schemes of the two may differ, such as float and binary. All other settings of the
networks are equal, so that their modules have the same names. The weights `kernel` of
one may be `latent` in the other. Parameters that the trained network lacks keep their
initial values: those of the new scheme, and batch norms at another place in a block.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from bnas_jax.core.errors import UserError

# The two names of a convolution's weights, binarized or float.
_TWINS = {"latent": "kernel", "kernel": "latent"}
# The modules whose shapes depend on the number of classes.
HEADS = ("classifier", "auxiliary_head")

Path = tuple[str, ...]


class Transfer(NamedTuple):
    """Which parameters a new network (ours) takes from a trained one (theirs).

    A path is a tuple such as ("params", "stem", "conv", "kernel").

    taken: {path of ours: path of theirs}, the parameters with a trained value.
    initialised: the paths of ours without a trained value.
    left_out: the paths of theirs that ours does not use.
    """

    taken: dict[Path, Path]
    initialised: list[Path]
    left_out: list[Path]

    def summary(self) -> dict[str, Any]:
        """{"renamed", "initialised", "left_out"} for run.json.

        Each is {name: number of parameters with that name}.
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
    """Which variables of `theirs` a new network with the variables `ours` takes.

    ours, theirs: {"params", "batch_stats"}, of arrays or their shapes.
    new_heads: whether the classes differ, so that the trained `HEADS` are left out.
    source: the directory of `theirs`, for errors.

    Raises `UserError` for the first weight of ours that theirs lacks, and for the first
    leaf of another shape.
    """
    ours, theirs = _leaves(ours, new_heads), _leaves(theirs, new_heads)
    taken: dict[Path, Path] = {}
    initialised = []
    for path, leaf in ours.items():
        name = "/".join(path)
        shape = tuple(leaf.shape)
        found = _path_in(theirs, path)

        # All convolutions must have trained weights. Other parameters have neutral
        # initial values.
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

    # The remaining paths, in the order of the trained network.
    used = set(taken.values())
    left_out = [path for path in theirs if path not in used]
    return Transfer(taken=taken, initialised=initialised, left_out=left_out)


def _path_in(theirs: Mapping, path: Path) -> Path | None:
    """The path of a parameter of ours in the trained network; None if it has none.

    The weights of a convolution may have the other of their two names there.
    """
    *module, leaf_name = path
    twin = (*module, _TWINS.get(leaf_name, leaf_name))
    for candidate in (path, twin):
        if candidate in theirs:
            return candidate
    return None


def _leaves(variables: Mapping, new_heads: bool) -> dict[Path, Any]:
    """{path: leaf} of "params" and "batch_stats".

    new_heads: whether to leave out the `HEADS`.
    """
    leaves = flatten_dict({name: variables[name] for name in ("params", "batch_stats")})
    if not new_heads:
        return leaves
    return {path: leaf for path, leaf in leaves.items() if path[1] not in HEADS}
