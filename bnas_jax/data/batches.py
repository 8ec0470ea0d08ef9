"""Batches of a data set by the number of the step, for notebooks and training loops outside of this package."""

import functools
from typing import Any

import jax

from bnas_jax.data.halves import split_half
from bnas_jax.data.load import Dataset, load
from bnas_jax.data.sources import train_source

Batch = dict[str, jax.Array]


class Batches:
    """A data set in batches, which are functions of (seed, step): {"image": (B, H, W, C) float, "label": (B,) int32}.

    dataset: its training and test images, and how they are augmented.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int = 64, seed: int = 0):
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.dataset.train.image_shape

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.dataset.train.num_classes

    def train_batch(self, step: int) -> Batch:
        """A batch of the whole training set."""
        return self._batch("all", step)

    def search_batches(self, step: int) -> dict[str, Batch]:
        """{"train", "valid"}: a batch of each of the two parts of the training set, which a search divides in half."""
        return {"train": self._batch("train", step), "valid": self._batch("valid", step)}

    def _batch(self, part: str, step: int) -> Batch:
        source, prepare = self._source(part)
        return prepare(source.feed(step))

    @functools.cache  # noqa: B019 (a few parts, which live as long as the data)
    def _source(self, part: str) -> tuple[Any, Any]:
        examples, seed = self.dataset.train, self.seed
        if part != "all":
            train, valid = split_half(examples, seed)
            if part == "train":
                examples = train
            else:
                # With another seed, so that the two batches of a step are not augmented alike.
                examples, seed = valid, seed + 1
        # Compiled once for each part.
        source = train_source(
            examples,
            batch_size=self.batch_size,
            seed=seed,
            augmentation=self.dataset.augmentation,
        )
        return source, jax.jit(source.prepare)


def load_data(name: str, path: Any = None, *, batch_size: int = 64, seed: int = 0) -> Batches:
    """The data set of a name that `config.dataset.name` takes, in batches.

    path: where its files are, for sets on disk. Raises `UserError` for an unknown name and for files that are missing.

    >>> data = bnas.load_data("digits")
    >>> data.train_batch(0)["image"].shape
    (64, 8, 8, 1)
    """
    return Batches(load(name, path), batch_size=batch_size, seed=seed)
