"""Batch sources over arrays in memory.

The examples of a batch are a function of the seed and the global step alone, so that a
run can resume at any step.

A source has two methods. `feed(step)` runs on the host and returns arrays on the
device: the whole data set (the same arrays for each step), the order of the epoch, and
the position of the step in it. `prepare(feed)` is pure; call it inside the jitted step.
The shapes and types of a feed never change, so that the step is traced once.

On several devices, each one prepares its shard of the same global batch, by
`prepare(feed, shard=lax.axis_index(...), shards=n)`; `place` puts an array onto all of
them.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation, augmented, normalize
from bnas_jax.data.readers.encoded import Encoded

Feed = dict[str, jax.Array]
Batch = dict[str, jax.Array]
Place = Callable[[np.ndarray], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainSource:
    """An endless source of shuffled, augmented batches of `batch_size` examples.

    Each epoch has another random order, and whole batches only: the examples left over
    at its end are skipped. Raises `UserError` where there are fewer examples than in a
    batch.

    dtype: the type of the images that `prepare` returns.
    place: puts an array onto all devices.
    fresh: True draws each batch from all examples, without replacement within the
        batch.
    """

    arrays: Arrays
    batch_size: int
    seed: int
    augmentation: Augmentation
    dtype: Any = jnp.float32
    place: Place = jax.device_put
    fresh: bool = False
    _orders: dict[int, jax.Array] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        check_training(
            self.arrays,
            self.batch_size,
            augmentation=self.augmentation,
            seed=self.seed,
        )

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in an epoch."""
        return len(self.arrays) // self.batch_size

    def feed(self, step: int) -> Feed:
        """The arguments of `prepare` for global step `step` (from 0), on the device.

        - `images` uint8 (N, H * W * C) and `labels` int32 (N,): the whole data set;
        - `order`: the order of the epoch, int32 (N,), or with `fresh` the examples of
          the batch, int32 (B,);
        - `position` int32 (2,): the epoch, and the step within it;
        - `seed` uint32: it is an argument so that runs with other seeds can use the
          same compiled program.
        """
        epoch, index = divmod(int(step), self.steps_per_epoch)
        if self.fresh:
            rows = self.place(self._drawn(int(step)))
        else:
            rows = self._order(epoch)
        position = np.array([epoch, index], np.int32)
        return {
            **self._data,
            "order": rows,
            "position": self.place(position),
        }

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """The batch of a feed, or its part number `shard` of `shards`.

        Returns `image` (B, H, W, C) and `label` int32 (B,), where B is the number of
        examples in that part.
        """
        size = shard_size(self.batch_size, shards)
        epoch, index = feed["position"]
        first = shard * size
        places = first + jnp.arange(size, dtype=jnp.int32)  # (B,), in the global batch

        # With `fresh`, the order has only the examples of this batch; otherwise it has
        # those of all batches of the epoch.
        positions = places
        if not self.fresh:
            positions = index * self.batch_size + places
        rows = feed["order"][positions]  # (B,), in the data

        # Random numbers depend only on the step and the place in the global batch.
        key = step_key(feed["seed"], epoch=epoch, index=index)
        taken = _taken(feed, rows=rows, image_shape=self.arrays.image_shape)
        images = augmented(
            key,
            images=taken,
            rows=jnp.arange(size, dtype=jnp.int32),
            size=self.batch_size,
            places=places,
            augmentation=self.augmentation,
            dtype=self.dtype,
        )
        return {"image": images, "label": feed["labels"][rows]}

    @cached_property
    def _data(self) -> Feed:
        # Put onto the devices once: every feed has the same arrays.
        data = _placed(self.arrays, self.place)
        return data | seed_of_feeds(self.seed, self.place)

    def _drawn(self, step: int) -> np.ndarray:
        """The rows of a fresh batch, int32 (B,)."""
        rows = order.shuffled(
            len(self.arrays),
            seed=self.seed,
            use=order.FRESH,
            number=step,
        )
        return rows[: self.batch_size]

    def _order(self, epoch: int) -> jax.Array:
        """The order of an epoch on the device, int32 (N,).

        All steps of the epoch use the same array.
        """
        if epoch not in self._orders:
            # Only the latest order is kept: a run does not return to an earlier epoch.
            self._orders.clear()
            rows = order.shuffled(
                len(self.arrays),
                seed=self.seed,
                use=order.EPOCHS,
                number=epoch,
            )
            self._orders[epoch] = self.place(rows)
        return self._orders[epoch]


