"""Streamed data: the same global batches whatever reads them, and colour jitter.

Every example is counted once.
"""

import colorsys
import dataclasses
import pathlib
import subprocess
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_files import encoded, picture, write_folder
from PIL import Image, ImageEnhance
from tfds_files import write_dataset

from bnas_jax.__main__ import run
from bnas_jax.benchmarks import data as benchmark
from bnas_jax.core.errors import PassingError, UserError
from bnas_jax.data import color, read_ahead, stream_items
from bnas_jax.data import load as loading
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.pipeline import EvalSource, TrainSource
from bnas_jax.data.readers import folder as folders
from bnas_jax.data.readers.encoded import Encoded, ReadOptions, Unreadable, hold
from bnas_jax.data.readers.folder import Files
from bnas_jax.data.readers.images import Box
from bnas_jax.data.stream import StreamEvalSource, StreamTrainSource
from bnas_jax.data.stream_items import random_box
from bnas_jax.runtime import hosts

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLAIN = Augmentation((0.0,) * 3, (1.0,) * 3)
CROPS = Augmentation(
    (0.4,) * 3, (0.2,) * 3, flip=True, min_area=0.08, jitter=(0.4, 0.4, 0.4, 0.2)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    sizes = {"train/a": 9, "train/b": 14, "test/a": 3, "test/b": 7}
    return write_folder(
        tmp_path_factory.mktemp("stream") / "pets", sizes, "jpg", height=40, width=50
    )


def opened(folder, workers=0, **options) -> tuple[Encoded, Encoded]:
    settings = ReadOptions(image_size=16, in_memory_mib=0, workers=workers, **options)
    train, test, _ = loading.load("folder", folder, settings)
    return train, test


def feeds(source, steps) -> list[dict[str, np.ndarray]]:
    return [jax.tree.map(np.asarray, source.feed(step)) for step in steps]


def test_as_many_threads_read_as_this_process_has_cores(folder, monkeypatch):
    """Fewer than the machine's, in a task of a Slurm job."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 8})
    asked = []
    read_options = grain.ReadOptions
    monkeypatch.setattr(
        grain, "ReadOptions", lambda **how: asked.append(how) or read_options(**how)
    )
    train, _ = opened(folder)
    StreamTrainSource(train, 4, seed=0, augmentation=PLAIN).feed(0)

    assert asked == [{"num_threads": 3, "prefetch_buffer_size": 4}]


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def joined(parts: list[dict]) -> dict:
    """The feed of all hosts from their own: rows of images, labels and weights."""
    rows = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
        if name.endswith("s")
    }
    return parts[0] | rows


# Position is the step


def test_a_stream_holds_what_the_same_set_in_memory_gives(folder):
    """Where no crop is drawn, it makes no difference how a set is read.

    The order is the same, and so is the augmentation on the device.
    """
    train, test = opened(folder)
    augmentation = Augmentation(
        (0.4,) * 3, (0.2,) * 3, pad=2, flip=True, jitter=(0.4, 0.4, 0.4, 0.2), cutout=4
    )
    streamed, held = (
        StreamTrainSource(train, 6, 5, augmentation),
        TrainSource(hold(train), 6, 5, augmentation),
    )
    assert streamed.steps_per_epoch == held.steps_per_epoch == 3
    prepare, prepare_held = jax.jit(streamed.prepare), jax.jit(held.prepare)
    for step in range(7):
        batch, expected = prepare(streamed.feed(step)), prepare_held(held.feed(step))
        assert np.array_equal(batch["label"], expected["label"])
        assert np.allclose(batch["image"], expected["image"], atol=1e-5)
    streamed, held = (
        StreamEvalSource(test, 4, augmentation),
        EvalSource(hold(test), 4, augmentation),
    )
    for number in range(len(held)):
        batch, expected = (
            streamed.prepare(streamed.feed(number)),
            held.prepare(held.feed(number)),
        )
        own = np.asarray(batch["weight"]) == 1
        assert np.array_equal(batch["weight"], expected["weight"])
        assert np.allclose(
            np.asarray(batch["image"])[own],
            np.asarray(expected["image"])[own],
            atol=1e-6,
        )


def test_any_step_can_be_resumed_at(folder):
    train, _ = opened(folder)
    straight = feeds(StreamTrainSource(train, 6, 5, CROPS), range(8))
    for steps in ([4, 5, 6], [7, 0, 1]):
        assert same(
            feeds(StreamTrainSource(train, 6, 5, CROPS), steps),
            [straight[step] for step in steps],
        )
    images = [feed["images"].tobytes() for feed in straight]
    assert len(set(images)) == 8
    assert not same(
        feeds(StreamTrainSource(train, 6, 6, CROPS), [0])[0]["images"],
        straight[0]["images"],
    )


def test_fresh_batches_and_augmented_evaluations_are_those_of_memory_and_resume(
    folder,
):
    train, test = opened(folder)
    augmentation = Augmentation(
        (0.4,) * 3, (0.2,) * 3, pad=2, flip=True, jitter=(0.4, 0.4, 0.4, 0.2), cutout=4
    )
    streamed = StreamTrainSource(train, 6, 5, augmentation, fresh=True)
    held = TrainSource(hold(train), 6, 5, augmentation, fresh=True)
    prepare, prepare_held = jax.jit(streamed.prepare), jax.jit(held.prepare)
    for step in (0, 1, 2, 5, 4):
        batch, expected = prepare(streamed.feed(step)), prepare_held(held.feed(step))
        assert np.array_equal(batch["label"], expected["label"])
        assert np.allclose(batch["image"], expected["image"], atol=1e-5)
    streamed = StreamEvalSource(test, 4, augmentation, augment_seed=5)
    held = EvalSource(hold(test), 4, augmentation, augment_seed=5)
    prepare, prepare_held = jax.jit(streamed.prepare), jax.jit(held.prepare)
    for batch, epoch in ((0, 1), (1, 1), (2, 1), (0, 2), (2, 0)):
        ours, expected = (
            prepare(streamed.feed(batch, epoch)),
            prepare_held(held.feed(batch, epoch)),
        )
        own = np.asarray(expected["weight"]) == 1
        assert np.array_equal(ours["weight"], expected["weight"])
        assert np.allclose(
            np.asarray(ours["image"])[own],
            np.asarray(expected["image"])[own],
            atol=1e-5,
        )


def test_the_crops_of_an_augmented_evaluation_are_those_of_its_epoch(folder):
    _, test = opened(folder)
    evaluation = lambda: StreamEvalSource(test, 4, CROPS, augment_seed=5)
    source = evaluation()
    straight = [
        jax.tree.map(np.asarray, source.feed(batch, epoch))
        for epoch in range(3)
        for batch in range(3)
    ]
    assert len({feed["images"].tobytes() for feed in straight}) == 9
    resumed = evaluation()
    for number in (4, 5, 6, 1):
        assert same(
            jax.tree.map(np.asarray, resumed.feed(number % 3, number // 3)),
            straight[number],
        )


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_the_global_batch_is_the_same_for_any_hosts_and_workers(folder, workers):
    straight = feeds(StreamTrainSource(opened(folder)[0], 6, 5, CROPS), range(5))
    train, test = opened(folder, workers)
    alone = StreamTrainSource(train, 6, 5, CROPS)
    assert same(feeds(alone, range(2, 5)), straight[2:])
    if workers == 2:
        evaluation, expected = (
            StreamEvalSource(test, 4, PLAIN),
            StreamEvalSource(opened(folder)[1], 4, PLAIN),
        )
        assert same(feeds(evaluation, [0, 1, 2, 0]), feeds(expected, [0, 1, 2, 0]))


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_read_parts_of_the_same_global_batch(folder, hosts):
    train, test = opened(folder)
    straight = feeds(StreamTrainSource(train, 6, 5, CROPS), range(4))
    parts = [
        feeds(StreamTrainSource(train, 6, 5, CROPS, host=h, hosts=hosts), range(4))
        for h in range(hosts)
    ]
    assert all(part["labels"].shape == (6 // hosts,) for part in parts[0])
    assert same([joined(list(step)) for step in zip(*parts, strict=True)], straight)
    straight = feeds(StreamEvalSource(test, 6, PLAIN), range(2))
    parts = [
        feeds(StreamEvalSource(test, 6, PLAIN, host=h, hosts=hosts), range(2))
        for h in range(hosts)
    ]
    assert same([joined(list(step)) for step in zip(*parts, strict=True)], straight)


def test_a_part_is_prepared_alike_from_the_whole_feed_and_from_its_own(folder):
    train, _ = opened(folder)
    whole, source = (
        StreamTrainSource(train, 6, 5, CROPS),
        StreamTrainSource(train, 6, 5, CROPS, host=1, hosts=2),
    )
    prepare = jax.jit(whole.prepare, static_argnums=2)
    batch, part, own = (
        prepare(whole.feed(1)),
        prepare(whole.feed(1), 1, 2),
        prepare(source.feed(1), 1, 2),
    )
    assert np.array_equal(part["label"], batch["label"][3:]) and np.array_equal(
        own["label"], part["label"]
    )
    assert np.allclose(part["image"], batch["image"][3:], atol=1e-6)
    assert np.allclose(own["image"], part["image"], atol=1e-6)


def test_a_batch_that_hosts_cannot_share_is_refused(folder):
    with pytest.raises(UserError, match="cannot be divided"):
        StreamTrainSource(opened(folder)[0], 5, 0, PLAIN, hosts=2).feed(0)
    with pytest.raises(UserError, match="larger than the data"):
        StreamTrainSource(opened(folder)[0], 24, 0, PLAIN)


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_counts_every_example_once(folder, batch_size, hosts):
    _, test = opened(folder)
    if batch_size % hosts:
        return
    seen = []
    for host in range(hosts):
        source = StreamEvalSource(test, batch_size, PLAIN, host=host, hosts=hosts)
        for feed in feeds(source, range(len(source))):
            seen += [
                image.tobytes()
                for image, weight in zip(feed["images"], feed["weights"], strict=True)
                if weight
            ]
    assert sorted(seen) == sorted(image.tobytes() for image in hold(test).images)


def test_the_next_evaluation_goes_on_where_the_last_one_ended(folder, monkeypatch):
    """To start anew costs as long as it takes to read the first batches."""
    started = []
    start = read_ahead.ReadAhead._start
    monkeypatch.setattr(
        read_ahead.ReadAhead,
        "_start",
        lambda self, n: started.append(n) or start(self, n),
    )
    source = StreamEvalSource(opened(folder)[1], 4, PLAIN)
    first, second = (feeds(source, range(len(source))) for _ in range(2))
    assert started == [0]
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_there_is_no_batch_after_the_last(folder):
    source = StreamEvalSource(opened(folder)[1], 4, PLAIN)
    with pytest.raises(IndexError, match="3 batches"):
        source.feed(3)


# Crops


def test_random_boxes_are_torchvisions():
    size = {"height": 300, "width": 400, "min_area": 0.08}
    boxes = [random_box(0, 0, row, **size) for row in range(4000)]
    areas = np.array([b.height * b.width for b in boxes]) / 120000
    ratios = np.array([b.width / b.height for b in boxes])
    assert all(
        b.top >= 0
        and b.left >= 0
        and b.top + b.height <= 300
        and b.left + b.width <= 400
        for b in boxes
    )
    assert 0.079 < areas.min() < 0.1 and 0.9 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.78 and 1.28 < ratios.max() < 1.35
    assert abs(np.log(ratios[areas < 0.3]).mean()) < 0.02  # the logarithm is uniform
    assert (
        abs(np.mean([b.top / (301 - b.height) for b in boxes if b.height < 300]) - 0.5)
        < 0.03
    )
    assert (
        len(
            {
                random_box(s, e, r, **size)
                for s in (0, 1)
                for e in (0, 1)
                for r in (0, 1)
            }
        )
        == 8
    )


def test_a_box_of_an_odd_image_is_the_middle_of_it():
    assert random_box(0, 0, 0, height=10, width=1000, min_area=1.0) == Box(
        0, 493, 10, 13
    )
    assert random_box(0, 0, 0, height=1000, width=10, min_area=1.0) == Box(
        493, 0, 13, 10
    )


def test_crops_differ_between_epochs_and_images(tmp_path):
    """An image that is the same everywhere in the set shows its crops alone."""
    folder = write_folder(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1})
    for path in folder.rglob("*.png"):
        path.write_bytes(encoded(picture(0, 60, 60)))
    source = StreamTrainSource(
        opened(folder)[0], 4, 0, Augmentation((0.0,) * 3, (1.0,) * 3, min_area=0.1)
    )
    images = np.concatenate([feed["images"] for feed in feeds(source, range(3))])
    assert len({image.tobytes() for image in images}) == 12


def test_an_example_is_cropped_alike_in_every_part_of_its_set(folder):
    train, _ = opened(folder)
    part = train.take(np.array([7, 3]))

    def crop_of(examples, number):
        choose = stream_items._crop(examples, number, seed=0, epoch=0, min_area=0.1)
        return choose(300, 400)

    assert [crop_of(part, 0), crop_of(part, 1)] == [
        crop_of(train, 7),
        crop_of(train, 3),
    ]
    assert crop_of(part, 0) != crop_of(part, 1)


# Images that do not decode


def test_in_a_stream_an_image_that_does_not_decode_is_named_or_left_out(
    tmp_path, capsys
):
    folder = write_folder(
        tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 3}
    )
    for bad in (folder / "train" / "b" / "001.png", folder / "test" / "b" / "002.png"):
        bad.write_bytes(bad.read_bytes()[:50])
    loading.load("folder", folder, ReadOptions(image_size=16, skip_bad=True))
    capsys.readouterr()
    with pytest.raises(
        UserError,
        match=r"train/b/001.png does not decode .*config\.dataset\.bad_images=skip",
    ):
        feeds(StreamTrainSource(opened_unread(folder)[0], 6, 0, PLAIN), range(1))
    train, test = opened_unread(folder, skip_bad=True)
    (feed,) = feeds(StreamTrainSource(train, 6, 0, PLAIN), [0])
    assert (
        len({image.tobytes() for image in feed["images"]}) == 5
        and feed["images"].max((1, 2, 3)).min() > 0
    )
    assert (
        f"1 left out: {folder}/train/b/001.png does not decode"
        in capsys.readouterr().err
    )
    (feed,) = feeds(StreamEvalSource(test, 5, PLAIN), [0])
    assert feed["weights"].tolist() == [1, 1, 1, 1, 0]
    assert "1 left out" in capsys.readouterr().err


def test_an_image_that_does_not_decode_is_an_error_as_often_as_it_is_asked_for(
    tmp_path,
):
    folder = write_folder(tmp_path, {"train/a": 3, "train/b": 3})
    bad = folder / "train" / "b" / "001.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])
    train = folders.read(folder, ReadOptions(image_size=16, in_memory_mib=0))["train"]
    source = StreamTrainSource(train, 6, 0, PLAIN)
    for _ in range(2):
        with pytest.raises(UserError, match=r"train/b/001\.png does not decode"):
            source.feed(0)
    bad.write_bytes(whole)
    straight = feeds(StreamTrainSource(train, 6, 0, PLAIN), [0, 1])
    assert same(feeds(source, [0, 1]), straight)


@dataclasses.dataclass(frozen=True)
class FailsAtFirst:
    """A reader whose file system fails when an example is read for the first time."""

    reader: Files
    asked: set = dataclasses.field(default_factory=set)

    def read(self, row: int) -> tuple[bytes, int]:
        if row not in self.asked:
            self.asked.add(row)
            raise Unreadable("cannot read it (Input/output error)")
        return self.reader.read(row)


def test_a_file_system_that_fails_for_a_moment_ends_no_run(folder, monkeypatch):
    monkeypatch.setattr(read_ahead, "_PAUSES", (0,) * 12)
    train, _ = opened(folder)
    failing = dataclasses.replace(train, reader=FailsAtFirst(train.reader))
    straight = feeds(StreamTrainSource(train, 6, 0, CROPS), [0, 1])
    assert same(feeds(StreamTrainSource(failing, 6, 0, CROPS), [0, 1]), straight)
    assert failing.reader.asked

    # For longer, the run ends, and its launcher starts it again.
    monkeypatch.setattr(read_ahead, "_PAUSES", ())
    failing = dataclasses.replace(train, reader=FailsAtFirst(train.reader))
    again = r"could not be read for a moment; run the same command again"
    with pytest.raises(PassingError, match=again) as failed:
        StreamTrainSource(failing, 6, 0, CROPS).feed(0)
    assert failed.value.exit_code == hosts.LOST


def test_more_shards_than_the_usual_limit_of_open_files_are_read(tmp_path):
    """Each stays open: of ImageNet 1,088, and many systems allow 1,024."""
    images = np.zeros((40, 8, 8, 3), np.uint8)
    labels = np.arange(40, dtype=np.int32) % 10
    arrays = Arrays(images, labels, num_classes=10, name="shards")
    directory = tmp_path / "cifar10" / "3.0.2"
    write_dataset(directory, {"train": arrays, "test": arrays}, shards=40)
    reading = f"""
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
from bnas_jax.data.readers import tfds_examples
resource.setrlimit(resource.RLIMIT_NOFILE, (30, hard))
reader = tfds_examples.Records({str(directory)!r}, "train")
print([reader.read(row)[1] for row in range(40)])
"""
    read = subprocess.run(
        [sys.executable, "-c", reading], capture_output=True, text=True
    )
    assert read.stdout == f"{labels.tolist()}\n", read.stderr


def opened_unread(folder, skip_bad=False) -> list[Encoded]:
    parts = folders.read(
        folder, ReadOptions(image_size=16, in_memory_mib=0, skip_bad=skip_bad)
    )
    return [parts["train"], parts["test"]]


# Colours


def enhanced(image: np.ndarray, name: str, factor: float) -> np.ndarray:
    kind = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }[name]
    return np.asarray(kind(Image.fromarray(image)).enhance(factor)) / 255


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_jitter_is_pillows(name, factor):
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    changed = getattr(color, name)(jnp.asarray(images / 255, jnp.float32), factor)
    for one, image in zip(changed, images, strict=True):
        assert (
            np.abs(one - enhanced(image, name, factor)).max() < 2.1 / 255
        )  # Pillow rounds down to whole levels


@pytest.mark.parametrize("turn", [-0.2, 0.0, 0.1, 0.5])
def test_the_hue_turns_in_hsv(turn):
    image = np.random.default_rng(1).uniform(0, 1, (1, 8, 8, 3))
    image[0, 0] = 0.5  # gray has no hue
    turned = np.asarray(color.hue(jnp.asarray(image, jnp.float32), turn))
    for pixel, one in zip(image.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        assert np.allclose(one, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=1e-5)


def test_jitter_draws_from_its_ranges_and_orders():
    key = jax.random.key(0)
    drawn = color.draw(key, 4000, (0.4, 1.5, 0.2, 0.1))
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0, 2.5),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        values = np.asarray(drawn[name])
        span = high - low
        assert (
            low <= values.min() < low + 0.02 * span
            and high - 0.02 * span < values.max() <= high
        )
        assert abs(values.mean() - (low + high) / 2) < 0.03 * span
    orders = {
        tuple(np.asarray(color.draw_order(k)).tolist())
        for k in jax.random.split(key, 200)
    }
    assert len(orders) == 24 and all(sorted(o) == [0, 1, 2, 3] for o in orders)


def test_gray_images_have_no_hue():
    gray = jnp.full((2, 3, 3, 1), 0.25)
    factors = {
        name: jnp.full(2, 2.0)
        for name in ("brightness", "contrast", "saturation", "hue")
    }
    assert np.allclose(color.jitter(gray, factors, jnp.array([3, 2, 1, 0])), 0.5)


@pytest.mark.parametrize("jitter", [(0.4,), (0.4, 0.4, 0.4, 0.6), (-0.1, 0, 0, 0)])
def test_impossible_jitter_is_refused(jitter):
    with pytest.raises(UserError, match=r"config\.dataset\.jitter"):
        Augmentation((0.0,), (1.0,), jitter=jitter)


# Benchmarks


def test_the_benchmarks_photographs_compress_like_photographs_and_are_read():
    jpegs = [benchmark.photo(seed) for seed in range(4)]
    assert (
        all(90e3 < len(data) < 130e3 for data in jpegs)
        and benchmark.photo(0) == jpegs[0]
    )
    rates = benchmark.decoding(jpegs, 1)["images_per_second_and_core"]
    assert set(rates) >= {"ours", "pillow", "decoder_alone"} and all(
        rate["median"] > 0 for rate in rates.values()
    )
    stream = benchmark.streaming(jpegs, 0)
    assert (
        stream["images_per_second"]["median"] > 0
        and "growth_to_10_mib" in stream["peak_memory"]
    )


def test_what_cannot_be_timed(capsys):
    assert run(["benchmark"]) == 2 and run(["benchmark", "weather"]) == 2
    assert "benchmark needs one of data" in capsys.readouterr().err


# The whole road


def test_a_network_trains_on_a_streamed_folder_with_workers_and_is_evaluated(
    folder, tmp_path, capsys
):
    command = [sys.executable, "-m", "bnas_jax"]
    data = [f"--config.dataset.path={folder}", "--config.dataset.workers=1"]
    network = [
        "--config.network.num_cells=1",
        "--config.network.channels=2",
        "--config.num_epochs=1",
        "--config.batch_size=8",
    ]
    options = [
        "--config.dataset.name=folder",
        "--config.dataset.image_size=16",
        "--config.dataset.in_memory_mib=0",
    ]
    train = [
        "train",
        "--config=configs/train.py:digits",
        f"--workdir={tmp_path}/run",
        *data,
        *network,
        *options,
    ]
    crops = [
        "--config.dataset.min_area=0.5",
        "--config.dataset.jitter=(0.1,0.1,0.1,0.1)",
    ]
    evaluate = ["evaluate", f"--workdir={tmp_path}/run", "--config.dataset.workers=0"]
    for arguments in ([*train, *crops], evaluate):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0 and "arn" not in done.stderr, done.stderr
        assert '"num_examples": 10' in done.stdout.splitlines()[-1]
    other = write_folder(
        tmp_path / "other",
        {"train/a": 8, "train/b": 8, "train/c": 8, "test/a": 1},
        height=20,
    )
    capsys.readouterr()
    assert run([*evaluate, f"--config.dataset.path={other}"]) == 2
    assert (
        "other/test has the class 'c', which the run does not have: its classes are"
        in capsys.readouterr().err
    )
    assert run([*train, *crops, f"--config.dataset.path={other}"]) == 2
    assert (
        "the data has the classes a, b, c now, and had a, b when the run began"
        in capsys.readouterr().err
    )
