"""Reads what runs leave behind, for tests that compare them."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

CELL = [["bin_conv_3x3", 0], ["max_pool_3x3", 1], *[["none", 0]] * 6]


def arrays(workdir: pathlib.Path, step: int) -> dict:
    """All that is saved at a step, as it stands on disk."""

    def item(name):
        folder = workdir / "checkpoints" / str(step) / name
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(folder).item_metadata.tree
            plain = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
            )
            return reader.restore(
                folder, args=ocp.args.PyTreeRestore(restore_args=plain)
            )

    return {name: item(name) for name in ("variables", "rest")}


def largest_difference(one: dict, other: dict) -> float:
    """Over all leaves, booleans among them; NaN equals NaN."""
    assert jax.tree.structure(one) == jax.tree.structure(other)

    def apart(a, b) -> float:
        differences = np.nan_to_num(a).astype(float) - np.nan_to_num(b).astype(float)
        return float(np.max(np.abs(differences), initial=0.0))

    return max(jax.tree.leaves(jax.tree.map(apart, one, other)))
