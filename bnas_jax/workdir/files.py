"""Writes files atomically, and files that a run does not need."""

import contextlib
import fcntl
import glob
import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON, with null for NaN and infinity, which JSON does not have.

    >>> json_text({"loss": float("nan"), "top1": (97.8, float("inf")), "steps": 3})
    '{"loss": null, "top1": [97.8, null], "steps": 3}'
    """
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    """The value, with None for NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def write_whole(path: pathlib.Path, value: Any) -> None:
    """Writes a value as a JSON file, atomically (see `json_text` and `whole`)."""
    with whole(path) as part:
        part.write_text(json_text(value, indent=1) + "\n")


def followed(path: pathlib.Path) -> pathlib.Path:
    """The absolute path that the links in a path lead to.

    A link that leads to itself is left as it is.
    """
    # `Path.resolve` raises an error for such a link.
    return pathlib.Path(os.path.realpath(path))


def file_to_write(out: str, endings: Sequence[str] = ()) -> pathlib.Path:
    """The path of the option `--out`.

    endings: the possible suffixes, in lower case; () allows any.

    Raises `UserError` if no file can be written there.
    """
    path = paths.local(out, "--out")
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"--out={out} must end in {' or '.join(endings)}")
    # A link is kept, and its target is written.
    if path.is_symlink():
        path = followed(path)

    # Folders are not created, because a misspelled path would create some, too.
    if not path.parent.is_dir():
        raise UserError(
            f"--out={out}: there is no folder {path.parent}; make it, or choose "
            "another --out"
        )
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; write the name of a file")
    # Without them, a run cannot be read any more.
    if path.name in ("config.json", "run.json") and path.exists():
        raise UserError(f"--out={out} is a file of a run; write another name")
    return path


@contextlib.contextmanager
def whole(path: pathlib.Path):
    """A context that writes `path` atomically; its value is the file to write.

    At the end of the context, this file is renamed to `path`. After an error, `path` is
    unchanged.

    Raises `UserError` if the file cannot be written, for instance on a full disk.
    """
    # The file is in the same folder, because renaming does not work between file
    # systems. Its name has the id of this process, because another process may also
    # write `path`. The dot keeps it apart from files that users name.
    part = path.with_name(f".part.{os.getpid()}.{path.name}")
    try:
        with room(path), _locked(part):
            _remove_abandoned(path)
            yield part
            # The contents must be on the disk before the file is renamed. Otherwise
            # `path` might be empty after a power failure.
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            # Renaming is atomic: `path` is either the old or the new file.
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: pathlib.Path):
    """A context in which a file is locked; it is created if it does not exist.

    The system ends the lock of a killed process. On a file system without locks, the
    file is not locked.
    """
    with part.open("ab") as file:
        # Another process may hold the lock for a moment, in `_remove_abandoned`.
        # Without waiting for it, that might remove the file after it was written.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned(path: pathlib.Path) -> None:
    """Removes what killed processes have left of writing `path` by `whole`.

    Files that a living process has locked stay, and so do all on a file system without
    locks.
    """
    for part in path.parent.glob(f".part.*.{glob.escape(path.name)}"):
        with contextlib.suppress(OSError), part.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def remove_parts(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Removes what killed processes have left of writing files of a folder by `whole`.

    names: the names of the files. No other process may be writing them.
    """
    for name in names:
        # An earlier state of 0.3.0 wrote them without the dot.
        for pattern in (f".part.*.{name}", f"part.*.{name}"):
            for part in folder.glob(pattern):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def room(path: pathlib.Path):
    """A context that turns an error in writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write {path} ({reason}); make room there or repair it, the same "
            "command continues"
        ) from error


def append(path: pathlib.Path, line: str) -> None:
    """Appends a line to a file; if the disk is full, the file is unchanged.

    Raises `OSError` if it fails.
    """
    # Unbuffered, so that a write fails here and not when the file is closed.
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = line.encode()
        try:
            # On a disk that becomes full, only a part of the line is written.
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def convenience(what: str):
    """A context for writing a file that the run does not need.

    An error becomes a warning, and the run continues.

    what: the name of the file, for the warning.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(
            f"{what} cannot be written ({reason}); the run continues", stacklevel=3
        )
