"""SIGTERM and Ctrl-C become a wish to stop, which the loop grants between two steps, after a checkpoint."""

import os
import signal

from jax.experimental import multihost_utils

from bnas_jax.training import hosts


class Stopped(Exception):
    """The run ended by a signal, its state saved. exit_code: 128 + the signal's number."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; the same command goes on from there")
        self.exit_code = 128 + number


class Stops:
    """While it is open, `wanted` tells the number of the first SIGTERM or SIGINT; a second Ctrl-C quits at once.

    Several processes must stop after the same step. JAX's preemption service, which catches SIGTERM there, tells all of them
    of the first one's; a Ctrl-C is handed on to it.
    """

    def __init__(self):
        self._signal: int | None = None
        self._several = hosts.count() > 1
        self._asked = 0
        self._previous: dict = {}

    def __enter__(self) -> "Stops":
        for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def wanted(self) -> int | None:
        """The signal to stop by, if there was one. Every process asks this equally often, once after each call of a step."""
        if not self._several:
            return self._signal
        self._asked += 1
        if multihost_utils.reached_preemption_sync_point(self._asked):
            return self._signal or signal.SIGTERM
        return None

    def _receive(self, number, _frame) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
