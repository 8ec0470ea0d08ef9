"""The data: real files, batches as a function of the step, and augmentation.

Evaluation counts every example once.
"""

import dataclasses
import gc
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_files import encoded, picture, write_folder
from tfds_files import write_dataset

from bnas_jax.core.errors import UserError
from bnas_jax.data import load as loading
from bnas_jax.data import order, statistics
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import (
    Augmentation,
    crop,
    draw,
    draw_centres,
    hide,
    normalize,
)
from bnas_jax.data.batches import Batches, load_data
from bnas_jax.data.halves import SPLITS, split_half, split_test
from bnas_jax.data.load import Dataset
from bnas_jax.data.pipeline import EvalSource, TrainSource
from bnas_jax.data.readers import tfds_directory
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.settings import dataset

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLAIN = Augmentation(mean=(0.0,), std=(1.0,), scale=1.0)


def numbered(size: int) -> Arrays:
    """Images 2x2x1 whose pixels are all the example's label, which is its number."""
    images = np.broadcast_to(
        np.arange(size, dtype=np.uint8)[:, None, None, None], (size, 2, 2, 1)
    )
    return Arrays(images, np.arange(size), num_classes=size, name="numbered")


def photos(size: int, seed: int = 0, side: int = 8) -> Arrays:
    images = np.random.default_rng(seed).integers(
        1, 256, (size, side, side, 3), dtype=np.uint8
    )
    return Arrays(images, np.arange(size) % 10, num_classes=10, name="photos")


def batches(source, steps) -> list[dict[str, np.ndarray]]:
    """The batches of several steps, through one compiled `prepare`."""
    prepare = jax.jit(source.prepare)
    return [jax.tree.map(np.asarray, prepare(source.feed(step))) for step in steps]


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


# Digits


def test_digits_are_complete_and_as_described():
    train, test, augmentation = loading.load("digits")
    assert train.images.shape == (1437, 8, 8, 1) and test.images.shape == (360, 8, 8, 1)
    assert (
        train.images.dtype == np.uint8
        and train.labels.dtype == np.int32
        and train.num_classes == 10
    )
    assert (train.images.min(), train.images.max()) == (0, 16)
    both = np.bincount(train.labels) + np.bincount(test.labels)
    assert both.tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # the source's class sizes
    assert np.bincount(test.labels).tolist() == [
        39,
        37,
        47,
        28,
        42,
        32,
        37,
        27,
        30,
        41,
    ]  # of this split for ever
    assert not augmentation.flip and augmentation.pad == 0


def test_digits_constants_are_the_statistics_of_the_training_split():
    train, _, augmentation = loading.load("digits")
    scaled = train.images * augmentation.scale
    assert augmentation.mean == (round(scaled.mean(), 4),) and augmentation.std == (
        round(scaled.std(), 4),
    )


def test_no_digit_is_in_both_splits():
    train, test, _ = loading.load("digits")
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}


# Arrays


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 2, 2, 1), np.float32), np.zeros(3, int), "uint8"),
        (np.zeros((3, 2, 2), np.uint8), np.zeros(3, int), "shape"),
        (np.zeros((0, 2, 2, 1), np.uint8), np.zeros(0, int), "no images"),
        (np.zeros((3, 2, 2, 1), np.uint8), np.zeros(4, int), "labels of shape"),
        (np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3), "whole numbers"),
        (np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 2]), "from 0 to 1"),
        (np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, -1]), "from 0 to 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images, labels, message):
    with pytest.raises(UserError, match=message):
        Arrays(images, labels, num_classes=2, name="bad")


@pytest.mark.parametrize("size", [2, 10, 11])
def test_halves_are_disjoint_and_complete(size):
    first, second = split_half(numbered(size), seed=3)
    assert len(first) - len(second) == size % 2
    assert sorted([*first.labels, *second.labels]) == list(range(size))
    for half in (first, second):
        assert np.array_equal(half.images[:, 0, 0, 0], half.labels)


def test_halves_depend_on_the_seed_alone():
    assert same(
        split_half(numbered(50), 3)[0].labels, split_half(numbered(50), 3)[0].labels
    )
    assert not same(
        split_half(numbered(50), 3)[0].labels, split_half(numbered(50), 4)[0].labels
    )


def test_a_test_set_that_is_drawn_is_no_half_of_the_same_seed():
    examples = dataclasses.replace(
        numbered(50), labels=np.arange(50) % 2, num_classes=2, classes=("a", "b")
    )
    rows = lambda part: set(np.asarray(part.images)[:, 0, 0, 0].tolist())
    _, test = split_test(examples, 0.5, seed=3)
    for half in split_half(examples, 3, "stratified"):
        assert rows(test) != rows(half)


