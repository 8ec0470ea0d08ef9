"""Batch sources over arrays in memory: what a batch holds is a function of the seed and the global step alone.

A source has two halves. `feed(step)` runs on the host and hands out arrays on the device: the whole data set (always the same
arrays), the order of the epoch, and where in it the step stands. `prepare(feed)` is pure and belongs inside the jitted step.
Shapes and types of a feed never change, so nothing is traced twice. Resuming at a step needs nothing but its number.

On several devices each one prepares its shard of the same global batch: `prepare(feed, shard=lax.axis_index(...), shards=n)`;
`place` then says how an array gets onto all of them.
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

Feed = dict[str, jax.Array]
Batch = dict[str, jax.Array]
Place = Callable[[np.ndarray], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainSource:
    """Endless shuffled, augmented batches of `batch_size`.

    Each epoch goes through the data in an order of its own, in whole batches; the examples left over at its end sit that
    epoch out. fresh: each batch is drawn from all the data instead, without replacement within itself. Raises `UserError`
    where there is less data than one batch.
    """

    arrays: Arrays
    batch_size: int
    seed: int
    augmentation: Augmentation
    dtype: Any = jnp.float32
    place: Place = jax.device_put
    fresh: bool = False
    _orders: dict[int, jax.Array] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.arrays, self.batch_size, self.augmentation)
        self.augmentation.check_size(*self.arrays.images.shape[1:3])
        order.check_seed(self.seed)
        if self.batch_size > len(self.arrays):
            raise UserError(
                f"a batch larger than the data: {self.arrays.name} has {len(self.arrays)} examples here;"
                f" lower config.batch_size from {self.batch_size}"
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.arrays) // self.batch_size

    def feed(self, step: int) -> Feed:
        """What `prepare` needs for global step `step` (from 0), on the device.

        `images` (N, H * W * C) and `labels` are all the data, `order` int32 (N,) that of the epoch, or (B,) the fresh batch,
        `position` int32 (2,) the epoch and the step within it, `seed` uint32: as an argument, runs of other seeds share what
        is compiled.
        """
        epoch, index = divmod(int(step), self.steps_per_epoch)
        return self._data | {
            "order": self.place(self._drawn(int(step))) if self.fresh else self._order(epoch),
            "position": self.place(np.array([epoch, index], np.int32)),
        }

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """The batch of a feed, or its `shard`-th part of `shards`: `image` (B, H, W, C) and `label` int32 (B,)."""
        size = shard_size(self.batch_size, shards)
        epoch, index = feed["position"]
        places = shard * size + jnp.arange(size, dtype=jnp.int32)
        rows = feed["order"][places if self.fresh else index * self.batch_size + places]
        key = step_key(feed["seed"], epoch, index)
        taken = _taken(feed, rows, self.arrays.image_shape)
        here = jnp.arange(size, dtype=jnp.int32)
        images = augmented(key, taken, here, self.batch_size, places, self.augmentation, self.dtype)
        return {"image": images, "label": feed["labels"][rows]}

    @cached_property
    def _data(self) -> Feed:
        return _placed(self.arrays, self.place) | seed_of_feeds(self.seed, self.place)

    def _drawn(self, step: int) -> np.ndarray:
        return order.shuffled(len(self.arrays), self.seed, order.FRESH, step)[: self.batch_size]

    def _order(self, epoch: int) -> jax.Array:
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self.place(
                order.shuffled(len(self.arrays), self.seed, order.EPOCHS, epoch)
            )
        return self._orders[epoch]


@dataclasses.dataclass(frozen=True, eq=False)
class EvalSource:
    """The data once, in order, in `len(source)` batches of full size; examples that pad the last batch have weight 0.

    Of `augmentation` only the normalisation is used, unless an augment_seed is given: images are then augmented as in
    training, anew in each epoch, whatever the size of the batches. `batch_size` may be larger than the data.
    """

    arrays: Arrays
    batch_size: int
    augmentation: Augmentation
    dtype: Any = jnp.float32
    place: Place = jax.device_put
    augment_seed: int | None = None

    def __post_init__(self) -> None:
        _check(self.arrays, self.batch_size, self.augmentation)

    def __len__(self) -> int:
        return -(-len(self.arrays) // self.batch_size)

    def feed(self, batch: int, epoch: int = 0) -> Feed:
        """What `prepare` needs for batch number `batch`: all the data, and `position` int32 (2,), the epoch and the number."""
        if not 0 <= batch < len(self):
            raise IndexError(f"there are {len(self)} batches, and none of number {batch}")
        return self._data | {"position": self.place(np.array([epoch, batch], np.int32))}

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """`image` (B, H, W, C), `label` int32 (B,) and `weight` float32 (B,): 1 for an example, 0 for padding."""
        size = shard_size(self.batch_size, shards)
        epoch, batch = feed["position"]
        rows = batch * self.batch_size + shard * size + jnp.arange(size, dtype=jnp.int32)
        total = feed["labels"].shape[0]
        places = jnp.minimum(rows, total - 1)
        taken = _taken(feed, places, self.arrays.image_shape)
        here = jnp.arange(size, dtype=jnp.int32)
        return {
            "image": evaluated(taken, here, total, places, source=self, epoch=epoch),
            "label": feed["labels"][places],
            "weight": (rows < total).astype(jnp.float32),
        }

    @cached_property
    def _data(self) -> Feed:
        return _placed(self.arrays, self.place)


def evaluated(
    images: jax.Array, rows: jax.Array, size: int, places: jax.Array, *, source: Any, epoch: Any
) -> jax.Array:
    """The images at `rows` as inputs of an evaluation, augmented where its source has an `augment_seed`; they are at `places`
    of a set of `size`."""
    if source.augment_seed is None:
        return normalize(images[rows], source.augmentation, source.dtype)
    key = step_key(source.augment_seed, epoch, 0)
    return augmented(key, images, rows, size, places, source.augmentation, source.dtype)


def seed_of_feeds(seed: int, place: Place) -> Feed:
    """The part of every feed that says the seed."""
    return {"seed": place(np.array(seed, np.uint32))}


def step_key(seed: Any, epoch: Any, index: Any) -> jax.Array:
    """The key of step `index` of an epoch. seed: a number or a uint32 array.

    Generator and width of the seed are named, so that neither a JAX flag nor 64-bit mode changes the numbers.
    """
    key = jax.random.key(jnp.asarray(seed, jnp.uint32), impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(key, epoch), index)


def shard_size(batch_size: int, shards: int) -> int:
    """The examples of one shard; `UserError` unless the batch divides evenly."""
    if batch_size % shards:
        raise UserError(
            f"a batch of {batch_size} cannot be divided over {shards} devices: make config.batch_size a multiple of {shards}"
        )
    return batch_size // shards


def _placed(arrays: Arrays, place: Place) -> Feed:
    """All the data: images (N, H * W * C), labels (N,).

    An image is a row: of four axes, TPUs copy all of the data to another layout in every step, before they take a batch.
    """
    rows = arrays.images.reshape(len(arrays), -1)
    return {"images": place(rows), "labels": place(arrays.labels)}


def _taken(feed: Feed, rows: jax.Array, image_shape: tuple[int, int, int]) -> jax.Array:
    """The images at these rows of the data, uint8 (B, H, W, C)."""
    return feed["images"][rows].reshape(-1, *image_shape)


def _check(arrays: Arrays, batch_size: int, augmentation: Augmentation) -> None:
    augmentation.check(arrays.images.shape[-1])
    if batch_size < 1:
        raise UserError(f"config.batch_size must be at least 1, got {batch_size}")
