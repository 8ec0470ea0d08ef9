"""Checksums of a checkpoint's files, which show that a disk has changed them.

Orbax stores arrays without a checksum: after most flips of a bit it restores other
numbers, without an error.
"""

import json
import pathlib
from collections.abc import Iterable

import google_crc32c

from bnas_jax.workdir.files import write_whole

# The file with the checksums, in the folder of the checkpoint.
NAME = "checksums.json"
_CHUNK = 1 << 20  # bytes


def write(checkpoint: pathlib.Path, items: Iterable[str]) -> None:
    """Writes the checksums of a finished checkpoint into its folder.

    items: the names of its items, each a folder in it.
    """
    found = {}
    for item in items:
        for path in sorted((checkpoint / item).rglob("*")):
            if path.is_file():
                found[path.relative_to(checkpoint).as_posix()] = _of_file(path)
    write_whole(checkpoint / NAME, found)


def damage(checkpoint: pathlib.Path, items: Iterable[str]) -> str:
    """The first file of the items that has changed, in words; "" if there is none.

    A checkpoint without checksums is not checked: an earlier version wrote it, or the
    process was killed before it could write them.
    """
    try:
        noted = json.loads((checkpoint / NAME).read_text())
        files = [name for name in noted if name.split("/")[0] in items]
        for name in files:
            if _of_file(checkpoint / name) != noted[name]:
                return f"{name} is not as it was saved"
    except FileNotFoundError as error:
        missing = pathlib.Path(error.filename)
        if missing.name == NAME:
            return ""
        return f"{missing.relative_to(checkpoint)} is missing"
    except OSError as error:
        return error.strerror or "its files cannot be read"
    # What is no JSON, or has other contents.
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{NAME} cannot be read"
    return ""


def _of_file(path: pathlib.Path) -> str:
    """The CRC32C of a file's contents, in hexadecimal digits."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum.update(chunk)
    return checksum.hexdigest().decode()
