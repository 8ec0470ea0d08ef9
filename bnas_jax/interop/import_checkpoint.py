"""Writes the authors' weights into a work directory, for the command `import`."""

import contextlib
from collections.abc import Mapping

import jax
import numpy as np

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.network import Network
from bnas_jax.data.facts import Facts
from bnas_jax.data.statistics import Statistics
from bnas_jax.interop.reference import load_variables, plain_names
from bnas_jax.runtime import jax_setup
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build, build_optimizers, checksums
from bnas_jax.training.checkpoint_folder import CheckpointFolder
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.state import train_state_of
from bnas_jax.training.workdir import WorkDir


def import_checkpoint(
    arrays: Mapping[str, np.ndarray],
    run: TrainSettings,
    workdir: WorkDir,
    *,
    image_shape: tuple[int, ...],
    statistics: Statistics,
) -> dict:
    """Writes a new work directory, in which the weights are the checkpoint of step 0.

    Returns the number of parameters, the number of classes and the path.

    arrays: the arrays of the authors' checkpoint by their names, see `reference`.
    run: the settings of a training of the network.
    image_shape: (H, W, C).
    statistics: (mean, std) of the normalisation of the network's images.

    Raises `UserError` if the work directory already holds a run, and if the arrays do
    not fit the settings.
    """
    # Check everything before writing.
    jax_setup.configure(run)
    if _is_taken(workdir, run):
        raise _taken(workdir)
    mean, std = statistics
    if len(mean) != image_shape[2]:
        raise UserError(
            f"images of {image_shape[2]} channels need as many means, got {len(mean)}; "
            "set config.dataset.mean and .std"
        )

    # Build the network.
    num_classes = _num_classes(arrays)
    model = build.network(run, num_classes)
    if not isinstance(model, Network):
        raise UserError(
            "the authors' checkpoints are of stacks of cells; write "
            "--config.network.name=cells"
        )

    # Make the state of a training before its first step.
    variables = load_variables(model, arrays)
    optimizer = build_optimizers.training_optimizer(run, steps_per_epoch=1)
    state = train_state_of(
        variables,
        optimizer,
        run.num_epochs,
        seed=run.seed,
        dtype=model.arithmetic.dtype,
    )

    # Write the work directory.
    facts = Facts(num_classes, image_shape, mean, std)
    workdir.open(run, facts)
    checkpoints = Checkpoints(workdir.checkpoints, run.checkpoint)
    with contextlib.closing(checkpoints):
        # An import that was killed may have saved it, all but its checksums.
        saved = checkpoints.restore_state(jax.eval_shape(lambda: state))
        if saved is None:
            checkpoints.save(0, state)
        elif not _same(saved, state):
            raise _taken(workdir)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {"params": params, "num_classes": num_classes, "workdir": str(workdir.path)}


def _num_classes(arrays: Mapping[str, np.ndarray]) -> int:
    """The number of classes, read from the shape of the checkpoint's classifier."""
    classifier = plain_names(arrays).get("classifier.weight")  # (classes, features)
    if classifier is None or classifier.ndim != 2:
        raise UserError(
            "the checkpoint has no matrix classifier.weight; it is not a network of "
            "the authors' code"
        )
    return int(classifier.shape[0])


def _is_taken(workdir: WorkDir, run: TrainSettings) -> bool:
    """Whether a directory holds a run.

    A directory with the settings of this import does not, if the checkpoint of step 0
    or its checksums are missing: an earlier import may have failed, for instance on a
    full disk, or was killed.
    """
    if not workdir.exists():
        return False
    checked = (workdir.checkpoints / "0" / checksums.NAME).exists()
    if checked or CheckpointFolder(workdir.checkpoints).steps() not in ([], [0]):
        return True
    ours = settings.to_dict(run)
    return settings.first_difference(ours, workdir.config()) is not None


def _taken(workdir: WorkDir) -> UserError:
    """The error for a directory that holds a run."""
    return UserError(f"{workdir.path} already holds a run; choose another --workdir")


def _same(saved, state) -> bool:
    """Whether two states of the same shapes are the same, bit for bit."""
    pairs = zip(jax.tree.leaves(saved), jax.tree.leaves(state), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
