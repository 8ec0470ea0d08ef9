"""Files that are written whole or not at all, and records that a run can do without."""

import contextlib
import json
import os
import pathlib
import warnings

from bnas_jax.core.errors import UserError


def write_whole(path: pathlib.Path, value) -> None:
    """Writes a file of JSON whole or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def whole(path: pathlib.Path):
    """Gives the file to write in place of `path`, which it becomes at the end; nothing of it stays where that fails.

    `UserError` where the disk is full or does not take it.
    """
    part = path.with_name("part." + path.name)
    try:
        with room(path):
            yield part
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def room(path: pathlib.Path):
    """A file that cannot be written is a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write {path} ({reason}); make room there or mend it, the same command goes on"
        ) from error


def append(path: pathlib.Path, line: str) -> None:
    """Adds a line, or nothing."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = line.encode()
        try:
            while data:  # a disk that becomes full takes a part
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def convenience(what: str):
    """A run goes on without what it does not need; a warning says so."""
    try:
        yield
    except OSError as error:
        warnings.warn(
            f"{what} cannot be written ({error.strerror or error}); the run goes on", stacklevel=3
        )
