"""Settings, genotypes and data that are read: nothing is guessed in silence."""

import io
import json
import os
import pathlib

import numpy as np
import pytest
from image_files import encoded, error, load, picture, write_folder
from PIL import Image
from tfds_files import write_dataset

from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotypes
from bnas_jax.core.errors import UserError
from bnas_jax.data import load as loading
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.readers import folder as folders
from bnas_jax.data.readers import images
from bnas_jax.data.readers.encoded import Encoded, ReadOptions
from configs import train as train_configs

# ml_collections loads a config's file so.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
)


def answer(capfd, *arguments: object) -> tuple[int, str]:
    """(exit code, the last line: of stdout where it went well, else of stderr)"""
    code = run([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return code, (err if code else out).splitlines()[-1]


# Settings


SMALL = ("--config.network.channels=8", "--config.network.num_cells=3")
COST = ("cost", "--config=configs/train.py:d", *SMALL)


@pytest.mark.long
def test_the_cost_is_that_of_the_size_that_is_set(capfd):
    """`config.dataset.image_size` and `channels` stand above what is known of a set.

    A flag of cost stands above both.
    """
    flops = lambda *more: json.loads(answer(capfd, *COST, *more)[1])["flops"]
    small = flops("--config.dataset.image_size=128")
    assert small < flops() and small == flops("--image_size=128")
    assert flops("--config.dataset.image_size=64", "--image_size=128") == small
    assert flops("--config.dataset.channels=1") == flops("--image_channels=1") < flops()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--form=cifar"], "write --config.network.form=cifar"),
        (["--conventions=release"], "write --config.conventions=release"),
        (["--cells=5-7"], "--budget=FLOPS"),
        (
            ["--config.dataset.name=folder"],
            "add --image_size=... and --num_classes=...",
        ),
        (
            ["--config.dataset.name=folder", "--config.dataset.image_size=64"],
            "is not known here; add --num_classes=...",
        ),
    ],
)
def test_flags_of_cost_without_an_effect_are_refused(capfd, more, message):
    """Siblings of the above.

    They were dropped in silence, or asked for though they were there.
    """
    code, line = answer(capfd, *COST, *more)
    assert code == 2 and message in line


SET = {
    "path": "/data",
    "min_area": 0.5,
    "image_size": 16,
    "resize": 20,
    "channels": 3,
    "white_level": 4095.0,
    "split": 0.1,
    "in_memory_mib": 5,
    "bad_images": "skip",
    "workers": 2,
}
OF_DIGITS = {
    "pad": 1,
    "flip": True,
    "jitter": (0.1, 0.1, 0.0, 0.0),
    "search_split": "stratified",
}


@pytest.mark.parametrize("name", SET)
def test_what_has_no_effect_on_the_digits_is_refused(name):
    """It is taken where it has one."""
    message = (
        f"config.dataset.{name} has no effect on digits: "
        f"leave config.dataset.{name} out"
    )
    with pytest.raises(UserError, match=message):
        settings.DatasetSettings("digits", **{name: SET[name]})
    settings.DatasetSettings("digits", **OF_DIGITS)
    needed = {"image_size": 16} if name == "resize" else {}
    settings.DatasetSettings("folder", **{name: SET[name]}, **needed)


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "imagenet2012", "tfds:tf_flowers"]
)
def test_what_has_no_effect_on_prepared_sets_is_refused(name):
    """Prepared sets are of 8 bits, and a seed needs what it draws.

    Those with a test set of their own are not divided.
    """
    with pytest.raises(UserError, match="white_level has no effect"):
        settings.DatasetSettings(name, white_level=4095.0)
    with pytest.raises(UserError, match="split_seed has no effect"):
        settings.DatasetSettings(name, split_seed=1)
    if name != "tfds:tf_flowers":
        with pytest.raises(UserError, match="split has no effect"):
            settings.DatasetSettings(name, split=0.1)


