"""Blank data sets, with the number and size of the real images, without files."""

import dataclasses
import io
from functools import cached_property

import numpy as np

from bnas_jax.data.defaults import with_defaults
from bnas_jax.data.load import Dataset
from bnas_jax.data.readers.encoded import Encoded
from bnas_jax.settings import DatasetSettings
from bnas_jax.training.run_data import data_of_parts, dataset_of, read_options


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a data set."""

    # The numbers of examples in the training set and in the test set.
    train: int
    test: int
    # The side of the images, in pixels.
    side: int
    # The number of classes.
    classes: int


# ImageNet's images have many sizes; a side of 256 stands for them all.
SIZES = {
    "cifar10": Size(train=50_000, test=10_000, side=32, classes=10),
    "cifar100": Size(train=50_000, test=10_000, side=32, classes=100),
    "imagenet2012": Size(train=1_281_167, test=50_000, side=256, classes=1000),
}


def data_for_plan(dataset: DatasetSettings) -> Dataset:
    """The data set of these settings, for a plan.

    It has blank images if its name is in `SIZES`; otherwise it is read from disk.
    """
    size = SIZES.get(dataset.name)
    if size is None:
        return dataset_of(dataset)

    # Both parts, whose images are decoded and resized like the real ones.
    options = with_defaults(dataset.name, read_options(dataset))
    parts = {}
    for part, count in (("train", size.train), ("test", size.test)):
        parts[part] = Encoded(
            reader=BlankReader(count=count, side=size.side, classes=size.classes),
            rows=np.arange(count),
            classes=tuple(str(label) for label in range(size.classes)),
            name=dataset.name,
            channels=dataset.channels or 3,
            options=options,
        )
    return data_of_parts(dataset, parts)


@dataclasses.dataclass(frozen=True)
class BlankReader:
    """An `encoded.Reader` of black images; the label of image n is n modulo classes."""

    count: int
    side: int
    classes: int

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> tuple[bytes, int]:
        return self._image, row % self.classes

    def where(self, row: int) -> str:
        return f"blank image {row}"

    def labels(self) -> np.ndarray:
        return np.arange(self.count, dtype=np.int64) % self.classes

    def digest(self) -> str:
        return f"{self.count} blank images"

    @cached_property
    def _image(self) -> bytes:
        """The contents of a PNG file: every image is the same."""
        from PIL import Image

        written = io.BytesIO()
        Image.new("RGB", (self.side, self.side)).save(written, "PNG")
        return written.getvalue()
