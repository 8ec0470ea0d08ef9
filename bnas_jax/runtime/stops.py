"""SIGTERM and Ctrl-C stop a run.

It stops between two steps, after a checkpoint, or while it waits for something.
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

# Seconds between two polls for a signal, while a run waits for something.
_POLL_SECONDS = 0.2
# More polls than any wait has: five hours of them.
_MAX_POLLS = 100_000


class Stopped(Exception):
    """The run ended by a signal, its state saved.

    number: of the signal.
    step: that of the saved state.
    exit_code: 128 + number.
    """

    def __init__(self, number: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}; the same "
            "command goes on from there"
        )
        self.exit_code = 128 + number


class Interrupted(Exception):
    """A signal to stop came while the run did something else than its steps.

    number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stops:
    """A context in which `wanted` returns the number of the first SIGTERM or SIGINT.

    A second Ctrl-C quits at once. Several processes must stop after the same step:
    there JAX's preemption service catches SIGTERM, and tells all processes of the first
    one. A Ctrl-C is handed on to it.
    """

    def __init__(self):
        # The first signal that this process has received.
        self._signal: int | None = None
        self._several = hosts.count() > 1
        # With several processes: how often the service has been asked, and whether it
        # has said to stop.
        self._polled = 0
        self._agreed = False
        # The handlers to put back: {number: handler}.
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
        """The signal to stop by, None where there was none.

        It must be called equally often on every process: JAX's service has all of them
        stop at the next poll of the process that has polled most.
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
        """Raises `Interrupted` where a stop is wanted. It polls as `wanted` does."""
        number = self.wanted()
        if number is not None:
            raise Interrupted(number)

    def during(self, work: Callable[[], T]) -> T:
        """The result of `work()`, which may take minutes in one piece.

        It is made in a thread, while this one polls for signals.

        Raises `Interrupted` for a signal. The thread then goes on under the name of
        `given up`, and the process is to end without it.
        """
        # The work, in a thread.
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        thread = threading.Thread(target=_fulfil, args=(done, work), daemon=True)
        thread.start()

        # The polls, until it is done.
        last = self._polled + _MAX_POLLS
        while not done.done():
            concurrent.futures.wait([done], timeout=_POLL_SECONDS)
            try:
                if self._polled < last:
                    self.check()
            except Interrupted:
                # By this name the command line knows that it must not wait for the
                # thread.
                thread.name = "given up"
                raise
        result = done.result()

        # By now each process has polled another number of times. All go on to the same
        # number, past any poll at which they may have agreed to stop, so that all of
        # them stop, or none does.
        while self._several and self._polled < last:
            self.check()
        return result

    def _receive(self, number, _frame) -> None:
        """The handler of signals."""
        # A Ctrl-C after another signal quits at once.
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        # JAX's service catches this SIGTERM, and tells the other processes.
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def _fulfil(promise: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    """Gives a future the result of `work()`, or its error."""
    try:
        promise.set_result(work())
    except BaseException as error:
        promise.set_exception(error)