def test_halves_in_order_are_the_first_half_and_the_second():
    first, second = split_half(numbered(11), 3, "in_order")
    assert first.labels.tolist() == list(range(6)) and second.labels.tolist() == list(
        range(6, 11)
    )


def test_one_example_has_no_halves():
    with pytest.raises(UserError, match="two halves"):
        split_half(numbered(1), 0)


# Orders


def test_an_order_is_pinned():
    """Numbers that stand here show a change of library that moves every run's data."""
    assert order.shuffled(8, 7, order.EPOCHS, 2).tolist() == [0, 3, 7, 1, 6, 4, 5, 2]
    assert order.shuffled(8, 7, order.EPOCHS, 2).dtype == np.int32


def test_orders_differ_between_epochs_seeds_and_uses():
    orders = [
        order.shuffled(40, s, u, e).tolist()
        for s in (0, 1)
        for u in (order.EPOCHS, order.HALVES)
        for e in (0, 1)
    ]
    assert len({tuple(o) for o in orders}) == len(orders)
    assert all(sorted(o) == list(range(40)) for o in orders)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True])
def test_a_seed_that_is_no_32_bit_number_is_refused(seed):
    with pytest.raises(UserError, match=r"config\.seed"):
        TrainSource(numbered(4), 2, seed, PLAIN)


# The training source


def test_an_epoch_holds_each_example_at_most_once_and_leaves_out_other_ones_each_time():
    source = TrainSource(numbered(23), 5, 0, PLAIN)
    assert source.steps_per_epoch == 4
    labels = np.stack([batch["label"] for batch in batches(source, range(12))])
    epochs = labels.reshape(3, 20)
    assert all(len(set(seen.tolist())) == 20 for seen in epochs)
    left_out = {frozenset(range(23)) - set(seen.tolist()) for seen in epochs}
    assert len(left_out) == 3
    assert len({tuple(seen.tolist()) for seen in epochs}) == 3


def test_fresh_batches_are_drawn_from_all_the_data_whatever_came_before():
    source = lambda: TrainSource(numbered(23), 5, 0, PLAIN, fresh=True)
    straight = batches(source(), range(12))
    labels = [batch["label"].tolist() for batch in straight]
    assert (
        all(len(set(of_batch)) == 5 for of_batch in labels)
        and len({tuple(of_batch) for of_batch in labels}) == 12
    )
    assert all(len(np.unique(labels[first : first + 4])) < 20 for first in (0, 4, 8)), (
        "an epoch repeats examples"
    )
    assert same(batches(source(), [7, 2]), [straight[7], straight[2]])
    parts = [source().prepare(source().feed(3), shard, 5) for shard in range(5)]
    assert same(jax.tree.map(lambda *p: np.concatenate(p), *parts), straight[3])


def test_images_and_labels_belong_together():
    (batch,) = batches(TrainSource(numbered(23), 5, 0, PLAIN), [7])
    assert batch["image"].shape == (5, 2, 2, 1) and batch["image"].dtype == np.float32
    assert batch["label"].shape == (5,) and batch["label"].dtype == np.int32
    assert np.array_equal(
        batch["image"],
        np.broadcast_to(batch["label"][:, None, None, None], (5, 2, 2, 1)),
    )


def test_any_step_can_be_resumed_at():
    augmentation = Augmentation((0.5,) * 3, (0.2,) * 3, pad=2, flip=True)
    straight = batches(TrainSource(photos(20), 6, 5, augmentation), range(10))
    for steps in ([7, 8], [9, 0, 4, 3]):  # backwards too, over the borders of epochs
        resumed = batches(TrainSource(photos(20), 6, 5, augmentation), steps)
        assert same(resumed, [straight[step] for step in steps])
    (other,) = batches(TrainSource(photos(20), 6, 6, augmentation), [0])
    assert not same(other["image"], straight[0]["image"])


def test_augmentation_differs_from_step_to_step_and_epoch_to_epoch():
    one = Arrays(
        np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4, 1), np.zeros(1, int), 1, "one"
    )
    augmentation = Augmentation((0.0,), (1.0,), scale=1.0, pad=3)
    for copies, batch_size, steps_per_epoch in ((1, 1, 1), (8, 2, 4)):
        source = TrainSource(
            one.take(np.zeros(copies, int)), batch_size, 0, augmentation
        )
        assert source.steps_per_epoch == steps_per_epoch
        assert (
            len({batch["image"].tobytes() for batch in batches(source, range(4))}) > 2
        )


