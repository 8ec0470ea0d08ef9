"""`data prepare`, `convert` and `check` on real files, and streams of TFDS sets."""

import dataclasses
import hashlib
import json
import pathlib
import struct
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from commands import printed
from etils import epath
from etils.epath import testing as epath_testing
from image_files import encoded, picture, write_folder
from PIL import Image
from tfds_files import write_dataset

from bnas_jax.__main__ import run
from bnas_jax.core.errors import UserError
from bnas_jax.data import load as loading
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.halves import split_half
from bnas_jax.data.readers import tfds_examples
from bnas_jax.data.readers.encoded import Encoded, ReadOptions
from bnas_jax.data.stream import StreamEvalSource, StreamTrainSource
from bnas_jax.data.tools import convert


def photos(size: int, seed: int = 0) -> Arrays:
    images = np.random.default_rng(seed).integers(
        0, 256, (size, 32, 32, 3), dtype=np.uint8
    )
    return Arrays(images, np.arange(size) % 10, num_classes=10, name="photos")


class Files(NamedTuple):
    """What `write_dataset` writes, of any bytes and labels."""

    images: list[bytes]
    labels: list[int]
    num_classes: int

    def __len__(self) -> int:
        return len(self.images)


def command(capsys, *arguments: Any) -> dict:
    return printed(capsys, "data", *arguments)


