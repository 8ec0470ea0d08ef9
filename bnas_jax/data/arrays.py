"""A data set held in memory."""

import dataclasses

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data.digest import digest_of


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Images uint8 (N, H, W, C) with their labels int32 (N,) in 0..num_classes-1.

    Labels of another integer type are converted to int32. Raises `UserError` for arrays
    of other shapes or types, without images, or with labels out of range.

    name: the name of the data set, for messages.
    classes: the names of the classes, in the order of the labels; by default their
        numbers.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    name: str
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_images(self.images, self.name)
        _check_labels(
            self.labels,
            size=len(self.images),
            num_classes=self.num_classes,
            name=self.name,
        )

        # Fields of a frozen dataclass can only be set in this way.
        object.__setattr__(self, "labels", self.labels.astype(np.int32))
        if not self.classes:
            numbers = tuple(str(number) for number in range(self.num_classes))
            object.__setattr__(self, "classes", numbers)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def digest(self) -> str:
        """A hash of the images and labels; it depends on their order."""
        return digest_of(self.images, self.labels)

    def take(self, rows: np.ndarray) -> "Arrays":
        """The examples at `rows`, in that order."""
        return dataclasses.replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
        )


def _check_images(images: np.ndarray, name: str) -> None:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(
            f"{name}: images must be uint8 of shape (N, H, W, C), got {images.dtype} "
            f"{images.shape}"
        )
    # Without this check, an empty set would only fail in the first batch.
    if 0 in images.shape:
        raise UserError(
            f"{name}: there are no images in an array of shape {images.shape}"
        )


def _check_labels(labels: np.ndarray, size: int, num_classes: int, name: str) -> None:
    if labels.shape != (size,):
        raise UserError(
            f"{name}: {size} images need labels of shape ({size},), got {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{name}: labels must be whole numbers, got {labels.dtype}")

    # `take_along_axis` in the loss would silently read another class for a label out of
    # range.
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= num_classes:
        raise UserError(
            f"{name}: labels must be from 0 to {num_classes - 1} for {num_classes} "
            f"classes, got {lowest} to {highest}"
        )
