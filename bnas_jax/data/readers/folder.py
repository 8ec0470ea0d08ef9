"""Folders of images.

They have two parts, ROOT/train/CLASS/* and ROOT/test/CLASS/* (or ROOT/val), or no
parts, ROOT/CLASS/*.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import order
from bnas_jax.data.digest import digest_of
from bnas_jax.data.readers import images, roots, walk
from bnas_jax.data.readers.encoded import Encoded, ReadOptions, Unreadable

# The names that the folder of a part may have, in lower or upper case. The first one
# that exists is taken.
_PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "dev", "eval"),
}
# The largest number of files whose sizes are part of a set's digest, and the number of
# threads that ask for these sizes, since a network file system answers slowly.
_SIZES = 100_000
_THREADS = 32
_LAYOUT = (
    "ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg (or val), or ROOT/CLASS/*.jpg "
    "with config.dataset.split"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """A reader of image files in folders of classes, see `encoded.Reader`.

    files: the paths of the files relative to `root`, sorted.
    classes: the label of each file, int32 (N,).
    left_out: suffix -> the number of other files with it.
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
            data = roots.place(self.where(row)).read_bytes()
            return data, int(self.classes[row])

    def digest(self) -> str:
        """A hash of the files' names, and of the sizes of at most `_SIZES` files."""
        drawn = order.shuffled(len(self), seed=0, use=order.SAMPLE)
        rows = np.sort(drawn[:_SIZES])
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
            sizes = list(threads.map(self._size, rows.tolist()))
        names = "\n".join(self.files)
        return digest_of(names, np.array(sizes, np.int64))

    def _size(self, row: int) -> int:
        """The size of a file in bytes, -1 where it cannot be opened.

        Reading such a file later raises the error.
        """
        try:
            with self._reading(row):
                return roots.size(self.where(row))
        except images.BadImage:
            return -1

    @contextlib.contextmanager
    def _reading(self, row: int):
        """Turns an error of this file into `BadImage`, any other into `Unreadable`."""
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            if of_one_file(error):
                raise images.BadImage(f"cannot be opened ({why})") from error
            raise Unreadable(f"cannot read {self.where(row)} ({why})") from error


def of_one_file(error: OSError) -> bool:
    """Whether an error is of one file, such as a link to nowhere or to itself.

    Any other may be of the whole file system, such as a network disk that is away.
    """
    kinds = (PermissionError, IsADirectoryError, FileNotFoundError)
    return isinstance(error, kinds) or error.errno == errno.ELOOP


def read(path: Any, options: ReadOptions) -> dict[str, Encoded]:
    """The parts of the folder `path`: "train" and "test", or one of them, or "all".

    A folder whose folders are classes is one part, "all". The label of a class is its
    place among the sorted names. Images may be in folders below that of their class.
    Files that are left out are named on stderr. Raises `UserError` for folders that are
    missing, empty, or of one class, and where a folder may be a part or a class.
    """
    if not path:
        raise UserError(f"set config.dataset.path to a folder of images: {_LAYOUT}")
    root = roots.root(path, "config.dataset.path")
    # The path does not exist, or is a file.
    if not root.is_dir():
        raise UserError(
            f"there is no directory {root}; set config.dataset.path to a folder of "
            f"images: {_LAYOUT}"
        )

    # The classes are those of the training images, if there are any.
    directories = part_folders(root) or {"all": root}
    first, *_ = directories.values()
    classes = _classes(directories.get("train", first))
    files = {}
    for part, directory in directories.items():
        files[part] = _part_files(directory, classes)

    # All parts have the same number of channels, since one network reads them.
    channels = options.channels or _channels(*files.values())
    encoded = {}
    for part, of_part in files.items():
        encoded[part] = Encoded(
            reader=of_part,
            rows=np.arange(len(of_part)),
            classes=tuple(classes),
            name=of_part.root,
            channels=channels,
            options=options,
        )
    return encoded


def part_folders(root: Any) -> dict[str, Any]:
    """{"train" or "test": the folder of `root` that is this part}.

    It is {} where the folders are classes. A part contains folders of images, a class
    contains images, so that a class may be named train. Raises `UserError` where a
    folder may be a part or a class.
    """
    directories = walk.folders(root)
    named = _named_like_parts(directories)
    if not named:
        return {}

    # Whether these are parts or classes depends on what they contain, and on the other
    # folders of images beside them.
    like_class = [d for d in named if walk.holds_images(d)]
    like_part = [d for d in named if walk.holds_folders_of_images(d)]
    others = []
    for directory in directories:
        if directory in named:
            continue
        if walk.holds_images(directory) or walk.holds_folders_of_images(directory):
            others.append(directory)

    # The other folders are left out if both parts exist, and at least one of these
    # cannot be a class.
    parts = _preferred(like_part)
    certain = any(directory not in like_class for directory in parts.values())
    both = len(parts) == 2 and certain
    if parts and (both or not others):
        left_out = [d.name for d in directories if d not in parts.values()]
        _say_left_out(root, left_out)
        return parts

    # All folders may be classes.
    if others and all(d in like_class for d in like_part):
        return {}
    raise UserError(
        _doubt(root, like_class=like_class, like_part=like_part, others=others)
    )


