"""Unusual data, paths and file systems: nothing goes wrong in silence."""

import dataclasses
import errno
import fcntl
import os
import pathlib
import pickle
import shlex
import shutil
import subprocess

import jax
import numpy as np
import pytest
import test_launch
import tfds_files
from commands import error, printed
from image_files import encoded, picture, write_folder

from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data import load, statistics
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.facts import Facts
from bnas_jax.data.readers import folder
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.interop.reference import build, shapes, to_reference
from bnas_jax.settings import DatasetSettings
from bnas_jax.training.run_data import dataset_of, load_run_data
from bnas_jax.training.workdir import WorkDir
from configs import search as search_configs
from configs import train as train_configs

# ml_collections loads a config's file so.
pytestmark = [
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("own_compilation_cache", "quick_compilation"),
]

CONFIGS = {"train": train_configs, "search": search_configs}
TRAIN = ["train", "--config=configs/train.py:digits"]
SMALL = [
    *(
        "--config.dataset.name=folder",
        "--config.dataset.image_size=8",
        "--config.num_epochs=1",
        "--config.batch_size=4",
    ),
    *("--config.network.num_cells=3", "--config.network.channels=2"),
]
CLASSES = {
    "train/a": 4,
    "train/b": 4,
    "train/c": 4,
    "test/a": 2,
    "test/b": 2,
    "test/c": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """(a folder of three classes, the work directory of a finished run on it)."""
    root = tmp_path_factory.mktemp("trained")
    data = write_folder(root / "data", CLASSES)
    assert (
        command(
            [*TRAIN, *SMALL, f"--config.dataset.path={data}", f"--workdir={root}/run"]
        )
        == 0
    )
    return data, root / "run"


@pytest.fixture
def run_again(trained, tmp_path) -> tuple[pathlib.Path, list[str]]:
    """(a copy of the folder, the arguments of the same command on both copies)."""
    data, workdir = (shutil.copytree(place, tmp_path / place.name) for place in trained)
    return data, [
        *TRAIN,
        *SMALL,
        f"--config.dataset.path={data}",
        f"--workdir={workdir}",
    ]


def darken(files: pathlib.Path) -> None:
    for number, file in enumerate(sorted(files.rglob("*.png"))):
        file.write_bytes(encoded(picture(number) // 3))


def run_settings(
    task: str, path: pathlib.Path | None = None, **dataset
) -> settings.Settings:
    config = CONFIGS[task].get_config("digits")
    if path:
        config.dataset.update(
            {"name": "folder", "path": str(path), "image_size": 8, **dataset}
        )
    return settings.from_config(config)


# Mean and deviation belong to the run


def test_a_run_keeps_what_it_learned(trained):
    """`run.json` keeps mean, std, class_names, num_train and a digest.

    The digest is that of the training set.
    """
    data, workdir = trained
    facts = WorkDir(workdir).facts()
    train = load.load("folder", data, ReadOptions(image_size=8)).train
    mean, std = statistics.of_images(train.images)
    assert (facts["mean"], facts["std"]) == (list(mean), list(std))
    assert facts["class_names"] == ["a", "b", "c"] and facts["num_train"] == 12
    assert facts["digest"] == train.digest()


@pytest.mark.long
def test_evaluate_normalises_with_the_runs_values(trained, tmp_path, capfd):
    """Another path with darker training images gives the same loss.

    The test images are the same.
    """
    data, workdir = trained
    other = shutil.copytree(data, tmp_path / "other")
    darken(other / "train")
    then, now = (
        printed(
            capfd, "evaluate", f"--workdir={workdir}", f"--config.dataset.path={place}"
        )
        for place in (data, other)
    )
    assert then == now
    by_hand = [
        "--config.dataset.mean=(0.5,0.5,0.5)",
        "--config.dataset.std=(0.1,0.1,0.1)",
    ]
    assert (
        printed(capfd, "evaluate", f"--workdir={workdir}", *by_hand)["loss"]
        != then["loss"]
    )


def test_validation_images_alone_are_evaluated_as_beside_the_training_images(
    trained, tmp_path, capfd
):
    """What they are normalised with is the run's."""
    data, workdir = trained
    alone = tmp_path / "alone"
    shutil.copytree(data / "test", alone / "val")
    then, now = (
        printed(
            capfd, "evaluate", f"--workdir={workdir}", f"--config.dataset.path={place}"
        )
        for place in (data, alone)
    )
    assert then == now


@pytest.mark.parametrize("task", ["train", "search"])
def test_a_resumed_run_normalises_with_the_values_that_it_began_with(task, tmp_path):
    """What run.json says goes before what the data or the package say now.

    What it lacks is added.
    """
    run, workdir = run_settings(task), WorkDir(tmp_path)
    workdir.open(run, Facts(10, (8, 8, 1), mean=(0.9,), std=(0.4,)))
    data, facts = load_run_data(run, workdir)
    assert (
        (data.augmentation.mean, data.augmentation.std)
        == ((0.9,), (0.4,))
        == facts.statistics
    )
    workdir.open(run, facts)
    workdir.close()
    kept = workdir.facts()
    assert (
        kept["mean"] == [0.9]
        and kept["digest"] == data.train.digest()
        and "jax" in kept["environment"]
    )
    assert ("test_digest" in kept) == (task == "train")


@pytest.mark.parametrize("memory", [0, None])
def test_mean_and_deviation_by_hand(tmp_path, memory):
    """`config.dataset.mean` and `std` stand before those of the data.

    They are lists of a number a channel, on the scale 0 to 1.
    """
    data = write_folder(tmp_path / "data", CLASSES)
    by_hand = DatasetSettings(
        "folder",
        str(data),
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 0.5, 0.25),
        image_size=8,
        in_memory_mib=memory,
    )
    found = dataset_of(by_hand).augmentation
    assert (found.mean, found.std, found.scale) == (
        (0.1, 0.2, 0.3),
        (1.0, 0.5, 0.25),
        1 / 255,
    )
    digits = dataset_of(DatasetSettings("digits", mean=(0.5,), std=(0.5,))).augmentation
    assert (digits.mean, digits.std, digits.scale) == ((0.5,), (0.5,), 1 / 16)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), None, "need a list of one number for each channel"),
        (None, (0.5,), "need a list of one number for each channel"),
        ((0.5, 0.5), (0.5,), "need a list of one number for each channel"),
        (
            (123.7,),
            (0.2,),
            "config.dataset.mean: the values are on the scale 0 to 1 (divide by 255)",
        ),
        (
            (0.5,),
            (58.4,),
            "config.dataset.std: the values are on the scale 0 to 1 (divide by 255)",
        ),
        (
            (0.5,),
            (0.0,),
            "config.dataset.std: the values are on the scale 0 to 1 (divide by 255) "
            "and above 0",
        ),
        ((float("nan"),), (0.5,), "config.dataset.mean: the values"),
    ],
)
def test_a_mean_that_cannot_be_is_refused(mean, std, message):
    """A mean without a deviation, of other channels, or on the scale 0 to 255."""
    with pytest.raises(UserError) as raised:
        DatasetSettings("digits", mean=mean, std=std)
    assert message in str(raised.value)


