"""SIGTERM and Ctrl-C become a wish to stop, which the loop grants between two steps, after a checkpoint."""

import signal


class Stopped(Exception):
    """The run ended by a signal, its state saved. exit_code: 128 + the signal's number."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; the same command goes on from there")
        self.exit_code = 128 + number


class Stops:
    """While it is open, `signal` holds the number of the first SIGTERM or SIGINT; a second Ctrl-C quits at once."""

    def __init__(self):
        self.signal: int | None = None
        self._previous: dict = {}

    def __enter__(self) -> "Stops":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, _frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
