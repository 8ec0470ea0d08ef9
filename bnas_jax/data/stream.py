"""Batch sources over data sets too large for memory: Grain reads and decodes ahead, in threads or in processes.

The same two halves as in `pipeline`: `feed(step)` hands out the images of one batch, `prepare(feed)` belongs into the jitted
step. Which examples a batch holds and how they are cropped is a function of (seed, epoch, place in the epoch), computed for
each example by itself: nothing depends on the number of workers, hosts or devices, and a run that resumes at a step starts
the pipeline there. Host `host` of `hosts` reads its part of the rows of each global batch, which stand side by side in it,
and `place_rows` divides that over its devices; `place` puts the same array onto all.
"""

import atexit
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import order
from bnas_jax.data.augment import Augmentation, augmented
from bnas_jax.data.encoded import Encoded
from bnas_jax.data.images import BadImage, Box
from bnas_jax.data.pipeline import (
    Batch,
    Feed,
    Place,
    evaluated,
    seed_of_feeds,
    shard_size,
    step_key,
)

_FOREVER = 2**60
# Orders that are kept: more fresh ones than batches that are read at once, and those of this epoch and the next.
_FRESH_KEPT, _EPOCHS_KEPT = 256, 1
# The ratio of width to height of random crops, as in torchvision.
_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10

# One example as Grain carries it: image uint8 (H, W, C), label, weight, and `bad`, its number where it did not decode, else -1.
Item = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class StreamTrainSource:
    """Endless shuffled, augmented batches, as `pipeline.TrainSource` has them, of which this host reads its part."""

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
        _check(self.examples, self.batch_size, self.augmentation)
        self.augmentation.check_size(*self.examples.image_shape[:2])
        order.check_seed(self.seed)
        if self.batch_size > len(self.examples):
            raise UserError(
                f"a batch larger than the data: {self.examples.name} has {len(self.examples)} examples here;"
                f" lower config.batch_size from {self.batch_size}"
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.examples) // self.batch_size

    def feed(self, step: int) -> Feed:
        """`images` uint8 (B / hosts, H, W, C) and `labels` of this host's part of the batch; the rest as in memory."""
        items = self._batches.get(int(step))
        epoch, index = divmod(int(step), self.steps_per_epoch)
        return {
            "images": self.place_rows(items["image"]),
            "labels": self.place_rows(items["label"]),
            "position": self.place(np.array([epoch, index], np.int32)),
            **self._seed,
        }

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """The batch of a feed, or its `shard`-th part of `shards`: `image` (B, H, W, C) and `label` int32 (B,).

        The feed may hold the whole batch or, as hosts and devices are given it, that part alone.
        """
        size = shard_size(self.batch_size, shards)
        first = shard * size
        rows = _rows(feed["labels"], size, first)
        key = step_key(feed["seed"], *feed["position"])
        places = first + jnp.arange(size, dtype=jnp.int32)
        images = augmented(
            key, feed["images"], rows, self.batch_size, places, self.augmentation, self.dtype
        )
        return {"image": images, "label": feed["labels"][rows]}

    @cached_property
    def _seed(self) -> Feed:
        return seed_of_feeds(self.seed, self.place)

    @cached_property
    def _batches(self) -> "_Batches":
        local = shard_size(self.batch_size, self.hosts)
        part = {"first": self.host * local, "local": local}
        load = _TrainItem(
            self.examples,
            self.seed,
            self.batch_size,
            self.augmentation.min_area,
            **part,
            fresh=self.fresh,
        )
        return _Batches(load, self.examples, local)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamEvalSource:
    """The data once, in order, as `pipeline.EvalSource` has it: what pads the last batch has weight 0. So has an image that
    does not decode, where the options skip those."""

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
        _check(self.examples, self.batch_size, self.augmentation)

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def feed(self, batch: int, epoch: int = 0) -> Feed:
        """`images`, `labels` and `weights` of this host's part of batch number `batch`, and `position` as in memory."""
        if not 0 <= batch < len(self):
            raise IndexError(f"there are {len(self)} batches, and none of number {batch}")
        items = self._batches.get(batch if self.augment_seed is None else epoch * len(self) + batch)
        rows = {name + "s": self.place_rows(items[name]) for name in ("image", "label", "weight")}
        return rows | {"position": self.place(np.array([epoch, batch], np.int32))}

    def prepare(self, feed: Feed, shard: Any = 0, shards: int = 1) -> Batch:
        """`image` (B, H, W, C), `label` int32 (B,) and `weight` float32 (B,): 1 for an example, 0 for padding."""
        size = shard_size(self.batch_size, shards)
        rows = _rows(feed["labels"], size, shard * size)
        epoch, batch = feed["position"]
        total = len(self.examples)
        places = batch * self.batch_size + shard * size + jnp.arange(size, dtype=jnp.int32)
        places = jnp.minimum(places, total - 1)
        return {
            "image": evaluated(feed["images"], rows, total, places, source=self, epoch=epoch),
            "label": feed["labels"][rows],
            "weight": feed["weights"][rows],
        }

    @cached_property
    def _batches(self) -> "_Batches":
        local = shard_size(self.batch_size, self.hosts)
        load = _EvalItem(
            self.examples,
            self.batch_size,
            len(self),
            first=self.host * local,
            local=local,
            seed=self.augment_seed,
            min_area=self.augmentation.min_area,
        )
        return _Batches(
            load, self.examples, local, _FOREVER if self.augment_seed is not None else len(self)
        )