def test_a_mean_of_too_many_channels_is_refused_with_what_to_set(tmp_path, capfd):
    """Three means for images of one channel."""
    lists = [
        "--config.dataset.mean=(0.5,0.5,0.5)",
        "--config.dataset.std=(0.5,0.5,0.5)",
    ]
    message = error(capfd, *TRAIN, *lists, f"--workdir={tmp_path}/run")
    assert (
        "images of 1 channels need 1 means and stds, got 3: change config.dataset.mean "
        "and config.dataset.std" in message
    )


@pytest.mark.long
def test_known_statistics_travel_with_an_import(tmp_path, capfd):
    """A network of the authors' for ImageNet keeps ImageNet's values.

    It does so whatever its images are read from.
    """
    sizes = {"num_cells": 3, "channels": 4}
    model = build(
        form="imagenet",
        genotype="latest_cell",
        num_classes=5,
        conventions="release",
        **sizes,
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes(model))
    np.savez(tmp_path / "net.npz", **to_reference(model, zeros))
    options = [f"--config.network.{key}={value}" for key, value in sizes.items()]
    place = [
        f"--checkpoint={tmp_path}/net.npz",
        "--config.dataset.name=folder",
        f"--workdir={tmp_path}/run",
    ]
    printed(capfd, "import", "--preset=d", *options, *place)
    facts = WorkDir(tmp_path / "run").facts()
    assert (facts["mean"], facts["std"]) == (
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    assert (
        "class_names" not in facts and "digest" not in facts
    )  # a checkpoint does not say


# Labels


def arrays(classes: tuple[str, ...], labels: list[int]) -> Arrays:
    images = np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 2, 2, 1)
    return Arrays(
        images, np.array(labels), num_classes=len(classes), name="some", classes=classes
    )


