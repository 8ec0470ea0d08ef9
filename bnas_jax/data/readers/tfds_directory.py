"""Finds the directory of one version of a TFDS data set on disk."""

import re
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.data.readers import roots

# TFDS's default data directory, and the file that the directory of each version has.
DEFAULT = "~/tensorflow_datasets"
INFO = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find(name: str, path: Any) -> Any:
    """The directory of the newest version of `name` that has a dataset_info.json.

    Raises `UserError` where there is none.

    name: NAME, or NAME/CONFIG.
    path: the data directory that holds NAME/VERSION, the directory NAME, or the
      version's directory itself; None is ~/tensorflow_datasets.
    """
    root = roots.root(path or DEFAULT, "config.dataset.path")
    if not root.is_dir():
        raise UserError(_missing(name, path, what=f"there is no directory {root}"))

    # `path` may be the version's directory, the data directory, or that of the data
    # set.
    candidates = [root, *_newest_first(root / name)]
    if root.name == name.split("/")[-1]:
        candidates += _newest_first(root)
    for candidate in candidates:
        if (candidate / INFO).is_file():
            return candidate

    state = "empty"
    if any(root.iterdir()):
        state = f"without a prepared {name}"
    what = f"{root} is {state} ({name}/VERSION/{INFO})"
    raise UserError(_missing(name, path, what=what))


def _newest_first(directory: Any) -> list:
    """The versions' directories in a directory, [] if the latter does not exist."""
    if not directory.is_dir():
        return []
    versions = [d for d in directory.iterdir() if _VERSION.fullmatch(d.name)]
    # Compared as numbers: 10.0.0 is newer than 9.0.0.
    numbers = lambda version: tuple(int(part) for part in version.name.split("."))
    return sorted(versions, key=numbers, reverse=True)


def _missing(name: str, path, what: str) -> str:
    """The message for a missing set. what: what was found instead, as a clause."""
    command = f"python -m bnas_jax data prepare {name} --out={path or DEFAULT}"
    return (
        f"{name}: {what}; set config.dataset.path to the TFDS data directory that "
        f"holds {name}, or prepare it by `{command}`"
    )
