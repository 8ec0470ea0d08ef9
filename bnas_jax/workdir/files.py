"""Files that are written whole or not at all, and files that a run can do without."""

import contextlib
import json
import math
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON, with null for numbers that are not finite.

    JSON has no such numbers.

    >>> json_text({"loss": float("nan"), "top1": (97.8, float("inf")), "steps": 3})
    '{"loss": null, "top1": [97.8, null], "steps": 3}'
    """
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    """The value with None for numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def write_whole(path: pathlib.Path, value: Any) -> None:
    """Writes a file of JSON, see `json_text`, whole or not at all."""
    with whole(path) as part:
        part.write_text(json_text(value, indent=1) + "\n")


def file_to_write(out: str, endings: Sequence[str] = ()) -> pathlib.Path:
    """The file of the option `--out`.

    endings: it must have one of them, in upper or lower case; empty for any ending.

    Raises `UserError` where no file can be written there.
    """
    path = paths.local(out, "--out")
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"--out={out} must end in {' or '.join(endings)}")
    # A link stays: the file that it leads to is written.
    if path.is_symlink():
        path = path.resolve()

    # Folders are not made, as a mistyped path would leave some behind.
    if not path.parent.is_dir():
        raise UserError(
            f"--out={out}: there is no folder {path.parent}; make it, or choose "
            "another --out"
        )
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; write the name of a file")
    return path


@contextlib.contextmanager
def whole(path: pathlib.Path):
    """A context that gives a file to write in place of `path`.

    At its end the file becomes `path`. After an error `path` stays as it was.

    Raises `UserError` where the disk is full or refuses the file.
    """
    # It is in the same folder, as a file cannot be renamed into another file system. It
    # has the number of this process, as another one may write `path`, too.
    part = path.with_name(f"part.{os.getpid()}.{path.name}")
    try:
        with room(path):
            yield part
            # It is on the disk before it has its name. Otherwise it might be there and
            # empty after a loss of power.
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            # It gets its name in one piece: a reader, or a crash, finds the old file or
            # the new one.
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def room(path: pathlib.Path):
    """A context that turns an error of writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write {path} ({reason}); make room there or mend it, the same "
            "command goes on"
        ) from error


def append(path: pathlib.Path, line: str) -> None:
    """Adds a line to a file, or nothing where there is no room for all of it."""
    # Unbuffered, so that a failure is noticed here and not at the end.
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = line.encode()
        try:
            # A disk that becomes full takes a part.
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def convenience(what: str):
    """A context for writing what a run can do without.

    An error is a warning, and the run goes on.

    what: what is written, for the warning.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(
            f"{what} cannot be written ({reason}); the run goes on", stacklevel=3
        )
