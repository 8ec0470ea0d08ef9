"""Folders of images: ROOT/train/CLASS/* with ROOT/test or ROOT/val, or one tree ROOT/CLASS/* that is divided."""

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from bnas_jax.core.errors import UserError
from bnas_jax.data import images, order, roots
from bnas_jax.data.digest import digest_of
from bnas_jax.data.encoded import Encoded, ReadOptions

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Files whose size is part of a set's digest: on a file system across the network each takes a while.
_SIZES = 100_000
_THREADS = 32
_TEST = ("test", "val", "validation")
_LAYOUT = "ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg (or val), or ROOT/CLASS/*.jpg with config.dataset.split"


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Image files by class: `files` are paths below `root`, sorted, and `classes` their labels, int32 (N,)."""

    root: str
    files: tuple[str, ...]
    classes: np.ndarray

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
        with self._reading(row):
            return epath.Path(self.where(row)).stat().length

    @contextlib.contextmanager
    def _reading(self, row: int):
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot read {self.where(row)} ({error.strerror or error})") from error


def read(path: Any, options: ReadOptions) -> tuple[Encoded, Encoded]:
    """The training and the test examples of the folder `path`. The names of the classes, sorted, are their numbers.

    Raises `UserError` for folders that are missing, empty or of one class.
    """
    if not path:
        raise UserError(f"set config.dataset.path to a folder of images: {_LAYOUT}")
    root = roots.root(path, "config.dataset.path")
    if not root.is_dir():
        raise UserError(f"there is no directory {root}; set config.dataset.path to a folder of images: {_LAYOUT}")
    if (root / "train").is_dir():
        train, test = _two_trees(root, options)
    else:
        train, test = _one_tree(root, options)
    return train, test


def _two_trees(root: Any, options: ReadOptions) -> tuple[Encoded, Encoded]:
    if options.split is not None:
        raise UserError(
            f"{root} has a folder train: leave config.dataset.split out, or set config.dataset.path to {root}/train"
        )
    test = next((root / name for name in _TEST if (root / name).is_dir()), None)
    if test is None:
        raise UserError(f"{root} has a folder train, but neither test nor val; write {_LAYOUT}")
    classes = _classes(root / "train")
    unknown = sorted(set(_folders(test)) - set(classes))
    if unknown:
        raise UserError(f"{test} has the class {unknown[0]!r}, {root / 'train'} has not; both need the same folders")
    files, test_files = _files(root / "train", classes), _files(test, [c for c in classes if (test / c).is_dir()], classes)
    channels = options.channels or _channels(files, test_files)
    return _encoded(files, classes, channels, options), _encoded(test_files, classes, channels, options)


def _one_tree(root: Any, options: ReadOptions) -> tuple[Encoded, Encoded]:
    classes = _classes(root)
    if options.split is None:
        raise UserError(f"{root} has no folder train; set config.dataset.split to the share of the images that is for tests")
    files = _files(root, classes)
    whole = _encoded(files, classes, options.channels or _channels(files), options)
    count = round(options.split * len(whole))
    if not 0 < count < len(whole):
        raise UserError(f"config.dataset.split={options.split} of {len(whole)} images leaves one part empty; change it")
    rows = order.shuffled_by_class(whole.labels, options.split_seed, order.TEST)
    return whole.take(np.sort(rows[count:])), whole.take(np.sort(rows[:count]))


def _encoded(files: Files, classes: Sequence[str], channels: int, options: ReadOptions) -> Encoded:
    return Encoded(files, np.arange(len(files)), tuple(classes), files.root, channels, options)


def _classes(directory: Any) -> list[str]:
    classes = _folders(directory)
    if not classes:
        empty = not any(directory.iterdir())
        raise UserError(f"{directory} is {'empty' if empty else 'without folders of classes'}; write {_LAYOUT}")
    if len(classes) == 1:
        raise UserError(f"{directory} has one class alone, {classes[0]!r}; a classifier needs two; write {_LAYOUT}")
    return classes


def _folders(directory: Any) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(directory: Any, folders: Sequence[str], classes: Sequence[str] | None = None) -> Files:
    """The images in `folders`, in the order of the names; labels are positions in `classes` (default: `folders`)."""
    names, labels = [], []
    for folder in folders:
        entries = sorted(e.name for e in (directory / folder).iterdir())
        found = [e for e in entries if e.lower().endswith(SUFFIXES) and not e.startswith(".")]
        if not found:
            raise UserError(f"{directory / folder} holds no image ({', '.join(s[1:] for s in SUFFIXES)})")
        names += [f"{folder}/{name}" for name in found]
        labels += [(classes or folders).index(folder)] * len(found)
    if not names:
        raise UserError(f"{directory} holds no folder of a class; write {_LAYOUT}")
    return Files(str(directory), tuple(names), np.array(labels, np.int32))


def _channels(*parts: Files) -> int:
    """1 where every image is gray, else 3; looks no further than the first that is not gray."""
    return 1 if all(_is_gray(files, row) for files in parts for row in range(len(files))) else 3


def _is_gray(files: Files, row: int) -> bool:
    try:
        return images.read_header(files.read(row)[0]).gray
    except images.BadImage:
        return True  # decides nothing; reading it later says what is wrong
