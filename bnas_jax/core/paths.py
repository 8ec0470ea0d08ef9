"""Paths that a user gives: a folder or file of this machine, or an address such as
gs://bucket/run.
"""

import pathlib
import re

from bnas_jax.core.errors import UserError

# One slash is what is left of two where a path was put together from parts.
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+):/+(.*)")
# A checkpoint is written beside its place and renamed; gcsfuse renames folders of fewer
# entries than this, by default none.
MOUNT = "gcsfuse --implicit-dirs --rename-dir-limit=200000"


def is_address(path) -> bool:
    """Whether `path` is an address, which only some libraries can open."""
    return _ADDRESS.fullmatch(str(path)) is not None


def local(path, option: str) -> pathlib.Path:
    """The path of this machine that a user wrote as `option`; a leading ~ is the home
    directory.

    Raises `UserError` for an address, with what to write instead, and where there is no
    such home directory.
    """
    if is_address(path):
        raise UserError(
            f"{option}={path} is an address, not a path of this machine; "
            f"{mounted(path, option)}"
        )
    # `~name` of a user that does not exist.
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{option}={path}: there is no such home directory; write the whole path"
        ) from None


def mounted(address, option: str) -> str:
    """The advice how to write the same place once it is mounted as a folder; for
    Google's buckets as launch/tpu_vm.sh does.
    """
    scheme, rest = "", str(address)
    found = _ADDRESS.fullmatch(rest)
    if found:
        scheme, rest = found.groups()
    if scheme == "file":
        return f"write {option}=/{rest}"

    # The bucket becomes the folder `bucket`, whatever its name.
    bucket, _, inside = rest.partition("/")
    place = f"bucket/{inside}".rstrip("/")
    if scheme == "gs":
        name = bucket or "BUCKET"
        return (
            f"mount the bucket by `mkdir -p bucket && {MOUNT} {name} bucket`, as"
            f" `launch/tpu_vm.sh --bucket={name}` does, and write {option}={place}"
        )
    return f"mount it as a folder, for instance `bucket`, and write {option}={place}"
