"""Errors of the machine, in one line each.

The machine may lack an accelerator, room on a disk, a file, memory, a library or a
terminal. The exceptions that follow are translated here, once, for the command line;
see `explain`.
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
    """One line about what the machine lacks, and what to do.

    None for an error of another kind, such as a mistake in this package.
    """
    reason = _first_line(error)

    # Files and disks.
    if isinstance(error, OSError):
        return _explain_os(error)

    # Memory. XLA's error, on any device, begins with this word.
    if isinstance(error, MemoryError) or reason.startswith("RESOURCE_EXHAUSTED"):
        return (
            "out of memory; lower config.batch_size or raise config.microbatches "
            "(--debug shows what was asked for)"
        )

    # Libraries. A missing module of this package is a mistake in it.
    if isinstance(error, ImportError):
        name = error.name or "bnas_jax"
        if not name.startswith("bnas_jax"):
            return (
                f"cannot import {name} ({reason}); install it, for instance by pip "
                "install -r requirements.txt"
            )

    # Devices. JAX raises plain RuntimeErrors and ValueErrors, which are told apart by
    # the module that raises them.
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
    # Renaming has two files.
    files = (error.filename, error.filename2)
    names = [str(name) for name in files if name is not None]
    where = " and ".join(names) or "a file"
    reason = error.strerror or _first_line(error)
    return (
        f"cannot use {where} ({reason}); mend that or choose another place, the same "
        f"command goes on ({_HINT})"
    )


def _explain_platform(error: BaseException) -> str:
    """`explain` for JAX without the devices that it should use."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    # JAX's own advice is cut off.
    reason = _first_line(error).partition(" (set JAX_PLATFORMS")[0]

    # No platform was set: there is no driver, or no device.
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
    # The first line of XLA's errors can be as long as a program.
    return first_line(error)[:300]


class Stream:
    """stdout or stderr, which may be lost without ending the program.

    Once it cannot be written to, further text is dropped, and `lost` is the reason. A
    run of hours does not end because its terminal, the program behind its pipe or room
    for its log is gone: the work directory has the messages and the result, too.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Writes the text at once."""
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
    """Opens stdin, stdout and stderr where they are closed.

    That is done before another file is opened: the system would give their numbers to
    the next files, and messages would go into those.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        # `os.open` takes the lowest number that is free, which is this one.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

        # Python sets a stream to None that was closed when it started.
        if getattr(sys, name) is None:
            mode = "w"
            if name == "stdin":
                mode = "r"
            setattr(sys, name, os.fdopen(number, mode))
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)

    warnings.formatwarning = _format_warning


def _format_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning in one line, as errors are; Python's has the source, too."""
    one_line = " ".join(str(message).split())
    return f"bnas_jax: warning: {one_line}\n"


def check_stdout() -> None:
    """Raises `OSError` where a result could not be written to stdout.

    It is no error where the program behind a pipe has closed it, as `head` does.
    """
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        raise OSError(lost.errno, lost.strerror, "stdout")


def _drop(stream: TextIO) -> None:
    """Sends the text that a stream has not written yet, and all to come, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