RUN = Facts(3, (2, 2, 1), class_names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (("a", "b", "c"), [0, 1, 2, 2], [0, 1, 2, 2]),
        (("c", "a", "b"), [0, 1, 2, 2], [2, 0, 1, 1]),  # another order
        (("c", "b"), [0, 1, 1, 0], [2, 1, 1, 2]),  # some of them
    ],
)
def test_labels_are_those_of_the_runs_classes(classes, labels, expected):
    """Another order is mapped, and a part of the classes can be evaluated."""
    mapped = facts_lib.with_labels(arrays(classes, labels), RUN)
    assert (
        mapped.labels.tolist() == expected
        and mapped.num_classes == 3
        and mapped.classes == ("a", "b", "c")
    )


def test_other_classes_are_refused_by_name():
    """The same number of classes, one of another name.

    Where the names are not known, another number is refused.
    """
    message = (
        "some has the class 'bird', which the run does not have: "
        "its classes are a, b, c; set config"
    )
    with pytest.raises(UserError, match=message):
        facts_lib.with_labels(arrays(("a", "b", "bird"), [0, 1, 2]), RUN)
    unnamed = dataclasses.replace(RUN, class_names=None)
    assert facts_lib.with_labels(
        arrays(("x", "y", "z"), [0, 1, 2]), unnamed
    ).labels.tolist() == [
        0,
        1,
        2,
    ]
    with pytest.raises(UserError, match="some has 2 classes, the network 3"):
        facts_lib.with_labels(arrays(("x", "y"), [0, 1]), unnamed)


def test_labels_of_streamed_examples_are_mapped(tmp_path):
    """Also in the processes that read.

    A label that is no class stays none.
    """
    data = write_folder(tmp_path / "data", {"train/b": 1, "train/c": 2, "test/c": 1})
    train = folder.read(data, ReadOptions(image_size=8))["train"]
    mapped = pickle.loads(pickle.dumps(facts_lib.with_labels(train, RUN)))
    assert (
        mapped.labels.tolist() == [1, 2, 2] == [mapped.example(n)[1] for n in range(3)]
    )
    assert mapped.example(0)[0].shape == (8, 8, 3)
    files = dataclasses.replace(train.reader, classes=np.array([0, 1, 7], np.int32))
    odd = facts_lib.with_labels(dataclasses.replace(train, reader=files), RUN)
    with pytest.raises(
        UserError, match="labels must be from 0 to 2 for 3 classes, got -1"
    ):
        odd.example(2)


@pytest.mark.long
def test_a_subset_of_the_classes_is_evaluated(trained, tmp_path, capfd):
    """B and c alone give what the run's own test images of b and c give.

    Other names are refused.
    """
    data, workdir = trained
    whole = shutil.copytree(data, tmp_path / "whole")
    shutil.rmtree(whole / "test" / "a")
    part = shutil.copytree(whole, tmp_path / "part")
    shutil.rmtree(part / "train" / "a")
    evaluate = ["evaluate", f"--workdir={workdir}"]
    one, other = (
        printed(capfd, *evaluate, f"--config.dataset.path={place}")
        for place in (whole, part)
    )
    assert one == other and one["num_examples"] == 4
    for tree in ("train", "test"):
        (part / tree / "b").rename(part / tree / "z")
    message = error(capfd, *evaluate, f"--config.dataset.path={part}")
    assert (
        "has the class 'z', which the run does not have: its classes are a, b, c"
        in message
    )


