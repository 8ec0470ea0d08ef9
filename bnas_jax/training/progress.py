"""The output of a run on stderr: a progress bar, and a line for each record."""

import sys

from bnas_jax.runtime import hosts


def line_of(record: dict) -> str:
    """A record in one line of text, without nested values such as the genotype."""
    shown = []
    for name, value in record.items():
        if isinstance(value, dict):
            continue
        # Four digits; whole numbers as they are.
        if isinstance(value, float):
            value = f"{value:.4g}"
        shown.append(f"{name} {value}")
    return "  ".join(shown)


class ProgressBar:
    """A bar on a terminal, plain lines elsewhere; both on stderr."""

    def __init__(self, step: int, last: int):
        # Imported here, so that commands without a bar start faster.
        from tqdm import tqdm

        hidden = not (hosts.is_first() and sys.stderr.isatty())
        self._bar = tqdm(
            total=last, initial=step, unit="step", disable=hidden, file=sys.stderr
        )

    def show(self, step: int) -> None:
        """Moves the bar to a step."""
        # A hidden bar does not count its position.
        if not self._bar.disable:
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Writes a line above the bar, only on the first process."""
        if hosts.is_first():
            self._bar.write(text, file=sys.stderr)
