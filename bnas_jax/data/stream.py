"""Batch sources over data sets too large for memory.

Like the sources of `pipeline`, they have two methods: `feed(step)` returns the images
of one batch; call `prepare(feed)` inside the jitted step.

The choice and the crop of each example are a function of (seed, epoch, position in the
epoch), see `stream_items`. They do not depend on the number of workers, hosts or
devices, and a run that resumes at a step starts the pipeline there, see `read_ahead`.

Host number `host` of `hosts` reads only its part of the rows of each global batch.
`place_rows` divides that part over the host's devices, and `place` puts the same array
onto all of them.
"""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.data.augment import Augmentation, augmented
from bnas_jax.data.pipeline import (
    Batch,
    Feed,
    Place,
    check_batches,
    check_training,
    evaluated,
    seed_of_feeds,
    shard_size,
    step_key,
)
from bnas_jax.data.read_ahead import FOREVER, ReadAhead
from bnas_jax.data.readers.encoded import Encoded
from bnas_jax.data.stream_items import EvalItem, TrainItem


@dataclasses.dataclass(frozen=True, eq=False)
class StreamTrainSource:
    """An endless source of shuffled, augmented batches, read from disk.

    Raises `UserError` where there are fewer examples than in a batch. The fields are
    those of `pipeline.TrainSource`, and:

    place_rows: divides this host's part of a batch over its devices.
    host, hosts: the index of this process, and the number of processes.
    """

    examples: Encoded
    batch_size: int
    seed: int
    augmentation: Augmentation
    dtype: Any = jnp.float32
    place: Place = jax.device_put
    place_rows: Place = jax.device_put
    host: int = 0
    hosts: int = 1
    fresh: bool = False

    def __post_init__(self) -> None:
        check_training(
            self.examples,
            self.batch_size,
            augmentation=self.augmentation,
            seed=self.seed,
        )

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in an epoch."""
        return len(self.examples) // self.batch_size

    def feed(self, step: int) -> Feed:
        """The arguments of `prepare` for global step `step`; waits for its batch.

        `images` uint8 (B / hosts, H, W, C) and `labels` are this host's part of the
        batch; `position` and `seed` are as in `TrainSource.feed`.
        """
        items = self._batches.get(int(step))
        epoch, index = divmod(int(step), self.steps_per_epoch)
        position = np.array([epoch, index], np.int32)
        return {
            "images": self.place_rows(items["image"]),
            "labels": self.place_rows(items["label"]),
            "position": self.place(position),
            **self._seed,
        }

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """The batch of a feed, or its part number `shard` of `shards`.

        Returns `image` (B, H, W, C) and `label` int32 (B,), where B is the number of
        examples in that part. The feed contains either the whole batch or, on several
        devices, only that part.
        """
        size = shard_size(self.batch_size, shards)
        first = shard * size
        rows = _rows(feed["labels"], size=size, first=first)  # (B,), in the feed

        # Random numbers depend only on the step and the place in the global batch.
        key = step_key(feed["seed"], *feed["position"])
        places = first + jnp.arange(size, dtype=jnp.int32)  # (B,), in the global batch
        images = augmented(
            key,
            images=feed["images"],
            rows=rows,
            size=self.batch_size,
            places=places,
            augmentation=self.augmentation,
            dtype=self.dtype,
        )
        return {"image": images, "label": feed["labels"][rows]}

    @cached_property
    def _seed(self) -> Feed:
        return seed_of_feeds(self.seed, self.place)

    # Made at the first feed, so that threads or processes only start then.
    @cached_property
    def _batches(self) -> ReadAhead:
        # The number of this host's rows of each batch.
        local = shard_size(self.batch_size, self.hosts)
        load = TrainItem(
            examples=self.examples,
            seed=self.seed,
            batch_size=self.batch_size,
            min_area=self.augmentation.min_area,
            first=self.host * local,
            local=local,
            fresh=self.fresh,
        )
        return ReadAhead(load, examples=self.examples, size=local)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamEvalSource:
    """A source of the examples, each once and in order, read from disk.

    The padding of the last batch has weight 0. So has an image that cannot be decoded,
    if the options skip such images. The fields are those of `pipeline.EvalSource`, and
    for several hosts those of `StreamTrainSource`.
    """

    examples: Encoded
    batch_size: int
    augmentation: Augmentation
    dtype: Any = jnp.float32
    place: Place = jax.device_put
    place_rows: Place = jax.device_put
    host: int = 0
    hosts: int = 1
    augment_seed: int | None = None

    def __post_init__(self) -> None:
        check_batches(self.examples, self.batch_size, augmentation=self.augmentation)

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def feed(self, batch: int, epoch: int = 0) -> Feed:
        """The arguments of `prepare` for a batch; waits until it is read.

        `images` uint8 (B / hosts, H, W, C), `labels` and `weights` are this host's part
        of batch number `batch`; `position` int32 (2,) is the epoch and that number.
        Raises `IndexError` for a number that no batch has.
        """
        if not 0 <= batch < len(self):
            raise IndexError(
                f"there are {len(self)} batches, and none of number {batch}"
            )

        # Without augmentation all epochs are the same, and have the same numbers (the
        # period of `_batches`).
        number = batch
        if self.augment_seed is not None:
            number = epoch * len(self) + batch
        items = self._batches.get(number)
        return {
            "images": self.place_rows(items["image"]),
            "labels": self.place_rows(items["label"]),
            "weights": self.place_rows(items["weight"]),
            "position": self.place(np.array([epoch, batch], np.int32)),
        }

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """The batch of a feed, or its part number `shard` of `shards`.

        Returns `image` (B, H, W, C), `label` int32 (B,) and `weight` float32 (B,),
        which is 1 for an example and 0 for padding and for a skipped image.
        """
        size = shard_size(self.batch_size, shards)
        rows = _rows(feed["labels"], size=size, first=shard * size)  # (B,), in the feed
        epoch, batch = feed["position"]

        # Random numbers depend on the place in the whole set. Padding repeats the last
        # example.
        total = len(self.examples)
        first = batch * self.batch_size + shard * size
        places = first + jnp.arange(size, dtype=jnp.int32)
        places = jnp.minimum(places, total - 1)  # (B,)
        images = evaluated(
            feed["images"],
            rows=rows,
            size=total,
            places=places,
            source=self,
            epoch=epoch,
        )
        return {
            "image": images,
            "label": feed["labels"][rows],
            "weight": feed["weights"][rows],
        }

    @cached_property
    def _batches(self) -> ReadAhead:
        # The number of this host's rows of each batch.
        local = shard_size(self.batch_size, self.hosts)
        load = EvalItem(
            examples=self.examples,
            batch_size=self.batch_size,
            batches=len(self),
            first=self.host * local,
            local=local,
            seed=self.augment_seed,
            min_area=self.augmentation.min_area,
        )

        # With augmentation, the batches of every epoch differ.
        period = len(self)
        if self.augment_seed is not None:
            period = FOREVER
        return ReadAhead(load, examples=self.examples, size=local, period=period)


def _rows(labels: jax.Array, size: int, first: Any) -> jax.Array:
    """The rows of a feed that are one part of the batch, int32 (size,).

    They begin at `first` if the feed has the whole batch, and at 0 if it has only that
    part.
    """
    begin = first
    if labels.shape[0] == size:
        begin = 0
    return jnp.arange(size, dtype=jnp.int32) + begin
