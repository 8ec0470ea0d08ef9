"""Paths of data sets: on this machine, or at an address that `etils.epath` can open."""

import os
import pathlib
from typing import Any

from etils import epath

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError


def place(path: str) -> Any:
    """The path of a file or folder, of the type that `root` returns."""
    if paths.is_address(path):
        return epath.Path(path)
    return pathlib.Path(path)


def size(path: str) -> int:
    """The size of a file in bytes."""
    if paths.is_address(path):
        return epath.Path(path).stat().length
    return os.path.getsize(path)


def root(path: Any, option: str) -> Any:
    """The path of a data set's folder.

    It is a `pathlib.Path`, or for an address an `epath.Path`, which has the same
    methods but is slower: listing 110,000 files took 1.4 s instead of 0.4 s.

    Raises `UserError` for an address that cannot be opened here.

    option: the option or setting that gave the path, for messages.
    """
    if not paths.is_address(path):
        return paths.local(path, option)
    try:
        found = epath.Path(path)
        found.exists()
    # Each kind of address, such as gs://, is opened by another library, with other
    # exceptions.
    except Exception as error:
        one_line = " ".join(str(error).split())
        why = one_line[:200] or type(error).__name__
        raise UserError(
            f"{option}={path} cannot be opened ({why}); {paths.mounted(path, option)}"
        ) from None
    return found
