"""Images as bytes and as folders of files, for the tests of data."""

import io
import pathlib

import numpy as np
import pytest

from bnas_jax.core.errors import UserError
from bnas_jax.data import load as loading
from bnas_jax.data.load import Dataset
from bnas_jax.data.readers.encoded import ReadOptions


def picture(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    """A smooth random image uint8 (H, W, 3), which JPEG changes little."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slopes = np.random.default_rng(seed).uniform(0, 120, (3, 2))
    return np.stack([20 + a * y + b * x for a, b in slopes], -1).astype(np.uint8)


def encoded(
    pixels: np.ndarray, kind: str = "PNG", mode: str = "RGB", **options
) -> bytes:
    """The bytes of an image, converted to a mode of Pillow's."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(
    root: pathlib.Path, sizes: dict[str, int], suffix: str = "png", **shape: int
) -> pathlib.Path:
    """ROOT/PART/CLASS/NNN.suffix with so many images for each "PART/CLASS" or "CLASS";
    seeds run on.
    """
    seed = 0
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            kind = {"png": "PNG", "jpg": "JPEG"}[suffix]
            (root / name / f"{number:03}.{suffix}").write_bytes(
                encoded(picture(seed, **shape), kind)
            )
            seed += 1
    return root


def load(path: pathlib.Path, **options) -> Dataset:
    """A folder of images, as a run reads it."""
    return loading.load("folder", path, ReadOptions(**options))


def error(path: pathlib.Path, **options) -> str:
    """The line by which `load` refuses a folder."""
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
