"""SIGTERM and Ctrl-C become a wish to stop, which the loop grants between two steps, after a checkpoint, or while it waits."""

import concurrent.futures
import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

from jax.experimental import multihost_utils

from bnas_jax.runtime import hosts

T = TypeVar("T")

# Seconds between two looks at whether a signal has come, where something is waited for.
_LOOK_EVERY = 0.2
# More looks than any wait has: five hours of them.
_LOOKS = 100_000


class Stopped(Exception):
    """The run ended by a signal, its state saved. exit_code: 128 + the signal's number."""

    def __init__(self, number: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}; the same command goes on from there"
        )
        self.exit_code = 128 + number


class Interrupted(Exception):
    """A signal to stop by came while something else than the steps was done."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stops:
    """While it is open, `wanted` tells the number of the first SIGTERM or SIGINT; a second Ctrl-C quits at once.

    Several processes must stop after the same step. JAX's preemption service, which catches SIGTERM there, tells all of them
    of the first one's; a Ctrl-C is handed on to it.
    """

    def __init__(self):
        self._signal: int | None = None
        self._several = hosts.count() > 1
        self._asked = 0
        self._agreed = False
        self._previous: dict = {}

    def __enter__(self) -> "Stops":
        for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def wanted(self) -> int | None:
        """The signal to stop by, if there was one.

        Every process asks this equally often: the service has all of them stop at the question that comes next for the one
        that is furthest.
        """
        if not self._several:
            return self._signal
        if not self._agreed:
            self._asked += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._asked)
        return (self._signal or signal.SIGTERM) if self._agreed else None

    def check(self) -> None:
        """Raises `Interrupted` where a stop is wanted; asks as `wanted` does."""
        number = self.wanted()
        if number is not None:
            raise Interrupted(number)

    def during(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may take minutes in one piece, done in a thread.

        Raises `Interrupted` where a stop is wanted meanwhile. The thread then goes on under the name of `given up`, and the
        process is to end without it.
        """
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        thread = threading.Thread(target=_fulfil, args=(done, work), daemon=True)
        thread.start()
        last = self._asked + _LOOKS
        while not done.done():
            concurrent.futures.wait([done], _LOOK_EVERY)
            try:
                if self._asked < last:
                    self.check()
            except Interrupted:
                thread.name = "given up"
                raise
        result = done.result()
        # Some processes look more often than others. Each asks all the questions that they may have agreed to stop at, so
        # that all of them go on, or none does, and all have asked equally often.
        while self._several and self._asked < last:
            self.check()
        return result

    def _receive(self, number, _frame) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def _fulfil(promise: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    try:
        promise.set_result(work())
    except BaseException as error:
        promise.set_exception(error)
