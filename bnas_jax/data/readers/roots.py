"""The folder of a data set: on this machine, or at an address.

Addresses are those that `etils.epath` can open.
"""

import os
import pathlib
from typing import Any

from etils import epath

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError


def place(path: str) -> Any:
    """The path of a file or folder, as `root` gives that of a data set."""
    if paths.is_address(path):
        return epath.Path(path)
    return pathlib.Path(path)


def size(path: str) -> int:
    """The size of a file in bytes."""
    if paths.is_address(path):
        return epath.Path(path).stat().length
    return os.path.getsize(path)


def root(path: Any, option: str) -> Any:
    """The path of the folder that was given as `option`.

    It is a `pathlib.Path`, or at an address an `epath.Path`, which has the same
    methods. That one takes longer to make: 110,000 files were found in 1.4 s with it,
    in 0.4 s without.

    Raises `UserError` for an address that cannot be opened here.
    """
    if not paths.is_address(path):
        return paths.local(path, option)
    try:
        found = epath.Path(path)
        found.exists()
    # Each kind of address, such as gs://, has another library behind it, with other
    # exceptions.
    except Exception as error:
        one_line = " ".join(str(error).split())
        why = one_line[:200] or type(error).__name__
        raise UserError(
            f"{option}={path} cannot be opened ({why}); {paths.mounted(path, option)}"
        ) from None
    return found
