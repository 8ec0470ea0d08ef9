"""Batches of a data set by step number, for notebooks and other training loops."""

import operator
from typing import Any

import jax

from bnas_jax.core.errors import UserError, shown
from bnas_jax.data.halves import split_half
from bnas_jax.data.load import Dataset, load
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.data.sources import train_source

Batch = dict[str, jax.Array]


class Batches:
    """A data set in batches, each a function of (seed, step).

    A batch is {"image": float32 (B, H, W, C), "label": int32 (B,)}.

    dataset: the training and test images, and how they are augmented.
    seed: the seed of the order, of the augmentation and of the halves of a search.

    Raises `UserError` for a batch size below 1.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int = 64, seed: int = 0):
        self.dataset = dataset
        self.batch_size = _whole("batch_size", batch_size, least=1)
        self.seed = seed
        # Part of the training set ("all", "train" or "valid") -> (its batch source, the
        # source's jitted `prepare`). A source is made when its first batch is asked
        # for.
        self._sources: dict[str, tuple[Any, Any]] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.dataset.train.image_shape

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.dataset.train.num_classes

    def train_batch(self, step: int) -> Batch:
        """An augmented and normalised batch of the whole training set.

        `image` is float32 (B, H, W, C), `label` is int32 (B,). The set is shuffled anew
        in each epoch. An epoch has whole batches only: the examples left over at its
        end are skipped. Raises `UserError` where the set is smaller than a batch, for
        a step below 0, and for an image of a streamed set that cannot be read.

        step: the number of the step, from 0. The same step gives the same batch, in
          whatever order steps are asked for.

        >>> data = bnas.load_data("digits", batch_size=32)
        >>> data.train_batch(0)["image"].shape
        (32, 8, 8, 1)
        """
        return self._batch("all", step)

    def search_batches(self, step: int) -> dict[str, Batch]:
        """The batches of a step of a search: {"train": ..., "valid": ...}.

        The seed divides the training set into two halves, whose batches are like those
        of `train_batch`. A weight step reads "train", an alpha step reads "valid".
        """
        return {
            "train": self._batch("train", step),
            "valid": self._batch("valid", step),
        }

    def _batch(self, part: str, step: int) -> Batch:
        step = _whole("step", step, least=0)
        if part not in self._sources:
            self._sources[part] = self._source(part)
        source, prepare = self._sources[part]
        return prepare(source.feed(step))

    def _source(self, part: str) -> tuple[Any, Any]:
        """(the batch source of a part, its jitted `prepare`)."""
        examples, seed = self.dataset.train, self.seed
        if part != "all":
            train, valid = split_half(examples, seed)
            if part == "train":
                examples = train
            else:
                # Another seed, so that the two batches of a step get different random
                # numbers. After the largest seed comes 0.
                examples, seed = valid, (int(seed) + 1) % 2**32

        source = train_source(
            examples,
            batch_size=self.batch_size,
            seed=seed,
            augmentation=self.dataset.augmentation,
        )
        return source, jax.jit(source.prepare)


def _whole(name: str, value: Any, *, least: int) -> int:
    """The value as an int; raises `UserError` unless it is whole and from `least` on.

    value: a number, or a scalar array such as the step of a state.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UserError(
            f"{name} must be a whole number, at least {least}, got {shown(value)}"
        )
    return number


def load_data(
    name: str,
    path: Any = None,
    *,
    batch_size: int = 64,
    seed: int = 0,
    options: ReadOptions | None = None,
) -> Batches:
    """The data set of that name, in batches.

    Raises `UserError` for an unknown name, for files that are missing or cannot be
    used, and, at the first batch, for fewer examples than `batch_size`. Where an error
    names the setting config.dataset.X, X is `name`, `path` or a field of `options`.

    name: digits, cifar10, cifar100, imagenet2012, tfds:NAME, folder or npz.
    path: where a set on disk is: a TFDS data directory, a folder of images, or a file
      of arrays.
    options: how images are read, such as
      `bnas_jax.data.readers.encoded.ReadOptions(image_size=32)` for a folder of images
      of several sizes.

    >>> data = bnas.load_data("digits")
    >>> data.train_batch(0)["image"].shape
    (64, 8, 8, 1)
    """
    return Batches(load(name, path, options), batch_size=batch_size, seed=seed)