# The training set's identity is part of the run


def add(data: pathlib.Path) -> None:
    (data / "train" / "a" / "new.png").write_bytes(encoded(picture(99)))


def remove(data: pathlib.Path) -> None:
    (data / "train" / "a" / "000.png").unlink()


def replace(data: pathlib.Path) -> None:
    (data / "train" / "a" / "000.png").write_bytes(encoded(picture(99)))


def rename_classes(data: pathlib.Path) -> None:
    """So that the order of the classes flips."""
    (data / "train" / "a").rename(data / "train" / "swap")
    (data / "train" / "b").rename(data / "train" / "a")
    (data / "train" / "swap").rename(data / "train" / "b")


def add_class(data: pathlib.Path) -> None:
    shutil.copytree(data / "train" / "a", data / "train" / "d")


OTHER_IMAGES = (
    "the training set has other images now (their names, sizes or contents differ) "
    "than it had"
)
CHANGES = {
    add: "the training set has 13 images now, and had 12 when the run began",
    remove: "the training set has 11 images now, and had 12 when the run began",
    replace: OTHER_IMAGES,
    rename_classes: OTHER_IMAGES,
    add_class: (
        "the data has the classes a, b, c, d now, and had a, b, c when the run began"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("task", "memory"), [("train", None), ("search", None), ("train", 0)]
)
def test_other_training_images_are_refused(task, memory, change, tmp_path):
    """In memory and streamed, for a training and a search.

    Nothing is made, and nothing changed.
    """
    data = write_folder(tmp_path / "data", CLASSES)
    run, workdir = (
        run_settings(task, data, in_memory_mib=memory),
        WorkDir(tmp_path / "run"),
    )
    workdir.open(run, load_run_data(run, workdir)[1])
    workdir.close()
    moved = data.rename(tmp_path / "moved")
    assert (
        load_run_data(run_settings(task, moved, in_memory_mib=memory), workdir)[
            1
        ].num_train
        == 12
    )  # the same elsewhere
    change(moved)
    with pytest.raises(UserError) as raised:
        load_run_data(run_settings(task, moved, in_memory_mib=memory), workdir)
    assert CHANGES[change] in str(raised.value) and str(raised.value).endswith(
        "when the run began; restore that data (config.dataset.path may say where it "
        "is now), or choose another --workdir"
    )


def test_other_test_images_are_refused_where_they_count(tmp_path):
    """A run's accuracies are of the same test images.

    A search looks at none.
    """
    data = write_folder(tmp_path / "data", CLASSES)
    workdirs = {task: WorkDir(tmp_path / task) for task in CONFIGS}
    for task, workdir in workdirs.items():
        workdir.open(
            run_settings(task, data),
            load_run_data(run_settings(task, data), workdir)[1],
        )
        workdir.close()
    (data / "test" / "a" / "new.png").write_bytes(encoded(picture(99)))
    load_run_data(run_settings("search", data), workdirs["search"])
    with pytest.raises(UserError, match="the test set has other images now"):
        load_run_data(run_settings("train", data), workdirs["train"])


def test_a_finished_run_does_not_train_on_with_images_that_were_added(run_again, capfd):
    """The same command again changes nothing.

    With one image more it is refused, and with that taken away it goes on.
    """
    data, arguments = run_again
    workdir = pathlib.Path(arguments[-1].removeprefix("--workdir="))
    before = {
        name: (workdir / name).read_text()
        for name in ("run.json", "metrics.jsonl", "summary.json")
    }
    add(data)
    assert "the training set has 13 images now, and had 12" in error(capfd, *arguments)
    (data / "train" / "a" / "new.png").unlink()
    assert printed(capfd, *arguments)["steps"] == 3
    assert {name: (workdir / name).read_text() for name in before} == before


def test_a_tfds_set_is_known_again_wherever_it_is(tmp_path):
    """By its name, version, split and shards, without reading a record."""
    draw = np.random.default_rng(0)
    photos = lambda size: Arrays(
        draw.integers(0, 256, (size, 4, 4, 3), np.uint8),
        np.arange(size) % 2,
        2,
        "photos",
    )

    def digest(place: str, version: str, size: int) -> str:
        parts = {"train": photos(size), "test": photos(2)}
        tfds_files.write_dataset(
            tmp_path / place / "cifar10" / version, parts, shape=(4, 4, 3)
        )
        options = ReadOptions(image_size=4, in_memory_mib=0)
        return load.load("cifar10", tmp_path / place, options).train.digest()

    first = digest("one", "3.0.2", 6)
    assert digest("other", "3.0.2", 6) == first
    assert (
        digest("newer", "3.0.3", 6) != first and digest("larger", "3.0.2", 7) != first
    )


def test_the_share_that_is_for_training_is_part_of_the_digest(tmp_path):
    """One tree divided in another way has another training set."""
    data = write_folder(tmp_path / "data", {"a": 6, "b": 6})
    options = lambda seed: ReadOptions(
        image_size=8, split=0.5, split_seed=seed, in_memory_mib=0
    )
    part = lambda seed: load.load("folder", data, options(seed)).train.digest()
    assert part(0) == part(0) != part(1)


# Paths


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([*TRAIN, "--workdir=gs://b/runs/x"], "--workdir=bucket/runs/x"),
        (
            [*TRAIN, "--workdir=gs:/b/runs/x"],
            "--workdir=bucket/runs/x",
        ),  # as paths put together from parts become
        (
            ["search", "--config=configs/search.py:digits", "--workdir=gs://b/x"],
            "--workdir=bucket/x",
        ),
        (["evaluate", "--workdir=gs://b/x"], "--workdir=bucket/x"),
        (
            ["import", "--preset=d", "--checkpoint=d.pt", "--workdir=gs://b/x"],
            "--workdir=bucket/x",
        ),
        (
            ["import", "--preset=d", "--checkpoint=gs://b/d.pt", "--workdir=x"],
            "--checkpoint=bucket/d.pt",
        ),
        (
            ["train", "--config=gs://b/train.py:digits", "--workdir=x"],
            "--config=bucket/train.py:digits",
        ),
        (
            [*TRAIN, "--config.network.genotype=gs://b/g.json", "--workdir=x"],
            "genotype=bucket/g.json",
        ),
        (
            ["cost", "--config=configs/train.py:a", "--genotype=gs://b/g.json"],
            "genotype=bucket/g.json",
        ),
        (
            ["cost", "--config=configs/train.py:a", "--reference=gs://b/g.json"],
            "genotype=bucket/g.json",
        ),
        (
            ["data", "convert", "--source=gs://b/old", "--out=new"],
            "--source=bucket/old",
        ),
        (["data", "prepare", "cifar10", "--out=gs://b/data"], "--out=bucket/data"),
        (["data", "check", "folder", "--path=gs://b/data"], "--path=bucket/data"),
        (["data", "check", "cifar10", "--path=gs://b/data"], "--path=bucket/data"),
        (
            [*TRAIN, *SMALL, "--config.dataset.path=gs://b/data", "--workdir=x"],
            "config.dataset.path=bucket/data",
        ),
    ],
)
def test_an_address_is_answered_with_the_mounted_form(
    arguments, advice, tmp_path, monkeypatch, capfd
):
    """In one line, for every path that can be given.

    No local folder `gs:` is made.
    """
    monkeypatch.chdir(tmp_path)
    message = error(capfd, *arguments)
    assert f"{paths.MOUNT} b bucket`" in message
    assert message.endswith(f"and write {advice}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        (
            "s3://b/x",
            "mount it as a folder, for instance `bucket`, and write --workdir=bucket/x",
        ),
        ("gs://b", "and write --workdir=bucket"),
        (
            "gs://",
            "BUCKET bucket`, as `launch/tpu_vm.sh --bucket=BUCKET` does, and write "
            "--workdir=bucket",
        ),
        ("file:///data/x", "write --workdir=/data/x"),
    ],
)
def test_other_addresses(path, advice):
    """Those of other stores, of a whole bucket, and of files of this machine."""
    with pytest.raises(UserError) as raised:
        WorkDir(path)
    assert str(raised.value).endswith(advice)