def mistake(capsys, *arguments: Any) -> str:
    assert run(["data", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err.splitlines()[-1]


def files_of(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


# Convert

SPLITS = {"train": photos(11, 1), "test": photos(4, 2)}


@pytest.fixture
def old(tmp_path) -> pathlib.Path:
    """A set in TFRecord format: three shards for each split, and a file of labels."""
    directory = write_dataset(
        tmp_path / "old" / "cifar10" / "3.0.2", SPLITS, file_format="tfrecord", shards=3
    )
    (directory / "label.labels.txt").write_text("\n".join(map(str, range(10))))
    return directory


def shard(directory: pathlib.Path, number: int) -> pathlib.Path:
    return directory / f"cifar10-train.tfrecord-{number:05}-of-00003"


def test_a_source_that_cannot_be_read_is_not_called_a_full_target(
    old, tmp_path, capsys
):
    shard(old, 1).unlink()
    # Reading it is an input/output error, as of a failing disk.
    shard(old, 1).symlink_to("/proc/self/mem")
    message = mistake(capsys, "convert", f"--source={old}", f"--out={tmp_path}/new")
    assert f"cannot read {shard(old, 1)} (Input/output error)" in message


def test_a_converted_set_holds_the_same_examples(old, tmp_path, capsys):
    before = files_of(old)
    summary = command(capsys, "convert", f"--source={old}", f"--out={tmp_path}/new")
    target = tmp_path / "new" / "cifar10" / "3.0.2"
    assert summary == {"num_examples": 15, "num_shards": 6, "out": str(target)}
    assert files_of(old) == before
    assert sorted(p.name for p in target.parent.iterdir()) == ["3.0.2"]
    assert not any(
        "tfrecord" in p.name or p.name.endswith(".part") for p in target.iterdir()
    )
    train, test, _ = loading.load("cifar10", tmp_path / "new")
    for arrays, expected in ((train, SPLITS["train"]), (test, SPLITS["test"])):
        assert np.array_equal(arrays.images, expected.images) and np.array_equal(
            arrays.labels, expected.labels
        )
    assert "exists already" in mistake(
        capsys, "convert", f"--source={old}", f"--out={tmp_path}/new"
    )


def test_a_conversion_that_stopped_goes_on(old, tmp_path, capsys):
    whole = shard(old, 2).read_bytes()
    shard(old, 2).write_bytes(whole[:-1])
    assert "is cut short" in mistake(
        capsys, "convert", f"--source={old}", f"--out={tmp_path}/new"
    )
    part = tmp_path / "new" / "cifar10" / "3.0.2.incomplete"
    done = {p.name: p.stat().st_mtime_ns for p in part.iterdir()}
    assert sorted(done) == [
        f"cifar10-train.array_record-{n:05}-of-00003" for n in range(2)
    ]
    with pytest.raises(
        UserError, match="without a prepared cifar10"
    ):  # unfinished, it is not taken for a data set
        loading.load("cifar10", tmp_path / "new")
    shard(old, 2).write_bytes(whole)
    command(capsys, "convert", f"--source={old}", f"--out={tmp_path}/new")
    target = tmp_path / "new" / "cifar10" / "3.0.2"
    assert all(
        (target / name).stat().st_mtime_ns == time for name, time in done.items()
    )
    assert np.array_equal(
        loading.load("cifar10", tmp_path / "new").train.images, SPLITS["train"].images
    )


@pytest.mark.parametrize("position", [0, 9, 40, -2])
def test_a_flipped_bit_is_noticed_wherever_it_is(old, tmp_path, capsys, position):
    data = bytearray(shard(old, 0).read_bytes())
    data[position] ^= 4
    shard(old, 0).write_bytes(data)
    message = mistake(capsys, "convert", f"--source={old}", f"--out={tmp_path}/new")
    assert str(shard(old, 0)) in message and "checksum" in message
    assert not files_of(tmp_path / "new")


def test_missing_records_and_shards_are_noticed(old, tmp_path, capsys):
    data = shard(old, 0).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    shard(old, 0).write_bytes(data[length + 16 :])
    message = mistake(capsys, "convert", f"--source={old}", f"--out={tmp_path}/new")
    assert "has 3 records instead of 4" in message and not files_of(tmp_path / "new")
    shard(old, 0).unlink()
    assert f"{shard(old, 0)} is missing" in mistake(
        capsys, "convert", f"--source={old}", f"--out={tmp_path}/new"
    )


def test_what_cannot_be_converted(old, tmp_path, capsys):
    assert "is where the source is" in mistake(
        capsys, "convert", f"--source={old}", f"--out={tmp_path}/old"
    )
    assert "contains no dataset_info.json" in mistake(
        capsys, "convert", f"--source={tmp_path}", f"--out={tmp_path}/new"
    )
    assert "--out is missing" in mistake(capsys, "convert", f"--source={old}")
    (old / "dataset_info.json").write_text("{")
    assert "cannot read" in mistake(
        capsys, "convert", f"--source={old}", f"--out={tmp_path}/new"
    )
    new = write_dataset(tmp_path / "cifar10" / "3.0.2", SPLITS)
    assert "only tfrecord is converted" in mistake(
        capsys, "convert", f"--source={new}", f"--out={tmp_path}/new"
    )
    assert not (tmp_path / "new").exists()


def test_the_checksum_is_that_of_the_format():
    """TensorFlow writes this value for the length of a record of 3 bytes.

    It is not made up here, but of the polynomial.
    """
    crc = 0xFFFFFFFF
    for byte in b"a record":
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    assert (
        convert.masked_crc(b"a record")
        == ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32
    )


# Check


def test_check_counts_and_names_what_cannot_be_read(tmp_path, capsys):
    folder = write_folder(
        tmp_path, {"train/cat": 3, "train/dog": 4, "val/cat": 2}, "jpg"
    )
    (folder / "train" / "dog" / "000.jpg").write_bytes(encoded(picture(0, 50, 30)))
    bad = folder / "train" / "dog" / "002.jpg"
    bad.write_bytes(bad.read_bytes()[:100])
    summary = command(capsys, "check", "folder", f"--path={folder}")
    assert (summary["num_examples"], summary["num_classes"], summary["unreadable"]) == (
        9,
        2,
        1,
    )
    train, test = summary["splits"]["train"], summary["splits"]["test"]
    assert train["classes"] == {"cat": 3, "dog": 3} and test["classes"] == {
        "cat": 2,
        "dog": 0,
    }
    assert train["height"] == [20, 50] and train["width"] == [24, 30]
    assert len(train["files"]) == 1 and train["files"][0].startswith(
        f"{bad} does not decode"
    )


def test_check_counts_test_images_that_are_training_images_and_turned_ones(
    tmp_path, capsys
):
    folder = write_folder(tmp_path, {"train/cat": 2, "train/dog": 1, "test/cat": 1})
    # The same pixels in another file, which notes that viewers turn them.
    copy = folder / "test" / "cat" / "copy.png"
    copy.write_bytes(encoded(picture(1), exif=orientation(6)))
    (folder / "test" / "cat" / "upright.jpg").write_bytes(
        encoded(picture(9), "JPEG", exif=orientation(1))
    )
    # A note that is damaged.
    (folder / "train" / "dog" / "note.jpg").write_bytes(
        encoded(picture(8), "JPEG", exif=b"Exif\0\0damaged")
    )
    arguments = ("data", "check", "folder", f"--path={folder}")
    assert run(list(arguments)) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert (summary["in_both"], summary["unreadable"]) == (1, 0)
    turned = {part: found["turned"] for part, found in summary["splits"].items()}
    assert turned == {"train": 0, "test": 1}
    same = folder / "train" / "cat" / "001.png"
    assert f"{copy} is a training image, too: {same}" in err
    assert f"{folder}/test: viewers turn 1 images" in err


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = number
    return exif


def test_check_reads_tfds_sets_and_notices_labels_and_cut_shards(tmp_path, capsys):
    good, bad = encoded(picture(0, 32, 32)), b"no image"
    directory = tmp_path / "cifar10" / "3.0.2"
    parts: Any = {
        "train": Files([good, bad, good, good], [0, 1, 7, 10], 10),
        "test": Files([good], [3], 10),
    }
    write_dataset(directory, parts)
    summary = command(capsys, "check", "cifar10", f"--path={tmp_path}")
    train = summary["splits"]["train"]
    assert (
        train["classes"]["0"] == train["classes"]["7"] == 1
        and summary["unreadable"] == 2
    )
    assert f"{directory}, split train, example 1 does not decode" in train["files"][0]
    assert "labels must be from 0 to 9 for 10 classes, got 10" in train["files"][1]
    file = directory / "cifar10-test.array_record-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-200])
    summary = command(capsys, "check", "cifar10", f"--path={tmp_path}")
    assert summary["splits"]["test"]["unreadable"] == 1


def test_what_cannot_be_checked(capsys):
    assert "the digits come with the package" in mistake(capsys, "check", "digits")
    assert "needs the name of a data set" in mistake(capsys, "check", "--path=/data")
    assert "data needs one of prepare, convert, check" in mistake(capsys)
    assert "there is no directory" in mistake(
        capsys, "check", "folder", "--path=/nowhere"
    )


# Prepare


def test_preparing_without_tensorflow_says_what_to_install(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    message = mistake(capsys, "prepare", "cifar10", f"--out={tmp_path}/data")
    assert (
        "needs TensorFlow" in message
        and "pip install tensorflow-cpu importlib_resources;" in message
    )
    assert not (tmp_path / "data").exists()


# Streams of TFDS sets


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> pathlib.Path:
    """A directory like ImageNet's, with test images without labels.

    It has JPEGs of several sizes, one in CMYK, and one PNG.
    """
    images = [encoded(picture(seed, 240 + 20 * seed, 300), "JPEG") for seed in range(9)]
    images += [
        encoded(picture(9, 250, 260), "JPEG", "CMYK"),
        encoded(picture(10, 230, 500)),
        encoded(picture(11), "JPEG"),
    ]
    labels = [5, 999, 5, 7, 999, 5, 5, 5, 999, 999, 7, 999]
    splits: Any = {
        "train": Files(images, labels, 1000),
        "validation": Files(images[:5], labels[:5], 1000),
        "test": Files(images[:2], [-1, -1], 1000),
    }
    root = tmp_path_factory.mktemp("imagenet")
    write_dataset(
        root / "imagenet2012" / "5.1.0",
        splits,
        "imagenet2012",
        (None, None, 3),
        shards=2,
    )
    return root


def test_gray_imagenet_is_augmented_as_the_coloured_one(imagenet):
    _, _, augmentation = loading.load(
        "imagenet2012", imagenet, ReadOptions(32, channels=1)
    )
    _, _, coloured = loading.load("imagenet2012", imagenet)
    assert len(augmentation.mean) == len(augmentation.std) == 1
    measured = {"mean": augmentation.mean, "std": augmentation.std}
    assert augmentation == dataclasses.replace(coloured, **measured)


def test_imagenet_streams_as_released(imagenet):
    train, test, augmentation = loading.load("imagenet2012", imagenet)
    assert isinstance(train, Encoded) and train.image_shape == test.image_shape == (
        224,
        224,
        3,
    )
    assert (len(train), len(test), train.num_classes) == (12, 5, 1000)
    assert train.options.resize == 256
    assert (
        augmentation.min_area == 0.08
        and augmentation.jitter == (0.4, 0.4, 0.4, 0.2)
        and augmentation.flip
    )
    assert augmentation.mean == (0.485, 0.456, 0.406) and augmentation.std == (
        0.229,
        0.224,
        0.225,
    )
    feed = StreamEvalSource(test, 5, augmentation).feed(0)
    assert feed["labels"].tolist() == [5, 999, 5, 7, 999]
    side = round(240 * 224 / 256)
    top, left = (240 - side) // 2, (300 - side) // 2
    first = picture(0, 240, 300)[top : top + side, left : left + side]
    assert (
        np.abs(
            np.asarray(feed["images"][0]).astype(int).mean((0, 1)) - first.mean((0, 1))
        ).max()
        < 2
    )


def test_records_are_the_same_from_workers_and_halves_are_by_class(imagenet):
    def feeds(workers: int) -> list:
        train, _, augmentation = loading.load(
            "imagenet2012", imagenet, ReadOptions(image_size=32, workers=workers)
        )
        source = StreamTrainSource(train, 4, 0, augmentation)
        return [jax.tree.map(np.asarray, source.feed(step)) for step in range(2, 5)]

    assert jax.tree.all(jax.tree.map(np.array_equal, feeds(0), feeds(2)))
    train, _, _ = loading.load("imagenet2012", imagenet)
    first, second = split_half(train, 0, "stratified")
    assert sorted(np.concatenate([first.labels, second.labels])) == sorted(train.labels)
    for half in (first, second):
        assert {label: (half.labels == label).sum() for label in (7,)} == {
            7: 1
        } and len(half) == 6


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_labels_out_of_range_and_damaged_shards_end_a_stream(tmp_path, workers):
    good = encoded(picture(0, 32, 32))
    parts: Any = {
        "train": Files([good] * 4, [0, 1, 2, 10], 10),
        "test": Files([good], [3], 10),
    }
    directory = write_dataset(tmp_path / "cifar10" / "3.0.2", parts)
    options = ReadOptions(image_size=8, in_memory_mib=0, workers=workers, skip_bad=True)
    train, _, augmentation = loading.load("cifar10", tmp_path, options)
    with pytest.raises(
        UserError, match="labels must be from 0 to 9 for 10 classes, got 10"
    ):
        StreamTrainSource(train, 4, 0, augmentation).feed(0)
    file = directory / "cifar10-test.array_record-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-200])
    _, test, augmentation = loading.load("cifar10", tmp_path, options)
    with pytest.raises(UserError, match="cannot read"):
        StreamEvalSource(test, 1, augmentation).feed(0)


def test_the_files_of_a_split_are_found_at_an_address():
    found = lambda original, pattern: (
        [pattern] if "gs://bucket/d/*-train" in pattern else []
    )
    with epath_testing.mock_epath(glob=found):
        directory = epath.Path("gs://bucket/d")
        assert tfds_examples.has_files(directory, "train")
        assert not tfds_examples.has_files(directory, "test")
