"""Batches of a data set by step number, for notebooks and other training loops."""

from typing import Any

import jax

from bnas_jax.data.halves import split_half
from bnas_jax.data.load import Dataset, load
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.data.sources import train_source

Batch = dict[str, jax.Array]


class Batches:
    """A data set in batches, each a function of (seed, step).

    A batch is {"image": (B, H, W, C) float, "label": (B,) int32}.

    dataset: its training and test images, and how they are augmented.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int = 64, seed: int = 0):
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        # By part of the training set ("all", "train" or "valid"), made when first asked
        # for: (its batch source, the source's `prepare`, jitted).
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
        """The batch of step `step`, from 0 on, of the whole training set, augmented.

        `image` is (B, H, W, C) float32, normalised; `label` is int32 (B,). The set is
        shuffled anew in each epoch. The same step gives the same batch, in whatever
        order steps are asked for. The examples left over at the end of an epoch are not
        in any of its batches. Raises `UserError` where the set is smaller than a batch,
        and for an image of a streamed set that cannot be read.

        >>> data = bnas.load_data("digits", batch_size=32)
        >>> data.train_batch(0)["image"].shape
        (32, 8, 8, 1)
        """
        return self._batch("all", step)

    def search_batches(self, step: int) -> dict[str, Batch]:
        """The batches of a step for a search: {"train": ..., "valid": ...}.

        The training set is halved by the seed, and each half has batches as
        `train_batch` has. A search moves weights on the first half and architecture
        parameters on the second.
        """
        return {
            "train": self._batch("train", step),
            "valid": self._batch("valid", step),
        }

    def _batch(self, part: str, step: int) -> Batch:
        if part not in self._sources:
            self._sources[part] = self._source(part)
        source, prepare = self._sources[part]
        return prepare(source.feed(step))

    def _source(self, part: str) -> tuple[Any, Any]:
        """(the batch source of a part, its `prepare`, jitted)."""
        examples, seed = self.dataset.train, self.seed
        if part != "all":
            train, valid = split_half(examples, seed)
            if part == "train":
                examples = train
            else:
                # With another seed, so that the two batches of a step are not augmented
                # alike.
                examples, seed = valid, seed + 1

        source = train_source(
            examples,
            batch_size=self.batch_size,
            seed=seed,
            augmentation=self.dataset.augmentation,
        )
        return source, jax.jit(source.prepare)


def load_data(
    name: str,
    path: Any = None,
    *,
    batch_size: int = 64,
    seed: int = 0,
    options: ReadOptions | None = None,
) -> Batches:
    """The data set of that name, in batches.

    Raises `UserError` for an unknown name, for missing or unfit files, and, at the
    first batch, for fewer examples than `batch_size`. Where an error names a setting
    config.dataset.X, that is here `name`, `path` or the field X of `options`.

    name: digits, cifar10, cifar100, imagenet2012, tfds:NAME or folder.
    path: of a set on disk: a TFDS data directory, or a folder of images.
    options: how images are read, such as
      `bnas_jax.data.readers.encoded.ReadOptions(image_size=32)` for a folder of images
      of several sizes.

    >>> data = bnas.load_data("digits")
    >>> data.train_batch(0)["image"].shape
    (64, 8, 8, 1)
    """
    return Batches(load(name, path, options), batch_size=batch_size, seed=seed)
