"""One-line messages for errors that the machine causes, and robust output streams.

The machine may lack an accelerator, disk space, a file, memory, a library or a
terminal. `explain` turns the exceptions of Python, JAX and XLA for such cases into one
line for the command line.
"""

import os
import sys
import traceback
import warnings
from typing import Any, TextIO

from bnas_jax.core.errors import first_line

# The end of a message that does not know the cause.
_HINT = "--debug shows where"


def explain(error: BaseException) -> str | None:
    """One line that says what the machine lacks, and what to do.

    None for an error of another kind, such as a bug in this package.
    """
    reason = _first_line(error)

    # Files and disks.
    if isinstance(error, OSError):
        return _explain_os(error)

    # Memory. On any device, XLA's error begins with this word.
    if isinstance(error, MemoryError) or reason.startswith("RESOURCE_EXHAUSTED"):
        return (
            "out of memory; lower config.batch_size or raise config.microbatches "
            "(--debug shows what was asked for)"
        )

    # Libraries. If a module of this package is missing, that is a bug.
    if isinstance(error, ImportError):
        name = error.name or "bnas_jax"
        if not name.startswith("bnas_jax"):
            return (
                f"cannot import {name} ({reason}); install it, for instance by pip "
                "install -r requirements.txt"
            )

    # Devices. JAX raises plain RuntimeErrors and ValueErrors; the module that raises
    # them tells them apart.
    if _raised_in(error, "jax._src.xla_bridge"):
        return _explain_platform(error)
    if isinstance(error, ValueError) and _raised_in(error, "jax._src.config"):
        return (
            f"JAX does not take a variable of the environment ({reason}); unset it or "
            "write another value"
        )
    return None


def _explain_os(error: OSError) -> str:
    """`explain` for a file that cannot be used."""
    # An error in renaming a file has two names.
    files = (error.filename, error.filename2)
    names = [str(name) for name in files if name is not None]
    where = " and ".join(names) or "a file"
    reason = error.strerror or _first_line(error)
    return (
        f"cannot use {where} ({reason}); repair that or choose another place, the same "
        f"command continues ({_HINT})"
    )


def _explain_platform(error: BaseException) -> str:
    """`explain` for a platform that JAX cannot use."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    # Without JAX's own advice.
    reason = _first_line(error).partition(" (set JAX_PLATFORMS")[0]

    # JAX_PLATFORMS is not set: a driver or a device is missing.
    if not platforms:
        return (
            f"JAX finds no device ({reason}); write JAX_PLATFORMS=cpu to run on the CPU"
        )
    if reason:
        reason = f" ({reason})"
    return (
        f"JAX_PLATFORMS={platforms} is not available here{reason}; unset it, or write "
        "JAX_PLATFORMS=cpu"
    )


def _raised_in(error: BaseException, module: str) -> bool:
    """Whether an error was raised by code of a module."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__") == module


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, up to 300 characters."""
    # XLA's errors can have a whole program in the first line.
    return first_line(error)[:300]


class Stream:
    """stdout or stderr as a stream that may fail without ending the program.

    After a failed write, further text is dropped, and `lost` is the error. So a long
    run does not end if its terminal is closed, the program that reads its pipe ends, or
    the disk of its log is full. The work directory has the messages and the result,
    too.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Writes the text without buffering; returns its number of characters."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            self.lost = self.lost or error
            _drop(self._stream)
        return len(text)

    def flush(self) -> None:
        """Does nothing: no text waits to be written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_streams() -> None:
    """Opens those of stdin, stdout and stderr that are closed, on the null device.

    This comes before any other file is opened: such a file would get the descriptor 0,
    1 or 2, and messages would be written into it. stdout and stderr become `Stream`s,
    and Python's warnings are shown in one line.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        # `os.open` takes the lowest free descriptor, which is this one.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

        # Python sets a stream to None if it was closed when Python started.
        if getattr(sys, name) is None:
            mode = "w"
            if name == "stdin":
                mode = "r"
            setattr(sys, name, os.fdopen(number, mode))
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)

    warnings.formatwarning = _format_warning


def _format_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning in one line, without the source line that Python shows."""
    one_line = " ".join(str(message).split())
    return f"bnas_jax: warning: {one_line}\n"


def check_stdout() -> None:
    """Raises `OSError` if the result could not be written to stdout.

    A pipe that its reader has closed, as `head` does, is not an error.
    """
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        raise OSError(lost.errno, lost.strerror, "stdout")


def _drop(stream: TextIO) -> None:
    """Redirects a stream, with any text in its buffer, to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
