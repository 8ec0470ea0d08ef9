"""Data sets by name and size alone: as many images as the real ones have, all of them
blank.
"""

import dataclasses
import io
from functools import cached_property

import numpy as np

from bnas_jax.data.load import Dataset, with_defaults
from bnas_jax.data.readers.encoded import Encoded
from bnas_jax.settings import DatasetSettings
from bnas_jax.training.run_data import data_of_parts, dataset_of, read_options


@dataclasses.dataclass(frozen=True)
class Size:
    """Examples for training and tests, side of the images in pixels, and classes."""

    train: int
    test: int
    side: int
    classes: int


# Side of ImageNet's: any that its crops fit into, as images differ.
SIZES = {
    "cifar10": Size(train=50_000, test=10_000, side=32, classes=10),
    "cifar100": Size(train=50_000, test=10_000, side=32, classes=100),
    "imagenet2012": Size(train=1_281_167, test=50_000, side=256, classes=1000),
}


def data_for_plan(dataset: DatasetSettings) -> Dataset:
    """The data set of these settings: blank images where its size is known by its name,
    else the one on disk.
    """
    size = SIZES.get(dataset.name)
    if size is None:
        return dataset_of(dataset)
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
    """An `encoded.Reader` of black images; their labels are 0, 1, ... over and over."""

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
        from PIL import Image

        written = io.BytesIO()
        Image.new("RGB", (self.side, self.side)).save(written, "PNG")
        return written.getvalue()
