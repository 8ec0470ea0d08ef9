"""Beginning a training with the weights of another one, for the same classes or for others (`train --init`)."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.runtime import devices
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build, transfer
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.state import TrainState, initial_variables
from bnas_jax.training.transfer import Transfer
from bnas_jax.training.workdir import WorkDir

# Settings of a scheme that may differ; so may the whole scheme, by its name. What they add or take away begins as
# initialised, or is left out.
_NOT_OF_THE_NETWORK = ("weight_gradient", "stage", "activation", "projection_loss", "plane_rate")


class Init(NamedTuple):
    """workdir: of a training, or an imported one. which: its checkpoint, `last`, `best` or a step."""

    workdir: str
    which: str = "last"


def origin(workdir: WorkDir, init: Init | None, run: TrainSettings, facts: Mapping) -> dict | None:
    """Where a run's first weights come from, as run.json has it; None for a run that draws them.

    {"workdir", "which", "step", "classifier": "kept" or "new"}, and "scheme" where that is another one, see
    `Transfer.summary`. facts: num_classes, image_shape and, if known, class_names of the run's data.
    `UserError` where `init` is none to begin this run with, or not the one that it began with.
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
        raise UserError(
            f"--init={source.path} is a network for {wanted} channels, the data has {channels}"
        )
    began = {
        "workdir": str(source.path),
        "which": init.which,
        "step": Checkpoints(source.checkpoints).find(init.which),
        "classifier": "kept" if _same_classes(facts, theirs) else "new",
    }
    return began | _scheme(began, source, run, facts)


def _scheme(began: Mapping, source: WorkDir, run: TrainSettings, facts: Mapping) -> dict:
    """{"scheme": what becomes of the weights} of a source that was trained by another scheme, else {}."""
    there = _settings(source, run)
    ours = _shapes(run, facts["num_classes"], facts["image_shape"])
    theirs = _shapes(there, source.facts()["num_classes"], source.facts()["image_shape"])
    found = _plan(ours, theirs, began)
    before, after = (settings.to_dict(r)["scheme"] for r in (there, run))
    if before == after:
        return {}
    projected = run.scheme.latents.project is not None
    names = {"from": _named(before, after), "to": _named(after, before)}
    return {"scheme": {**names, "projected": projected, **found.summary()}}


def _named(scheme: Mapping, other: Mapping) -> str:
    """A scheme's name, with the settings in which another one of the same name differs."""
    if scheme["name"] != other["name"]:
        return scheme["name"]
    differing = [f"{key} {value}" for key, value in scheme.items() if value != other[key]]
    return f"{scheme['name']} ({', '.join(differing)})"


def _settings(source: WorkDir, run: TrainSettings) -> TrainSettings:
    """Those of the source, in the arithmetic of the run."""
    theirs = settings.from_config(source.config())
    assert isinstance(theirs, TrainSettings)
    return dataclasses.replace(theirs, precision=run.precision)


def _shapes(run: TrainSettings, num_classes: int, image_shape: Sequence[int]) -> Any:
    """The variables of a run's network as `ShapeDtypeStruct`s."""
    network = build.network(run, num_classes)
    return jax.eval_shape(lambda: initial_variables(network, tuple(image_shape), 0))


def _plan(ours: Mapping, theirs: Mapping, source: Mapping) -> Transfer:
    return transfer.plan(
        ours, theirs, new_heads=source["classifier"] == "new", source=source["workdir"]
    )


def _check_same_origin(workdir: WorkDir, init: Init | None, began: Mapping | None) -> None:
    if init is None:
        return
    if began is None:
        raise UserError(
            f"{workdir.path} holds a run that began without --init; leave it out, or choose another --workdir"
        )
    if (began["workdir"], began["which"]) != (str(WorkDir(init.workdir).path), init.which):
        raise UserError(
            f"{workdir.path} holds a run that began with --init={began['workdir']} --init_step={began['which']};"
            " leave --init out, or choose another --workdir"
        )


def _check_network(source: WorkDir, run: TrainSettings) -> None:
    theirs = source.config()
    if theirs.get("task") != "train":
        raise UserError(
            f"--init={source.path} holds a search; write the work directory of a training, or an imported one"
        )
    # Complete, of whatever version it is.
    ours, theirs = settings.to_dict(run), settings.to_dict(settings.from_config(theirs))
    same_scheme = ours["scheme"]["name"] == theirs["scheme"]["name"]
    compared = settings.differences(_network(ours, same_scheme), _network(theirs, same_scheme))
    difference = next(compared, None)
    if difference:
        raise UserError(
            f"--init={source.path} has another network: {difference}; take the network's settings from there"
        )


def _network(config: Mapping, with_scheme: bool) -> dict:
    """The settings on which a network's weights depend."""
    if not with_scheme:
        return {"network": config["network"]}
    scheme = {
        name: value for name, value in config["scheme"].items() if name not in _NOT_OF_THE_NETWORK
    }
    return {"network": config["network"], "scheme": scheme}


def _same_classes(ours: Mapping, theirs: Mapping) -> bool:
    """By their number and, where both are known, their names in the order of the labels."""
    known = [key for key in ("num_classes", "class_names") if ours.get(key) and theirs.get(key)]
    return all(ours[key] == theirs[key] for key in known)


def begin(
    state: TrainState,
    source: Mapping,
    run: TrainSettings,
    image_shape: tuple[int, ...],
    *,
    where: Devices = devices.ONE,
) -> TrainState:
    """A new run's first state with the weights and the running statistics of `source`, see `origin`.

    image_shape: (H, W, C) of the run's images. A classifier for other classes stays as it was drawn, and so does what only this
    run's scheme has; latent weights from another scheme are projected as this one does.
    """
    theirs = WorkDir(source["workdir"])
    there, facts = _settings(theirs, run), theirs.facts()
    shapes = _shapes(there, facts["num_classes"], facts["image_shape"])
    with contextlib.closing(Checkpoints(theirs.checkpoints, where=where)) as checkpoints:
        _, variables = checkpoints.restore_variables(shapes, str(source["step"]))
    ours = {"params": state.params, "batch_stats": state.batch_stats}
    project = run.scheme.latents.project if "scheme" in source else None
    leaves, found = flatten_dict(ours), flatten_dict(variables)
    for path, origin_path in _plan(ours, variables, source).taken.items():
        leaf = np.asarray(found[origin_path])
        if project and is_latent(path[-1]):
            leaf = np.asarray(project(jnp.asarray(leaf)))
        leaves[path] = where.place(leaf)
    return state.replace(**unflatten_dict(leaves))


def describe(source: Mapping) -> str:
    """One line on where the weights come from."""
    classifier = (
        "the classifier is kept"
        if source["classifier"] == "kept"
        else "the classifier is new, for other classes"
    )
    return f"begins with the weights of {source['workdir']} at step {source['step']}{_of_scheme(source)}; {classifier}"


def _of_scheme(source: Mapping) -> str:
    """What became of weights that another scheme trained."""
    if "scheme" not in source:
        return ""
    change = source["scheme"]
    text = f", trained as {change['from']} and {change['to']} from here on"
    renamed = {"latent": "kernels are latent weights", "kernel": "latent weights are kernels"}
    for name, count in change["renamed"].items():
        text += f"; {count} {renamed[name]}"
    if change["projected"]:
        text += ", projected"
    for key, words in (("initialised", "as initialised"), ("left_out", "left out")):
        listed = ", ".join(f"{name} ({count})" for name, count in change[key].items())
        if listed:
            text += f"; {words}: {listed}"
    return text