@dataclasses.dataclass(frozen=True, eq=False)
class EvalSource:
    """A source of the examples, each once and in order, in `len(source)` batches.

    All batches have `batch_size` examples: the last one is padded with examples of
    weight 0. `batch_size` may exceed the number of examples.

    augment_seed: the seed by which images are augmented as in training, differently in
        each epoch, but independently of `batch_size`. None only normalises the images.
    """

    arrays: Arrays
    batch_size: int
    augmentation: Augmentation
    dtype: Any = jnp.float32
    place: Place = jax.device_put
    augment_seed: int | None = None

    def __post_init__(self) -> None:
        check_batches(self.arrays, self.batch_size, augmentation=self.augmentation)

    def __len__(self) -> int:
        return -(-len(self.arrays) // self.batch_size)

    def feed(self, batch: int, epoch: int = 0) -> Feed:
        """The arguments of `prepare` for a batch.

        They are the whole data set, as in `TrainSource.feed`, and `position` int32
        (2,): the epoch, and the number of the batch. Raises `IndexError` for a number
        that no batch has.
        """
        if not 0 <= batch < len(self):
            raise IndexError(
                f"there are {len(self)} batches, and none of number {batch}"
            )
        position = np.array([epoch, batch], np.int32)
        return {**self._data, "position": self.place(position)}

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """The batch of a feed, or its part number `shard` of `shards`.

        Returns `image` (B, H, W, C), `label` int32 (B,) and `weight` float32 (B,),
        which is 1 for an example and 0 for padding.
        """
        # Rows of the whole set; those of the padding are beyond its end.
        size = shard_size(self.batch_size, shards)
        epoch, batch = feed["position"]
        first = batch * self.batch_size + shard * size
        rows = first + jnp.arange(size, dtype=jnp.int32)  # (B,)

        # Padding repeats the last example.
        total = feed["labels"].shape[0]
        places = jnp.minimum(rows, total - 1)  # (B,)
        taken = _taken(feed, rows=places, image_shape=self.arrays.image_shape)
        images = evaluated(
            taken,
            rows=jnp.arange(size, dtype=jnp.int32),
            size=total,
            places=places,
            source=self,
            epoch=epoch,
        )
        return {
            "image": images,
            "label": feed["labels"][places],
            "weight": (rows < total).astype(jnp.float32),
        }

    @cached_property
    def _data(self) -> Feed:
        return _placed(self.arrays, self.place)


def evaluated(
    images: jax.Array,
    rows: jax.Array,
    size: int,
    places: jax.Array,
    *,
    source: Any,
    epoch: Any,
) -> jax.Array:
    """The images at `rows` as inputs of an evaluation, (B, H, W, C).

    They are normalised, and augmented if the source has an `augment_seed`.

    images, rows: as in `augment.augmented`.
    size: the number of examples in the whole set.
    places: the places of the images at `rows` in the whole set, int32 (B,).
    source: an `EvalSource` or a `StreamEvalSource`.
    """
    if source.augment_seed is None:
        return normalize(images[rows], source.augmentation, dtype=source.dtype)
    # All batches of an epoch have the same key: random numbers are drawn for the whole
    # set, so that they do not depend on the size of a batch.
    key = step_key(source.augment_seed, epoch=epoch, index=0)
    return augmented(
        key,
        images=images,
        rows=rows,
        size=size,
        places=places,
        augmentation=source.augmentation,
        dtype=source.dtype,
    )


def seed_of_feeds(seed: int, place: Place) -> Feed:
    """The entry `seed` of a feed, uint32."""
    return {"seed": place(np.array(seed, np.uint32))}


def step_key(seed: Any, epoch: Any, index: Any) -> jax.Array:
    """The random key of step `index` of an epoch.

    The generator and the type of the seed are given explicitly, so that neither a JAX
    flag nor 64-bit mode changes the random numbers.

    seed: an integer or a uint32 array.
    """
    key = jax.random.key(jnp.asarray(seed, jnp.uint32), impl="threefry2x32")
    of_epoch = jax.random.fold_in(key, epoch)
    return jax.random.fold_in(of_epoch, index)


def shard_size(batch_size: int, shards: int) -> int:
    """The number of examples in a shard.

    Raises `UserError` unless the batch divides evenly.
    """
    # For the commands, `Devices.check_batch` has checked this. A user of the library
    # may pass any numbers.
    if batch_size % shards:
        raise UserError(
            f"a batch of {batch_size} cannot be divided over {shards} devices: make "
            f"config.batch_size a multiple of {shards}"
        )
    return batch_size // shards


def _placed(arrays: Arrays, place: Place) -> Feed:
    """The data set on the devices: images uint8 (N, H * W * C), labels int32 (N,)."""
    # An image is a row: if images had four axes, TPUs would copy the whole data set to
    # another layout in every step, before they take a batch.
    rows = arrays.images.reshape(len(arrays), -1)
    return {"images": place(rows), "labels": place(arrays.labels)}


def _taken(feed: Feed, rows: jax.Array, image_shape: tuple[int, int, int]) -> jax.Array:
    """The images at `rows` of the data set, uint8 (B, H, W, C)."""
    return feed["images"][rows].reshape(-1, *image_shape)


def check_batches(
    examples: Arrays | Encoded, batch_size: int, *, augmentation: Augmentation
) -> None:
    """Raises `UserError` for an empty batch, and unless each channel has statistics."""
    augmentation.check(examples.image_shape[-1])
    if batch_size < 1:
        raise UserError(f"config.batch_size must be at least 1, got {batch_size}")


def check_training(
    examples: Arrays | Encoded,
    batch_size: int,
    *,
    augmentation: Augmentation,
    seed: int,
) -> None:
    """Raises `UserError` for arguments that no training can use.

    These are what `check_batches` refuses, a crop or a cutout that can hide an image, a
    seed that is not a 32-bit integer, and fewer examples than in a batch.
    """
    check_batches(examples, batch_size, augmentation=augmentation)
    augmentation.check_size(*examples.image_shape[:2])
    order.check_seed(seed)
    if batch_size > len(examples):
        raise UserError(
            f"config.batch_size={batch_size} is larger than the data: "
            f"{examples.name} has {len(examples)} examples here; lower it"
        )
