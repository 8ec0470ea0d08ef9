"""Initialises a training with the weights of another run (`train --init`).

The two runs may have different schemes, and different classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.data import facts as facts_lib
from bnas_jax.runtime import devices
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training import transfer
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.load import restored_model, run_of, source_step
from bnas_jax.training.state import TrainState
from bnas_jax.training.transfer import Transfer
from bnas_jax.training.workdir import WorkDir

# Settings of a scheme that may differ between the two runs. If the schemes have
# different names, all their settings may differ. Parameters that only the new run has
# keep their initial values, those that only the source has are left out.
_NOT_OF_THE_NETWORK = (
    "weight_gradient",
    "stage",
    "activation",
    "projection_loss",
    "plane_rate",
)


class Init(NamedTuple):
    """The checkpoint of another run that a training is initialised with.

    workdir: the work directory of a training, or of an imported network.
    which: `last`, `best` or a step.
    """

    workdir: str
    which: str = "last"


def origin(
    workdir: WorkDir, init: Init | None, run: TrainSettings, facts: Mapping
) -> dict | None:
    """The entry "init" of run.json: the checkpoint that a run is initialised with.

    It is {"workdir", "which", "step", "classifier": "kept" or "new"}, and "scheme" if
    the source has another scheme, see `Transfer.summary`. None for a run that draws its
    weights.

    workdir: the work directory of the run.
    init: the checkpoint that the command asks for.
    facts: num_classes, image_shape and, if known, class_names of the run's data.

    Raises `UserError` if `init` does not fit the run, or is not the checkpoint that the
    run was initialised with at its first start.
    """
    # A run that is resumed has its weights. `init` is only compared with its origin.
    if workdir.exists():
        began = workdir.facts().get("init")
        _check_same_origin(workdir, init, began)
        return began
    if init is None:
        return None

    # The source must have the same network, for images of as many channels.
    source = WorkDir(init.workdir)
    _check_network(source, run)
    theirs = source.facts()
    channels, wanted = facts["image_shape"][2], theirs["image_shape"][2]
    if channels != wanted:
        raise UserError(
            f"--init={source.path} is a network for {wanted} channels, the data has "
            f"{channels}"
        )

    # Resolve `best` or `last` to a step now, because the source may be trained further.
    classifier = "new"
    if _same_classes(facts, theirs):
        classifier = "kept"
    began = {
        "workdir": str(source.path),
        "which": init.which,
        "step": source_step(source, init.which),
        "classifier": classifier,
    }
    return began | _scheme(began, source, run, facts)


def _scheme(
    began: Mapping, source: WorkDir, run: TrainSettings, facts: Mapping
) -> dict:
    """{"scheme": how weights are converted} if the source has another scheme, else {}.

    began: the other entries of the result of `origin`.

    Raises `UserError` if weights are missing in the source or have other shapes, for
    equal schemes, too.
    """
    # Both networks as shapes.
    there = _settings(source, run)
    ours = _shapes(run, facts)
    theirs = _shapes(there, source.facts())
    # Also for equal schemes, because this raises the errors.
    found = _plan(ours, theirs, source=began)

    before = settings.to_dict(there)["scheme"]
    after = settings.to_dict(run)["scheme"]
    if before == after:
        return {}
    change = {
        "from": _named(before, after),
        "to": _named(after, before),
        "projected": run.scheme.latents.project is not None,
        **found.summary(),
    }
    return {"scheme": change}


def _named(scheme: Mapping, other: Mapping) -> str:
    """A scheme's name, and the settings in which it differs from another scheme.

    If the names differ, it is only the name.
    """
    if scheme["name"] != other["name"]:
        return scheme["name"]
    differing = []
    for key, value in scheme.items():
        if value != other[key]:
            differing.append(f"{key} {value}")
    return f"{scheme['name']} ({', '.join(differing)})"


def _settings(source: WorkDir, run: TrainSettings) -> TrainSettings:
    """The settings of the source, with the precision of the run."""
    return dataclasses.replace(run_of(source), precision=run.precision)


def _shapes(run: TrainSettings, facts: Mapping) -> Any:
    """The variables of a run's network as `ShapeDtypeStruct`s.

    facts: num_classes and image_shape of the run's data.
    """
    _, shapes = restored_model(run, facts_lib.from_dict(facts))
    return shapes


def _plan(ours: Mapping, theirs: Mapping, source: Mapping) -> Transfer:
    """Which parameters of the new run take which parameters of the source.

    ours, theirs: {"params", "batch_stats"} of the new run and of the source, as arrays
        or their shapes.
    source: the result of `origin`.
    """
    new_heads = source["classifier"] == "new"
    return transfer.plan(ours, theirs, new_heads=new_heads, source=source["workdir"])


def _check_same_origin(
    workdir: WorkDir, init: Init | None, began: Mapping | None
) -> None:
    """Raises `UserError` if a resumed run was initialised with other weights.

    began: the result of `origin` at the first start.
    """
    if init is None:
        return
    # The initial weights cannot be replaced after the first step.
    if began is None:
        raise UserError(
            f"{workdir.path} holds a run that began without --init; leave it out, or "
            "choose another --workdir"
        )

    # Another directory, or another checkpoint of it.
    given = str(WorkDir(init.workdir).path)
    if began["workdir"] != given or began["which"] != init.which:
        raise UserError(
            f"{workdir.path} holds a run that began with --init={began['workdir']} "
            f"--init_step={began['which']}; leave --init out, or choose another "
            "--workdir"
        )


def _check_network(source: WorkDir, run: TrainSettings) -> None:
    """Raises `UserError` unless the source is a training of the run's network."""
    theirs = source.config()
    if theirs.get("task") != "train":
        raise UserError(
            f"--init={source.path} holds a search; write the work directory of a "
            "training, or an imported one"
        )

    # Read the config into settings first: that of an older version lacks new settings.
    ours = settings.to_dict(run)
    theirs = settings.to_dict(settings.from_config(theirs))
    same_scheme = ours["scheme"]["name"] == theirs["scheme"]["name"]
    here = _network(ours, same_scheme)
    there = _network(theirs, same_scheme)
    # The first difference, but the name of the network before all others: networks of
    # two names differ in most settings.
    difference = min(
        settings.differences(here, there),
        key=lambda found: found.key != "network.name",
        default=None,
    )
    if difference:
        raise UserError(
            f"--init={source.path} has another network: {difference}; take the "
            "network's settings from there"
        )


