"""A user's own layer types, schemes, searchers and networks: `--extensions=FILE.py`.

Every command has this option. FILE.py is a Python file that adds entries to the tables
`bnas_jax.LAYERS`, `SCHEMES`, `SEARCHERS` and `NETWORKS`. It is loaded before the config
is read. run.json notes the files that a run was made with, but they are never loaded
because of that note: the option must be given again.
"""

import hashlib
import importlib.util
import json
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

OPTION = "--extensions"


class Extension(NamedTuple):
    """An extension file that was loaded.

    file: its absolute path.
    sha256: the SHA-256 hash of its contents.
    """

    file: str
    sha256: str


def take(arguments: list[str]) -> tuple[list[str], tuple[Extension, ...]]:
    """Loads the extensions; returns (the arguments without `--extensions`, extensions).

    Several files are separated by commas, or given by one option each. Raises
    `UserError` for the first file that cannot be loaded.
    """
    rest: list[str] = []
    files: list[str] = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == OPTION:
            files += value.split(",")
        else:
            rest.append(argument)
    # In the order in which they are given: a later file may use entries of an earlier
    # one.
    return rest, tuple(load(file.strip()) for file in files)


def load(file: str) -> Extension:
    """Runs a Python file, which adds its entries to the tables.

    Raises `UserError` for a file that cannot be read, and for any error in running it.
    """
    if not file:
        raise UserError(f"{OPTION} names no file; write {OPTION}=FILE.py")
    path = paths.local(file, OPTION).absolute()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"{OPTION}={file} cannot be read ({error.strerror}); write {OPTION}=FILE.py"
        ) from None

    # The hash in the module's name keeps two files with the same file name apart.
    name = f"bnas_jax_extension_{path.stem}_{digest[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{OPTION}={file} is not a Python file; write {OPTION}=FILE.py")
    module = importlib.util.module_from_spec(spec)

    # `dataclasses` looks up the module of a class in `sys.modules`.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"{OPTION}={file}{line_of(error, path)}: {type(error).__name__}: {error}"
        ) from error
    return Extension(file=str(path), sha256=digest)


def check(workdir: pathlib.Path, given: Sequence[Extension]) -> None:
    """Raises `UserError` if a run was made with an extension that is not given now.

    Extensions are compared by the names of their files. A file that has changed since
    then is accepted, with a warning on stderr.

    workdir: the work directory of the run.
    given: the extensions that are loaded now.
    """
    compare(workdir, noted(workdir), given)


def compare(
    made: pathlib.Path, noted: Sequence[tuple[str, str]], given: Sequence[Extension]
) -> None:
    """Raises `UserError` if one of the noted extensions is not given now.

    A changed file causes only a warning, see `check`.

    made: the directory or file that was made with the extensions.
    noted: (file, sha256) of each of them.
    given: the extensions that are loaded now.
    """
    for file, digest in noted:
        # Only the file name counts, because a work directory may have been copied to
        # another machine.
        name = _name(file)
        same = [extension for extension in given if _name(extension.file) == name]
        if not same:
            raise UserError(f"{made} was made with {OPTION}={file}; give it again")
        if all(extension.sha256 != digest for extension in same):
            changed = f"{same[0].file} has changed since {made} was made with it"
            print(f"bnas_jax: warning: {changed}", file=sys.stderr, flush=True)


def noted(workdir: pathlib.Path) -> list[tuple[str, str]]:
    """(file, sha256) of each extension in run.json.

    The list is empty if run.json cannot be read; that error is reported where the run
    itself is read.
    """
    found = []
    try:
        values = json.loads((workdir / "run.json").read_text())
        for entry in values.get("extensions", ()):
            found.append((str(entry["file"]), str(entry["sha256"])))
    except (
        OSError,
        ValueError,
        AttributeError,
        TypeError,
        KeyError,
        RecursionError,
    ):
        return []
    return found


def _name(file: str) -> str:
    """The file name without its folder."""
    return pathlib.PurePath(file).name


def line_of(error: BaseException, path: pathlib.Path) -> str:
    """The line of a file where an error occurred, as a text such as ", line 3".

    It is "" for an error that occurred elsewhere.

    path: the path of the file.
    """
    if isinstance(error, SyntaxError):
        # Without a number for a file with null bytes.
        return f", line {error.lineno}" if error.lineno else ""

    # The lines of this file in the traceback.
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            lines.append(frame.lineno)
    if not lines:
        return ""
    # The innermost call.
    return f", line {lines[-1]}"