def test_a_tilde_is_the_home_directory_whatever_the_shell_makes_of_it(
    tmp_path, monkeypatch, capfd
):
    """Bash leaves the tilde of --workdir=~/x as it is.

    A local folder `~` was made.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    assert WorkDir("~/runs/x").path == tmp_path / "runs" / "x"
    (tmp_path / "g.json").write_text("{}")
    # It was found, and read.
    message = error(capfd, "cost", "--config=configs/train.py:a", "--genotype=~/g.json")
    assert "it lacks normal and reduce" in message
    with pytest.raises(
        UserError,
        match="--workdir=~nobody-has-this-name/x: there is no such home directory",
    ):
        WorkDir("~nobody-has-this-name/x")


def test_what_only_looks_like_an_address_is_a_path(tmp_path):
    """Colons are letters like others.

    What is put in place of a class's setting is no address.
    """
    for name in ("a:b", "run:1/x", "C:/x", "/gs://x"):
        assert not paths.is_address(name) and paths.local(
            name, "--workdir"
        ) == pathlib.Path(name)


def test_the_tpu_script_refuses_a_bucket_as_the_work_directory_before_a_tpu_is_made():
    """With the mounted form of the same bucket."""
    done = test_launch.launch(
        "tpu_vm.sh",
        "--dry-run",
        "train",
        "--config=configs/train.py:a",
        "--workdir=gs://b/runs/a",
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        "write launch/tpu_vm.sh --bucket=b train ... --workdir=bucket/runs/a"
        in done.stderr
    )


# File systems


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_run_starts_on_a_file_system_without_locks(
    number, tmp_path, monkeypatch, capfd
):
    """With a warning on stderr and in the log.

    What locking says there, no file system here would say.
    """

    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    workdir = WorkDir(tmp_path / "run")
    workdir.open(run_settings("train"), Facts(10, (8, 8, 1)))
    workdir.close()
    assert workdir.exists()
    for text in (capfd.readouterr().err, (workdir / "log.txt").read_text()):
        assert (
            len(text.splitlines()) == 1
            and f"has no locks ({os.strerror(number)}); nothing keeps a second run out"
            in text
        )


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    """What is no lack of locks is not passed over."""

    def lockf(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(
        UserError, match=r"cannot write to the work directory .*Input/output error"
    ):
        WorkDir(tmp_path).open(run_settings("train"), Facts(10, (8, 8, 1)))


IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_labels": LABELS.astype(str)}, "labels must be whole numbers, got <U"),
        ({"train_labels": LABELS * 1000}, "labels up to 2000; number the classes"),
        ({"class_names": np.array("ab")}, "class_names must be a list of different"),
        ({"class_names": ["a", "a", "b"]}, "class_names must be a list of different"),
        ({"test_images": IMAGES[..., :1]}, r"test images \(8, 8, 1\); give both"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path, arrays, message):
    given = {"train_images": IMAGES, "train_labels": LABELS}
    given |= {"test_images": IMAGES, "test_labels": LABELS, **arrays}
    np.savez(tmp_path / "mine.npz", **given)
    with pytest.raises(UserError, match=message):
        load.load("npz", tmp_path / "mine.npz")


def test_an_empty_file_is_no_arrays(tmp_path):
    (tmp_path / "mine.npz").touch()
    with pytest.raises(UserError, match=r"mine.npz cannot be read as arrays"):
        load.load("npz", tmp_path / "mine.npz")


def test_the_mount_of_the_tpu_script_renames_folders():
    """A save renames a folder of files, and messages show the same mount.

    gcsfuse renames up to --rename-dir-limit of them.
    """
    lines = test_launch.dry("tpu_vm.sh", "--bucket=b", *test_launch.COMMAND)
    (mount,) = (word for words in lines for word in words if "gcsfuse" in word)
    assert f"{paths.MOUNT} b bucket;" in mount
    limit = next(
        word for word in shlex.split(mount) if word.startswith("--rename-dir-limit=")
    )
    assert int(limit.partition("=")[2]) >= 1000
    assert (
        subprocess.run(
            ["bash", "-n"], input=mount.removeprefix("--command="), text=True
        ).returncode
        == 0
    )