def _named_like_parts(directories: Sequence[Any]) -> list:
    """The directories with the names of parts, the preferred names first."""
    names = [*_PARTS["train"], *_PARTS["test"]]
    position = lambda directory: names.index(directory.name.lower())
    named = [d for d in directories if d.name.lower() in names]
    return sorted(named, key=position)


def _preferred(like_part: Sequence[Any]) -> dict[str, Any]:
    """{"train" or "test": the first folder with a name of this part}."""
    parts: dict[str, Any] = {}
    for directory in like_part:
        for part, of_part in _PARTS.items():
            if directory.name.lower() in of_part:
                parts.setdefault(part, directory)
    return parts


def _doubt(root: Any, like_class: list, like_part: list, others: list) -> str:
    """The message for folders named like parts that may be parts or classes.

    like_class: the folders named like parts that contain images.
    like_part: the folders named like parts that contain folders of images.
    others: the other folders with images.
    """
    if like_part:
        part, other = like_part[0].name, others[0].name
        return (
            f"{root}/{part} holds folders of images, like training or test data, but "
            f"beside it is neither test nor val (or train), only {other}: if both "
            f"are classes, move the images in the folders of {part} up into {part} "
            f"itself; if not, move {other} elsewhere"
        )
    if like_class:
        name = like_class[0].name
        return (
            f"{root}/{name} holds images that are in no folder of a class, and there "
            f"are no other classes beside it; write {_LAYOUT}; if {name} is a class, "
            "give it another name"
        )
    return f"{root} has no images; write {_LAYOUT}"


def _say_left_out(root: Any, what: Sequence[str]) -> None:
    if what:
        print(f"{root}: left out {', '.join(what)}", file=sys.stderr)


def _classes(directory: Any) -> list[str]:
    """The names of the classes, sorted; `UserError` for fewer than two."""
    classes = [folder.name for folder in walk.folders(directory)]
    if not classes:
        state = "is empty"
        if walk.entries(directory):
            state = "has no folders of classes"
        raise UserError(f"{directory} {state}; write {_LAYOUT}")

    # Often there is a folder in between: ROOT/images/CLASS.
    if len(classes) == 1:
        raise UserError(
            f"{directory} has only one class, {classes[0]!r}; a classifier needs two; "
            f"write {_LAYOUT}"
        )
    return classes


def _part_files(directory: Any, classes: list[str]) -> Files:
    """The images of a part, in the order of their names.

    Labels are positions in `classes`; a part need not have all classes.
    """
    # Every folder must be a class of the training images.
    folders = [folder.name for folder in walk.folders(directory)]
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise UserError(
            f"{directory} has the class {unknown[0]!r}, which the training images do "
            "not have; both need the same folders"
        )

    # The files of each class.
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
        raise UserError(f"{directory} contains no folder of a class; write {_LAYOUT}")
    _check_inverted(directory, names)

    # Name the files that are left out.
    entries = walk.entries(directory)
    outside = sum(walk.is_image(entry.name) for entry in entries)
    if outside:
        _say_left_out(directory, [f"{outside} images that are in no folder of a class"])
    if left_out:
        _say_left_out(directory, [walk.no_images(left_out)])
    return Files(
        root=str(directory),
        files=tuple(names),
        classes=np.array(labels, np.int32),
        left_out=dict(sorted(left_out.items())),
    )


def _without_images(directory: Any, others: Mapping[str, int]) -> str:
    """The message for a class without images. others: see `walk.images`."""
    known = ", ".join(suffix[1:] for suffix in walk.SUFFIXES)
    instead = ""
    if others:
        instead = f" but {walk.by_suffix(others)}"
    return (
        f"{directory} contains no image ({known}){instead}; put images there, or "
        "remove the folder"
    )


def _check_inverted(directory: Any, names: Sequence[str]) -> None:
    """Refuses ROOT/CLASS/train beside ROOT/CLASS/test.

    Reading them as one class would mix training and test images.
    """
    # All pairs (folder of a class, folder in it).
    below = set()
    for name in names:
        folder, *inner = name.lower().split("/")
        if len(inner) > 1:
            below.add((folder, inner[0]))

    # No class may have folders for both parts.
    for folder in {folder for folder, _ in below}:
        parts = []
        for part, of_part in _PARTS.items():
            if any((folder, name) in below for name in of_part):
                parts.append(part)
        if len(parts) == len(_PARTS):
            raise UserError(
                f"{directory}/{folder} has folders for training and for test images; "
                f"write {_LAYOUT}"
            )


def _channels(*parts: Files) -> int:
    """The number of channels: 1 if every image is gray, else 3."""
    for files in parts:
        for row in range(len(files)):
            if not _is_gray(files, row):
                # In most sets this is the first image.
                return 3
    return 1


def _is_gray(files: Files, row: int) -> bool:
    """Whether an image is gray, or cannot be read."""
    try:
        data, _ = files.read(row)
        return images.read_header(data).gray
    except images.BadImage:
        # A bad image does not decide the number of channels; reading it later raises
        # the error.
        return True