def random_box(seed: int, epoch: int, row: int, height: int, width: int, min_area: float) -> Box:
    """The part of image `row` that epoch `epoch` sees, as torchvision's RandomResizedCrop draws it.

    An area from `min_area` to all and a ratio from 3:4 to 4:3; after ten that do not fit, the largest such part in the middle.
    """
    # Raw words of PCG64: NumPy promises their stream. Four numbers for each try, from 0 to below 1.
    words = (
        np.random.PCG64([seed, order.CROPS, epoch, row]).random_raw(4 * _TRIES).reshape(_TRIES, 4)
    )
    for area, ratio, top, left in (words >> np.uint64(11)) * 2.0**-53:
        pixels = height * width * (min_area + (1 - min_area) * area)
        ratio = _RATIOS[0] * (_RATIOS[1] / _RATIOS[0]) ** ratio
        w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return Box(int(top * (height - h + 1)), int(left * (width - w + 1)), h, w)
    w, h = min(width, round(height * _RATIOS[1])), min(height, round(width / _RATIOS[0]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


@dataclasses.dataclass(frozen=True, eq=False)
class _TrainItem:
    """The n-th example that a host reads for a run. It goes to the workers, and keeps the orders of two epochs there."""

    examples: Encoded
    seed: int
    batch_size: int
    min_area: float
    first: int  # row of the global batch at which the host's part begins
    local: int  # rows in it
    fresh: bool
    _orders: dict[int, np.ndarray] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __call__(self, number: int) -> Item:
        step, within = divmod(number, self.local)
        epoch, index = divmod(step, len(self.examples) // self.batch_size)
        place = self.first + within
        if self.fresh:
            example = int(self._order(order.FRESH, step)[place])
        else:
            example = int(self._order(order.EPOCHS, epoch)[index * self.batch_size + place])
        for tried in range(len(self.examples) if self.examples.options.skip_bad else 1):
            # The next one that decodes takes the place of one that does not.
            item = _item(
                self.examples,
                (example + tried) % len(self.examples),
                lambda n: self._choose(epoch, n),
            )
            if item["bad"] < 0:
                break
        return item | {"bad": np.int64(example if tried or item["bad"] >= 0 else -1)}

    def _choose(self, epoch: int, example: int) -> Callable[[int, int], Box] | None:
        return _crop(self.examples, self.seed, epoch, example, min_area=self.min_area)

    def _order(self, use: int, number: int) -> np.ndarray:
        drawn = self._orders.get(number)
        if drawn is None:
            drawn = order.shuffled(len(self.examples), self.seed, use, number)
            kept = _EPOCHS_KEPT
            if self.fresh:
                drawn, kept = drawn[: self.batch_size].copy(), _FRESH_KEPT
            for old in [n for n in list(self._orders) if abs(n - number) > kept]:
                self._orders.pop(old, None)
            self._orders[number] = drawn
        return drawn


@dataclasses.dataclass(frozen=True, eq=False)
class _EvalItem:
    """The n-th example that a host reads for evaluations, one after the other."""

    examples: Encoded
    batch_size: int
    batches: int
    first: int
    local: int
    seed: int | None  # of the augmentation, if there is one
    min_area: float

    def __call__(self, number: int) -> Item:
        batch, within = divmod(number, self.local)
        epoch, index = divmod(batch, self.batches)
        row = index * self.batch_size + self.first + within
        item = _item(
            self.examples, min(row, len(self.examples) - 1), lambda n: self._choose(epoch, n)
        )
        return item | {"weight": item["weight"] * np.float32(row < len(self.examples))}

    def _choose(self, epoch: int, example: int) -> Callable[[int, int], Box] | None:
        if self.seed is None:
            return None
        return _crop(self.examples, self.seed, epoch, example, min_area=self.min_area)


def _crop(
    examples: Encoded, seed: int, epoch: int, example: int, *, min_area: float
) -> Callable[[int, int], Box] | None:
    """(height, width) -> the part of an example that an epoch sees; None where no crop is drawn."""
    if not min_area:
        return None
    row = int(examples.rows[example])
    return lambda height, width: random_box(seed, epoch, row, height, width, min_area)


def _item(examples: Encoded, number: int, choose: Callable = lambda number: None) -> Item:
    """An example, or one of zeros of weight 0: the process that trains then says what is wrong with it."""
    try:
        image, label = examples.example(number, choose(number))
        weight, bad = 1, -1
    except Exception:
        image, label, weight, bad = np.zeros(examples.image_shape, np.uint8), 0, 0, number
    return {
        "image": image,
        "label": np.int32(label),
        "weight": np.float32(weight),
        "bad": np.int64(bad),
    }


class _Batches:
    """Batches of items by number. The next number costs no more than waiting for it, and the same once more nothing; any other
    starts the pipeline anew.

    With a `period` the number after the last is 0 again, as evaluation follows evaluation.
    """

    def __init__(
        self, load: Callable[[int], Item], examples: Encoded, size: int, period: int = _FOREVER
    ):
        self._load, self._examples, self._size, self._period = load, examples, size, period
        self._number = -1
        self._items: Item | None = None
        self._next = -1
        self._running: list[Any] = []  # the iterator, if there is one
        self._close: Callable[[], Any] = lambda: None
        self._bad: set[int] = set()
        _OPEN.add(self)

    def close(self) -> None:
        """Ends the processes and threads that read; the next batch starts others."""
        self._close()
        self._next = -1

    def get(self, number: int) -> Item:
        if self._items is None or number != self._number:
            self._number, self._items = number, self._read(number)
        return self._items

    def _read(self, number: int) -> Item:
        if number != self._next:
            self._close()
            self._running = [self._start(number)]
            # When this object goes, or else at the end of the program and before multiprocessing's own clearing up: the
            # workers end, and their shared memory is freed.
            self._close = weakref.finalize(self, _end, self._running)
            atexit.register(self._close)
        try:
            items = next(self._running[0])
        except (RuntimeError, OSError) as error:
            reason = str(error).partition(".")[0]
            if reason.endswith(f"exit code {-signal.SIGBUS}"):
                raise UserError(
                    f"reading {self._examples.name} stopped: shared memory (/dev/shm) is full; make it larger, as by"
                    " `docker run --shm-size=8g`, or write --config.dataset.workers=0; the same command goes on"
                ) from error
            raise UserError(
                f"reading {self._examples.name} stopped ({reason}); the same command goes on"
            ) from error
        if self._examples.options.workers:
            # Out of shared memory, which Grain frees with the array. What lives until the program ends, it would not free.
            items = {name: np.array(value) for name, value in items.items()}
        self._next = (number + 1) % self._period
        bad = [int(n) for n in items["bad"] if n >= 0 and n not in self._bad]
        for example in bad:
            self._report(example)
        return items

    def _start(self, number: int) -> Any:
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read flags of its own
        workers = self._examples.options.workers
        threads = 1 if workers else os.cpu_count() or 1
        dataset = (
            grain.MapDataset.range(number * self._size, _FOREVER).map(self._load).batch(self._size)
        )
        # Each thread makes a batch; one more batch than threads is kept ready.
        batches = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        )
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            batches = batches.mp_prefetch(options, worker_init_fn=_follow_parent)
        return iter(batches)

    def _report(self, example: int) -> None:
        """Reads it again, here, where errors have names: raises, or counts an image that does not decode."""
        self._bad.add(example)
        try:
            self._examples.example(example)
        except BadImage as error:
            if not self._examples.options.skip_bad:
                raise
            print(f"{self._examples.name}: {len(self._bad)} left out: {error}", file=sys.stderr)
            return
        raise UserError(
            f"{self._examples.name}: example {example} could not be read, and now can; start again to go on"
        )


# All that a program has, so that it can end them where it ends without Python's own clearing up.
_OPEN: "weakref.WeakSet[_Batches]" = weakref.WeakSet()


def close_all() -> None:
    """Ends what reads for the streams of this program: its processes, and their shared memory is freed."""
    for batches in list(_OPEN):
        batches.close()


def _end(running: list[Any]) -> None:
    """Ends an iterator of Grain's and lets go of it: later, Grain would miss its own modules."""
    running.pop().close()


def _follow_parent(worker: int, workers: int) -> None:
    """Begins a worker. It ends with its parent, however that ends, and leaves signals to it: a Ctrl-C reaches all processes
    of a terminal, and a run that stops on it may need one more batch before it saves."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _rows(labels: jax.Array, size: int, first: Any) -> jax.Array:
    """Where in the feed a part of the batch stands: from `first` on, or everywhere if the feed is no more than the part."""
    return jnp.arange(size, dtype=jnp.int32) + (0 if labels.shape[0] == size else first)


def _check(examples: Encoded, batch_size: int, augmentation: Augmentation) -> None:
    augmentation.check(examples.image_shape[-1])
    if batch_size < 1:
        raise UserError(f"config.batch_size must be at least 1, got {batch_size}")