def test_the_step_is_traced_once_over_epochs_and_the_data_is_an_argument():
    source = TrainSource(
        photos(20), 6, 5, Augmentation((0.5,) * 3, (0.2,) * 3, pad=2, flip=True)
    )
    traces = []

    @jax.jit
    def step(state, feed):
        traces.append(1)
        return state + source.prepare(feed)["image"].sum()

    state = jnp.zeros(())
    for number in range(8):
        state = step(state, source.feed(number))
    assert len(traces) == 1 and np.isfinite(state)
    constants = jax.make_jaxpr(source.prepare)(source.feed(0)).consts
    assert sum(np.size(c) for c in constants) < 20


def test_the_data_goes_to_the_device_once_and_the_order_once_an_epoch():
    placed = []

    def place(array):
        placed.append(array.shape)
        return jax.device_put(array)

    source = TrainSource(
        photos(20), 6, 5, Augmentation((0.5,) * 3, (0.2,) * 3), place=place
    )
    feeds = [source.feed(step) for step in range(7)]
    assert placed.count((20, 8 * 8 * 3)) == 1
    assert (
        placed.count((20,)) == 1 + 3
    )  # the labels, and the orders of epochs 0, 1 and 2
    assert all(feed["images"] is feeds[0]["images"] for feed in feeds)
    assert (
        feeds[1]["order"] is feeds[0]["order"]
        and feeds[3]["order"] is not feeds[0]["order"]
    )
    assert len(source._orders) == 1, "a long run would fill the memory with them"


def test_shards_are_parts_of_the_same_global_batch():
    source = TrainSource(
        photos(20), 6, 5, Augmentation((0.5,) * 3, (0.2,) * 3, pad=2, flip=True)
    )
    feed = source.feed(4)
    part = jax.jit(source.prepare, static_argnums=2)
    whole = part(feed, 0, 1)
    parts = [part(feed, np.int32(i), 3) for i in range(3)]
    assert same(jax.tree.map(lambda *p: np.concatenate(p), *parts), whole)
    with pytest.raises(
        UserError, match=r"4 devices.*config\.batch_size a multiple of 4"
    ):
        source.prepare(feed, 0, 4)


def test_the_batches_are_the_same_with_64_bit_mode():
    augmentation = Augmentation((0.5,) * 3, (0.2,) * 3, pad=2, flip=True)

    def batch(dtype):
        return batches(TrainSource(photos(20), 6, 5, augmentation, dtype), [4])[0]

    narrow = batch(jnp.float32)
    with jax.enable_x64(True):
        assert same(batch(jnp.float32), narrow)
        wide = batch(jnp.float64)
        (evaluated,) = batches(
            EvalSource(photos(20), 6, augmentation, jnp.float64), [3]
        )
    assert wide["image"].dtype == np.float64 and wide["label"].dtype == np.int32
    assert np.array_equal(wide["label"], narrow["label"])
    assert np.allclose(
        wide["image"], narrow["image"], atol=1e-5
    ) and not np.array_equal(wide["image"], narrow["image"])
    assert evaluated["image"].dtype == np.float64 and evaluated["weight"].sum() == 2


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(
        UserError,
        match=r"config\.batch_size=5 is larger than the data: numbered has 4 ",
    ):
        TrainSource(numbered(4), 5, 0, PLAIN)
    assert TrainSource(numbered(4), 4, 0, PLAIN).steps_per_epoch == 1
    for source in (
        lambda: TrainSource(numbered(4), 0, 0, PLAIN),
        lambda: EvalSource(numbered(4), 0, PLAIN),
    ):
        with pytest.raises(UserError, match="at least 1"):
            source()


# Augmentation


