"""Paths that a user gives: a folder or file of this machine, or an address such as gs://bucket/run."""

import pathlib
import re

from bnas_jax.core.errors import UserError

# One slash is what is left of two where a path was put together from parts.
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+):/+(.*)")
# A checkpoint is written beside its place and renamed; gcsfuse renames folders of fewer entries than this, by default none.
MOUNT = "gcsfuse --implicit-dirs --rename-dir-limit=200000"


def is_address(path) -> bool:
    """Whether `path` is an address, which only some libraries can open."""
    return _ADDRESS.fullmatch(str(path)) is not None


def local(path, option: str) -> pathlib.Path:
    """The path of this machine that was given as `option`; a leading ~ is the home directory.

    Raises `UserError` for an address, with what to write instead.
    """
    if is_address(path):
        raise UserError(
            f"{option}={path} is an address, not a path of this machine; {mounted(path, option)}"
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{option}={path}: there is no such home directory; write the whole path"
        ) from None


def mounted(address, option: str) -> str:
    """How the same place is given once it is mounted as a folder; for buckets of Google's, as launch/tpu_vm.sh does it."""
    found = _ADDRESS.fullmatch(str(address))
    scheme, rest = found.groups() if found else ("", str(address))
    if scheme == "file":
        return f"write {option}=/{rest}"
    bucket, _, inside = rest.partition("/")
    place = f"bucket/{inside}".rstrip("/")
    if scheme == "gs":
        return (
            f"mount the bucket by `mkdir -p bucket && {MOUNT} {bucket or 'BUCKET'} bucket`, as"
            f" `launch/tpu_vm.sh --bucket={bucket or 'BUCKET'}` does, and write {option}={place}"
        )
    return f"mount it as a folder, for instance `bucket`, and write {option}={place}"
