"""What is in folders of images: image files at any depth, without what operating systems and other programs leave there."""

import collections
import os
from collections.abc import Iterator
from typing import Any

from bnas_jax.core.errors import UserError

# Files that Pillow reads, by the end of their names.
SUFFIXES = (
    *(
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
    ),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".sgi", ".qoi"),
)
# Besides whatever begins with a dot; in lower case.
_LEFT_BEHIND = (
    *(
        "__macosx",
        "@eadir",
        "#recycle",
        "@recycle",
        "lost+found",
        "$recycle.bin",
        "system volume information",
    ),
    *("__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
)


def is_image(name: str) -> bool:
    """Whether a file of this name should be an image."""
    return name.lower().endswith(SUFFIXES)


def entries(directory: Any) -> list:
    """What is in a directory, sorted by name. Raises `UserError` where it cannot be listed."""
    try:
        found = list(directory.iterdir())
    except OSError as error:
        raise UserError(
            f"cannot list {directory} ({error.strerror or error}); make it readable, or move it away"
        ) from error
    kept = (e for e in found if not e.name.startswith(".") and e.name.lower() not in _LEFT_BEHIND)
    return sorted(kept, key=lambda entry: entry.name)


def folders(directory: Any) -> list:
    """The folders in a directory, sorted by name."""
    return [entry for entry in entries(directory) if _is_folder(entry)]


def holds_images(directory: Any) -> bool:
    """Whether there are images in a directory itself."""
    return any(is_image(entry.name) for entry in entries(directory))


def holds_folders_of_images(directory: Any) -> bool:
    """Whether there are images somewhere in the folders of a directory."""
    return any(
        is_image(entry.name) for prefix, found in _tree(directory) if prefix for entry in found
    )


def images(directory: Any) -> tuple[list[str], collections.Counter]:
    """(the images in a directory and in the folders below it, as sorted paths; the other files there, counted by suffix)."""
    paths: list[str] = []
    others: collections.Counter = collections.Counter()
    for prefix, found in _tree(directory):
        paths += [prefix + entry.name for entry in found if is_image(entry.name)]
        others.update(
            _suffix(entry.name)
            for entry in found
            if not is_image(entry.name) and not _is_folder(entry)
        )
    return sorted(paths), others


def _tree(
    directory: Any, prefix: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, list]]:
    """(its path below the first one, its entries) of a directory and of each folder below it."""
    place = os.path.realpath(directory)
    if place in above:  # a link back up leads to nothing new
        return
    found = entries(directory)
    yield prefix, found
    for folder in filter(_is_folder, found):
        yield from _tree(folder, f"{prefix}{folder.name}/", (*above, place))


def _is_folder(entry: Any) -> bool:
    """A folder that has the name of an image is an image that cannot be opened; so are large sets listed by names alone."""
    try:
        return not is_image(entry.name) and entry.is_dir()
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or name
