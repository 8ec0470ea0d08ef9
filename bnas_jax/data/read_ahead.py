"""Batches of a stream, read and decoded ahead by Grain.

They are read by threads, or by processes that end with this one.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from bnas_jax.core.errors import PassingError, UserError
from bnas_jax.data.readers.encoded import Encoded, Unreadable, cores
from bnas_jax.data.readers.images import BadImage
from bnas_jax.data.stream_items import Item

# More items than any run reads.
FOREVER = 2**60
# Seconds between two tries to read a batch. A run of days reads hundreds of millions of
# images, and network file systems fail for moments.
_PAUSES = (1, 5, 20)
_AGAIN = "run the same command again: it continues from the last checkpoint"


class ReadAhead:
    """Batches of items by number, read ahead in the order of their numbers.

    Asking for the next number only waits for its batch, and asking for the last number
    again returns the same batch. Any other number starts the pipeline again there.

    load: (number of an item) -> the item.
    examples: the examples that `load` reads.
    size: the number of items in a batch.
    period: the number of batches after which the numbers begin again with 0, as in
        repeated evaluations.
    """

    def __init__(
        self,
        load: Callable[[int], Item],
        examples: Encoded,
        size: int,
        period: int = FOREVER,
    ):
        self._load = load
        self._examples = examples
        self._size = size
        self._period = period

        # The last batch with its number, and the number of the pipeline's next batch;
        # -1 where there is none.
        self._number = -1
        self._items: Item | None = None
        self._next = -1

        # Grain's iterator, if there is one. It is in a list so that `_end` can drop it
        # after this object is gone.
        self._running: list[Any] = []
        self._close: Callable[[], Any] = lambda: None
        # Bad examples that have been reported.
        self._skipped: set[int] = set()
        _OPEN.add(self)

    def close(self) -> None:
        """Ends the processes and threads that read; the next batch starts new ones."""
        self._close()
        self._next = -1

    def get(self, number: int) -> Item:
        """The batch of that number: arrays (size, ...), by the names of an item."""
        if self._items is None or number != self._number:
            self._items = self._read_patiently(number)
            self._number = number
        return self._items

    def _read_patiently(self, number: int) -> Item:
        """`_read`, repeated after each of `_PAUSES` if a later try may succeed."""
        for pause in _PAUSES:
            try:
                return self._read(number)
            except PassingError as error:
                print(f"bnas_jax: {error} (now again in {pause} s)", file=sys.stderr)
                time.sleep(pause)
        return self._read(number)

    def _read(self, number: int) -> Item:
        if number != self._next:
            self._restart(number)

        # After an error, start the pipeline again: it would skip this batch.
        self._next = -1
        try:
            items = next(self._running[0])
        except (RuntimeError, OSError) as error:
            raise self._stopped(error) from error

        # Copy the arrays. Grain frees shared memory together with the arrays in it, but
        # not that of arrays that still exist when the program ends.
        if self._examples.options.workers:
            items = {name: np.array(value) for name, value in items.items()}

        for example in map(int, items["bad"]):
            if example >= 0 and example not in self._skipped:
                self._report(example)
        self._next = (number + 1) % self._period
        return items

    def _restart(self, number: int) -> None:
        """Starts the pipeline again at a batch."""
        self._close()
        self._running = [self._start(number)]
        # End the workers and free their shared memory when this object is deleted, at
        # the latest when the program ends, before multiprocessing cleans up.
        self._close = weakref.finalize(self, _end, self._running)
        atexit.register(self._close)

    def _stopped(self, error: Exception) -> UserError:
        """The error to raise where Grain has raised `error`."""
        reason = str(error).partition(".")[0]
        # The kernel ends a process by SIGBUS if there is no room for the shared memory
        # that it writes to.
        if reason.endswith(f"exit code {-signal.SIGBUS}"):
            return UserError(
                f"reading {self._examples.name} stopped: shared memory (/dev/shm) "
                "is full; make it larger, as by `docker run --shm-size=8g`, or write "
                f"--config.dataset.workers=0, and {_AGAIN}"
            )
        return PassingError(
            f"reading {self._examples.name} stopped ({reason}); {_AGAIN}"
        )

    def _start(self, number: int) -> Any:
        """An iterator of batches from that number on."""
        import grain
        from absl import flags

        # Grain's workers read absl's global flags, which this package does not parse.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()

        items = grain.MapDataset.range(number * self._size, FOREVER)
        dataset = items.map(self._load).batch(self._size)

        # Each thread makes a batch; one more batch than threads is kept ready.
        workers = self._examples.options.workers
        threads = cores()
        if workers:
            threads = 1
        reading = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=threads + 1
        )
        batches = dataset.to_iter_dataset(reading)

        # With worker processes, each makes batches in one thread.
        if workers:
            options = grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=2
            )
            batches = batches.mp_prefetch(options, worker_init_fn=_follow_parent)
        return iter(batches)

    def _report(self, example: int) -> None:
        """Reads an example again in this process, where errors keep their types.

        Raises the error, unless it is a bad image and the options skip those: then the
        image is counted and named on stderr.
        """
        try:
            self._examples.example(example)
        except Unreadable as error:
            raise PassingError(f"{error}; {_AGAIN}") from error
        except BadImage as error:
            if not self._examples.options.skip_bad:
                raise
            self._skipped.add(example)
            count = len(self._skipped)
            print(f"{self._examples.name}: {count} left out: {error}", file=sys.stderr)
            return

        # It can be read now, so the image is not bad: the file system failed for a
        # moment.
        raise PassingError(
            f"{self._examples.name}: example {example} could not be read for a moment; "
            f"{_AGAIN}"
        )


# All streams of this program, for `close_all`: a program that ends without Python's
# cleanup calls it.
_OPEN: "weakref.WeakSet[ReadAhead]" = weakref.WeakSet()


def close_all() -> None:
    """Ends the threads and processes of all streams, and frees their shared memory."""
    for batches in list(_OPEN):
        batches.close()


def _end(running: list[Any]) -> None:
    """Ends an iterator of Grain's, and drops the last reference to it.

    If it were dropped when Python ends, Grain's own modules would be gone already.
    """
    running.pop().close()


def _follow_parent(worker: int, workers: int) -> None:
    """Begins a worker process that ignores signals and ends when its parent ends.

    A Ctrl-C reaches all processes of a terminal, and a run that stops on it may need
    one more batch before it saves.
    """
    # The parent decides when to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    # A thread waits for the end of the parent, and then ends this process at once.
    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