def test_normalisation_is_the_stated_arithmetic():
    pixels = np.array([[0, 128, 255]], np.uint8)
    augmentation = Augmentation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    expected = (pixels / 255 - np.array(augmentation.mean)) / np.array(augmentation.std)
    result = normalize(jnp.asarray(pixels), augmentation, jnp.float32)
    assert result.dtype == jnp.float32 and np.allclose(result, expected, rtol=1e-5)
    rounded = normalize(jnp.asarray(pixels), augmentation, jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16 and np.array_equal(
        rounded, result.astype(jnp.bfloat16)
    )


def expected_crop(
    image: np.ndarray, top: int, left: int, flip: int, pad: int
) -> np.ndarray:
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    window = padded[top : top + image.shape[0], left : left + image.shape[1]]
    return window[:, ::-1] if flip else window


def test_every_crop_and_flip_is_the_window_of_the_padded_image():
    pad, images = 2, photos(3, side=5).images
    offsets = (
        np.stack(np.meshgrid(range(5), range(5), range(2), indexing="ij"), -1)
        .reshape(-1, 3)
        .astype(np.int32)
    )
    rows = np.arange(len(offsets), dtype=np.int32) % 3
    choices = {
        name: jnp.asarray(offsets[:, i])
        for i, name in enumerate(("top", "left", "flip"))
    }
    result = np.asarray(jax.jit(crop, static_argnums=3)(images, rows, choices, pad))
    assert result.dtype == np.uint8
    for row, offset, got in zip(rows, offsets, result, strict=True):
        assert np.array_equal(got, expected_crop(images[row], *offset, pad))


def test_without_padding_images_are_mirrored_whole():
    """TPUs gather single pixels in a loop, one after the other."""
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    rows = np.array([2, 0], np.int32)
    choices = {name: np.zeros(2, np.int32) for name in ("top", "left")}
    choices["flip"] = np.array([1, 0], np.int32)
    result = np.asarray(crop(images, rows, choices, pad=0))
    assert np.array_equal(result[0], images[2, :, ::-1])
    assert np.array_equal(result[1], images[0])
    gathers = [
        equation.params["slice_sizes"]
        for equation in jax.make_jaxpr(lambda *given: crop(*given, pad=0))(
            jnp.asarray(images), rows, choices
        ).eqns
        if equation.primitive.name == "gather"
    ]
    assert set(gathers) <= {(1, 4, 6, 3)}


def test_crop_works_on_images_that_are_not_square():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 1), dtype=np.uint8)
    choices = {
        "top": jnp.array([0, 2]),
        "left": jnp.array([2, 1]),
        "flip": jnp.array([1, 0]),
    }
    result = np.asarray(
        jax.jit(crop, static_argnums=3)(images, np.array([1, 0]), choices, 1)
    )
    assert np.array_equal(result[0], expected_crop(images[1], 0, 2, 1, 1))
    assert np.array_equal(result[1], expected_crop(images[0], 2, 1, 0, 1))


def test_all_choices_are_drawn_about_equally_often():
    choices = draw(
        jax.random.key(0), 9000, Augmentation((0.0,), (1.0,), pad=4, flip=True)
    )
    for name, values in (("top", 9), ("left", 9), ("flip", 2)):
        counts = np.bincount(choices[name], minlength=values)
        assert len(counts) == values and np.all(
            np.abs(counts - 9000 / values) < 5 * np.sqrt(9000 / values)
        )
    assert abs(np.corrcoef(choices["top"], choices["left"])[0, 1]) < 0.05


@pytest.mark.parametrize(("pad", "flip"), [(0, False), (0, True), (1, False)])
def test_each_image_of_a_batch_is_one_of_its_possible_crops(pad, flip):
    arrays = photos(16)
    source = TrainSource(
        arrays,
        16,
        0,
        Augmentation((0.0,) * 3, (1.0,) * 3, scale=1.0, pad=pad, flip=flip),
    )
    rows = np.asarray(source.feed(0)["order"])
    batch = batches(source, [0])[0]["image"].astype(np.uint8)
    windows = [
        (t, c, f)
        for t in range(2 * pad + 1)
        for c in range(2 * pad + 1)
        for f in range(1 + flip)
    ]
    used = set()
    for row, image in zip(rows, batch, strict=True):
        found = [
            w
            for w in windows
            if np.array_equal(expected_crop(arrays.images[row], *w, pad), image)
        ]
        assert len(found) == 1
        used.add(found[0])
    assert len(used) > 1 or len(windows) == 1


def test_padding_is_black_before_normalisation():
    white = Arrays(np.full((1, 4, 4, 1), 255, np.uint8), np.zeros(1, int), 1, "white")
    source = TrainSource(white, 1, 0, Augmentation((0.5,), (0.25,), pad=3))
    values = {
        round(float(v), 5)
        for batch in batches(source, range(4))
        for v in batch["image"].ravel()
    }
    assert values == {-2.0, 2.0}


def test_the_two_batches_of_a_search_step_are_not_augmented_alike():
    """All images are one, so that only the crops and flips can differ."""
    (image,) = photos(1).images
    train = Arrays(np.stack([image] * 16), np.arange(16) % 10, 10, name="one")
    augmentation = Augmentation((0.0,) * 3, (1.0,) * 3, pad=3, flip=True)
    data = Batches(Dataset(train, train, augmentation), batch_size=8)
    step = data.search_batches(0)
    assert not np.array_equal(step["train"]["image"], step["valid"]["image"])


