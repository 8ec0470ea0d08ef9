"""Errors of the machine, in one line each: no accelerator, no room on a disk, no file,
memory, library or terminal.

Exceptions that such things raise are translated here, once, for the command line; see
`explain`.
"""

import os
import sys
import traceback
import warnings
from typing import Any, TextIO

from bnas_jax.core.errors import first_line

# The end of a message whose cause is not known here.
_HINT = "--debug shows where"


def explain(error: BaseException) -> str | None:
    """One line about what the machine lacks, and what to do; None for an error of
    another kind, such as a mistake here.
    """
    if isinstance(error, OSError):
        return _explain_os(error)
    # XLA's error for memory, on any device, begins so.
    if isinstance(error, MemoryError) or _first_line(error).startswith(
        "RESOURCE_EXHAUSTED"
    ):
        return "out of memory; lower config.batch_size or raise config.microbatches (--debug shows what was asked for)"
    # A module of ours that is missing is a mistake here.
    if isinstance(error, ImportError) and not (error.name or "bnas_jax").startswith(
        "bnas_jax"
    ):
        reason = _first_line(error)
        return f"cannot import {error.name} ({reason}); install it, for instance by pip install -r requirements.txt"
    # JAX raises plain RuntimeErrors and ValueErrors; they are told apart by the module.
    if _raised_in(error, "jax._src.xla_bridge"):
        return _explain_platform(error)
    if isinstance(error, ValueError) and _raised_in(error, "jax._src.config"):
        return f"JAX does not take a variable of the environment ({_first_line(error)}); unset it or write another value"
    return None


def _explain_os(error: OSError) -> str:
    # Renaming has two files.
    names = [
        str(name) for name in (error.filename, error.filename2) if name is not None
    ]
    reason = error.strerror or _first_line(error)
    where = " and ".join(names) or "a file"
    return f"cannot use {where} ({reason}); mend that or choose another place, the same command goes on ({_HINT})"


def _explain_platform(error: BaseException) -> str:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    reason = _first_line(error).partition(" (set JAX_PLATFORMS")[0]
    # Nothing was set: no driver, or no device.
    if not platforms:
        return (
            f"JAX finds no device ({reason}); write JAX_PLATFORMS=cpu to run on the CPU"
        )
    if reason:
        reason = f" ({reason})"
    return f"JAX_PLATFORMS={platforms} is not available here{reason}; unset it, or write JAX_PLATFORMS=cpu"


def _raised_in(error: BaseException, module: str) -> bool:
    """Whether the code that raised is part of a module."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__") == module


def _first_line(error: BaseException) -> str:
    # XLA's can be as long as a program.
    return first_line(error)[:300]


class Stream:
    """stdout or stderr: once it cannot be written to, further text is dropped, and
    `lost` is the reason.

    A run of hours does not end because its terminal, the program behind its pipe or
    room for its log is gone: the work directory has the messages and the result, too.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Writes at once."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            self.lost = self.lost or error
            _drop(self._stream)
        return len(text)

    def flush(self) -> None:
        """Nothing waits here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_streams() -> None:
    """Opens stdin, stdout and stderr where they are closed, before another file is
    opened.

    Otherwise the system would give their numbers to the next files, and messages would
    go into those.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        # `open` takes the lowest number that is free, which is this one.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        # Python has set it to None.
        if getattr(sys, name) is None:
            mode = "w"
            if name == "stdin":
                mode = "r"
            setattr(sys, name, os.fdopen(number, mode))
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)

    # One line, as errors are; Python's has the file and the source, too.
    warnings.formatwarning = lambda message, *_, **__: (
        f"bnas_jax: warning: {' '.join(str(message).split())}\n"
    )


def check_stdout() -> None:
    """`OSError` where a result could not be written; not where the program behind a
    pipe has closed it, as `head` does.
    """
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        raise OSError(lost.errno, lost.strerror, "stdout")


def _drop(stream: TextIO) -> None:
    """Sends the text that a stream has not written yet, and all to come, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
