"""Reads the encoded examples of a TFDS data set in ArrayRecord format.

TensorFlow is not needed.
"""

import contextlib
import resource
from functools import cached_property
from typing import Any

import numpy as np

from bnas_jax.core.errors import UserError, first_line
from bnas_jax.data.digest import digest_of
from bnas_jax.data.readers import tfds_directory
from bnas_jax.data.readers.encoded import Encoded, ReadOptions, Unreadable

# The number of examples whose labels are read at once.
_CHUNK = 1024
# The number of files that a process should be able to open. Each shard that it has read
# from stays open, and ImageNet has 1,088; many systems allow 1,024 unless a process
# asks for more.
_OPEN_FILES = 65_536
# Splits that can be the test set; the first one that exists is taken.
_TEST_SPLITS = ("test", "validation")
# Sets whose results are always measured on their own test set: they are refused without
# it.
_WITH_TEST = ("cifar10", "cifar100", "imagenet2012")
# Sets whose test images have no labels, which TFDS marks as -1.
_UNLABELLED_TEST = ("imagenet2012",)


class Records:
    """A reader of one split of a prepared data set, see `encoded.Reader`.

    Its files are opened at the first read.
    """

    def __init__(self, directory: Any, split: str):
        self.directory, self.split = directory, split

    # Pickle only the arguments: open files cannot be pickled.
    def __reduce__(self):
        return Records, (self.directory, self.split)

    def __len__(self) -> int:
        return len(self._source)

    def where(self, row: int) -> str:
        return f"{self.directory}, split {self.split}, example {row}"

    def read(self, row: int) -> tuple[bytes, int]:
        with _reading(self.directory):
            example = self._source[row]
        # From a truncated shard, TFDS reads an example without an image or a label.
        if not example["image"] or example["label"] is None:
            raise UserError(
                f"cannot read {self.where(row)} (a shard is damaged); copy or prepare "
                "the data set again"
            )
        return example["image"], int(example["label"])

    def labels(self) -> np.ndarray:
        size = len(self)
        labels = np.empty(size, np.int64)  # (N,)
        for start in range(0, size, _CHUNK):
            stop = min(start + _CHUNK, size)
            # ArrayRecord reads several examples in parallel.
            with _reading(self.directory):
                rows = list(range(start, stop))
                examples = self._source.__getitems__(rows)
                labels[start:stop] = [example["label"] for example in examples]
        return labels

    def digest(self) -> str:
        """A hash of the set's full name, the split, and the sizes of its shards.

        The full name has the configuration and the version.
        """
        info = open_builder(self.directory).info
        split = info.splits[self.split]
        sizes = np.array([*split.shard_lengths, split.num_bytes], np.int64)
        return digest_of(info.full_name, self.split, sizes)

    @cached_property
    def _source(self) -> Any:
        builder = open_builder(self.directory)
        return _source(builder, split=self.split, directory=self.directory)


def read(name: str, path: Any, options: ReadOptions) -> dict[str, Encoded]:
    """The parts of the data set `name`: "train" and "test", or one of them.

    The set needs the features `image` and `label`. The part "test" is the split test,
    or validation. There is no part "train" if its files do not exist, as in a copy for
    evaluations. Raises `UserError` for a set that cannot be used.

    name: NAME, or NAME/CONFIG.
    path: as in `tfds_directory.find`.
    """
    directory = tfds_directory.find(name, path)
    builder = open_builder(directory)
    check_builder(builder, name, directory)

    # The split of each part.
    splits = {}
    if "train" in builder.info.splits:
        splits["train"] = "train"

    # The test set: the first of these splits that has labels.
    tests = [split for split in _TEST_SPLITS if split in builder.info.splits]
    if name in _UNLABELLED_TEST and "test" in tests:
        tests.remove("test")
    if tests:
        splits["test"] = tests[0]

    # A set needs at least one part, and some sets need their test set.
    if not splits or (name in _WITH_TEST and not tests):
        found = ", ".join(builder.info.splits)
        raise UserError(
            f"{name}: needs the splits train and test (or validation), {directory} has "
            f"{found}"
        )

    # A copy for evaluations has no training images.
    if len(splits) == 2 and not has_files(directory, "train"):
        del splits["train"]

    parts = {}
    for part, split in splits.items():
        parts[part] = _encoded(
            builder, name=name, split=split, directory=directory, options=options
        )
    return parts


