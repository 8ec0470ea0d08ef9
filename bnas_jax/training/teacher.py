"""Distillation (arXiv 1503.02531): learning from a trained network, the teacher.

The teacher's class probabilities are targets in addition to the labels. ReActNet (arXiv
2003.03488, section 4.3) trains binary networks with a float ResNet34 as the teacher. A
run keeps a copy of its teacher in its own work directory, so that it can be resumed
even if the original changes.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.data.load import Dataset
from bnas_jax.runtime import hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.load import restored_model, run_of, source_step
from bnas_jax.training.state import initial_variables
from bnas_jax.training.step_parts import Batch
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir.files import room

_SETTING = "config.teacher.workdir"
# The folder in the student's work directory that holds settings, facts and one
# checkpoint of the teacher.
_COPY = "teacher"
# The item of a checkpoint that a teacher does not need, such as the optimizer's state.
_REST = "rest"


class Teacher(NamedTuple):
    """A trained network to learn from.

    variables: its weights and statistics, on all devices of the student's run.
    temperature: see `TeacherSettings`.
    """

    model: nn.Module
    variables: dict
    temperature: float

    def add_targets(self, batch: Batch, variables: dict, *, parts: int = 1) -> Batch:
        """The batch with "targets", the teacher's probabilities (N, classes).

        variables: the field `variables`, as an argument of the compiled step.
        parts: the number of equal parts of the batch, which go through the network one
            by one to save memory.
        """

        def probabilities(images):
            logits: Any = self.model.apply(variables, images, train=False)
            return jax.nn.softmax(logits / self.temperature)

        images = batch["image"]  # (N, H, W, C)
        if parts == 1:
            return {**batch, "targets": probabilities(images)}

        # Part by part.
        _, *image_shape = images.shape
        divided = images.reshape(parts, -1, *image_shape)  # (parts, N / parts, H, W, C)
        targets = jax.lax.map(probabilities, divided)  # (parts, N / parts, classes)
        return {**batch, "targets": targets.reshape(len(images), -1)}


def origin(run: TrainSettings, workdir: WorkDir) -> dict | None:
    """The entry "teacher" of run.json: {"workdir", "step"}.

    None for a run without a teacher. `best` and `last` are resolved to a step when the
    run starts first.

    workdir: the work directory of the student.

    Raises `UserError` if the teacher's directory does not hold a training, or has no
    such checkpoint.
    """
    if run.teacher.workdir is None:
        return None

    # A resumed run keeps its teacher.
    if workdir.exists() and "teacher" in workdir.facts():
        return workdir.facts()["teacher"]
    directory = _directory(run.teacher.workdir)
    step = source_step(directory, run.teacher.step)
    return {"workdir": str(directory.path), "step": step}


def load(
    began: Mapping,
    run: TrainSettings,
    data: Dataset,
    where: Devices,
    *,
    workdir: WorkDir,
) -> Teacher:
    """The teacher that `origin` names.

    began: the result of `origin`.
    run, data, where: settings, data and devices of the student.
    workdir: the work directory of the student. If it has a copy of the teacher, that is
        loaded.

    Raises `UserError` if the teacher's directory does not hold a training, and for a
    teacher of other classes, image shapes or statistics than the data.
    """
    directory = _source(began, workdir)
    facts = facts_lib.from_dict(directory.facts())
    _check_data(facts, data, directory)

    # The network, and its variables from the checkpoint.
    model, shapes = restored_model(_settings_of(directory, run), facts)
    checkpoints = CheckpointReader(directory.checkpoints, where)
    _, variables = checkpoints.restore_variables(shapes, str(began["step"]))
    placed = jax.tree.map(where.place, variables)
    return Teacher(model, placed, temperature=run.teacher.temperature)


def _source(began: Mapping, workdir: WorkDir) -> WorkDir:
    """The directory to read a teacher from: the student's copy, or the original."""
    kept = WorkDir(workdir / _COPY)
    if kept.exists():
        return kept
    return _directory(began["workdir"])


def keep(began: Mapping, workdir: WorkDir) -> None:
    """Copies the teacher that `origin` names into the student's work directory.

    An existing copy is kept.

    Raises `UserError` if the disk has no room.
    """
    # The other processes wait for the first.
    hosts.on_first(lambda: _copy(began, workdir))


def _copy(began: Mapping, workdir: WorkDir) -> None:
    target = workdir / _COPY
    if target.exists():
        return
    source, step = _directory(began["workdir"]), str(began["step"])
    part = workdir / f"part.{_COPY}"
    with room(target):
        # Replace an unfinished copy of an earlier start.
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(
            source.checkpoints / step,
            part / "checkpoints" / step,
            ignore=shutil.ignore_patterns(_REST),
        )
        for name in ("run.json", "config.json"):
            shutil.copy(source / name, part / name)
        # Rename the copy once it is complete.
        os.replace(part, target)


def drawn(run: TrainSettings, data: Dataset, where: Any) -> Teacher | None:
    """The teacher's network with random weights, for the images of any data.

    It is for benchmarks and plans. None for a run without a teacher.

    where: the devices of a run, or those of a plan.
    """
    if run.teacher.workdir is None:
        return None
    facts = Facts(
        num_classes=data.train.num_classes, image_shape=data.train.image_shape
    )
    settings = _settings_of(_directory(run.teacher.workdir), run)
    model, _ = restored_model(settings, facts)
    first = lambda: initial_variables(model, facts.image_shape, seed=0)
    return Teacher(model, where.create(first), temperature=run.teacher.temperature)


def _directory(given: str) -> WorkDir:
    """The work directory of a training, or of an import.

    Raises `UserError`, which names the setting, for anything else.
    """
    directory = WorkDir(paths.local(given, _SETTING))
    if not directory.exists():
        raise UserError(
            f"{_SETTING}={given} is not a work directory of train or import; write the "
            "one that holds the teacher"
        )
    if directory.config().get("task") != "train":
        raise UserError(
            f"{_SETTING}={given} holds a search; write the work directory of a training"
        )
    return directory


def _settings_of(directory: WorkDir, run: TrainSettings) -> TrainSettings:
    """The settings of the teacher, with the student's number types."""
    theirs = run_of(directory)
    return dataclasses.replace(
        theirs, precision=run.precision, activations=run.activations
    )


def _check_data(theirs: Facts, data: Dataset, directory: WorkDir) -> None:
    """Raises `UserError` unless the teacher was trained on data like the student's.

    Image shape, classes and normalisation must be the same.

    theirs: the facts about the teacher's data.
    data: the student's data.
    directory: the teacher's work directory, for the message.
    """
    # The facts about the student's data, by their names in `Facts`.
    ours = {
        "num_classes": data.train.num_classes,
        "image_shape": tuple(data.train.image_shape),
        "class_names": data.train.classes,
        "mean": data.augmentation.mean,
        "std": data.augmentation.std,
    }
    for name, here in ours.items():
        there = getattr(theirs, name)
        # Some facts are unknown for an imported network.
        if here is None or there is None or here == there:
            continue

        advice = "choose a teacher that was trained on the same data"
        if name in ("mean", "std"):
            mean, std = _written(theirs.mean), _written(theirs.std)
            advice = (
                f"write --config.dataset.mean={mean} --config.dataset.std={std}, as it "
                "was trained"
            )
        raise UserError(
            f"the teacher in {directory.path} has {name} {there}, this data has "
            f"{here}; {advice}"
        )


def _written(values: Sequence[float] | None) -> str:
    """Numbers in the form of an option: 0.5,0.25."""
    return ",".join(str(value) for value in values or ())
