"""What a machine lacks, in one line each: an accelerator, room on a disk, a file, memory, a library, somebody who reads.

Exceptions that such things raise are translated here, once, for the command line; see `explain`.
"""

import os
import sys
import traceback
import warnings
from typing import Any, TextIO

_HINT = "--debug shows where"


def explain(error: BaseException) -> str | None:
    """One line about what the environment lacks, and what to do; None for an error of another kind, such as a mistake here."""
    if isinstance(error, OSError):
        return _explain_os(error)
    if isinstance(error, MemoryError) or _first_line(error).startswith("RESOURCE_EXHAUSTED"):
        return "out of memory; lower config.batch_size or raise config.microbatches (--debug shows what was asked for)"
    if isinstance(error, ImportError) and not (error.name or "bnas_jax").startswith("bnas_jax"):
        reason = _first_line(error)
        return f"cannot import {error.name} ({reason}); install it, for instance by pip install -r requirements.txt"
    if _raised_in(error, "jax._src.xla_bridge"):
        return _explain_platform(error)
    if isinstance(error, ValueError) and _raised_in(error, "jax._src.config"):
        return f"JAX does not take a variable of the environment ({_first_line(error)}); unset it or write another value"
    return None


def _explain_os(error: OSError) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or _first_line(error)
    where = " and ".join(names) or "a file"
    return f"cannot use {where} ({reason}); mend that or choose another place, the same command goes on ({_HINT})"


def _explain_platform(error: BaseException) -> str:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    reason = _first_line(error).partition(" (set JAX_PLATFORMS")[0]
    if not platforms:
        return f"JAX finds no device ({reason}); write JAX_PLATFORMS=cpu to run on the CPU"
    if reason:
        reason = f" ({reason})"
    return f"JAX_PLATFORMS={platforms} is not available here{reason}; unset it, or write JAX_PLATFORMS=cpu"


def _raised_in(error: BaseException, module: str) -> bool:
    """Whether the code that raised is part of a module."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__") == module


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:300]


class Stream:
    """stdout or stderr: once it cannot be written to, what is said there is dropped, and `lost` is the reason.

    A run of hours does not end because its terminal, the program behind its pipe or room for its log is gone: the work
    directory has the messages and the result, too.
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
    """Sees to it that stdin, stdout and stderr are there, before another file is opened.

    Of those that were closed the system would give the numbers to the next files, and messages would go into those.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
    warnings.formatwarning = lambda message, *_, **__: (
        f"bnas_jax: warning: {' '.join(str(message).split())}\n"
    )


def check_stdout() -> None:
    """`OSError` where a result could not be written. A reader who left had what it wanted."""
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        raise OSError(lost.errno, lost.strerror, "stdout")


def _drop(stream: TextIO) -> None:
    """Sends what a stream still holds, and all to come, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
