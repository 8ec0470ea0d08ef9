"""Finding config files: those of the user, those in the project's folder, or those that
were installed with the package.
"""

import difflib
import pathlib
import sys

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parent
# The folders that hold configs/: of the project, and of the installed package
# (setup.py).
_ROOTS = (_PACKAGE.parent, _PACKAGE / "presets")


def find(name: str, option: str, example: str) -> pathlib.Path:
    """The file of a name such as "configs/train.py", "train" or one of the user's;
    `UserError` where there is none.

    option, example: for the error. The file's imports work afterwards: from its folder,
    and of presets, as `from configs import train`.
    """
    if not name:
        raise UserError(f"{option} names no file; write {option}={example}")
    # As it is written, from here or from the roots; a word alone is a file of configs/.
    candidates = [paths.local(name, option)]
    for root in _ROOTS:
        candidates.append(root / name)
    if name.isidentifier():
        for root in _ROOTS:
            candidates.append(root / "configs" / f"{name}.py")
    found = [path for path in candidates if path.is_file()]
    if not found:
        raise UserError(
            f"no config file {name}; {_instead(name, option, example=example)}"
        )
    path = found[0]

    # A file in configs/ imports its neighbours as `configs.NAME`. The user's come
    # first.
    folder = str(path.resolve().parent.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    for root in _ROOTS:
        if str(root) not in sys.path:
            sys.path.append(str(root))
    return path


def _instead(name: str, option: str, *, example: str) -> str:
    """The advice for a file that is not there: a preset of a similar name, or an
    example and the names of all presets.
    """
    known = sorted(
        {path.stem for root in _ROOTS for path in (root / "configs").glob("*.py")}
    )
    stem = pathlib.PurePath(name).stem
    close = difflib.get_close_matches(stem, known, n=1)
    if close and close[0] != stem:
        return f"did you mean {option}={close[0]}:VARIANT?"
    return f"write {option}={example}; presets are {', '.join(known)}"