def test_settings_go_over_to_another_data_set_as_far_as_they_fit():
    """A run on a folder is evaluated on other data.

    It is not refused for settings of the folder.
    """
    mine = {**SET, "name": "folder", "split_seed": 3, "search_split": "stratified"}
    digits = settings.for_data(mine, "digits")
    assert (
        digits["search_split"] == "stratified"
        and digits["split"] is None
        and digits["bad_images"] == "fail"
        and digits["workers"] == 0
    )
    settings.DatasetSettings(**{**digits, "name": "digits"})
    cifar = settings.for_data(mine, "cifar10")
    assert cifar["image_size"] == 16 and cifar["split"] is cifar["white_level"] is None


# Genotypes


CELL = [["bin_conv_3x3", 1], ["max_pool_3x3", 0]] * 4
PAIRS = ", ".join(f"('{layer}', {source})" for layer, source in CELL)
PRINTED = (
    f"Genotype(normal=[{PAIRS}], normal_concat=range(2, 6), "
    f"reduce=[{PAIRS}], reduce_concat=[2, 3, 4, 5])"
)
GENOTYPE = genotype_lib.Genotype(CELL, CELL)
NOTES = {
    "select": "best",
    "alphas_as_of": "after",
    "epoch": 3,
    "gamma": 1.0,
    "keep_zeroise": True,
    "valid_top1": 90.0,
}


