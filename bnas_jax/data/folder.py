"""Folders of images: ROOT/train/CLASS/* with ROOT/test or ROOT/val, or one tree ROOT/CLASS/* without parts."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bnas_jax.core.errors import UserError
from bnas_jax.data import images, order, roots, walk
from bnas_jax.data.digest import digest_of
from bnas_jax.data.encoded import Encoded, ReadOptions

# Names of the folders of a part, in any case; the first that is there is taken.
_PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "dev", "eval"),
}
# Files whose size is part of a set's digest: on a file system across the network each takes a while.
_SIZES = 100_000
_THREADS = 32
_LAYOUT = "ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg (or val), or ROOT/CLASS/*.jpg with config.dataset.split"


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Image files by class: `files` are paths below `root`, sorted, and `classes` their labels, int32 (N,).

    left_out: how many files beside them are no images, by suffix.
    """

    root: str
    files: tuple[str, ...]
    classes: np.ndarray
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def where(self, row: int) -> str:
        return f"{self.root}/{self.files[row]}"

    def labels(self) -> np.ndarray:
        return self.classes

    def read(self, row: int) -> tuple[bytes, int]:
        with self._reading(row):
            return epath.Path(self.where(row)).read_bytes(), int(self.classes[row])

    def digest(self) -> str:
        """A hash of the names below `root`, and of the files' sizes; of a large set, of those of a part of them."""
        rows = np.sort(order.shuffled(len(self), 0, order.SAMPLE)[:_SIZES])
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
            sizes = list(threads.map(self._size, rows.tolist()))
        return digest_of("\n".join(self.files), np.array(sizes, np.int64))

    def _size(self, row: int) -> int:
        """In bytes; -1 of what cannot be opened, which `config.dataset.bad_images` decides about when it is read."""
        try:
            with self._reading(row):
                return epath.Path(self.where(row)).stat().length
        except images.BadImage:
            return -1

    @contextlib.contextmanager
    def _reading(self, row: int):
        try:
            yield
        except (
            PermissionError,
            IsADirectoryError,
            FileNotFoundError,
        ) as error:  # of this file alone, as a link to nowhere
            raise images.BadImage(f"cannot be opened ({error.strerror or error})") from error
        except OSError as error:
            raise UserError(f"cannot read {self.where(row)} ({error.strerror or error})") from error


def read(path: Any, options: ReadOptions) -> dict[str, Encoded]:
    """The parts of the folder `path`: "train" and "test", or one of them; or "all" where its folders are classes.

    The names of the classes, sorted, are their numbers. Images may stand in folders below their class's. What is left out is
    said on stderr. Raises `UserError` for folders that are missing, empty, of one class, or could be meant in two ways.
    """
    if not path:
        raise UserError(f"set config.dataset.path to a folder of images: {_LAYOUT}")
    root = roots.root(path, "config.dataset.path")
    if not root.is_dir():
        raise UserError(
            f"there is no directory {root}; set config.dataset.path to a folder of images: {_LAYOUT}"
        )
    directories = part_folders(root) or {"all": root}
    classes = _classes(directories.get("train") or next(iter(directories.values())))
    files = {part: _part_files(directory, classes) for part, directory in directories.items()}
    channels = options.channels or _channels(*files.values())
    return {
        part: Encoded(
            of_part, np.arange(len(of_part)), tuple(classes), of_part.root, channels, options
        )
        for part, of_part in files.items()
    }


def part_folders(root: Any) -> dict[str, Any]:
    """The folders of `root` that are its parts, by "train" and "test"; none where its folders are classes.

    A part holds folders of images, a class images: so a class may be named train, too. `UserError` where that leaves a doubt.
    """
    directories = walk.folders(root)
    names = [name for part in _PARTS.values() for name in part]
    named = sorted(
        (d for d in directories if d.name.lower() in names),
        key=lambda d: names.index(d.name.lower()),
    )
    if not named:
        return {}
    like_class = [d for d in named if walk.holds_images(d)]
    like_part = [d for d in named if walk.holds_folders_of_images(d)]
    others = [
        d
        for d in directories
        if d not in named and (walk.holds_images(d) or walk.holds_folders_of_images(d))
    ]

    parts: dict[str, Any] = {}
    for directory in like_part:
        part = next(part for part, of_part in _PARTS.items() if directory.name.lower() in of_part)
        parts.setdefault(part, directory)
    both = len(parts) == 2 and any(d not in like_class for d in parts.values())
    if parts and (both or not others):
        _say_left_out(root, [d.name for d in directories if d not in parts.values()])
        return parts
    if others and all(d in like_class for d in like_part):
        return {}
    raise UserError(_doubt(root, like_class, like_part, others))


