"""The contents of folders of images: image files at any depth.

What operating systems and other programs add there is left out.
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
# Entries of folders that are no one's data, in lower case. All names that begin with a
# dot are left out, too.
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
    """What is in a directory, sorted by name.

    Raises `UserError` where it cannot be listed.
    """
    try:
        found = list(directory.iterdir())
    except OSError as error:
        raise UserError(
            f"cannot list {directory} ({error.strerror or error}); make it readable, "
            "or move it away"
        ) from error

    # Without what systems and other programs leave behind.
    kept = []
    for entry in found:
        name = entry.name.lower()
        if not name.startswith(".") and name not in _LEFT_BEHIND:
            kept.append(entry)
    # File systems list in any order, and labels come from this one.
    return sorted(kept, key=lambda entry: entry.name)


def folders(directory: Any) -> list:
    """The folders in a directory, sorted by name."""
    return [entry for entry in entries(directory) if _is_folder(entry)]


def holds_images(directory: Any) -> bool:
    """Whether there are images directly in a directory."""
    return any(is_image(entry.name) for entry in entries(directory))


def holds_folders_of_images(directory: Any) -> bool:
    """Whether there are images anywhere below the folders of a directory."""
    # The directory itself has an empty path.
    below = (found for path, found in _tree(directory) if path)
    return any(is_image(entry.name) for found in below for entry in found)


def images(directory: Any) -> tuple[list[str], collections.Counter]:
    """(paths of the images in a directory, numbers of other files by suffix).

    Both are of files in the directory and in the folders below it; paths are sorted.
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
    """What `images` found beside images, as part of a sentence."""
    return f"{sum(others.values())} files that are no images ({by_suffix(others)})"


def _tree(
    directory: Any, prefix: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, list]]:
    """(path below the first directory, entries) of each folder in a tree.

    The first one is the directory itself.

    prefix: the path of `directory` below the first one.
    above: the folders from the first one down to it.
    """
    place = os.path.realpath(directory)
    # A link back up would not end. One to a folder around the first one, such as from a
    # class to the folder of all classes, would bring in what is beside it.
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

    One with the name of an image is taken for an image, which cannot be opened then. So
    entries need not be opened where their names say enough: it would take long in large
    sets.
    """
    try:
        return not is_image(entry.name) and entry.is_dir()
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or name
