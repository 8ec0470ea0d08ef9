"""The network of a work directory with its weights, for a notebook and for `export`."""

import os
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.runtime import hosts
from bnas_jax.settings import Settings, TrainSettings
from bnas_jax.training import build
from bnas_jax.training.checkpoint_folder import CheckpointFolder
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.state import initial_variables
from bnas_jax.training.workdir import WorkDir


class Restored(NamedTuple):
    """A network with the variables of a checkpoint.

    run, facts: the settings and the facts about the data from its work directory.
    step: the step of the checkpoint.
    """

    model: nn.Module
    variables: dict
    run: TrainSettings
    facts: Facts
    step: int


def load(
    workdir: str | os.PathLike, *, step: str | int = "last"
) -> tuple[nn.Module, dict]:
    """(model, variables) of a training or an imported network.

    `model.apply(variables, images, train=False)` gives the logits. Images are NHWC
    floats, normalised by the mean and std of the directory's run.json.

    step: `last`, `best` (chosen on the test set) or a number.

    Raises `UserError` if there is no such directory or checkpoint, or if the directory
    holds a search.

    Example: `model, variables = bnas_jax.load("runs/train")`.
    """
    restored = restore(WorkDir(workdir), step=str(step))
    return restored.model, restored.variables


def restore(directory: WorkDir, *, step: str) -> Restored:
    """A trained or imported network with the variables of a checkpoint.

    step and errors: see `load`.
    """
    run = run_of(directory)
    facts = facts_lib.from_dict(directory.facts())
    model, shapes = restored_model(run, facts)

    checkpoints = CheckpointReader(directory.checkpoints)
    found, variables = checkpoints.restore_variables(shapes, step)
    return Restored(model, variables, run=run, facts=facts, step=found)


def restored_model(run: TrainSettings, facts: Facts) -> tuple[nn.Module, Any]:
    """(the network of a training, the shapes of its variables).

    run: the settings of the training.
    facts: about its data; they give the number of classes and the image shape.
    """
    model = build.network(run, facts.num_classes)
    # Traced only: nothing is drawn or allocated.
    shapes = jax.eval_shape(lambda: initial_variables(model, facts.image_shape, seed=0))
    return model, shapes


def run_of(directory: WorkDir) -> TrainSettings:
    """The settings of a training or an imported network.

    Raises `UserError` for a search's directory.
    """
    run = _settings(directory)
    if not isinstance(run, TrainSettings):
        raise UserError(
            f"{directory.path} holds a search; name the work directory of a training"
        )
    return run


def _settings(directory: WorkDir) -> Settings:
    """The settings of a run.

    Raises `UserError` for settings that cannot be read. The message names the
    extensions that the run was made with, because they may be missing.
    """
    try:
        return settings.from_config(directory.config())
    except UserError as error:
        extensions = directory.facts().get("extensions", ())
        if not extensions:
            raise
        files = ",".join(str(extension.get("file")) for extension in extensions)
        raise UserError(
            f"{directory.path} was made with the extension {files}: import that first, "
            f"or write --extensions={files} ({error})"
        ) from None


def source_step(source: WorkDir, which: str) -> int:
    """The step of the checkpoint `which` in another run's directory.

    It is the same on every process.

    which: `best`, `last` or a number.
    """
    step = CheckpointFolder(source.checkpoints).find(which)
    # That run may be in progress, so that the processes might find different steps.
    return int(hosts.from_first(str(step)))
