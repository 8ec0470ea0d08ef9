"""The facts about its data that a run writes into its work directory.

With them, a command notices that the data is not what the run was trained on.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.load import Dataset
from bnas_jax.data.readers.encoded import Encoded, Renumbered
from bnas_jax.data.statistics import Statistics

Examples = Arrays | Encoded


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about the data of a run; None where a fact is not known.

    For an imported network, for instance, the training images are not known.
    """

    num_classes: int
    # (H, W, C).
    image_shape: tuple[int, ...]
    # Statistics of each channel, on the scale 0 to 1.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    # The names of the classes, in the order of the labels.
    class_names: tuple[str, ...] | None = None
    # The number of training images.
    num_train: int | None = None
    # Hashes of the training and of the test images; see `Arrays.digest` and
    # `Encoded.digest`.
    digest: str | None = None
    test_digest: str | None = None

    @property
    def statistics(self) -> Statistics | None:
        """(mean, std) of each channel; None where they are not known."""
        if self.mean is None or self.std is None:
            return None
        return self.mean, self.std

    def known(self) -> dict[str, Any]:
        """{name: value} of the facts that are known, as JSON can store them."""
        values = {}
        for name, value in dataclasses.asdict(self).items():
            if value is None:
                continue
            # JSON has no tuples.
            if isinstance(value, tuple):
                value = list(value)
            values[name] = value
        return values


def from_dict(values: Mapping) -> Facts:
    """`Facts` from the values of run.json; its other entries are ignored."""
    names = {field.name for field in dataclasses.fields(Facts)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            continue
        # JSON has made lists of tuples, with which they would not compare equal.
        if isinstance(value, list):
            value = tuple(value)
        found[name] = value
    return Facts(**found)


def learn(data: Dataset, test: Examples | None) -> Facts:
    """The facts of a new run's data.

    test: the examples that the run is evaluated on; None where they are a part of its
        training set, as in a search.
    """
    test_digest = None
    if test is not None:
        test_digest = test.digest()
    # Settings may give other statistics than those of the data: these are stored.
    return Facts(
        num_classes=data.train.num_classes,
        image_shape=data.train.image_shape,
        mean=data.augmentation.mean,
        std=data.augmentation.std,
        class_names=data.train.classes,
        num_train=len(data.train),
        digest=data.train.digest(),
        test_digest=test_digest,
    )


def difference(now: Facts, then: Facts) -> str | None:
    """How a run's data now differs from its data at the start, as part of a sentence.

    None where no difference is known. Of several differences, the most informative one
    is named: classes, shapes and sizes come before hashes.
    """
    # Names of the classes.
    names, names_then = now.class_names, then.class_names
    if names and names_then and names != names_then:
        return (
            f"the data has the classes {_listed(names)} now, and had "
            f"{_listed(names_then)}"
        )

    # Number of classes, shape of the images, number of images.
    classes = now.num_classes
    classes_then = then.num_classes
    size = list(now.image_shape)
    size_then = list(then.image_shape)
    if classes != classes_then or size != size_then:
        return (
            f"the data has {classes} classes and images {size} now, and had "
            f"{classes_then} and {size_then}"
        )
    if now.num_train != then.num_train and then.num_train is not None:
        return (
            f"the training set has {now.num_train} images now, and had {then.num_train}"
        )

    # Hashes, where both are known.
    digests = {
        "training": (now.digest, then.digest),
        "test": (now.test_digest, then.test_digest),
    }
    for part, (digest, digest_then) in digests.items():
        if digest and digest_then and digest != digest_then:
            return (
                f"the {part} set has other images now (their names, sizes or contents "
                "differ) than it had"
            )
    return None


def with_statistics(data: Dataset, facts: Facts) -> Dataset:
    """The data, normalised by a run's mean and deviation if they are known."""
    if facts.statistics is None:
        return data
    mean, std = facts.statistics
    augmentation = dataclasses.replace(data.augmentation, mean=mean, std=std)
    return data._replace(augmentation=augmentation)


def with_labels(examples: Examples, facts: Facts) -> Examples:
    """The examples, with the labels that classes of the same names have in a run.

    The examples may have only some of the run's classes, and in another order. Raises
    `UserError` for a class that the run does not have, and for another number of
    classes if the names of the run's classes are not known.
    """
    names, classes = facts.class_names, examples.classes

    # Without names, as for an imported network, labels are assumed to agree.
    if names is None:
        if examples.num_classes != facts.num_classes:
            raise UserError(
                f"{examples.name} has {examples.num_classes} classes, the network "
                f"{facts.num_classes}"
            )
        return examples
    if classes == names:
        return examples
    unknown = sorted(set(classes) - set(names))
    if unknown:
        raise UserError(
            f"{examples.name} has the class {unknown[0]!r}, which the run does not "
            f"have: its classes are {_listed(names)}; set config.dataset.path to data "
            "with these, or some of these, names"
        )

    # The run's label of each class of the data.
    labels = [names.index(name) for name in classes]
    numbers = np.array(labels, np.int32)  # [classes of the data]
    if isinstance(examples, Encoded):
        reader = Renumbered(examples.reader, numbers)
        return dataclasses.replace(examples, reader=reader, classes=names)
    return dataclasses.replace(
        examples,
        labels=numbers[examples.labels],
        num_classes=len(names),
        classes=names,
    )


def _listed(names: tuple[str, ...], most: int = 10) -> str:
    listed = ", ".join(names[:most])
    if len(names) > most:
        listed += f" and {len(names) - most} more"
    return listed