@pytest.mark.parametrize(
    "text",
    [
        PRINTED,
        f"BNAS = {PRINTED}\n",
        f"genotypes.{PRINTED}",
        f"Genotype([{PAIRS}], range(2, 6), [{PAIRS}], [5, 4, 3, 2])",
        json.dumps(
            {
                "normal": CELL,
                "reduce": CELL,
                "normal_concat": [3, 2, 5, 4],
                "reduce_concat": [2, 3, 4, 5],
            }
        ),
        json.dumps({"normal": CELL, "reduce": CELL, **NOTES}),
        "\ufeff" + json.dumps({"normal": CELL, "reduce": CELL}),
    ],
)
def test_what_is_the_same_cell_is_read(text, tmp_path):
    """The text of the DARTS family, and the keys that a search writes.

    Concatenations are of all nodes, in any order.
    """
    (tmp_path / "genotype.json").write_text(text)
    assert genotypes.load(str(tmp_path / "genotype.json")) == GENOTYPE
    assert genotypes.load(str(tmp_path)) == GENOTYPE  # a search's work directory
    config = train_configs.get_config("digits")
    config.network.genotype = PRINTED
    assert settings.from_config(config).network.genotype == GENOTYPE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            json.dumps({"normal": CELL, "reduce": CELL, "normal_concat": [4, 5]}),
            "normal_concat must be [2, 3, 4, 5]",
        ),
        (
            json.dumps(
                {"normal": CELL, "reduce": CELL, "reduce_concat": [2, 3, 4, 5, 5]}
            ),
            "reduce_concat must be",
        ),
        (
            json.dumps({"normal": CELL, "reduce": CELL, "reduce_concat": 4}),
            "reduce_concat must be",
        ),
        (
            json.dumps({"normal": CELL, "reduce": CELL, "concat": [4, 5]}),
            "unknown key 'concat'",
        ),
        ('{"normal": [], "normal": [], "reduce": []}', "'normal' is there twice"),
        ("[" * 100_000, "not valid JSON"),
        (PRINTED.replace("range(2, 6)", "range(4, 6)"), "normal_concat must be"),
        (PRINTED.replace("range(2, 6)", "range(2, 10**30)"), "cannot read that text"),
        (
            PRINTED.replace("range(2, 6)", "range(2, 10000000000000)"),
            "normal_concat must be",
        ),
        (PRINTED.replace("range(2, 6)", "print(2, 6)"), "cannot read that text"),
        (PRINTED.replace("[2, 3, 4, 5]", "[2 + 1, 3, 4, 5]"), "cannot read that text"),
        (PRINTED + "\n" + PRINTED, "cannot read that text (2 statements)"),
        ("2026 genotype = " + PRINTED, "cannot read that text"),
        ("f(" + PRINTED + ")", "no call of Genotype"),
        (PRINTED[:-1] + ", **{})", "unknown key None"),
        (PRINTED[:-1] + ", steps=4)", "unknown key 'steps'"),
        (f"Genotype([{PAIRS}], range(2, 6), [{PAIRS}], range(2, 6), 4)", "5 values"),
    ],
)
def test_what_is_another_cell_or_none_is_refused(text, message, tmp_path):
    """Whatever would change the network is not dropped.

    Nothing in a text is run.
    """
    (tmp_path / "cell.txt").write_text(text)
    with pytest.raises(UserError) as caught:
        genotypes.load(str(tmp_path / "cell.txt"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_search_that_has_not_ended_and_a_name_too_long_have_one_line(tmp_path):
    """Siblings, which were tracebacks or called neither a file nor a cell."""
    with pytest.raises(
        UserError, match=r"contains no genotype\.json, which a search writes at its end"
    ):
        genotypes.load(str(tmp_path))
    with pytest.raises(UserError, match="cannot read"):
        genotypes.load("x" * 5000)


# Images of more than 8 bits


def tiff(values: np.ndarray, kind: str = "TIFF") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def decoded(
    data: bytes, white_level: float | None = None, channels: int = 1
) -> np.ndarray:
    return images.decode(images.read_header(data, white_level), channels)


GRAY = np.tile(np.arange(0, 256, dtype=np.uint8), (4, 1))
COLORS = np.stack([GRAY, GRAY[:, ::-1], GRAY // 2], -1)


@pytest.mark.parametrize(
    ("data", "white_level"),
    [
        (tiff(GRAY.astype(np.float32) / 255), None),
        (tiff(GRAY.astype(np.float32)), 255),
        (tiff(GRAY.astype(np.uint16) * 257), None),
        (tiff(GRAY.astype(np.uint16) * 257, "PNG"), None),
        (tiff(np.rint(GRAY * (4095 / 255)).astype(np.uint16)), 4095),
        (tiff(np.rint(GRAY * (1023 / 255)).astype(np.uint16), "PNG"), 1023),
        (tiff(GRAY.astype(np.int32) * 1000), 255_000),
        (
            b"P5 256 4 4095\n" + np.rint(GRAY * (4095 / 255)).astype(">u2").tobytes(),
            None,
        ),  # its header says the scale
    ],
    ids=[
        "float",
        "float to 255",
        "tiff 16",
        "png 16",
        "tiff 12",
        "png 10",
        "tiff 32",
        "pgm 12",
    ],
)
def test_images_of_more_than_8_bits_keep_their_brightness(data, white_level):
    """By the scale that the file or config.dataset.white_level says."""
    assert np.array_equal(decoded(data, white_level)[..., 0], GRAY)
    assert np.array_equal(decoded(data, white_level, channels=3)[..., 1], GRAY)


@pytest.mark.parametrize(("white_level", "factor"), [(None, 257.0), (4095, 4095 / 255)])
def test_colours_of_more_than_8_bits_keep_their_brightness(white_level, factor):
    """Of 16 bits a channel none is dropped.

    Without the lower 8, 12-bit colours would be nearly black.
    """
    import cv2

    data = cv2.imencode(".png", np.rint(COLORS[..., ::-1] * factor).astype(np.uint16))[
        1
    ].tobytes()
    assert np.array_equal(decoded(data, white_level, channels=3), COLORS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            tiff(GRAY.astype(np.float32)),
            "floating-point numbers from 0 to 255 instead of 0 to 1",
        ),
        (
            tiff(GRAY.astype(np.float32) / 255 - 0.5),
            "floating-point numbers from -0.5 to 0.5",
        ),
        (tiff(GRAY.astype(np.uint16) * 16), "numbers of 16 bits, none above 4080"),
        (tiff(GRAY.astype(np.int32)), "whole numbers of 32 bits, from 0 to 255"),
        (tiff(np.full((4, 4), np.nan, np.float32)), "NaN or infinite values"),
    ],
)
def test_a_scale_that_would_be_a_guess_is_asked_for(data, message, tmp_path):
    """By the name of the file.

    bad_images=skip does not leave out what is no damage.
    """
    for name in ("train/a", "train/b", "test/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.tif").write_bytes(data)
    text = error(tmp_path)
    assert f"{tmp_path}/train/a/x.tif holds {message}" in text
    if "NaN" not in text:
        assert "set config.dataset.white_level" in text
        assert "white_level" in error(tmp_path, skip_bad=True)
        assert load(tmp_path, white_level=65535.0).train.images.shape == (2, 4, 256, 1)


# Files and folders that were skipped


def test_every_format_is_read_and_so_are_folders_below_a_class(tmp_path, capfd):
    """What is no image is counted, in `data check`, too."""
    root = write_folder(
        tmp_path / "pets", {"train/cat": 1, "train/dog/old/sofa": 2, "test/cat": 1}
    )
    for suffix, kind in {
        "jfif": "JPEG",
        "ppm": "PPM",
        "gif": "GIF",
        "jp2": "JPEG2000",
        "tga": "TGA",
    }.items():
        (root / "train" / "cat" / f"one.{suffix}").write_bytes(
            encoded(picture(9), kind)
        )
    (root / "train" / "dog" / "notes.txt").touch()
    (root / "train" / "dog" / "old" / "raw.HEIC").touch()
    (root / "train" / "dog" / "old" / "up").symlink_to(root / "train" / "dog")
    write_folder(root, {"extra": 1})
    (root / "train" / "stray.png").write_bytes(encoded(picture(1)))
    data = load(root)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 2
    assert np.array_equal(data.train.images[-1], picture(2))
    err = capfd.readouterr().err
    assert (
        f"{root}: left out extra\n" in err
        and "1 images that are in no folder of a class" in err
    )
    assert (
        f"{root}/train: left out 2 files that are not images (1 .heic, 1 .txt)\n" in err
    )
    code, line = answer(capfd, "data", "check", "folder", f"--path={root}")
    assert code == 0 and json.loads(line)["splits"]["train"]["left_out"] == {
        ".heic": 1,
        ".txt": 1,
    }


def test_a_class_of_other_formats_alone_is_named(tmp_path):
    """With what is there in place of images."""
    write_folder(tmp_path, {"a": 2, "b": 0})
    (tmp_path / "b" / "x.heic").touch()
    assert "b contains no image (jpg, jpeg, png" in error(tmp_path, split=0.5)
    assert "but 1 .heic; put images there, or remove the folder" in error(
        tmp_path, split=0.5
    )


def test_parts_within_classes_are_refused(tmp_path):
    """Read at any depth, ROOT/CLASS/train and ROOT/CLASS/test would be mixed."""
    write_folder(
        tmp_path, {"cat/train": 2, "cat/test": 2, "dog/train": 2, "dog/test": 2}
    )
    assert (
        "has folders for training and for test images; write ROOT/train/CLASS"
        in error(tmp_path, split=0.5)
    )


# Searches without normal cells


@pytest.mark.parametrize("num_cells", [1, 2])
def test_a_search_without_normal_cells_is_refused(capfd, tmp_path, num_cells):
    """With one or two cells both are reduction cells."""
    sizes = [f"--config.network.num_cells={num_cells}", "--config.network.channels=2"]
    code, line = answer(
        capfd,
        "search",
        "--config=configs/search.py:digits",
        *sizes,
        f"--workdir={tmp_path}/run",
    )
    assert (
        code == 2
        and f"config.network.num_cells must be at least 3 for a search, got {num_cells}"
        in line
    )
    assert not (tmp_path / "run").exists()


# Classes named like parts


@pytest.mark.parametrize(
    "names", [("bus", "car", "train"), ("bus", "test", "train"), ("car", "val")]
)
def test_classes_may_be_named_like_parts(tmp_path, names):
    """A class holds images, a part folders of images."""
    write_folder(tmp_path, dict.fromkeys(names, 4))
    (tmp_path / names[0] / "more").mkdir()
    (tmp_path / names[0] / "more" / "x.png").write_bytes(encoded(picture(7)))
    parts = folders.read(tmp_path, ReadOptions())
    assert list(parts) == ["all"] and parts["all"].classes == names
    data = load(tmp_path, split=0.25)
    assert (
        data.train.num_classes == len(names)
        and len(data.train) + len(data.test) == 4 * len(names) + 1
    )


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("training", "VAL"), ("train", "valid")]
)
def test_parts_are_found_by_their_other_names(tmp_path, names):
    """They would be taken for two classes.

    Folders below a class are read, too.
    """
    write_folder(
        tmp_path, {f"{name}/{cell}": 2 for name in names for cell in ("a", "b")}
    )
    assert load(tmp_path).test.labels.tolist() == [0, 0, 1, 1]