def test_the_largest_seed_has_batches_of_a_search():
    train = Arrays(photos(16).images, np.arange(16) % 10, 10, name="few")
    data = Dataset(train, train, Augmentation((0.0,) * 3, (1.0,) * 3))
    for seed in (2**32 - 1, np.uint32(2**32 - 1), np.int32(3)):
        step = Batches(data, batch_size=4, seed=seed).search_batches(0)
        assert [len(batch["image"]) for batch in step.values()] == [4, 4]


def test_steps_and_sizes_of_batches_are_whole_numbers():
    train = Arrays(photos(16).images, np.arange(16) % 10, 10, name="few")
    data = Dataset(train, train, Augmentation((0.0,) * 3, (1.0,) * 3))
    for size in (0, 6.4, "8"):
        with pytest.raises(UserError, match="batch_size must be a whole number, at le"):
            Batches(data, batch_size=size)
    batches_of_4 = Batches(data, batch_size=4)
    for step in (-1, 1.5, "0"):
        with pytest.raises(UserError, match="step must be a whole number, at least 0"):
            batches_of_4.train_batch(step)
    # The step of a state.
    of_state = batches_of_4.train_batch(jnp.int32(2))["label"]
    assert np.array_equal(of_state, batches_of_4.train_batch(2)["label"])


def test_cutout_hides_a_square_around_each_centre_and_no_more():
    """As DARTS's code clips the square to the image."""
    centres = {"y": jnp.array([0, 5, 7]), "x": jnp.array([1, 5, 7])}
    hidden = np.asarray(hide(jnp.ones((3, 8, 8, 2)), centres, 4)) == 0
    for mask, y, x in zip(hidden, (0, 5, 7), (1, 5, 7), strict=True):
        expected = np.zeros((8, 8), bool)
        expected[max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = True
        assert np.array_equal(mask, np.repeat(expected[..., None], 2, -1))


def test_cutout_falls_everywhere_equally_often():
    hidden = (
        np.asarray(
            hide(
                jnp.ones((512, 6, 8, 1)),
                draw_centres(jax.random.key(0), 512, (6, 8)),
                2,
            )
        )
        == 0
    )
    # Each pixel lies in the square of 4 of 48 centres, those of the last row and column
    # in that of 2 or 1.
    wide, high = (np.minimum(n - np.arange(n), 2) for n in (8, 6))
    expected = high[:, None] * wide / 48
    assert np.all(
        np.abs(hidden.mean(0)[..., 0] - expected)
        < 5 * np.sqrt(expected * (1 - expected) / 512)
    )
    assert len(np.unique(hidden.reshape(512, -1), axis=0)) > 40


def test_what_cutout_hides_does_not_follow_the_crop():
    """Both are drawn by one key, here from the same five numbers."""
    key, augmentation = jax.random.key(0), Augmentation((0.0,), (1.0,), pad=2)
    crops = draw(key, 64, augmentation)
    centres = draw_centres(key, 64, (5, 5))
    for crop_at, centre in (("top", "y"), ("left", "x")):
        assert not np.array_equal(crops[crop_at], centres[centre])


def test_cutout_is_a_function_of_the_step_and_leaves_crop_and_flip_as_they_were():
    augmentation = Augmentation(
        (2.0,) * 3, (0.2,) * 3, pad=2, flip=True, cutout=3
    )  # no pixel is the mean colour
    first, again, other = batches(
        TrainSource(photos(20), 6, 5, augmentation), [0, 0, 1]
    )
    (plain,) = batches(
        TrainSource(photos(20), 6, 5, dataclasses.replace(augmentation, cutout=0)), [0]
    )
    hidden = first["image"] == 0
    assert np.array_equal(first["image"], again["image"]) and np.all(
        hidden.any((1, 2, 3))
    )
    assert not np.array_equal(hidden, other["image"] == 0)
    assert np.allclose(first["image"], np.where(hidden, 0, plain["image"]), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cutout": 16},
            r"cutout=16 can hide all of an image of \d+x\d+; write a smaller side",
        ),
        (
            {"pad": 16},
            r"pad=16 can move an image of \d+x\d+ out of sight; "
            r"write fewer pixels, or 0",
        ),
    ],
)
def test_cutout_or_a_crop_without_any_of_an_image_is_refused_in_training_alone(
    changes, message
):
    augmentation = Augmentation((0.5,) * 3, (0.2,) * 3, **changes)
    with pytest.raises(UserError, match=f"config.dataset.{message}"):
        TrainSource(photos(4), 2, 0, augmentation)
    EvalSource(photos(4), 2, augmentation)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"mean": (0.5,), "std": (1.0,), "cutout": -2},
            "cutout must be 0 or more pixels, got -2",
        ),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "one number per channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
        ({"mean": (0.5,), "std": (1.0,), "pad": -1}, "pad must be"),
        (
            {"mean": (0.5,), "std": (1.0,), "jitter": (0.4, np.nan, 0.4, 0.2)},
            "four finite numbers",
        ),
        (
            {"mean": (0.5,), "std": (1.0,), "jitter": (np.inf, 0, 0, 0)},
            "four finite numbers",
        ),
    ],
)
def test_an_impossible_augmentation_is_refused(kwargs, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**kwargs)


