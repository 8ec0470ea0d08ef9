"""Loads the data of a run, with normalisation and augmentation from its settings."""

import dataclasses
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.data import defaults, load
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.facts import Facts
from bnas_jax.data.load import Dataset, TestSet
from bnas_jax.data.readers.encoded import Encoded, ReadOptions
from bnas_jax.data.statistics import Statistics
from bnas_jax.settings import DatasetSettings, Settings, TrainSettings
from bnas_jax.training.workdir import WorkDir


def dataset_of(dataset: DatasetSettings) -> Dataset:
    """The data set, with the normalisation and augmentation of the settings."""
    data = load.load(
        dataset.name,
        path=dataset.path,
        options=read_options(dataset),
        statistics=_statistics(dataset),
    )
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def data_of_parts(dataset: DatasetSettings, parts: dict[str, Encoded]) -> Dataset:
    """`dataset_of`, with the given parts in place of the data set's files.

    parts: {"train": examples, "test": examples}.
    """
    options = defaults.with_defaults(dataset.name, read_options(dataset))
    data = load.from_parts(
        dataset.name, parts=parts, options=options, statistics=_statistics(dataset)
    )
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def load_test_data(
    dataset: DatasetSettings, statistics: Statistics | None
) -> Dataset | TestSet:
    """The data for an evaluation.

    statistics: see `data.load.load_test`; those of the settings take precedence.
    """
    statistics = _statistics(dataset) or statistics
    # If the statistics are known, the training images are not read.
    data = load.load_test(
        dataset.name,
        path=dataset.path,
        options=read_options(dataset),
        statistics=statistics,
    )
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def _statistics(dataset: DatasetSettings) -> Statistics | None:
    """(mean, std) of the settings; None if they are not set."""
    if dataset.mean is None or dataset.std is None:
        return None
    return dataset.mean, dataset.std


def _augmentation(augmentation: Augmentation, dataset: DatasetSettings) -> Augmentation:
    """The data set's augmentation, changed by the settings."""
    changes: dict[str, Any] = {}
    for name in ("pad", "flip", "min_area", "jitter", "cutout"):
        value = getattr(dataset, name)
        if value is not None:
            changes[name] = value
    return dataclasses.replace(augmentation, **changes)


def load_run_data(
    run: Settings, workdir: WorkDir, *, change: bool = False
) -> tuple[Dataset, Facts]:
    """(the data of a run, the facts about them).

    For a new run the facts are learned now; later they are those of the first start.

    change: see `WorkDir.open`.

    Raises `UserError` if the work directory belongs to a run with other settings or
    other data.
    """
    data = dataset_of(run.dataset)
    # A search does not look at the test images.
    test = None
    if isinstance(run, TrainSettings):
        test = data.test
    learned = facts_lib.learn(data, test)
    facts = workdir.check(run, learned, change=change)
    return facts_lib.with_statistics(data, facts), facts


def read_options(dataset: DatasetSettings) -> ReadOptions:
    """The options for reading a data set's files, from its settings."""
    # Settings have the names of the options, except for `bad_images`.
    settings = {field.name for field in dataclasses.fields(dataset)}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ReadOptions):
        if field.name in settings:
            values[field.name] = getattr(dataset, field.name)
    return ReadOptions(skip_bad=dataset.bad_images == "skip", **values)


def evaluation_images(
    dataset: DatasetSettings, facts: Facts
) -> tuple[Arrays | Encoded, Augmentation]:
    """(the test images, the augmentation with their normalisation) for a network.

    Normalisation and class numbers are those of the data that the network was trained
    on.

    dataset: the settings of the test images.
    facts: the facts of the network's run.

    Raises `UserError` for images with other channels, and for classes that the run did
    not have.
    """
    data = load_test_data(dataset, facts.statistics)
    channels = facts.image_shape[2]
    if data.test.image_shape[2] != channels:
        raise UserError(
            f"the network takes {channels} channels, {data.test.name} has "
            f"{data.test.image_shape[2]}; set config.dataset.channels={channels} where "
            "the data set can be read so"
        )
    return facts_lib.with_labels(data.test, facts), data.augmentation
