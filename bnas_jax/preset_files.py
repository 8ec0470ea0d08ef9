"""Finding config files.

They are the user's own, those in the project's folder, or those that were installed
with the package.
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
    """The config file that is meant by a name.

    The file's imports work afterwards: from its folder, and of presets, as `from
    configs import train`. Raises `UserError` where there is no such file.

    name: such as "configs/train.py", "train", or the path of a file of the user's.
    option, example: for the error.
    """
    if not name:
        raise UserError(f"{option} names no file; write {option}={example}")

    # The path as it is written, from the current folder or from the roots. A word alone
    # is also a file of configs/.
    candidates = [paths.local(name, option)]
    for root in _ROOTS:
        candidates.append(root / name)
    if name.isidentifier():
        for root in _ROOTS:
            candidates.append(root / "configs" / f"{name}.py")
    found = [path for path in candidates if path.is_file()]
    if not found:
        advice = _instead(name, option, example=example)
        raise UserError(f"no config file {name}; {advice}")
    path = found[0]

    # A file in configs/ imports its neighbours as `configs.NAME`. The user's files come
    # first.
    folder = str(path.resolve().parent.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    for root in _ROOTS:
        if str(root) not in sys.path:
            sys.path.append(str(root))
    return path


def _instead(name: str, option: str, *, example: str) -> str:
    """The advice for a config file that is not there.

    It is a preset of a similar name, or an example and the names of all presets.
    """
    presets = set()
    for root in _ROOTS:
        for path in (root / "configs").glob("*.py"):
            presets.add(path.stem)
    known = sorted(presets)

    # The stem may be right, and the folder or the suffix wrong: no preset is suggested.
    stem = pathlib.PurePath(name).stem
    close = difflib.get_close_matches(stem, known, n=1)
    if close and close[0] != stem:
        return f"did you mean {option}={close[0]}:VARIANT?"
    return f"write {option}={example}; presets are {', '.join(known)}"