def _network(config: Mapping, with_scheme: bool) -> dict:
    """The settings on which a network's weights depend."""
    network = {"network": config["network"]}
    if with_scheme:
        scheme = dict(config["scheme"])
        for name in _NOT_OF_THE_NETWORK:
            scheme.pop(name, None)
        network["scheme"] = scheme
    return network


def _same_classes(ours: Mapping, theirs: Mapping) -> bool:
    """Whether two data sets have the same classes.

    Their numbers are compared and, if both are known, their names in the order of the
    labels.
    """
    for key in ("num_classes", "class_names"):
        known = ours.get(key) and theirs.get(key)
        if known and ours[key] != theirs[key]:
            return False
    return True


def begin(
    state: TrainState,
    source: Mapping,
    run: TrainSettings,
    image_shape: tuple[int, ...],
    *,
    where: Devices = devices.ONE,
) -> TrainState:
    """A new run's first state, with the weights and statistics of another run.

    A classifier for other classes keeps its initial values, and so do parameters that
    only this run's scheme has. Latent weights from another scheme are projected by the
    rule of this scheme.

    state: the first state, with initial values.
    source: the result of `origin`.
    image_shape: (H, W, C) of the run's images.
    """
    # The source's variables, restored in the shapes of its settings.
    directory = WorkDir(source["workdir"])
    shapes = _shapes(_settings(directory, run), directory.facts())
    checkpoints = CheckpointReader(directory.checkpoints, where)
    _, theirs = checkpoints.restore_variables(shapes, str(source["step"]))

    # If the scheme is the same, the weights are projected already.
    project = None
    if "scheme" in source:
        project = run.scheme.latents.project

    # Copy the value of each leaf by its path.
    ours = {"params": state.params, "batch_stats": state.batch_stats}
    plan = _plan(ours, theirs, source=source)
    leaves = flatten_dict(ours)
    found = flatten_dict(theirs)
    for path, origin_path in plan.taken.items():
        leaf = np.asarray(found[origin_path])
        if project and is_latent(path[-1]):
            leaf = np.asarray(project(jnp.asarray(leaf)))
        leaves[path] = where.place(leaf)
    return state.replace(**unflatten_dict(leaves))


def describe(source: Mapping) -> str:
    """The origin of the weights, in one line.

    source: the result of `origin`.
    """
    classifier = "the classifier is new, for other classes"
    if source["classifier"] == "kept":
        classifier = "the classifier is kept"
    return (
        f"begins with the weights of {source['workdir']} at step {source['step']}"
        f"{_of_scheme(source)}; {classifier}"
    )


def _of_scheme(source: Mapping) -> str:
    """How weights from another scheme were converted, as part of a sentence.

    "" if the scheme is the same.
    """
    if "scheme" not in source:
        return ""
    change = source["scheme"]
    text = f", trained as {change['from']} and {change['to']} from here on"

    # Convolutions whose weights have another name here.
    renamed = {
        "latent": "kernels are latent weights",
        "kernel": "latent weights are kernels",
    }
    for name, count in change["renamed"].items():
        text += f"; {count} {renamed[name]}"
    if change["projected"]:
        text += ", projected"

    # Parameters that only one of the two networks has, by their names.
    for key, words in (("initialised", "as initialised"), ("left_out", "left out")):
        listed = [f"{name} ({count})" for name, count in change[key].items()]
        if listed:
            text += f"; {words}: {', '.join(listed)}"
    return text