def test_a_doubt_is_answered_with_what_mends_it(tmp_path):
    """Each way that the message names works."""
    root = write_folder(
        tmp_path / "root", {"bus": 4, "car": 4, "train/steam": 4, "train/steam2": 4}
    )
    text = error(root, split=0.5)
    assert (
        "move the images in the folders of train up into train itself; if not, move "
        "bus elsewhere" in text
    )
    for file in sorted((root / "train").glob("*/*.png")):
        file.rename(root / "train" / f"{file.parent.name}{file.name}")
    assert load(root, split=0.5).train.num_classes == 3
    other = write_folder(tmp_path / "other", {"bus": 4, "train/a": 4, "train/b": 4})
    (other / "bus").rename(tmp_path / "bus")
    assert load(other, split=0.5).train.num_classes == 2


def test_images_without_classes_are_not_taken_for_classes(tmp_path):
    """ROOT/train/*.png and ROOT/test/*.png, whose labels are elsewhere."""
    root = write_folder(tmp_path / "flat", {"train": 2, "test": 2})
    assert "images that are in no folder of a class" in error(root, split=0.5)
    kaggle = write_folder(tmp_path / "kaggle", {"train/a": 4, "train/b": 4, "test": 2})
    assert len(load(kaggle, split=0.25).test) == 2


