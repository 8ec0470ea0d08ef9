"""Where presets are: files of the user's own, those in the project's folder, or those that were installed with the package."""

import pathlib
import sys

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parent
# The folders that hold configs/: of the project, and of the installed package (setup.py).
_ROOTS = (_PACKAGE.parent, _PACKAGE / "presets")


def find(name: str, option: str, example: str) -> pathlib.Path:
    """The file of a name such as "configs/train.py", "train" or one of the user's; `UserError` where there is none.

    Afterwards what it imports from its folder is found, too, and so are the presets, as `from configs import train`.
    option, example: for the error.
    """
    if not name:
        raise UserError(f"{option} names no file; write {option}={example}")
    given = paths.local(name, option)
    candidates = [given, *(root / name for root in _ROOTS)]
    if name.isidentifier():
        candidates += [root / "configs" / f"{name}.py" for root in _ROOTS]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UserError(f"no config file {name}; write {option}={example}")
    folder = str(path.resolve().parent.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    for root in map(str, _ROOTS):
        if root not in sys.path:
            sys.path.append(root)
    return path
