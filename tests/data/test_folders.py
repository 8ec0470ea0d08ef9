"""Folders of images: real files of every kind, divided, and held in memory.

Every mistake is one line.
"""

import io
import pathlib

import numpy as np
import pytest
from image_files import encoded, error, load, picture, write_folder
from PIL import Image

from bnas_jax.__main__ import run
from bnas_jax.data import halves, order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.readers import images, roots
from bnas_jax.data.readers.encoded import Encoded

SIZES = {"train/cat": 3, "train/dog": 4, "test/cat": 1, "test/dog": 2}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pets", SIZES)


# What is read


def test_a_folder_is_read_as_it_stands(folder):
    train, test, augmentation = load(folder)
    assert isinstance(train, Arrays) and train.num_classes == test.num_classes == 2
    assert np.array_equal(train.images, np.stack([picture(seed) for seed in range(7)]))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1] and test.labels.tolist() == [
        0,
        1,
        1,
    ]
    assert augmentation.mean == pytest.approx((train.images / 255).mean((0, 1, 2)))
    assert augmentation.pad == 0 and not augmentation.flip and not augmentation.min_area


def test_the_paths_of_a_folder_of_this_machine_are_quick_to_make(folder):
    """Those of `etils.epath` took three times as long to walk through."""
    found = roots.root(str(folder), "config.dataset.path")
    entry = next(found.iterdir())
    assert type(entry) is type(found) is type(pathlib.Path())


def test_val_serves_as_test_and_a_class_may_be_missing_there(tmp_path):
    sizes = {"train/a": 2, "train/b": 2, "train/c": 2, "val/c": 2}
    _, test, _ = load(write_folder(tmp_path, sizes))
    assert test.labels.tolist() == [2, 2] and test.num_classes == 3


