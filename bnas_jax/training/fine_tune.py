"""Beginning a training with the weights of another one (`train --init`).

The classes may be the same or others.
"""

import dataclasses
from collections.abc import Mapping
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
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.load import source_step
from bnas_jax.training.state import TrainState, initial_variables
from bnas_jax.training.transfer import Transfer
from bnas_jax.training.workdir import WorkDir

# Settings of a scheme that may differ between the two runs. A scheme of another name
# may differ as a whole. Parameters that only the new run has begin as initialised,
# those that only the source has are left out.
_NOT_OF_THE_NETWORK = (
    "weight_gradient",
    "stage",
    "activation",
    "projection_loss",
    "plane_rate",
)


class Init(NamedTuple):
    """A checkpoint to begin with.

    workdir: of a training, or an imported network.
    which: `last`, `best` or a step.
    """

    workdir: str
    which: str = "last"


def origin(
    workdir: WorkDir, init: Init | None, run: TrainSettings, facts: Mapping
) -> dict | None:
    """Where a run's first weights come from, as run.json notes it.

    {"workdir", "which", "step", "classifier": "kept" or "new"}, and "scheme" where that
    is another one, see `Transfer.summary`. None for a run that draws its weights.

    workdir: of the run.
    init: what the command asks for.
    facts: num_classes, image_shape and, if known, class_names of the run's data.

    Raises `UserError` where `init` does not fit the run, or is not the checkpoint that
    an earlier start of the run began with.
    """
    # A run that goes on has its weights already. `init` is only compared with how it
    # began.
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

    # The step is the one that `best` or `last` stands for now, as the source may be
    # trained on.
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
    """{"scheme": what becomes of the weights} where the source has another scheme.

    {} where it has the same scheme.

    began: the rest of what `origin` returns.

    Raises `UserError` where weights are missing in the source or have other shapes,
    whatever its scheme.
    """
    # Both networks as shapes.
    there = _settings(source, run)
    ours = _shapes(run, facts)
    theirs = _shapes(there, source.facts())
    # For equal schemes, too, as planning finds what is missing.
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
    """A scheme's name, with the settings in which it differs from another scheme.

    Where the names differ, the name is enough.
    """
    if scheme["name"] != other["name"]:
        return scheme["name"]
    differing = []
    for key, value in scheme.items():
        if value != other[key]:
            differing.append(f"{key} {value}")
    return f"{scheme['name']} ({', '.join(differing)})"


def _settings(source: WorkDir, run: TrainSettings) -> TrainSettings:
    """The settings of the source, with the number type of the run."""
    theirs = settings.from_config(source.config())
    assert isinstance(theirs, TrainSettings)
    return dataclasses.replace(theirs, precision=run.precision)


def _shapes(run: TrainSettings, facts: Mapping) -> Any:
    """The variables of a run's network as `ShapeDtypeStruct`s.

    facts: num_classes and image_shape of the run's data.
    """
    network = build.network(run, facts["num_classes"])
    image_shape = tuple(facts["image_shape"])
    # Traced only: nothing is drawn or allocated.
    return jax.eval_shape(lambda: initial_variables(network, image_shape, seed=0))


def _plan(ours: Mapping, theirs: Mapping, source: Mapping) -> Transfer:
    """Which parameters of ours begin with theirs.

    ours, theirs: {"params", "batch_stats"}, of arrays or their shapes.
    source: as `origin` returns it.
    """
    new_heads = source["classifier"] == "new"
    return transfer.plan(ours, theirs, new_heads=new_heads, source=source["workdir"])


def _check_same_origin(
    workdir: WorkDir, init: Init | None, began: Mapping | None
) -> None:
    """Raises `UserError` where a run that goes on began with other weights.

    began: as `origin` returned it then.
    """
    if init is None:
        return
    # The weights of a run cannot be exchanged after its first step.
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

    # The config is read into settings first: a config of an older version lacks those
    # that are new since.
    ours = settings.to_dict(run)
    theirs = settings.to_dict(settings.from_config(theirs))
    same_scheme = ours["scheme"]["name"] == theirs["scheme"]["name"]
    here = _network(ours, same_scheme)
    there = _network(theirs, same_scheme)
    difference = next(settings.differences(here, there), None)
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
    """Whether the classes are the same.

    They are compared by their number and, where both are known, by their names in the
    order of the labels.
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
    """A new run's first state with the weights and statistics of another run.

    A classifier for other classes stays as it was drawn, and so do parameters that only
    this run's scheme has. Latent weights from another scheme are projected as this
    scheme does.

    state: as it was drawn.
    source: as `origin` returns it.
    image_shape: (H, W, C) of the run's images.
    """
    # The source's variables, restored in the shapes of its settings.
    directory = WorkDir(source["workdir"])
    shapes = _shapes(_settings(directory, run), directory.facts())
    checkpoints = CheckpointReader(directory.checkpoints, where)
    _, theirs = checkpoints.restore_variables(shapes, str(source["step"]))

    # The same scheme has projected them already.
    project = None
    if "scheme" in source:
        project = run.scheme.latents.project

    # Each leaf takes its value by its path.
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
    """Where the weights come from, in one line.

    source: as `origin` returns it.
    """
    classifier = "the classifier is new, for other classes"
    if source["classifier"] == "kept":
        classifier = "the classifier is kept"
    return (
        f"begins with the weights of {source['workdir']} at step {source['step']}"
        f"{_of_scheme(source)}; {classifier}"
    )


def _of_scheme(source: Mapping) -> str:
    """What became of weights from another scheme, as part of a sentence.

    "" where the scheme is the same.
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