# One split alone


def photos(count: int) -> Arrays:
    return Arrays(
        np.stack([picture(n, 8, 8) for n in range(count)]),
        np.arange(count) % 2,
        2,
        "photos",
    )


def prepared(tmp_path: pathlib.Path, *splits: str) -> str:
    parts = {name: photos(8) for name in splits}
    write_dataset(
        tmp_path / "flowers" / "1.0.0", parts, name="flowers", shape=(8, 8, 3)
    )
    return str(tmp_path)


def test_a_prepared_set_without_test_images_is_divided(tmp_path):
    """By class, as a folder is; a set with test images is not."""
    path = prepared(tmp_path, "train")
    with pytest.raises(UserError, match=r"no test images.*set config\.dataset\.split"):
        loading.load("tfds:flowers", path)
    train, test, _ = loading.load("tfds:flowers", path, ReadOptions(split=0.25))
    assert np.bincount(train.labels).tolist() == [3, 3] and np.bincount(
        test.labels
    ).tolist() == [
        1,
        1,
    ]
    both = prepared(tmp_path / "both", "train", "test")
    with pytest.raises(
        UserError, match=r"comes with test images.*leave config\.dataset\.split out"
    ):
        loading.load("tfds:flowers", both, ReadOptions(split=0.25))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_prepared_set_with_test_images_alone_can_be_evaluated(tmp_path, streamed):
    """With a run's mean and deviation; and so where no training file was copied.

    It cannot be trained on.
    """
    options = ReadOptions(image_size=8, in_memory_mib=0 if streamed else None)
    paths = [
        prepared(tmp_path, "validation"),
        prepared(tmp_path / "copied", "train", "validation"),
    ]
    for file in (tmp_path / "copied").rglob("*-train.*"):
        file.unlink()
    for path in paths:
        test, augmentation = loading.load_test(
            "tfds:flowers", path, options, ((0.1,) * 3, (0.2,) * 3)
        )
        assert (
            isinstance(test, Encoded if streamed else Arrays)
            and len(test) == 8
            and augmentation.mean == (0.1,) * 3
        )
        with pytest.raises(
            UserError, match="no training images beside it; it can only be evaluated"
        ):
            loading.load("tfds:flowers", path, options)
        with pytest.raises(UserError, match="no training images beside it, whose mean"):
            loading.load_test("tfds:flowers", path, options)