def test_other_files_do_not_disturb(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("a cat")
    (folder / "train" / "cat" / ".hidden.png").write_text("no image")
    (folder / "train" / ".cache").mkdir()
    assert len(load(folder).train) == 7


def test_images_are_resized_and_cut_from_the_centre(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200  # the centre square
    pixels[10:30, 30:50, 0] = 90  # its own centre
    for name in ("train/a", "train/b", "test/a"):
        write_folder(tmp_path, {name: 1})
        (tmp_path / name / "000.png").write_bytes(encoded(pixels))
    whole = load(tmp_path, image_size=10).train.images
    assert whole.shape == (2, 10, 10, 3)
    assert set(np.unique(whole[0, :, 1:-1, 1])) == {200}, (
        "the filter reads what lies around the centre"
    )
    assert whole[0, 5, 5, 0] == 90 and whole[0, 0, 1, 0] == 200
    centre = load(tmp_path, image_size=10, resize=20).train.images
    assert set(np.unique(centre[0, 1:-1, 1:-1, 0])) == {90}


def textured(seed: int, height: int, width: int) -> np.ndarray:
    """A picture with what a filter must average.

    It has noise of one value for each pixel, on larger blots.
    """
    drawn = np.random.default_rng(seed)
    blots = (
        drawn.integers(0, 200, (height // 9 + 1, width // 7 + 1, 3))
        .repeat(9, 0)
        .repeat(7, 1)[:height, :width]
    )
    return (blots + drawn.integers(0, 56, (height, width, 3))).astype(np.uint8)


def torchvisions(data: bytes, resize: int, side: int) -> np.ndarray:
    """Resize(resize) and CenterCrop(side) of torchvision, by Pillow.

    Pillow resizes the whole image.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    shorter = min(image.size)
    image = image.resize(
        (int(resize * width / shorter), int(resize * height / shorter)),
        Image.Resampling.BILINEAR,
    )
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


# (height, width): landscape, portrait, odd, square, smaller than wanted, of extreme
# shape
SHAPES = [(375, 500), (500, 333), (641, 427), (301, 301), (97, 131), (40, 350)]


@pytest.mark.parametrize(("side", "resize"), [(224, 256), (56, 64), (45, 45)])
def test_evaluation_sees_jpegs_as_torchvisions_resize_and_centre_crop_show_them(
    tmp_path, side, resize
):
    data = [
        encoded(textured(i, *shape), "JPEG", quality=90, subsampling=i % 3)
        for i, shape in enumerate(SHAPES)
    ]
    for name, files in {
        "train/a": data[:1],
        "train/b": data[:1],
        "test/a": data,
    }.items():
        (tmp_path / name).mkdir(parents=True)
        for number, bytes_ in enumerate(files):
            (tmp_path / name / f"{number}.jpg").write_bytes(bytes_)
    for memory in (1000, 0):  # MiB: held, and streamed
        test = load(tmp_path, image_size=side, resize=resize, in_memory_mib=memory).test
        seen = (
            test.images
            if memory
            else [test.example(number)[0] for number in range(len(test))]
        )
        for pixels, expected in zip(
            seen, (torchvisions(d, resize, side) for d in data), strict=True
        ):
            assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_an_image_of_extreme_shape_is_not_resized_as_a_whole():
    thin = np.zeros((1, 60_000, 3), np.uint8)
    assert images.centre(thin, 224, 256).shape == (
        224,
        224,
        3,
    )  # the whole would take 12 GB


def test_gray_folders_have_one_channel_and_a_setting_says_otherwise(tmp_path):
    for name in ("train/a", "train/b", "test/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").write_bytes(encoded(picture(1), mode="L"))
    assert load(tmp_path).train.images.shape == (2, 20, 24, 1)
    assert load(tmp_path, channels=3).train.images.shape == (2, 20, 24, 3)
    (tmp_path / "test" / "a" / "y.png").write_bytes(encoded(picture(1)))
    assert load(tmp_path).train.images.shape == (2, 20, 24, 3)
    assert load(tmp_path, channels=1).test.images.shape == (2, 20, 24, 1)


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(3)[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encoded(picture(3)), 0),
        (encoded(picture(3), mode="RGBA"), 0),
        (encoded(picture(3), mode="P"), 60),  # a palette of 216 colours
        (encoded(picture(3), "JPEG", quality=95), 8),
        (encoded(picture(3), "JPEG", "CMYK", quality=95), 8),
        (encoded(picture(3), "WEBP", quality=100), 12),
    ],
    ids=["png", "alpha", "palette", "jpeg", "cmyk", "webp"],
)
def test_every_kind_of_image_becomes_colours(data, tolerance):
    pixels = images.decode(images.read_header(data), 3)
    assert pixels.shape == (20, 24, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - picture(3)).max() <= tolerance


def test_every_kind_of_gray_becomes_gray_or_colours():
    gray = np.asarray(Image.fromarray(picture(3)).convert("L"))
    for data in (
        encoded(picture(3), mode="L"),
        encoded(picture(3), mode="LA"),
        encoded(picture(3), "JPEG", "L", quality=95),
    ):
        header = images.read_header(data)
        assert header.gray
        for channels in (1, 3):
            pixels = images.decode(header, channels)
            assert (
                pixels.shape == (20, 24, channels)
                and np.abs(pixels.astype(int) - gray[..., None]).max() <= 3
            )
    header = images.read_header(sixteen_bits())
    assert header.gray and np.array_equal(
        images.decode(header, 1)[..., 0], picture(3)[..., 0]
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_is_read_in_either_byte_order(order):
    """ImageJ writes the largest byte first."""
    buffer = io.BytesIO()
    gray = picture(3)[..., 0]
    Image.fromarray((gray.astype(np.uint16) * 257).astype(f"{order}u2")).save(
        buffer, "TIFF"
    )
    assert buffer.getvalue().startswith({"<": b"II", ">": b"MM"}[order])
    header = images.read_header(buffer.getvalue())
    assert np.array_equal(images.decode(header, 1)[..., 0], gray)


def test_an_image_too_large_for_pillow_is_no_attack(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(images.BadImage, match=r"480 pixels\) .* 200 pixels\)$"):
        images.read_header(encoded(picture(1)))


def test_orientation_marks_change_nothing():
    """If one decoder turned the image, crops would be of different parts."""
    exif = Image.Exif()
    exif[274] = 6
    header = images.read_header(encoded(picture(1), "JPEG", exif=exif))
    assert header.reducible and images.decode(header, 3).shape == (
        header.height,
        header.width,
        3,
    ) == (20, 24, 3)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_decoding_at_a_reduced_scale_gives_the_same_part(scale):
    """A box that is `scale` times as large as wanted is decoded smaller.

    It shows what the whole image shows there.
    """
    header = images.read_header(encoded(picture(5, 400, 500), "JPEG", quality=95))
    box = images.Box(40, 96, 32 * scale, 32 * scale)
    taken = images.take(header, box, 32, 3)
    whole = picture(5, 400, 500)[40 : 40 + 32 * scale, 96 : 96 + 32 * scale]
    expected = whole.reshape(32, scale, 32, scale, 3).mean((1, 3))
    assert np.abs(taken - expected).max() < 6
    decoded = images.decode(header, 3, scale)
    assert decoded.shape == (-(-400 // scale), -(-500 // scale), 3)


# One tree


@pytest.mark.parametrize("split", [0.25, 0.5])
def test_one_tree_is_divided_by_class_and_completely(tmp_path, split):
    write_folder(tmp_path, {"a": 8, "b": 12, "c": 4})
    train, test, _ = load(tmp_path, split=split)
    assert np.bincount(test.labels).tolist() == [8 * split, 12 * split, 4 * split]
    seen = {image.tobytes() for image in [*train.images, *test.images]}
    assert len(seen) == 24 and len(train) + len(test) == 24
    again, other = (
        load(tmp_path, split=split),
        load(tmp_path, split=split, split_seed=1),
    )
    assert np.array_equal(again.test.images, test.images) and not np.array_equal(
        other.test.images, test.images
    )


def test_halves_by_class():
    labels = np.repeat([0, 1, 2], [11, 20, 5])
    arrays = Arrays(
        np.arange(36, dtype=np.uint8).reshape(36, 1, 1, 1), labels, 3, "skewed"
    )
    first, second = halves.split_half(arrays, 3, "stratified")
    assert len(first) == len(second) == 18 and not set(first.images.ravel()) & set(
        second.images.ravel()
    )
    difference = np.bincount(first.labels) - np.bincount(second.labels)
    assert np.abs(difference).max() <= 1
    assert not np.array_equal(
        first.images, halves.split_half(arrays, 4, "stratified")[0].images
    )


def test_an_order_by_class_is_an_order():
    labels = np.random.default_rng(0).integers(0, 5, 200)
    rows = order.shuffled_by_class(labels, 0, order.TEST)
    assert sorted(rows) == list(range(200))
    for length in (20, 100, 150):
        share = (
            np.bincount(labels[rows[:length]], minlength=5)
            - np.bincount(labels) * length / 200
        )
        assert np.abs(share).max() <= 2
    assert not np.all(np.diff(labels[rows][:10]) == 1)


def test_small_classes_do_not_come_first():
    """The first n examples have each class's share to within one, for every n."""
    labels = np.repeat([0, 1, 2], [2, 2, 16])
    rows = order.shuffled_by_class(labels, 0, order.TEST)
    counts = np.cumsum(np.eye(3)[labels[rows]], axis=0)  # (n, classes)
    expected = np.arange(1, 21)[:, None] * [0.1, 0.1, 0.8]
    assert np.abs(counts - expected).max() <= 1


# Size


def test_what_is_too_large_for_memory_is_not_held(folder):
    assert isinstance(load(folder, image_size=32, in_memory_mib=1).train, Arrays)
    big = load(folder, image_size=32, in_memory_mib=0)
    assert (
        isinstance(big.train, Encoded)
        and big.train.image_shape == (32, 32, 3)
        and len(big.test) == 3
    )
    assert isinstance(load(folder, image_size=200, in_memory_mib=1).train, Encoded)
    assert "needs images of one size; set config.dataset.image_size" in error(
        folder, in_memory_mib=0
    )


# Mistakes


def test_missing_and_empty_folders_are_named(tmp_path, folder):
    assert "set config.dataset.path to a folder" in error(None)
    assert f"there is no directory {tmp_path}/nowhere" in error(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is empty" in error(tmp_path / "empty")
    (folder / "train" / "fish").mkdir()
    assert "train/fish contains no image (jpg, jpeg, png" in error(folder)


def test_layouts_that_do_not_fit_are_named(tmp_path, folder):
    assert "leave config.dataset.split out" in error(folder, split=0.5)
    (folder / "test").rename(folder / "other")
    assert "neither test nor val" in error(folder)
    (folder / "other").rename(folder / "val")
    (folder / "val" / "dog").rename(folder / "val" / "wolf")
    assert "has the class 'wolf'" in error(folder)
    assert "set config.dataset.split to the share" in error(folder / "train")
    assert "leaves one part empty" in error(folder / "train", split=0.01)
    write_folder(tmp_path / "mixed", {"a": 1})
    write_folder(tmp_path / "mixed", {"b": 2}, height=10)
    assert "images of several shapes" in error(tmp_path / "mixed", split=0.4)


def test_one_class_is_refused(tmp_path):
    assert "has only one class, 'cat'" in error(
        write_folder(tmp_path, {"train/cat": 2, "test/cat": 1})
    )


def test_a_split_leaves_training_images_of_each_class(tmp_path):
    write_folder(tmp_path, {"a": 1, "b": 9})
    assert len(load(tmp_path, split=0.4).test) == 4
    message = error(tmp_path, split=0.6)
    assert "leaves no training image of the class 'a'; lower it" in message


def test_a_link_from_a_class_up_to_all_classes_is_not_followed(tmp_path):
    """The images of the other classes would be labelled as of this one."""
    folder = write_folder(tmp_path / "pets", {"cat": 2, "dog": 3})
    (folder / "cat" / "all").symlink_to("..")
    assert sorted(load(folder, split=0.2).train.labels) == [0, 0, 1, 1]


def test_a_link_to_itself_is_a_bad_image(folder):
    link = folder / "train" / "cat" / "link.png"
    link.symlink_to("link.png")
    assert f"{link} cannot be opened" in error(folder)
    assert len(load(folder, skip_bad=True).train) == 7


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"hello"],
    ids=["cut", "empty", "text"],
)
def test_an_image_that_does_not_decode_is_named_or_left_out(
    tmp_path, capsys, suffix, damage
):
    folder = write_folder(tmp_path, SIZES, suffix)
    bad = folder / "train" / "dog" / f"002.{suffix}"
    bad.write_bytes(damage(bad.read_bytes()))
    message = error(folder)
    assert (
        f"{bad} does not decode" in message
        and "config.dataset.bad_images=skip" in message
    )
    train, test, _ = load(folder, skip_bad=True)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(test) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert f"left out 1 images that do not decode; the first: {bad}" in line
    # What the user has done already is no advice.
    assert "bad_images=skip" not in line


def test_without_any_image_that_decodes_there_is_nothing(tmp_path):
    for name in ("train/a", "train/b", "test/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").touch()
    assert "no image that decodes" in error(tmp_path, skip_bad=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--config.dataset.path=/nowhere"], "there is no directory /nowhere"),
        (
            ["--config.dataset.channels=2"],
            "config.dataset.channels must be one of None, 1, 3",
        ),
        (
            ["--config.dataset.bad_images=ignore"],
            "config.dataset.bad_images must be one of fail, skip",
        ),
        (
            ["--config.dataset.split=1.5"],
            "config.dataset.split must be between 0 and 1",
        ),
        (
            ["--config.dataset.image_size=8", "--config.dataset.resize=7"],
            "config.dataset.resize must be at least 8",
        ),
        (
            ["--config.dataset.resize=7"],
            "config.dataset.resize needs config.dataset.image_size",
        ),
        (["--config.dataset.workers=-1"], "config.dataset.workers must be at least 0"),
    ],
)
def test_mistakes_on_the_command_line(capsys, tmp_path, settings, message):
    arguments = [
        "train",
        "--config=configs/train.py:digits",
        "--config.dataset.name=folder",
        *settings,
    ]
    assert run([*arguments, f"--workdir={tmp_path}/run"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()