def _doubt(root: Any, like_class: list, like_part: list, others: list) -> str:
    """What to do where folders named like parts are neither clearly parts nor clearly classes."""
    if like_part:
        part, other = like_part[0].name, others[0].name
        return (
            f"{root}/{part} holds folders of images, as training or test data do, but beside it is neither test nor val (or"
            f" train), but {other}, as if both were classes: if they are, move the images in the folders of {part} up into"
            f" {part} itself; if not, move {other} elsewhere"
        )
    if like_class:
        name = like_class[0].name
        return (
            f"{root}/{name} holds images that are in no folder of a class, and beside it are no other classes; write {_LAYOUT};"
            f" if {name} is a class, give it another name"
        )
    return f"{root} is without images; write {_LAYOUT}"


def _say_left_out(root: Any, what: Sequence[str]) -> None:
    if what:
        print(f"{root}: left out {', '.join(what)}", file=sys.stderr)


def _classes(directory: Any) -> list[str]:
    classes = [folder.name for folder in walk.folders(directory)]
    if not classes:
        state = "is without folders of classes" if walk.entries(directory) else "is empty"
        raise UserError(f"{directory} {state}; write {_LAYOUT}")
    if len(classes) == 1:
        raise UserError(
            f"{directory} has one class alone, {classes[0]!r}; a classifier needs two; write {_LAYOUT}"
        )
    return classes


def _part_files(directory: Any, classes: list[str]) -> Files:
    """The images of a part, in the order of the names; labels are positions in `classes`, which it need not have all."""
    folders = [folder.name for folder in walk.folders(directory)]
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise UserError(
            f"{directory} has the class {unknown[0]!r}, the training images have not; both need the same folders"
        )
    names, labels = [], []
    left_out: collections.Counter = collections.Counter()
    for folder in folders:
        found, others = walk.images(directory / folder)
        if not found:
            raise UserError(_without_images(directory / folder, others))
        names += [f"{folder}/{name}" for name in found]
        labels += [classes.index(folder)] * len(found)
        left_out += others
    if not names:
        raise UserError(f"{directory} holds no folder of a class; write {_LAYOUT}")
    _check_inverted(directory, names)

    outside = sum(walk.is_image(entry.name) for entry in walk.entries(directory))
    if outside:
        _say_left_out(directory, [f"{outside} images that are in no folder of a class"])
    if left_out:
        _say_left_out(
            directory, [f"{left_out.total()} files that are no images ({_by_suffix(left_out)})"]
        )
    return Files(
        str(directory), tuple(names), np.array(labels, np.int32), dict(sorted(left_out.items()))
    )


def _without_images(directory: Any, others: Mapping[str, int]) -> str:
    known = ", ".join(suffix[1:] for suffix in walk.SUFFIXES)
    instead = f" but {_by_suffix(others)}" if others else ""
    return f"{directory} holds no image ({known}){instead}; put images there, or remove the folder"


def _by_suffix(files: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {suffix}" for suffix, number in sorted(files.items()))


def _check_inverted(directory: Any, names: Sequence[str]) -> None:
    """Refuses ROOT/CLASS/train beside ROOT/CLASS/test, which would mix training and test images."""
    below = {tuple(name.lower().split("/")[:2]) for name in names if name.count("/") > 1}
    for folder in {folder for folder, _ in below}:
        if all(any((folder, name) in below for name in of_part) for of_part in _PARTS.values()):
            raise UserError(
                f"{directory}/{folder} has folders for training and for test images; write {_LAYOUT}"
            )


def _channels(*parts: Files) -> int:
    """1 where every image is gray, else 3; looks no further than the first that is not gray."""
    return 1 if all(_is_gray(files, row) for files in parts for row in range(len(files))) else 3


def _is_gray(files: Files, row: int) -> bool:
    try:
        return images.read_header(files.read(row)[0]).gray
    except images.BadImage:
        return True  # decides nothing; reading it later says what is wrong
