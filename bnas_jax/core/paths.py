"""Paths that a user gives.

A path is a folder or file of this machine, or an address such as gs://bucket/run.
"""

import pathlib
import re

from bnas_jax.core.errors import UserError

# pathlib leaves one slash of two when it puts a path together from parts.
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+):/+(.*)")
# A checkpoint is written to a folder beside its place, which is then renamed. gcsfuse
# renames only folders with fewer entries than this limit, by default none.
MOUNT = "gcsfuse --implicit-dirs --rename-dir-limit=200000"


def is_address(path) -> bool:
    """Whether `path` is an address, which only some libraries can open."""
    return _ADDRESS.fullmatch(str(path)) is not None


def local(path, option: str) -> pathlib.Path:
    """The path of this machine that a user wrote as `option`.

    A leading ~ is the home directory. Raises `UserError` for an address, with what to
    write instead, and for a home directory that does not exist.
    """
    if is_address(path):
        raise UserError(
            f"{option}={path} is an address, not a path of this machine; "
            f"{mounted(path, option)}"
        )
    # It fails for `~name` if there is no such user.
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{option}={path}: there is no such home directory; write the whole path"
        ) from None


def mounted(address, option: str) -> str:
    """The advice how to mount an address as a folder and what to write then.

    Google's buckets are mounted as launch/tpu_vm.sh does it.
    """
    scheme, rest = "", str(address)
    found = _ADDRESS.fullmatch(rest)
    if found:
        scheme, rest = found.groups()
    if scheme == "file":
        return f"write {option}=/{rest}"

    # The bucket is mounted as the folder `bucket`, whatever its name is.
    bucket, _, inside = rest.partition("/")
    place = f"bucket/{inside}".rstrip("/")
    if scheme == "gs":
        name = bucket or "BUCKET"
        return (
            f"mount the bucket by `mkdir -p bucket && {MOUNT} {name} bucket`, as "
            f"`launch/tpu_vm.sh --bucket={name}` does, and write {option}={place}"
        )
    return f"mount it as a folder, for instance `bucket`, and write {option}={place}"
