"""The contents of folders of images: image files at any depth.

Files that operating systems and other programs add are left out.
"""

import collections
import os
from collections.abc import Iterator, Mapping
from typing import Any

from bnas_jax.core.errors import UserError

# Files that Pillow reads, by the end of their names.
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".jfif",
    ".jpe",
    ".apng",
    ".dib",
    ".avif",
    ".jp2",
    ".j2k",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".pfm",
    ".tga",
    ".pcx",
    ".sgi",
    ".qoi",
)
# Names, in lower case, of files and folders that systems and programs leave behind.
# Names that begin with a dot are left out, too.
_LEFT_BEHIND = (
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "__pycache__",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
)


def is_image(name: str) -> bool:
    """Whether a file of this name should be an image."""
    return name.lower().endswith(SUFFIXES)


def entries(directory: Any) -> list:
    """The files and folders in a directory, sorted by name.

    Raises `UserError` where it cannot be listed.
    """
    try:
        found = list(directory.iterdir())
    except OSError as error:
        raise UserError(
            f"cannot list {directory} ({error.strerror or error}); make it readable, "
            "or move it away"
        ) from error

    # Leave out what systems and other programs leave behind.
    kept = []
    for entry in found:
        name = entry.name.lower()
        if not name.startswith(".") and name not in _LEFT_BEHIND:
            kept.append(entry)
    # Sort, because file systems list in any order, and the labels depend on the order.
    return sorted(kept, key=lambda entry: entry.name)


def folders(directory: Any) -> list:
    """The folders in a directory, sorted by name."""
    return [entry for entry in entries(directory) if _is_folder(entry)]


def holds_images(directory: Any) -> bool:
    """Whether there are images directly in a directory."""
    return any(is_image(entry.name) for entry in entries(directory))


def holds_folders_of_images(directory: Any) -> bool:
    """Whether there are images anywhere below the folders of a directory."""
    for path, found in _tree(directory):
        # The directory itself has an empty path.
        if path and any(is_image(entry.name) for entry in found):
            return True
    return False


def images(directory: Any) -> tuple[list[str], collections.Counter]:
    """(sorted paths of the images in a directory, {suffix: number of other files}).

    Files in the folders below it are included; paths are relative to it.
    """
    paths: list[str] = []
    others: collections.Counter = collections.Counter()
    for prefix, found in _tree(directory):
        for entry in found:
            if is_image(entry.name):
                paths.append(prefix + entry.name)
            # Folders are walked through; other files are named to the user.
            elif not _is_folder(entry):
                others[_suffix(entry.name)] += 1
    return sorted(paths), others


def by_suffix(files: Mapping[str, int]) -> str:
    """Numbers of files by suffix, as part of a sentence."""
    described = []
    for suffix, number in sorted(files.items()):
        described.append(f"{number} {suffix}")
    return ", ".join(described)


def no_images(others: Mapping[str, int]) -> str:
    """The other files that `images` found, as part of a sentence."""
    return f"{sum(others.values())} files that are not images ({by_suffix(others)})"


def _tree(
    directory: Any, prefix: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, list]]:
    """(path relative to the root of a tree, entries) of each folder in the tree.

    The first folder is the root itself, with an empty path.

    prefix: the path of `directory` relative to the root.
    above: the real paths of the folders from the root down to `directory`.
    """
    place = os.path.realpath(directory)
    # Do not follow a link to a folder that contains this one, as it would not end, or
    # that contains the root: a link from a class to the folder of all classes would add
    # the images of the other classes.
    around = place.rstrip("/") + "/"
    if any(f"{folder}/".startswith(around) for folder in above):
        return
    found = entries(directory)
    yield prefix, found
    for folder in filter(_is_folder, found):
        below = f"{prefix}{folder.name}/"
        yield from _tree(folder, prefix=below, above=(*above, place))


def _is_folder(entry: Any) -> bool:
    """Whether an entry is a folder.

    An entry with the name of an image is taken for an image without asking the file
    system, which would take long in large sets. If it is a folder, reading it fails.
    """
    try:
        return not is_image(entry.name) and entry.is_dir()
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or name