def test_statistics_for_another_number_of_channels_are_refused():
    with pytest.raises(UserError, match="3 channels need 3 means"):
        TrainSource(photos(4), 2, 0, PLAIN)


# The evaluation source


@pytest.mark.parametrize("batch_size", [1, 7, 20, 25])
def test_evaluation_counts_every_example_exactly_once(batch_size):
    source = EvalSource(numbered(20), batch_size, PLAIN)
    seen = batches(source, range(len(source)))
    assert all(batch["image"].shape == (batch_size, 2, 2, 1) for batch in seen)
    weights, labels, images = (
        np.concatenate([batch[name] for batch in seen])
        for name in ("weight", "label", "image")
    )
    images = images[:, 0, 0, 0]
    assert set(weights.tolist()) <= {0.0, 1.0} and weights.dtype == np.float32
    assert (
        labels[weights == 1].tolist()
        == images[weights == 1].tolist()
        == list(range(20))
    )


def test_evaluation_neither_augments_nor_traces_twice():
    arrays = photos(10)
    source = EvalSource(
        arrays, 4, Augmentation((0.5,) * 3, (0.2,) * 3, pad=2, flip=True)
    )
    traces = []

    @jax.jit
    def prepare(feed):
        traces.append(1)
        return source.prepare(feed)

    images = np.concatenate([prepare(source.feed(i))["image"] for i in range(3)])[:10]
    assert len(traces) == 1
    assert np.allclose(images, (arrays.images / 255 - 0.5) / 0.2, atol=1e-5)


@pytest.mark.long
def test_an_augmented_evaluation_differs_by_epoch_and_not_by_the_size_of_batches():
    arrays, augmentation = (
        photos(10),
        Augmentation(
            (0.5,) * 3, (0.2,) * 3, pad=2, flip=True, jitter=(0.4, 0.4, 0.4, 0.2)
        ),
    )

    def images(batch_size, epoch, shards=1):
        source = EvalSource(arrays, batch_size, augmentation, augment_seed=7)
        part = jax.jit(source.prepare, static_argnums=(1, 2))
        parts = [
            part(source.feed(i, epoch), s, shards)
            for i in range(len(source))
            for s in range(shards)
        ]
        batch = jax.tree.map(lambda *p: np.concatenate(p), *parts)
        return batch["image"][batch["weight"] == 1]

    whole = images(10, epoch=3)
    assert np.allclose(images(4, epoch=3), whole, atol=1e-6) and np.allclose(
        images(8, epoch=3, shards=2), whole, atol=1e-6
    )
    assert not np.allclose(images(10, epoch=4), whole) and not np.allclose(
        whole, (arrays.images / 255 - 0.5) / 0.2
    )


def test_shards_of_an_evaluation_batch_make_up_the_batch():
    source = EvalSource(numbered(10), 8, PLAIN)
    part = jax.jit(source.prepare, static_argnums=2)
    parts = [part(source.feed(1), shard, 2) for shard in range(2)]
    assert same(
        jax.tree.map(lambda *p: np.concatenate(p), *parts), part(source.feed(1), 0, 1)
    )
    assert [float(part["weight"].sum()) for part in parts] == [2.0, 0.0]


def test_there_is_no_batch_after_the_last():
    source = EvalSource(numbered(10), 4, PLAIN)
    for number in (-1, 3):
        with pytest.raises(IndexError, match="3 batches"):
            source.feed(number)


# Data sets on disk


@pytest.fixture
def cifar(tmp_path):
    splits = {"train": photos(12, 1, side=32), "test": photos(5, 2, side=32)}
    return write_dataset(tmp_path / "cifar10" / "3.0.2", splits), splits


