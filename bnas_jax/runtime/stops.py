"""Stops a run at SIGTERM or Ctrl-C.

A run stops between two steps, after it has saved a checkpoint, or while it waits for
other work, such as reading a data set.
"""

import concurrent.futures
import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

from jax.experimental import multihost_utils

from bnas_jax.runtime import hosts

T = TypeVar("T")

# Seconds between two polls for a signal while a run waits.
_POLL_SECONDS = 0.2
# More polls than any wait needs: five hours of them.
_MAX_POLLS = 100_000


class Stopped(Exception):
    """A signal stopped the run, after it saved its state.

    number: the number of the signal.
    step: the step of the saved state.
    exit_code: 128 + number.
    """

    def __init__(self, number: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}; the same "
            "command continues from there"
        )
        self.exit_code = 128 + number


class Interrupted(Exception):
    """A signal stopped the run while it did other work than steps.

    number: the number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stops:
    """A context in which `wanted` returns the number of the first SIGTERM or SIGINT.

    A Ctrl-C after that quits at once. Several processes must stop after the same step:
    JAX's preemption service catches SIGTERM on one process and informs all. A Ctrl-C is
    passed to this service as a SIGTERM.
    """

    def __init__(self):
        # The first signal that this process has received.
        self._signal: int | None = None
        self._several = hosts.count() > 1
        # For several processes: the number of polls, and whether the service has
        # answered that all should stop.
        self._polled = 0
        self._agreed = False
        # The handlers to restore: {number: handler}.
        self._previous: dict = {}

    def __enter__(self) -> "Stops":
        numbers = [signal.SIGINT]
        if not self._several:
            numbers.append(signal.SIGTERM)
        for number in numbers:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def wanted(self) -> int | None:
        """The number of the signal to stop by, or None.

        All processes must call it equally often: JAX's service makes them stop at the
        same number of polls, one more than the process with the most polls has.
        """
        if not self._several:
            return self._signal
        if not self._agreed:
            self._polled += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._polled)
        if not self._agreed:
            return None
        return self._signal or signal.SIGTERM

    def check(self) -> None:
        """Polls, as `wanted` does, and raises `Interrupted` for a signal."""
        number = self.wanted()
        if number is not None:
            raise Interrupted(number)

    def during(self, work: Callable[[], T]) -> T:
        """The result of `work()`, which may take minutes without a poll.

        It runs in a thread, while this one polls for signals.

        Raises `Interrupted` for a signal. The thread still runs then, under the name
        `given up`, and the process should end without waiting for it.
        """
        # Start the work in a thread.
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        thread = threading.Thread(target=_fulfil, args=(done, work), daemon=True)
        thread.start()

        # Poll until the work is done.
        last = self._polled + _MAX_POLLS
        while not done.done():
            concurrent.futures.wait([done], timeout=_POLL_SECONDS)
            try:
                if self._polled < last:
                    self.check()
            except Interrupted:
                # The name tells the command line not to wait for this thread.
                thread.name = "given up"
                raise
        result = done.result()

        # Each process has polled a different number of times. All continue to the same
        # number, past any poll at which they may have agreed to stop, so that either
        # all of them stop or none.
        while self._several and self._polled < last:
            self.check()
        return result

    def _receive(self, number, _frame) -> None:
        """Handles a signal."""
        # A Ctrl-C after another signal quits at once.
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        # JAX's service catches this SIGTERM, and informs the other processes.
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def _fulfil(promise: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    """Sets the result of a future to that of `work()`, or to its error."""
    try:
        promise.set_result(work())
    except BaseException as error:
        promise.set_exception(error)
