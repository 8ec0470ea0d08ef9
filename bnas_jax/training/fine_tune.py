"""Beginning a training with the weights of another one, for the same classes or for others (`train --init`)."""

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.runtime import devices
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.state import TrainState, initial_variables
from bnas_jax.training.workdir import WorkDir

# Settings of a scheme that say how weights are trained: they may differ.
_NOT_OF_THE_NETWORK = ("weight_gradient",)


class Init(NamedTuple):
    """workdir: of a training, or an imported one. which: its checkpoint, `last`, `best` or a step."""

    workdir: str
    which: str = "last"


def origin(workdir: WorkDir, init: Init | None, run: TrainSettings, facts: Mapping) -> dict | None:
    """Where a run's first weights come from, as run.json has it; None for a run that draws them.

    {"workdir", "which", "step", "classifier": "kept" or "new"}. facts: num_classes, image_shape and, if known, class_names of
    the run's data. `UserError` where `init` is none to begin this run with, or not the one that it began with.
    """
    if workdir.exists():
        began = workdir.facts().get("init")
        _check_same_origin(workdir, init, began)
        return began
    if init is None:
        return None
    source = WorkDir(init.workdir)
    _check_network(source, run)
    theirs = source.facts()
    channels, wanted = facts["image_shape"][2], theirs["image_shape"][2]
    if channels != wanted:
        raise UserError(f"--init={source.path} is a network for {wanted} channels, the data has {channels}")
    return {
        "workdir": str(source.path),
        "which": init.which,
        "step": Checkpoints(source.checkpoints).find(init.which),
        "classifier": "kept" if _same_classes(facts, theirs) else "new",
    }


def _check_same_origin(workdir: WorkDir, init: Init | None, began: Mapping | None) -> None:
    if init is None:
        return
    if began is None:
        raise UserError(f"{workdir.path} holds a run that began without --init; leave it out, or choose another --workdir")
    if (began["workdir"], began["which"]) != (str(WorkDir(init.workdir).path), init.which):
        raise UserError(
            f"{workdir.path} holds a run that began with --init={began['workdir']} --init_step={began['which']};"
            " leave --init out, or choose another --workdir"
        )


def _check_network(source: WorkDir, run: TrainSettings) -> None:
    theirs = source.config()
    if theirs.get("task") != "train":
        raise UserError(f"--init={source.path} holds a search; write the work directory of a training, or an imported one")
    difference = next(settings.differences(_network(settings.to_dict(run)), _network(theirs)), None)
    if difference:
        raise UserError(f"--init={source.path} has another network: {difference}; take the network's settings from there")


def _network(config: Mapping) -> dict:
    """The settings on which a network's weights depend."""
    scheme = {name: value for name, value in config["scheme"].items() if name not in _NOT_OF_THE_NETWORK}
    return {"network": config["network"], "scheme": scheme}


def _same_classes(ours: Mapping, theirs: Mapping) -> bool:
    """By their number and, where both are known, their names in the order of the labels."""
    known = [key for key in ("num_classes", "class_names") if ours.get(key) and theirs.get(key)]
    return all(ours[key] == theirs[key] for key in known)


def begin(
    state: TrainState, source: Mapping, run: TrainSettings, image_shape: tuple[int, ...], *, where: Devices = devices.ONE
) -> TrainState:
    """A new run's first state with the weights and the running statistics of `source`, see `origin`.

    image_shape: (H, W, C) of the run's images. A classifier for other classes stays as it was drawn.
    """
    theirs = WorkDir(source["workdir"])
    network = build.network(run, theirs.facts()["num_classes"])
    shapes = jax.eval_shape(lambda: initial_variables(network, image_shape, 0))
    with contextlib.closing(Checkpoints(theirs.checkpoints, where=where)) as checkpoints:
        _, variables = checkpoints.restore_variables(shapes, str(source["step"]))
    variables = jax.tree.map(lambda leaf: where.place(np.asarray(leaf)), variables)
    if source["classifier"] == "new":
        variables["params"]["classifier"] = state.params["classifier"]
    return state.replace(**variables)


def describe(source: Mapping) -> str:
    """One line on where the weights come from."""
    classifier = "the classifier is kept" if source["classifier"] == "kept" else "the classifier is new, for other classes"
    return f"begins with the weights of {source['workdir']} at step {source['step']}; {classifier}"
