"""Where on disk a TFDS data set stands: from a name and a path to the directory of one version."""

import re
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.data import roots

DEFAULT = "~/tensorflow_datasets"
INFO = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find(name: str, path: Any) -> Any:
    """The directory with the dataset_info.json of the newest version of `name` (may be NAME/CONFIG).

    `path` may be the data directory that holds NAME/VERSION, the directory NAME, or the version's directory itself; without
    it, ~/tensorflow_datasets. Raises `UserError` when nothing is there.
    """
    root = roots.root(path or DEFAULT, "config.dataset.path")
    if not root.is_dir():
        raise UserError(_missing(name, path, f"there is no directory {root}"))
    for candidate in (root, *_newest_first(root / name), *_own_versions(root, name)):
        if (candidate / INFO).is_file():
            return candidate
    state = "empty" if not any(root.iterdir()) else f"without a prepared {name}"
    raise UserError(_missing(name, path, f"{root} is {state} ({name}/VERSION/{INFO})"))


def _own_versions(root: Any, name: str) -> list:
    """The versions in `root` where it is the directory of the data set (or of its configuration) itself."""
    return _newest_first(root) if root.name == name.split("/")[-1] else []


def _newest_first(directory: Any) -> list:
    if not directory.is_dir():
        return []
    versions = [d for d in directory.iterdir() if _VERSION.fullmatch(d.name)]
    return sorted(versions, key=lambda d: tuple(map(int, d.name.split("."))), reverse=True)


def _missing(name: str, path, what: str) -> str:
    remedy = f"prepare it by `python -m bnas_jax data prepare {name} --out={path or DEFAULT}`"
    return f"{name}: {what}; set config.dataset.path to the TFDS data directory that holds {name}, or {remedy}"