def test_cifar10_is_read_from_array_records(cifar):
    directory, splits = cifar
    for path in (directory, str(directory.parent), directory.parent.parent):
        train, test, augmentation = loading.load("cifar10", path)
        assert np.array_equal(train.images, splits["train"].images) and np.array_equal(
            test.images, splits["test"].images
        )
        assert (
            np.array_equal(train.labels, splits["train"].labels)
            and train.labels.dtype == np.int32
        )
        assert train.num_classes == 10 and train.name == "cifar10"
    assert augmentation == Augmentation(
        (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 1 / 255, pad=4, flip=True
    )


def test_the_newest_version_is_read(cifar, tmp_path):
    other = {"train": photos(3, 5, side=32), "test": photos(2, 6, side=32)}
    write_dataset(tmp_path / "cifar10" / "3.0.10", other)
    assert len(loading.load("cifar10", tmp_path).train) == 3


def test_a_configuration_is_part_of_the_name(tmp_path):
    version = tmp_path / "gray" / "small" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").touch()
    for path in (tmp_path, version.parent, version):
        assert tfds_directory.find("gray/small", path) == version


def test_a_directory_in_several_formats_is_read_from_its_array_records(cifar):
    directory, splits = cifar
    info = json.loads((directory / "dataset_info.json").read_text())
    info |= {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    assert np.array_equal(
        loading.load("cifar10", directory).test.images, splits["test"].images
    )


def test_the_default_place_is_in_the_home_directory(cifar, monkeypatch, tmp_path):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    message = (
        r"cifar10: there is no directory .*tensorflow_datasets; "
        r"set config\.dataset\.path"
    )
    with pytest.raises(UserError, match=message):
        loading.load("cifar10")
    home.mkdir()
    (home / "tensorflow_datasets").symlink_to(tmp_path)
    assert len(loading.load("cifar10").train) == 12


def test_any_small_tfds_set_is_read_with_its_own_statistics(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), dtype=np.uint8)
    arrays = Arrays(gray, np.arange(6), num_classes=7, name="gray")
    write_dataset(
        tmp_path / "gray" / "1.0.0",
        {"train": arrays, "validation": arrays},
        "gray",
        (28, 28, 1),
    )
    train, test, augmentation = loading.load("tfds:gray", tmp_path)
    assert (
        np.array_equal(train.images, gray) and len(test) == 6 and train.num_classes == 7
    )
    assert augmentation.mean == pytest.approx(((gray / 255).mean(),))
    assert augmentation.std == pytest.approx(((gray / 255).std(),))
    assert augmentation.pad == 0 and not augmentation.flip


def test_cifar100_takes_crops_and_flips_with_its_own_statistics(tmp_path):
    splits = {"train": photos(4, side=32), "test": photos(2, side=32)}
    write_dataset(tmp_path / "cifar100" / "3.0.2", splits, "cifar100")
    augmentation = loading.load("cifar100", tmp_path).augmentation
    assert augmentation.mean == pytest.approx(
        (splits["train"].images / 255).mean((0, 1, 2))
    )
    assert augmentation.pad == 4 and augmentation.flip


def test_a_constant_channel_is_not_divided_by_zero():
    assert statistics.of_images(np.full((2, 3, 3, 1), 51, np.uint8)) == (
        pytest.approx((0.2,)),
        (1.0,),
    )


def one_line_error(name, path=None) -> str:
    with pytest.raises(UserError) as caught:
        loading.load(name, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_empty_directories_are_named(tmp_path):
    missing = one_line_error("cifar10", tmp_path / "nowhere")
    assert (
        "there is no directory" in missing
        and "python -m bnas_jax data prepare cifar10" in missing
    )
    assert "is empty" in one_line_error("cifar10", tmp_path)
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    assert "without a prepared cifar10" in one_line_error("cifar10", tmp_path)
    assert "is empty" in one_line_error("cifar10", tmp_path / "cifar10" / "3.0.2")


def test_a_tfrecord_directory_is_refused(tmp_path):
    write_dataset(
        tmp_path / "cifar10" / "3.0.2",
        {"train": photos(2, side=32)},
        file_format="tfrecord",
    )
    message = one_line_error("cifar10", tmp_path)
    assert (
        "is in tfrecord, but only array_record can be read" in message
        and "python -m bnas_jax data convert" in message
    )


def test_another_set_in_the_directory_is_refused(cifar):
    assert "holds cifar10, not mnist" in one_line_error("tfds:mnist", cifar[0])


def test_a_set_without_a_test_split_is_refused(tmp_path):
    write_dataset(tmp_path / "cifar10" / "3.0.2", {"train": photos(2, side=32)})
    assert "needs the splits train and test" in one_line_error("cifar10", tmp_path)


def test_images_of_several_sizes_are_refused(tmp_path):
    directory = tmp_path / "odd" / "1.0.0"
    write_dataset(
        directory,
        {"train": photos(2, side=8), "test": photos(2, side=8)},
        "odd",
        (None, None, 3),
    )
    assert len(loading.load("tfds:odd", directory).train) == 2

    class Mixed:
        images, labels, num_classes = (
            [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
            [0, 1],
            2,
        )

        def __len__(self):
            return 2

    write_dataset(
        tmp_path / "odd" / "1.0.1",
        {"train": Mixed(), "test": Mixed()},
        "odd",
        (None, None, 3),
    )
    assert "images of several shapes" in one_line_error("tfds:odd", tmp_path)


def test_missing_and_broken_shards_are_named(cifar):
    directory, _ = cifar
    shard = directory / "cifar10-test.array_record-00000-of-00001"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert f"cannot read {directory}" in one_line_error("cifar10", directory)
    shard.unlink()
    assert f"{shard} is missing" in one_line_error("cifar10", directory)


def test_broken_metadata_is_named(cifar):
    directory, _ = cifar
    (directory / "dataset_info.json").write_text("{")
    assert f"cannot read {directory}" in one_line_error("cifar10", directory)


def test_a_missing_library_is_named(cifar, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    assert "pip install tensorflow-datasets array_record pillow" in one_line_error(
        "cifar10", cifar[0]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar",
            "there is no data set 'cifar': set config.dataset.name to one of digits, "
            "cifar10",
        ),
        ("tfds:", "there is no data set"),
        ("imagenet2012", "there is no directory /anywhere"),
        (
            "folder",
            "there is no directory /anywhere; set config.dataset.path to a folder of "
            "images",
        ),
    ],
)
def test_names_that_cannot_be_loaded(name, message):
    assert message in one_line_error(name, "/anywhere")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """The arrays of a set of three classes, the last of them in the test images."""
    found = {}
    for part, size in (("train", 6), ("test", 3)):
        found[f"{part}_images"] = photos(size).images
        found[f"{part}_labels"] = np.arange(size) % (2 if part == "train" else 3)
    return found


@pytest.mark.parametrize("class_names", [None, ("ant", "bee", "cat", "dog")])
def test_arrays_of_ones_own_are_a_data_set(tmp_path, arrays, class_names):
    file = tmp_path / "mine.npz"
    named = {} if class_names is None else {"class_names": np.array(class_names)}
    np.savez(file, **arrays, **named)

    train, test, augmentation = loading.load("npz", file)

    assert np.array_equal(train.images, arrays["train_images"])
    assert np.array_equal(test.labels, arrays["test_labels"])
    assert train.classes == test.classes == (class_names or ("0", "1", "2"))
    assert train.num_classes == len(train.classes)
    assert (augmentation.mean, augmentation.std) == statistics.of_images(train.images)
    batch = load_data("npz", file, batch_size=2).train_batch(0)
    assert batch["image"].shape == (2, 8, 8, 3)


def test_what_is_no_such_file_of_arrays_is_named(tmp_path, arrays):
    file = tmp_path / "mine.npz"
    assert one_line_error("npz", file).startswith(
        f"there is no file {file}; set config.dataset.path to a file of"
    )
    np.save(tmp_path / "one.npy", arrays["train_images"])
    assert "one.npy cannot be read as arrays" in one_line_error(
        "npz", tmp_path / "one.npy"
    )
    np.savez(file, **{**arrays, "test_images": arrays["test_images"] / 255})
    assert "mine: images must be uint8 of shape (N, H, W, C), got float64" in (
        one_line_error("npz", file)
    )
    del arrays["test_labels"]
    np.savez(file, **arrays)
    assert f"{file} has no test_labels; set" in one_line_error("npz", file)
    assert one_line_error("npz", None).startswith("set config.dataset.path to a file")


def test_the_digits_take_no_path():
    assert "leave config.dataset.path out" in one_line_error("digits", "/anywhere")


def test_batches_read_images_as_their_options_say_and_do_not_outlive_their_owner(
    tmp_path,
):
    write_folder(tmp_path, {"train/a": 2, "train/b": 1, "test/a": 1, "test/b": 1})
    (tmp_path / "train" / "a" / "larger.png").write_bytes(encoded(picture(9, 40, 40)))
    data = load_data(
        "folder", tmp_path, batch_size=2, options=ReadOptions(image_size=16)
    )
    assert (
        data.train_batch(0)["image"].shape == (2, 16, 16, 3) == (2, *data.image_shape)
    )
    gone = weakref.ref(data.dataset.train)
    del data
    gc.collect()
    assert gone() is None


def test_a_way_to_divide_that_is_unknown_is_not_taken_for_random():
    with pytest.raises(
        UserError, match="one of random, stratified, in_order, got 'halves'"
    ):
        split_half(numbered(4), 0, "halves")
    # `data` knows no settings, and they do not know it.
    assert SPLITS == dataset.SPLITS
