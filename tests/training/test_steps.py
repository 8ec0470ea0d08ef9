"""The pure steps: losses and hits by their formulas, and what a step of training,
search and evaluation does to a state.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from arrays import close

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cost import cost
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import edges
from bnas_jax.core.losses import cross_entropy, hits
from bnas_jax.core.schemes import Float, Scheme
from bnas_jax.core.supernet import Supernet
from bnas_jax.search import Bnas, Darts, Gdas, Random, Searcher, Snas, Stage
from bnas_jax.search.searcher import ALPHAS, TRAIN, VALID, WEIGHTS
from bnas_jax.training.evaluation_step import EvaluationStep
from bnas_jax.training.optimizers import for_latents
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.state import (
    STEPS,
    SearchState,
    Sums,
    TrainState,
    search_state_of,
    train_state_of,
)
from bnas_jax.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES, FEATURES, TYPES = 4, 3, ("none", "bin_conv_3x3")
NAN = float("nan")
# With the usual eps, the first step of Adam would show the signs of gradients alone.
OPTIMIZER, ALPHAS_OPTIMIZER = optax.sgd(0.5), optax.adam(0.1, b1=0.5, eps=1.0)
DESCENT, FROZEN = optax.sgd(1.0), optax.sgd(0.0)
# Labels are smoothed in a training.
SMOOTHING = 0.1


def features(images):
    """The pixels of each image as one vector: (N, 1, 1, FEATURES) to (N, FEATURES)."""
    return images.reshape(len(images), -1)


class Classifier(nn.Module):
    """A linear classifier whose statistics note what a step hands to a network."""

    scheme: Scheme = Float()
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False, drop_path_rate=None):
        images = features(images)
        rate = self.variable("batch_stats", "rate", jnp.zeros, ())
        drawn = self.variable("batch_stats", "drawn", jnp.zeros, ())
        mean = self.variable("batch_stats", "mean", jnp.zeros, (FEATURES,))
        if train:
            rate.value = jnp.float32(-1) if drop_path_rate is None else drop_path_rate
            if drop_path_rate is not None:
                drawn.value = jax.random.uniform(self.make_rng("drop_path"))
            mean.value = 0.5 * mean.value + 0.5 * images.mean(0)
        return nn.Dense(CLASSES, use_bias=False)(images - mean.value)


class Mixture(Supernet):
    """Two linear classifiers, mixed by the first edge's weights of each cell; its
    statistics are a moving average.
    """

    @nn.compact
    def mixture(self, weights, images, *, train: bool = False):
        images = features(images)
        heads = [
            nn.Dense(CLASSES, use_bias=False, name=f"head{i}")(images)
            for i in range(len(self.layer_types))
        ]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (FEATURES,))
        if train:
            mean.value = 0.5 * mean.value + 0.5 * images.mean(0)
        return sum(
            weights[name][0, i] * head
            for name in ("normal", "reduce")
            for i, head in enumerate(heads)
        )


MIXTURE = Mixture(
    num_cells=1, channels=1, num_classes=CLASSES, layer_types=TYPES, scheme=Float()
)


def batch(seed: int, size: int = 8) -> dict:
    draw = np.random.default_rng(seed)
    images = draw.normal(size=(size, 1, 1, FEATURES)).astype(np.float32)
    return {
        "image": jnp.asarray(images),
        "label": jnp.asarray(draw.integers(0, CLASSES, size), jnp.int32),
    }


@functools.cache
def jitted(step):
    """Steps are equal where their fields are, so that each is compiled once."""
    return jax.jit(step)


# Losses and hits


def test_cross_entropy_is_the_logarithm_of_the_probability():
    logits = np.array([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]], np.float32)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log([p[0, 1], p[1, 2]])
    assert np.allclose(
        cross_entropy(jnp.asarray(logits), jnp.array([1, 2])), expected, rtol=1e-6
    )


def test_label_smoothing_spreads_a_share_of_the_target_over_all_classes():
    draw = np.random.default_rng(0)
    logits, labels = (
        draw.normal(size=(5, 7)).astype(np.float32),
        np.array([0, 6, 3, 3, 1]),
    )
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = 0.9 * np.eye(7)[labels] + 0.1 / 7
    smoothed = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), 0.1)
    assert np.allclose(smoothed, -(targets * log_p).sum(-1), rtol=1e-5)


def test_a_large_margin_overflows_nothing():
    logits = jnp.array([[1000.0, -1000.0]])
    assert (
        cross_entropy(logits, jnp.array([1])) == 2000
        and cross_entropy(logits, jnp.array([0])) == 0
    )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_hits_are_those_of_the_sorted_scores(k):
    draw = np.random.default_rng(1)
    logits, labels = (
        draw.normal(size=(50, 9)).astype(np.float32),
        draw.integers(0, 9, 50),
    )
    best = np.argsort(-logits, axis=-1)[:, :k]
    expected = (best == labels[:, None]).any(-1)
    found = hits(jnp.asarray(logits), jnp.asarray(labels), k)
    assert found.dtype == jnp.float32 and np.array_equal(found, expected)


def test_of_equal_scores_the_first_wins_as_in_argmax():
    """A dead network, whose scores are all equal, is right as often as it would be by
    always naming class 0.
    """
    logits = jnp.zeros((4, 4))
    assert hits(logits, jnp.arange(4)).tolist() == [1, 0, 0, 0]
    assert hits(logits, jnp.arange(4), 3).tolist() == [1, 1, 1, 0]
    tied = jnp.array([[0.0, 2.0, 1.0, 2.0]] * 4)
    assert (
        hits(tied, jnp.arange(4)).tolist()
        == (tied.argmax(-1) == jnp.arange(4)).tolist()
    )
    assert hits(jnp.full((4, 4), jnp.inf), jnp.arange(4)).sum() == 1


def test_nan_is_a_miss():
    assert hits(jnp.full((2, 6), NAN), jnp.array([0, 3]), 5).tolist() == [0, 0]
    assert hits(jnp.array([[1.0, NAN], [1.0, NAN]]), jnp.array([0, 1])).tolist() == [
        0,
        0,
    ]
    assert hits(jnp.full((1, 3), NAN), jnp.array([0]), 3).tolist() == [0]


@pytest.mark.parametrize("label", [-1, -3, 3, 2**31 - 1])
def test_a_label_that_is_no_class_is_a_miss_with_a_loss_of_nan(label):
    """An index of -1 would be the last class."""
    logits, labels = jnp.array([[1.0, 2.0, 3.0]] * 2), jnp.array([2, label])
    losses = cross_entropy(logits, labels, 0.1)
    assert np.isfinite(losses[0]) and np.isnan(losses[1])
    assert hits(logits, labels, 3).tolist() == [1, 0]


def test_all_classes_are_a_hit_where_there_are_no_more_than_k():
    draw = np.random.default_rng(2)
    assert np.all(
        hits(
            jnp.asarray(draw.normal(size=(20, 5))),
            jnp.asarray(draw.integers(0, 5, 20)),
            5,
        )
        == 1
    )


# Drop-path


def test_drop_path_grows_with_the_epoch_from_nothing():
    numbers = jnp.array([0, 2, 3, 17, 29, 60])
    state, data = train_state(), batch(0)
    after = jax.vmap(
        lambda number: train_step(state.replace(step=number), data, drop_path=0.2)
    )(numbers)
    rates = after.batch_stats["rate"]
    # Steps beyond the last epoch drop no more than the rate.
    assert np.allclose(rates, [0.2 * epoch / 10 for epoch in (0, 0, 1, 5, 9, 10)])


def test_no_drop_path_is_none_so_that_nothing_is_computed():
    """The network is called with None, and nothing is drawn: there is no key for it."""
    assert train_step(train_state(step=5), batch(0)).batch_stats["rate"] == -1


# A step of the training


def train_state(step: int = 0, *, seed: int = 0) -> TrainState:
    rngs = {"params": jax.random.key(0), "drop_path": jax.random.key(1)}
    variables = Classifier().init(rngs, jnp.zeros((1, FEATURES)))
    params, stats = variables["params"], variables["batch_stats"]
    sums = Sums(jnp.float32(10), jnp.float32(2), jnp.float32(16))
    return TrainState(
        step=jnp.int32(step),
        seed=jnp.uint32(seed),
        params=params,
        batch_stats=stats,
        opt_state=OPTIMIZER.init(params),
        sums=sums,
        test_top1=jnp.full((2,), jnp.nan),
    )


def train_step(state, data, **options):
    return jitted(training(**options))(state, data)


def training(**options) -> TrainStep:
    sizes = {"label_smoothing": SMOOTHING, "num_epochs": 10, "steps_per_epoch": 3}
    return TrainStep(Classifier(), OPTIMIZER, **sizes, **options)


def test_a_training_step_follows_the_gradient_of_the_smoothed_loss():
    state, data = train_state(), batch(0)

    def loss(params):
        logits = (
            features(data["image"]) - 0.5 * features(data["image"]).mean(0)
        ) @ params["Dense_0"]["kernel"]
        return jnp.mean(cross_entropy(logits, data["label"], SMOOTHING)), logits

    (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    after = train_step(state, data)
    assert close(
        after.params, jax.tree.map(lambda w, g: w - 0.5 * g, state.params, gradient)
    )
    assert int(after.step) == 1 and np.allclose(
        after.batch_stats["mean"], 0.5 * features(data["image"]).mean(0)
    )
    correct = int(jnp.sum(logits.argmax(-1) == data["label"]))
    assert close(after.sums, Sums(10 + 8 * value, 2.0 + correct, 16.0 + 8))
    assert jax.tree.structure(after) == jax.tree.structure(state)


class TwoClassifiers(nn.Module):
    """A linear classifier, and an auxiliary one that training has besides."""

    scheme: Scheme = Float()
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        images = features(images)
        auxiliary = nn.Dense(CLASSES, use_bias=False, name="auxiliary_head")(images)
        if train:
            self.sow("auxiliary", "logits", auxiliary)
        return nn.Dense(CLASSES, use_bias=False, name="classifier")(images)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_loss_at_an_auxiliary_classifier_is_added_with_its_weight(weight):
    """As in DARTS: .4 times its smoothed cross-entropy, which only reaches what it is
    computed from.
    """
    data = batch(0)
    params = TwoClassifiers().init(jax.random.key(0), data["image"])["params"]
    step = TrainStep(
        TwoClassifiers(), DESCENT, label_smoothing=SMOOTHING, auxiliary_weight=weight
    )
    after = jitted(step)(
        train_state_of({"params": params, "batch_stats": {}}, DESCENT, 1), data
    )

    def loss(params):
        at = lambda name: cross_entropy(
            features(data["image"]) @ params[name]["kernel"], data["label"], SMOOTHING
        )
        return jnp.mean(at("classifier")) + weight * jnp.mean(at("auxiliary_head"))

    value, gradient = jax.value_and_grad(loss)(params)
    assert close(after.params, jax.tree.map(jnp.subtract, params, gradient))
    assert close(after.sums.loss, 8 * value)
    assert not weight or not close(
        after.params["auxiliary_head"], params["auxiliary_head"]
    )


def test_what_is_dropped_depends_on_seed_and_step_alone():
    def drawn(step, seed=0):
        return float(
            train_step(
                train_state(step, seed=seed), batch(step), drop_path=0.2
            ).batch_stats["drawn"]
        )

    assert drawn(3) == drawn(3)
    assert len({drawn(0), drawn(3), drawn(4), drawn(3, seed=1)}) == 4


def test_the_first_state_may_be_donated_as_no_two_leaves_are_one_buffer():
    searching = SearchStep(MIXTURE, Bnas(), weights=OPTIMIZER, alphas=ALPHAS_OPTIMIZER)
    for step in (training(), searching):
        leaves = jax.tree.leaves(step.init(image_shape=(FEATURES,)))
        buffers = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
        assert len(set(buffers)) == len(buffers)


def test_a_name_or_a_class_in_the_place_of_an_object_is_refused_in_a_sentence():
    optimizers = {"weights": OPTIMIZER, "alphas": ALPHAS_OPTIMIZER}
    for wrong in (Bnas, "bnas"):
        with pytest.raises(
            UserError, match=r"searcher must be an object such as Bnas\(\), got "
        ):
            SearchStep(MIXTURE, wrong, **optimizers)
    for wrong in (Float, "float"):
        with pytest.raises(
            UserError, match=r"scheme must be an object such as Xnor\(\), got "
        ):
            TrainStep(Classifier(scheme=wrong), OPTIMIZER)
    with pytest.raises(UserError, match=r"loss must be a function .* got 'focal'"):
        TrainStep(Classifier(), OPTIMIZER, loss="focal")


def test_what_is_no_optimizer_supernet_or_network_is_refused_in_a_sentence():
    for name in ("weights", "alphas"):
        optimizers = {"weights": OPTIMIZER, "alphas": ALPHAS_OPTIMIZER, name: 0.1}
        with pytest.raises(UserError, match=f"{name} must be an optax optimizer"):
            SearchStep(MIXTURE, Bnas(), **optimizers)
    with pytest.raises(UserError, match="got a TwoClassifiers, which TrainStep trains"):
        SearchStep(TwoClassifiers(), Bnas(), weights=OPTIMIZER, alphas=ALPHAS_OPTIMIZER)
    with pytest.raises(UserError, match=r"a field scheme: .*, which Dense lacks"):
        TrainStep(nn.Dense(3), OPTIMIZER)


def test_the_steps_tell_the_optimizer_the_loss():
    # The state of this optimizer is the loss that it was told.
    told = optax.GradientTransformationExtraArgs(
        init=lambda params: np.float32(-1),
        update=lambda updates, state, params=None, *, value, **others: (updates, value),
    )
    step = TrainStep(TwoClassifiers(), told)
    state = step(step.init(image_shape=(1, 1, FEATURES)), of())
    assert state.opt_state == pytest.approx(state.sums.loss / state.sums.examples)
    step = SearchStep(MIXTURE, Bnas(), weights=told, alphas=ALPHAS_OPTIMIZER)
    batches = {"train": of(), "valid": of()}
    state = step(step.init(image_shape=(FEATURES,)), batches)
    assert state.opt_state == pytest.approx(state.sums.loss / state.sums.examples)


def of(**shapes) -> dict:
    """A batch of eight whose arrays are zeros of these shapes; None is none."""
    types = {"image": np.float32, "label": np.int32, "targets": np.float32}
    shapes = {"image": (8, 1, 1, FEATURES), "label": (8,)} | shapes
    return {
        name: np.zeros(shape, types[name])
        for name, shape in shapes.items()
        if shape is not None
    }


# What is said: a batch that is refused.
WRONG_BATCHES = {
    r'a batch must be {"image": .*}, got image$': of(label=None),
    r'a batch must be {"image": .*}, got a tuple$': (np.zeros(8), np.zeros(8)),
    r'batch\["label"\] must be an array, got a list$': of() | {"label": [0] * 8},
    r"must be \(N, H, W, C\), got \(8, 3\); .* image\[None\]": of(image=(8, 3)),
    r"must be \(N, H, W, C\), got \(0, 1, 1, 3\)": of(image=(0, 1, 1, 3)),
    r"integers of the shape \(8,\), .* the shape \(1,\)$": of(label=(1,)),
    r"integers of the shape \(8,\), .* got float64": of() | {"label": np.zeros(8)},
    r"integers of the shape \(8,\), .* got bool": of() | {"label": np.zeros(8, bool)},
    r"must be \(8, classes\), got \(8,\)$": of(targets=(8,)),
    r"must be \(8, classes\), got \(1, 4\)$": of(targets=(1, CLASSES)),
    r'batch\["targets"\] has 1 classes, the network 4': of(targets=(8, 1)),
}


@pytest.mark.parametrize("message", WRONG_BATCHES)
def test_a_batch_of_other_shapes_or_types_is_refused_in_a_sentence(message):
    data = WRONG_BATCHES[message]
    with pytest.raises(UserError, match=message) as error:
        training()(train_state(), data)
    assert "\n" not in error.value.args[0]
    # A search takes such batches, too, but no targets.
    if "targets" not in message and "classes" not in message:
        with pytest.raises(UserError, match=message):
            searching()(search_state(), {"train": data, "valid": data})


def test_images_of_other_channels_are_refused_in_a_sentence():
    """What the state was made for is seen where the network meets its parameters."""
    data = of(image=(8, 1, 1, 2))
    advice = r"step.init\(image_shape=\(1, 1, 2\)\)"
    step = TrainStep(TwoClassifiers(), OPTIMIZER)
    state = step.init(image_shape=(1, 1, FEATURES))
    with pytest.raises(UserError, match=advice):
        step(state, data)
    with pytest.raises(UserError, match=advice):
        searching()(search_state(), {"train": data, "valid": data})


def test_what_cannot_be_divided_or_is_missing_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="8 images cannot be divided into 3 microba"):
        training(microbatches=3)(train_state(), of())
    for batches in (of(), {"train": of()}, (of(), of())):
        with pytest.raises(UserError, match='there is no "valid" among them'):
            searching()(search_state(), batches)


def test_targets_of_a_search_are_refused_and_not_left_out():
    data = of(targets=(8, CLASSES))
    with pytest.raises(UserError, match=r'"valid" has "targets", .* leave them out'):
        searching()(search_state(), {"train": of(), "valid": data})


def test_another_state_is_refused_in_a_sentence():
    batches = {"train": of(), "valid": of()}
    for wrong in (None, train_state().params, search_state()):
        with pytest.raises(UserError, match="must be a TrainState, as step"):
            training()(wrong, of())
    with pytest.raises(UserError, match=r"must be a SearchState, .* got a TrainState"):
        searching()(train_state(), batches)
    other = train_state().replace(params={}, batch_stats={})
    with pytest.raises(UserError, match=r"or for another network; make it by step\.i"):
        training()(other, of())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"microbatches": 0}, "microbatches must be a whole number, at least 1, got 0"),
        ({"num_epochs": 1.5}, "num_epochs must be a whole number, at least 1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be a whole number, at least 1"),
        ({"drop_path": 2.0}, "drop_path must be from 0 to below 1, got 2"),
        ({"label_smoothing": -1.0}, "label_smoothing must be from 0 to below 1"),
        ({"temperature": 0}, "temperature must be a finite number greater than 0"),
        ({"auxiliary_weight": -1.0}, "auxiliary_weight must be a finite number at"),
        ({"soft_share": 2.0}, "soft_share must be from 0 to 1, got 2"),
    ],
)
def test_numbers_out_of_range_are_refused_in_a_sentence(option, message):
    with pytest.raises(UserError, match=message):
        TrainStep(Classifier(), OPTIMIZER, **option)
    if "whole number" in message:
        with pytest.raises(UserError, match=message):
            dataclasses.replace(searching(), **option)


def test_a_number_may_be_traced():
    smoothed = lambda share: (
        TrainStep(
            Classifier(), OPTIMIZER, label_smoothing=share, temperature=1 + share
        )(train_state(), of()).sums.loss
    )
    assert jax.eval_shape(jax.vmap(smoothed), jnp.zeros(2)).shape == (2,)


def test_a_loss_of_another_shape_is_refused_in_a_sentence():
    def after(loss):
        return jax.eval_shape(
            TrainStep(Classifier(), OPTIMIZER, loss=loss), train_state(), of()
        )

    with pytest.raises(UserError, match=r"loss of each example, \(8,\), got \(8, 4\)"):
        after(lambda logits, labels, smoothing: logits)
    # The mean itself is the same loss.
    assert after(lambda logits, labels, smoothing: logits.mean()).step.shape == ()


def test_all_types_of_integers_and_floats_make_a_batch():
    state = train_state()
    after = jax.eval_shape(training(), state, of(targets=(8, CLASSES)))
    for image, label in (("uint8", "uint8"), ("bfloat16", "int8"), ("float16", "int")):
        data = {"image": of()["image"].astype(image), "label": np.zeros(8, label)}
        found = jax.eval_shape(training(), state, data)
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, after)


def parts_of(data: dict, parts: int) -> dict:
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), data)


def gradient_of(part: dict, params, mean):
    """(loss, gradient, statistics after it) of the classifier on a part of a batch."""
    mean = 0.5 * mean + 0.5 * features(part["image"]).mean(0)

    def loss(params):
        logits = (features(part["image"]) - mean) @ params["Dense_0"]["kernel"]
        return jnp.mean(cross_entropy(logits, part["label"], SMOOTHING))

    return *jax.value_and_grad(loss)(params), mean


def test_microbatches_average_their_gradients_and_move_the_statistics_once():
    state, data = train_state(), batch(0)
    after = train_step(state, data, microbatches=4)
    before = state.batch_stats["mean"]
    parts = [jax.tree.map(lambda x: x[i], parts_of(data, 4)) for i in range(4)]
    found = [gradient_of(part, state.params, before) for part in parts]
    loss, gradient, mean = jax.tree.map(lambda *x: sum(x) / 4, *found)
    assert np.allclose(mean, 0.5 * before + 0.5 * features(data["image"]).mean(0))
    assert close(
        after.params, jax.tree.map(lambda w, g: w - 0.5 * g, state.params, gradient)
    )
    assert np.allclose(after.batch_stats["mean"], mean)
    assert (
        np.allclose(after.sums.loss, 10 + 8 * loss)
        and float(after.sums.examples) == 16 + 8
    )
    correct = 0
    for part, (_, _, mean) in zip(parts, found, strict=True):
        logits = (features(part["image"]) - mean) @ state.params["Dense_0"]["kernel"]
        correct += int(hits(logits, part["label"]).sum())
    assert correct > 0 and float(after.sums.correct) == 2 + correct


def test_devices_average_gradients_losses_and_statistics_and_count_together():
    """vmap with a name for its axis does what several devices do."""
    state, data = train_state(), batch(0)
    shards = parts_of(data, 4)
    on_each = jax.jit(
        jax.vmap(
            lambda shard: train_step(state, shard, axis="devices"), axis_name="devices"
        )
    )(shards)
    after = jax.tree.map(lambda x: x[0], on_each)
    assert close(
        on_each.params, jax.tree.map(lambda x: jnp.stack([x] * 4), after.params)
    )
    found = [
        gradient_of(
            jax.tree.map(lambda x: x[i], shards), state.params, jnp.zeros(FEATURES)
        )
        for i in range(4)
    ]
    loss, gradient, mean = jax.tree.map(lambda *x: sum(x) / 4, *found)
    assert close(
        after.params, jax.tree.map(lambda w, g: w - 0.5 * g, state.params, gradient)
    )
    assert np.allclose(after.batch_stats["mean"], mean) and np.allclose(
        after.sums.loss, 10 + 8 * loss
    )
    assert float(after.sums.examples) == 16 + 8


SEARCHERS = [
    Bnas(),
    Darts(unrolled="difference"),
    Darts(unrolled="exact", diversity=1.0),
    Snas(drop_path=0.0),
    Gdas(clip_norm=0.1),
    Random(),
]


LONG = (Snas, Random)  # which draw as GDAS does, and have a gradient as BNAS has


@pytest.mark.parametrize(
    "searcher",
    [
        pytest.param(s, marks=pytest.mark.long) if isinstance(s, LONG) else s
        for s in SEARCHERS
    ],
)
def test_devices_and_microbatches_of_a_search_average_the_gradients_of_alpha(searcher):
    """Mixture's statistics do not touch its loss, so that any division gives the
    gradients of the whole batch.

    What is drawn is the same for all of them.
    """
    state, data = (
        search_state(searcher=searcher),
        {"train": batch(1), "valid": batch(2)},
    )
    whole = jitted(searching(searcher=searcher))(state, data)
    assert whole.sums.correct > 1, "a wrong share of it would show"
    step, parts = (
        searching(searcher=searcher, axis="devices"),
        jax.tree.map(lambda x: parts_of(x, 4), data, is_leaf=is_batch),
    )
    on_each = jax.jit(
        jax.vmap(lambda batches: step(state, batches), axis_name="devices")
    )(parts)
    in_parts = jitted(searching(searcher=searcher, microbatches=2))(state, data)
    for after in (jax.tree.map(lambda x: x[3], on_each), in_parts):
        assert close(
            (after.alphas, after.params, after.sums),
            (whole.alphas, whole.params, whole.sums),
        )
    assert not close(whole.params, state.params)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_every_seed_of_32_bits_is_taken(seed):
    after = train_step(train_state(seed=seed), batch(0), drop_path=0.2)
    assert 0 < after.batch_stats["drawn"] < 1


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", jax.random.key, np.arange(2)])
def test_what_is_no_seed_is_refused_in_a_sentence(seed):
    if callable(seed):
        seed = seed(0)
    with pytest.raises(UserError, match="seed must be a whole number from 0") as error:
        training().init(seed=seed, image_shape=(FEATURES,))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [8, "8", (8.0, 8.0, 1), (-8, 8, 1), None])
def test_what_is_no_shape_is_refused_in_a_sentence(shape):
    for of_shape in (training().init, functools.partial(cost, Classifier())):
        with pytest.raises(UserError, match=r"image_shape.*\(H, W, C\)"):
            of_shape(image_shape=shape)


# A step of the search


def is_batch(value) -> bool:
    return "image" in value


def search_state(
    alphas_optimizer=ALPHAS_OPTIMIZER,
    step: int = 0,
    searcher=Bnas(),
    *,
    seed: int = 0,
) -> SearchState:
    alphas = alphas_lib.init(jax.random.key(2), len(TYPES))
    alphas = jax.tree.map(
        lambda a: 1000 * a, alphas
    )  # far from uniform, so that the entropy has a gradient
    variables = MIXTURE.init(jax.random.key(0), alphas, jnp.zeros((1, FEATURES)))
    if not searcher.has_alphas:
        alphas = {}
    params, stats = variables["params"], variables["batch_stats"]
    return SearchState(
        step=jnp.int32(step),
        seed=jnp.uint32(seed),
        params=params,
        batch_stats=stats,
        opt_state=OPTIMIZER.init(params),
        sums=Sums.zeros(jnp.float32),
        alphas=alphas,
        alphas_opt_state=alphas_optimizer.init(alphas),
        history={},
        valid_top1=jnp.full((2,), jnp.nan),
    )


def test_the_history_begins_with_the_first_alpha():
    begun = search_state()
    variables = {"params": begun.params, "batch_stats": begun.batch_stats}
    optimizers = {"optimizer": OPTIMIZER, "alphas_optimizer": ALPHAS_OPTIMIZER}
    state = search_state_of(variables, begun.alphas, **optimizers, num_epochs=2)
    for name, rows in state.history.items():
        assert rows.shape == (3, 14, 2) and np.array_equal(rows[0], begun.alphas[name])


def task_loss(params, alphas, data):
    logits = MIXTURE.apply(
        {"params": params, "batch_stats": {"mean": 0}}, alphas, data["image"]
    )
    return jnp.mean(cross_entropy(logits, data["label"]))


def searching(
    alphas_optimizer=ALPHAS_OPTIMIZER, searcher=Bnas(diversity=1.0, tau=7.7), **options
) -> SearchStep:
    return SearchStep(
        MIXTURE,
        searcher,
        weights=OPTIMIZER,
        alphas=alphas_optimizer,
        num_epochs=10,
        steps_per_epoch=3,
        **options,
    )


def search_step(
    state,
    train,
    valid,
    alphas_optimizer=ALPHAS_OPTIMIZER,
    diversity: float = 1.0,
    **options,
):
    step = searching(alphas_optimizer, Bnas(diversity=diversity, tau=7.7), **options)
    return jitted(step)(state, {"train": train, "valid": valid})


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (7, 2)])
def test_a_search_step_moves_alpha_by_validation_then_the_weights_by_the_training_batch(
    step, epoch
):
    state, train, valid = search_state(step=step), batch(0), batch(1)

    def objective(alphas):
        regularizer = alphas_lib.entropy(alphas) * jnp.exp(-epoch / 7.7)
        return task_loss(state.params, alphas, valid) - regularizer

    after = search_step(state, train, valid)
    updates, _ = ALPHAS_OPTIMIZER.update(
        jax.grad(objective)(state.alphas), state.alphas_opt_state, state.alphas
    )
    alphas = optax.apply_updates(state.alphas, updates)
    assert close(after.alphas, alphas) and not close(after.alphas, state.alphas)
    loss, gradient = jax.value_and_grad(task_loss)(state.params, alphas, train)
    assert close(
        after.params, jax.tree.map(lambda w, g: w - 0.5 * g, state.params, gradient)
    )
    assert int(after.step) == step + 1 and np.allclose(
        after.sums.loss, 8 * loss, rtol=1e-5
    )
    assert float(after.sums.examples) == 8


def test_the_regularizer_keeps_alpha_diverse_early_and_lets_go_later():
    """Against a step without it, the entropy of alpha ends higher; the later the epoch,
    the less so.
    """

    def moved(step, diversity):
        after = search_step(
            search_state(DESCENT, step), batch(0), batch(1), DESCENT, diversity
        )
        return float(alphas_lib.entropy(after.alphas))

    gains = [moved(3 * epoch, 1.0) - moved(3 * epoch, 0.0) for epoch in (0, 10, 40)]
    assert gains[0] > gains[1] > gains[2] > -1e-6 and gains[0] > 1e-3


def test_statistics_see_the_validation_batch_first():
    train, valid = batch(0), batch(1)
    after = search_step(search_state(), train, valid)
    expected = 0.5 * (0.5 * features(valid["image"]).mean(0)) + 0.5 * features(
        train["image"]
    ).mean(0)
    assert np.allclose(after.batch_stats["mean"], expected, atol=1e-6)


def test_the_weights_take_no_gradient_from_the_validation_batch():
    """Where alpha cannot move, another validation batch does not change the weights."""
    state = search_state(FROZEN)
    after = [search_step(state, batch(0), batch(seed), FROZEN) for seed in (1, 2)]
    assert close(after[0].params, after[1].params, rtol=0, atol=0) and close(
        after[0].alphas, state.alphas, rtol=0, atol=0
    )


# Searchers of one's own


@dataclasses.dataclass(frozen=True)
class Unrolled(Searcher):
    """Alpha's gradient after a virtual step of the weights; what flows through that
    step is left out.
    """

    def gradient(self, mean, virtual, params, alphas):
        params = virtual(
            params, mean(lambda loss: jax.grad(loss)(params, alphas), TRAIN)
        )
        return mean(lambda loss: jax.grad(loss, argnums=1)(params, alphas), VALID)

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage((VALID, TRAIN), frozenset({ALPHAS})),
        Stage((TRAIN,), frozenset({WEIGHTS})),
    )


@pytest.mark.parametrize("searcher", [s for s in SEARCHERS if s.has_alphas])
def test_with_one_layer_type_and_no_noise_to_draw_every_searcher_makes_the_step_of_bnas(
    searcher,
):
    """Nothing is left to choose, alpha has no gradient, and the weights follow the
    training batch.
    """
    single = MIXTURE.clone(layer_types=("bin_conv_3x3",))
    data = {"train": batch(0), "valid": batch(1)}
    ends = []
    for one in (
        Bnas(),
        dataclasses.replace(
            searcher, **({"clip_norm": None} if isinstance(searcher, Gdas) else {})
        ),
    ):
        step = SearchStep(
            single,
            one,
            weights=OPTIMIZER,
            alphas=ALPHAS_OPTIMIZER,
            num_epochs=10,
            steps_per_epoch=3,
        )
        state = search_state()
        params = {"head0": state.params["head0"]}
        alphas = jax.tree.map(lambda alpha: alpha[:, :1], state.alphas)
        start = state.replace(
            params=params,
            opt_state=OPTIMIZER.init(params),
            alphas=alphas,
            alphas_opt_state=ALPHAS_OPTIMIZER.init(alphas),
        )
        ends.append(jitted(step)(start, data))
    bnas, other = ends
    assert close(other.params, bnas.params) and close(other.sums, bnas.sums)
    assert close(other.alphas, bnas.alphas) and close(other.alphas, alphas)


def test_alphas_own_gradient_is_all_that_is_computed(monkeypatch):
    """Second-order DARTS passes through the network once for each of its gradients: 4
    of alpha's stage.
    """
    calls = []
    passed = Mixture.mixture

    def counted(self, *arguments, **options):
        calls.append(1)
        return passed(self, *arguments, **options)

    monkeypatch.setattr(Mixture, "mixture", counted)
    step = searching(searcher=Darts(unrolled="difference"))
    jax.eval_shape(
        lambda state, data: step.stage(0, state, data),
        search_state(),
        {"train": batch(0), "valid": batch(1)},
    )
    assert len(calls) == 1 + 4, "one to begin with"


class Regularized(Unrolled):
    def regularizer(self, alphas, progress):
        return jnp.sum(alphas["normal"] ** 2)


def test_a_searchers_own_gradient_moves_alpha():
    """That of its regularizer is added; the virtual step clips nothing, other than the
    one that the weights make.
    """
    optimizer = for_latents(OPTIMIZER, Float(), clip_norm=1e-3)
    state, train, valid = search_state(), batch(0), batch(1)
    state = state.replace(opt_state=optimizer.init(state.params))
    step = dataclasses.replace(searching(searcher=Regularized()), weights=optimizer)
    after = jitted(step)(state, {"train": train, "valid": valid})
    of_train = jax.grad(task_loss)(state.params, state.alphas, train)
    ahead = jax.tree.map(lambda w, g: w - 0.5 * g, state.params, of_train)
    gradient = jax.grad(task_loss, argnums=1)(ahead, state.alphas, valid)
    gradient["normal"] += 2 * state.alphas["normal"]
    updates, _ = ALPHAS_OPTIMIZER.update(gradient, state.alphas_opt_state, state.alphas)
    alphas = optax.apply_updates(state.alphas, updates)
    assert close(after.alphas, alphas)

    # The weights themselves moved once, from where they were.
    gradient = jax.grad(task_loss)(state.params, alphas, train)
    size = optax.tree_utils.tree_norm(gradient)
    moved = jax.tree.map(lambda w, g: w - 0.5e-3 * g / size, state.params, gradient)
    assert close(after.params, moved, atol=1e-7) and not close(
        after.params, state.params
    )


class AtOnce(Searcher):
    """Alpha and weights by one gradient of one batch, with a mixture that grows, and
    terms of its own for alpha and for the mixture.
    """

    size: float = 0.25
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage((TRAIN,), frozenset({WEIGHTS, ALPHAS})),
    )

    def weights(self, alphas, key, progress):
        relaxed = alphas_lib.relax(alphas)
        return jax.tree.map(
            lambda value: value * (1 + progress.epoch / progress.num_epochs), relaxed
        )

    def regularizer(self, alphas, progress):
        return self.size * progress.epoch * jnp.sum(alphas["normal"] ** 2)

    def resources(self, weights):
        return jnp.sum(weights["reduce"] ** 2)


def test_a_stage_can_move_alpha_and_weights_at_once():
    """In the third of ten epochs."""
    state, data = search_state(step=7), batch(0)
    after = jitted(searching(searcher=AtOnce()))(state, {"train": data})

    def objective(params, alphas):
        mixture = {
            name: 1.2 * value for name, value in alphas_lib.relax(alphas).items()
        }
        variables = {"params": params, "batch_stats": {"mean": 0}}
        logits = MIXTURE.apply(variables, mixture, data["image"], method="mixture")
        loss = jnp.mean(cross_entropy(logits, data["label"]))
        terms = 0.25 * 2 * jnp.sum(alphas["normal"] ** 2)
        return loss + terms + jnp.sum(mixture["reduce"] ** 2), loss

    (to_params, to_alphas), loss = jax.grad(objective, argnums=(0, 1), has_aux=True)(
        state.params, state.alphas
    )
    updates, _ = ALPHAS_OPTIMIZER.update(
        to_alphas, state.alphas_opt_state, state.alphas
    )
    assert close(after.alphas, optax.apply_updates(state.alphas, updates))
    assert close(
        after.params, jax.tree.map(lambda w, g: w - 0.5 * g, state.params, to_params)
    )
    assert int(after.step) == 8 and float(after.sums.examples) == 8
    assert np.allclose(after.sums.loss, 8 * loss, rtol=1e-5), "without the terms"


class Drawing(Searcher):
    """A mixture times what is drawn in a stage that moves weights alone."""

    stages: ClassVar[tuple[Stage, ...]] = (Stage((TRAIN,), frozenset({WEIGHTS})),)

    def weights(self, alphas, key, progress):
        return jax.tree.map(
            lambda value: value * jax.random.uniform(key), alphas_lib.relax(alphas)
        )


class DrawingTwice(Drawing):
    stages = 2 * Drawing.stages


def test_what_is_drawn_depends_on_seed_step_and_stage_alone():
    def loss(step, seed=0, searcher=Drawing()):
        state = search_state(step=step, seed=seed)
        # The weights stay, so that the stages differ in what they draw alone.
        made = dataclasses.replace(searching(searcher=searcher), weights=FROZEN)
        return float(jitted(made)(state, {"train": batch(0)}).sums.loss)

    assert loss(3) == loss(3)
    twice = loss(3, searcher=DrawingTwice())
    assert len({loss(0), loss(3), loss(4), loss(3, seed=1), twice / 2}) == 5


def test_each_microbatch_drops_by_a_key_of_its_own_which_draws_no_mixture():
    searcher, state = Snas(drop_path=0.3), search_state()
    whole, parts = (searching(searcher=searcher, microbatches=n) for n in (1, 2))
    chosen = [
        whole._drop_path_options(0, state, 0),
        parts._drop_path_options(0, state, 0),
        parts._drop_path_options(0, state, 1),
        {"rngs": {"drop_path": whole._key(STEPS, state, 0)}},
    ]
    # Those of a training: of a batch in one piece, and of two parts.
    for microbatches, number in ((1, 0), (2, 0), (2, 1)):
        step = training(drop_path=0.3, microbatches=microbatches)
        chosen.append(step._random_options(train_state(step=1), number))
    keys = [jax.random.key_data(each["rngs"]["drop_path"]) for each in chosen]
    assert len({tuple(key.tolist()) for key in keys}) == len(keys)


def test_the_columns_of_alpha_are_the_supernets_layer_types():
    step = searching(searcher=Bnas(keep_zeroise=False))
    assert step.searcher == Bnas(keep_zeroise=False, layer_types=TYPES)
    names = {
        edge.layer_type
        for edge in edges(step.searcher.derive(search_state().alphas).normal)
    }
    assert names == {"bin_conv_3x3"}
    alphas = step.init(seed=0, image_shape=(FEATURES,)).alphas
    assert {value.shape for value in alphas.values()} == {(14, len(TYPES))}


def test_a_batch_that_no_stage_takes_is_left_alone():
    state, train = search_state(), batch(0)
    step = jitted(searching(searcher=AtOnce()))
    alone, beside = (
        step(state, {"train": train} | more) for more in ({}, {"valid": batch(1)})
    )
    assert close(alone.params, beside.params, rtol=0, atol=0) and close(
        alone.batch_stats, beside.batch_stats, rtol=0, atol=0
    )


def test_stages_one_by_one_are_the_step():
    state, batches = search_state(), {"train": batch(0), "valid": batch(1)}
    step = searching()
    first = step.stage(0, state, batches)
    assert int(first.step) == 0 and close(first.params, state.params, rtol=0, atol=0)
    second, whole = step.stage(1, first, batches), jitted(step)(state, batches)
    assert int(second.step) == int(whole.step) == 1
    for part in ("params", "batch_stats", "alphas", "sums"):
        assert close(getattr(second, part), getattr(whole, part))


# Evaluation


def test_an_evaluation_sums_over_the_examples_and_leaves_the_padding_out():
    state = train_state()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    data = batch(0)
    padded = {name: jnp.concatenate([value, value[:2]]) for name, value in data.items()}
    padded["image"] = (
        padded["image"].at[8:].set(jnp.nan)
    )  # whatever stands in the padding
    padded["weight"] = jnp.array([1.0] * 8 + [0.0] * 2)
    result = jitted(EvaluationStep(Classifier()))(variables, padded)
    logits = features(data["image"]) @ state.params["Dense_0"]["kernel"]
    assert float(result.examples) == 8
    evaluate = EvaluationStep(Classifier(), axis="devices")
    divided = jax.jit(
        jax.vmap(lambda shard: evaluate(variables, shard), axis_name="devices")
    )(parts_of(padded, 5))
    assert close(jax.tree.map(lambda x: x[4], divided), result)
    assert np.allclose(
        result.loss, cross_entropy(logits, data["label"]).sum(), rtol=1e-5
    )
    assert float(result.top1) == float(jnp.sum(logits.argmax(-1) == data["label"]))
    assert float(result.top5) == 8  # of four classes


def test_an_evaluation_neither_smooths_nor_trains():
    state = train_state()
    variables = {
        "params": state.params,
        "batch_stats": {**state.batch_stats, "mean": jnp.ones(FEATURES)},
    }
    data = batch(0) | {"weight": jnp.ones(8)}
    logits = (features(data["image"]) - 1) @ state.params["Dense_0"]["kernel"]
    result = EvaluationStep(Classifier())(variables, data)
    assert np.allclose(
        result.loss, cross_entropy(logits, data["label"]).sum(), rtol=1e-5
    )


def test_the_supernet_is_evaluated_with_the_mixture_of_its_alphas():
    state = search_state()
    data = batch(0) | {"weight": jnp.ones(8)}
    result = EvaluationStep(MIXTURE, Bnas())(state.variables, data)
    assert np.allclose(
        result.loss, 8 * task_loss(state.params, state.alphas, data), rtol=1e-5
    )
    assert float(result.examples) == 8


class Trained(Supernet):
    """Its class is 1 as in training, else 0."""

    @nn.compact
    def mixture(self, weights, images, *, train: bool = False):
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        if train:
            mean.value += 1
        return jax.nn.one_hot(jnp.full(len(images), int(train)), CLASSES)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_a_supernet_is_evaluated_by_its_own_statistics_or_the_batchs(batch_statistics):
    supernet = Trained(num_cells=1, channels=1, num_classes=CLASSES)
    evaluate = EvaluationStep(supernet, Bnas(), batch_statistics=batch_statistics)
    variables = {"batch_stats": {"mean": 0.0}, "alphas": search_state().alphas}
    data = batch(0) | {"label": jnp.ones(8, jnp.int32), "weight": jnp.ones(8)}
    assert float(evaluate(variables, data).top1) == 8 * batch_statistics
