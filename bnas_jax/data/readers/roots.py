"""The folder of a data set: on this machine, or at an address.

Addresses are those that `etils.epath` can open.
"""

from typing import Any

from etils import epath

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError


def root(path: Any, option: str) -> Any:
    """The `epath.Path` of the folder that was given as `option`.

    Raises `UserError` for an address that cannot be opened here.
    """
    if not paths.is_address(path):
        return epath.Path(paths.local(path, option))
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