def test_a_folder_with_test_images_alone_can_be_evaluated(tmp_path):
    """As ROOT/val/CLASS or as ROOT/CLASS.

    Training images alone are no test set.
    """
    measured = ((0.5,) * 3, (0.2,) * 3)
    root = write_folder(tmp_path / "photos", {"val/a": 2, "val/b": 3})
    for path in (root, root / "val"):
        test, _ = loading.load_test("folder", path, None, measured)
        assert test.labels.tolist() == [0, 0, 1, 1, 1]
    assert (
        len(
            loading.load_test(
                "folder", root / "val", ReadOptions(split=0.4), measured
            ).test
        )
        == 2
    )
    assert "can only be evaluated" in error(root)
    (root / "val").rename(root / "train")
    with pytest.raises(UserError, match=r"no test images.*set config\.dataset\.split"):
        loading.load_test("folder", root, None, measured)


# What cannot be opened, and what other programs leave behind


def unreadable(path: pathlib.Path) -> None:
    path.chmod(0)


def a_folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nowhere(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


@pytest.mark.parametrize(
    "damage", [a_folder, a_link_to_nowhere, lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_opened_is_skipped_like_what_does_not_decode(
    tmp_path, capfd, damage, streamed
):
    """One line without the setting, and a count with it.

    `data check` mentions it.
    """
    root = write_folder(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1})
    bad = root / "train" / "b" / "001.png"
    damage(bad)
    text = error(root)
    assert f"{bad} " in text and "set config.dataset.bad_images=skip" in text
    data = load(
        root, skip_bad=True, image_size=8, in_memory_mib=0 if streamed else None
    )
    assert len(data.train) == (6 if streamed else 5) and data.train.image_shape == (
        8,
        8,
        3,
    )
    code, line = answer(capfd, "data", "check", "folder", f"--path={root}")
    assert code == 0 and json.loads(line)["unreadable"] == 1


def test_a_file_without_permission_is_one_that_cannot_be_opened(tmp_path):
    """Root may read everything, and becomes nobody here."""
    root = write_folder(tmp_path, {"a": 1})
    unreadable(root / "a" / "000.png")
    files = folders.Files(str(root), ("a/000.png",), np.zeros(1, np.int32))
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(
            images.BadImage, match=r"cannot be opened \(Permission denied\)"
        ):
            files.read(0)
    finally:
        os.seteuid(user)


LEFT_BEHIND = (
    "__MACOSX",
    "@eaDir",
    ".ipynb_checkpoints",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
)


def test_what_other_programs_leave_behind_ends_no_run(tmp_path):
    """At every level, with images in it or without."""
    root = write_folder(tmp_path, {"train/a": 2, "train/b": 2, "test/b": 2})
    for level in (root, root / "train", root / "test", root / "train" / "a"):
        for name in LEFT_BEHIND:
            write_folder(level, {name: len(name) % 2})
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
            (level / name).touch()
    parts = folders.read(root, ReadOptions())
    assert (
        parts["train"].classes == ("a", "b")
        and len(parts["train"]) == 4
        and len(parts["test"]) == 2
    )
    assert parts["train"].reader.left_out == {}


def test_a_prepared_set_is_read_beside_what_other_programs_left(tmp_path):
    """What is not of the set is left alone."""
    path = prepared(tmp_path, "train", "test")
    for level in (tmp_path, tmp_path / "flowers", tmp_path / "flowers" / "1.0.0"):
        for name in LEFT_BEHIND:
            (level / name).mkdir()
        for name in (
            ".DS_Store",
            "Thumbs.db",
            "._dataset_info.json",
            "._flowers-train.array_record-00000-of-00001",
        ):
            (level / name).touch()
    assert len(loading.load("tfds:flowers", path).train) == 8