def has_files(directory: Any, split: str) -> bool:
    """Whether a directory holds files of that split, in any format.

    directory: the directory of one version; it may be at an address.
    """
    return any(directory.glob(f"*-{split}.*"))


def open_builder(directory: Any) -> Any:
    """The TFDS builder of the version in `directory`.

    It does not need the code that prepared the set.
    """
    with _reading(directory):
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(directory)


def check_builder(builder: Any, name: str, directory: Any) -> None:
    """Raises `UserError` unless the directory holds a readable set of that name.

    It must be in ArrayRecord format, with images of 8 bits and labels.
    """
    if builder.name != name.split("/")[0]:
        raise UserError(
            f"{directory} holds {builder.name}, not {name}: change config.dataset.path "
            "or config.dataset.name"
        )
    formats = {f.value for f in builder.info.available_file_formats()}
    if "array_record" not in formats:
        found = ", ".join(sorted(formats)) or "an unnamed format"
        raise UserError(
            f"{directory} is in {found}, but only array_record can be read here: "
            "convert it by `python -m bnas_jax data convert "
            f"--source={directory} --out=DATA_DIR`"
        )

    # Only a class feature has `num_classes`; boxes, captions and sequences do not.
    features = builder.info.features
    has_both = {"image", "label"} <= set(features)
    if not has_both or not hasattr(features["label"], "num_classes"):
        raise UserError(
            f"{name}: needs the features image and label (a class), {directory} has "
            f"{', '.join(features)}"
        )
    if features["image"].np_dtype != np.uint8:
        raise UserError(
            f"{name}: needs images of 8 bits, {directory} has "
            f"{features['image'].np_dtype}"
        )


def _encoded(
    builder: Any, name: str, split: str, directory: Any, options: ReadOptions
) -> Encoded:
    """The examples of one split."""
    # Open the split once here, so that missing files are noticed before a run begins.
    _source(builder, split, directory)
    size = builder.info.splits[split].num_examples
    if not size:
        raise UserError(f"{name}: a split without examples; prepare the data set again")

    # Images of one channel, or of one channel and transparency, are gray. If the number
    # of channels is not known, read images as RGB, which includes gray ones.
    features = builder.info.features
    channels = options.channels
    if channels is None:
        channels = {1: 1, 2: 1}.get(features["image"].shape[-1], 3)
    return Encoded(
        reader=Records(directory, split),
        rows=np.arange(size),
        classes=tuple(features["label"].names),
        name=name,
        channels=channels,
        options=options,
    )


def _source(builder: Any, split: str, directory: Any) -> Any:
    """The random-access source of a split, with images left encoded.

    Raises `UserError` for missing files.
    """
    _allow_open_files()
    with _reading(directory):
        import tensorflow_datasets as tfds

        decoders = {"image": tfds.decode.SkipDecoding()}
        source = builder.as_data_source(split=split, decoders=decoders)

    # The files are known only now: if the directory holds several formats, the line
    # above has chosen one.
    files = builder.info.splits[split].filepaths
    missing = [file for file in files if not file.exists()]
    if missing:
        raise UserError(
            f"{builder.name}: {missing[0]} is missing; copy or prepare the data set "
            "again"
        )
    return source


def _allow_open_files() -> None:
    """Allows this process `_OPEN_FILES` open files, or as many as is permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _reading(directory: Any):
    """Turns whatever the libraries raise while reading into a `UserError`.

    Their exceptions have no common base class.
    """
    try:
        yield
    # Our own errors already say what to do.
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        raise UserError(
            f"reading {directory} needs more libraries ({first_line(error)}):"
            " pip install tensorflow-datasets array_record pillow"
        ) from error
    except Exception as error:
        advice = "copy or prepare the data set again"
        if "Too many open files" in str(error):
            advice = "let a process open one more for each shard: `ulimit -n 4096`"
        message = f"cannot read {directory} ({first_line(error)}); {advice}"
        # A damaged shard stays damaged; other errors may pass.
        if "Corrupted" in message:
            raise UserError(message) from error
        raise Unreadable(message) from error
