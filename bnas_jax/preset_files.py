"""Finds config files: the user's, the project's and the installed ones."""

import difflib
import pathlib
import sys

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parent
# The folders that contain configs/: the project's folder, and a folder of the installed
# package (see setup.py).
_ROOTS = (_PACKAGE.parent, _PACKAGE / "presets")


def find(name: str, option: str, example: str) -> pathlib.Path:
    """The path of a config file.

    It also extends `sys.path`, so that the file can import its neighbours and the
    presets, as in `from configs import train`. Raises `UserError` if there is no such
    file, or one that does not end in .py.

    name: such as "configs/train.py", "train", or the path of a user's file.
    option, example: the option and a value of it, for the error message.
    """
    if not name:
        raise UserError(f"{option} names no file; write {option}={example}")

    # The path is relative to the current folder or to a root. A single word is also the
    # name of a file in configs/.
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
    # Python's own error about another kind of file would not help.
    if path.suffix != ".py":
        raise UserError(
            f"{option}={name} is not a Python file; write {option}={example}"
        )

    # A file in configs/ imports its neighbours as `configs.NAME`. The user's folder
    # takes precedence over the roots.
    folder = str(path.resolve().parent.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    for root in _ROOTS:
        if str(root) not in sys.path:
            sys.path.append(str(root))
    return path


def _instead(name: str, option: str, *, example: str) -> str:
    """The advice for a config file that does not exist.

    It suggests a preset with a similar name, else an example and all presets.
    """
    presets = set()
    for root in _ROOTS:
        for path in (root / "configs").glob("*.py"):
            presets.add(path.stem)
    known = sorted(presets)

    # If the stem is a preset's, the folder or the suffix is wrong, and the name of the
    # preset would not help.
    stem = pathlib.PurePath(name).stem
    close = difflib.get_close_matches(stem, known, n=1)
    if close and close[0] != stem:
        return f"did you mean {option}={close[0]}:VARIANT?"
    return f"write {option}={example}; presets are {', '.join(known)}"
