"""Learning rates and momenta by step: against the curves of the authors' code, and by
the formulas of the paper.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnas_jax import settings
from bnas_jax.runtime import devices
from bnas_jax.training import build_optimizers, schedules
from bnas_jax.training.train import TrainTask
from bnas_jax.training.workdir import WorkDir
from configs import search, train


def training_run(preset: str, conventions: str, **changes) -> settings.TrainSettings:
    """A training with other values of `config.optimizer`."""
    config = train.get_config(preset)
    config.conventions = conventions
    config.optimizer.update(changes)
    return settings.from_config(config)


def training(preset: str, conventions: str, **changes) -> settings.OptimizerSettings:
    return training_run(preset, conventions, **changes).optimizer


def searching(conventions: str) -> settings.SearchSettings:
    """A search of 50 epochs."""
    config = search.get_config("cifar10")
    config.conventions = conventions
    return settings.from_config(config)


def curve(schedule, steps) -> np.ndarray:
    """The values at several steps, as a jitted step computes them."""
    return np.asarray(jax.jit(schedule)(jnp.asarray(steps, jnp.int32)))


@pytest.fixture(scope="module")
def released(reference):
    return np.load(reference / "schedules.npz")


def test_one_cycle_is_the_released_one(released):
    rate, momentum = build_optimizers.training_schedules(
        training("a", "release"), num_epochs=10, steps_per_epoch=20
    )
    assert np.allclose(
        curve(rate, np.arange(200)), released["one_cycle_lr"], rtol=1e-5, atol=1e-9
    )
    assert np.allclose(
        curve(momentum, np.arange(200)), released["one_cycle_momentum"], rtol=1e-6
    )


def test_cosine_restarts_are_the_released_ones(released):
    expected = released["cosine_restart_lr_quarter_epochs"]
    rate, momentum = build_optimizers.training_schedules(
        training("d", "paper"), num_epochs=250, steps_per_epoch=4
    )
    assert len(expected) == 250 * 4
    assert np.allclose(curve(rate, np.arange(1000)), expected, rtol=1e-5, atol=1e-8)
    assert np.all(curve(momentum, [0, 500, 999]) == np.float32(0.9))


def test_one_cycle_of_the_paper_goes_from_4e_4_to_5e_2_and_back():
    rate, momentum = build_optimizers.training_schedules(
        training("a", "paper"), num_epochs=600, steps_per_epoch=195
    )
    steps = 600 * 195
    values = curve(
        rate, [0, 0.225 * steps, 0.45 * steps, 0.675 * steps, 0.9 * steps, steps - 1]
    )
    assert np.allclose(values, [4e-4, 0.0252, 0.05, 0.0252, 4e-4, 4e-4], rtol=1e-3)
    assert np.all(curve(momentum, np.arange(0, steps, 1000)) == np.float32(0.9))


def test_one_cycle_of_the_release_ends_at_its_minimum_with_high_momentum():
    rate, momentum = build_optimizers.training_schedules(
        training("a", "release"), num_epochs=600, steps_per_epoch=195
    )
    steps = 600 * 195
    values = curve(rate, [0, 0.45 * steps, 0.9 * steps, 0.95 * steps, steps])
    assert np.allclose(
        values, [0.0025, 0.05, 0.0025, (0.0025 + 2.5e-5) / 2, 2.5e-5], rtol=1e-3
    )
    assert np.allclose(
        curve(momentum, [0, 0.45 * steps, 0.9 * steps, steps]),
        [0.95, 0.85, 0.95, 0.95],
        rtol=1e-5,
    )


def test_one_cycle_without_a_tail_ends_where_it_began():
    values = curve(
        schedules.one_cycle(0.1, 1.0, 0.001, steps=10, tail=0.0), np.arange(11)
    )
    assert np.allclose(
        values, 0.1 + 0.9 * (1 - np.abs(np.arange(11) / 5 - 1)), atol=1e-6
    )


def test_one_cycle_of_a_single_step_is_finite():
    assert np.all(
        np.isfinite(
            curve(schedules.one_cycle(0.1, 1.0, 0.001, steps=1, tail=0.5), [0, 1])
        )
    )


def test_cosine_goes_down_once_over_the_whole_training():
    rate, _ = build_optimizers.training_schedules(
        training("d", "paper", schedule="cosine"), num_epochs=10, steps_per_epoch=7
    )
    steps = np.arange(70)
    expected = 1e-5 + (0.1 - 1e-5) * (1 + np.cos(np.pi * steps / 70)) / 2
    assert np.allclose(curve(rate, steps), expected, rtol=1e-5)


STEPS = np.arange(60)  # of 20 epochs, 3 each
EPOCH = STEPS // 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "linear"}, 1 - STEPS / 60),
        ({"schedule": "linear", "schedule_by": "epoch"}, 1 - EPOCH / 20),
        # Bi-Real and ReActNet: the first epoch at 1 - 1 / E, the last at 0.
        (
            {"schedule": "linear", "schedule_by": "epoch", "first_epoch": 1},
            1 - (EPOCH + 1) / 20,
        ),
        ({"schedule": "linear", "min_learning_rate": 0.05}, 1 - STEPS / 120),
        ({"schedule": "cosine"}, (1 + np.cos(np.pi * STEPS / 60)) / 2),
        (
            {"schedule": "cosine", "schedule_by": "epoch"},
            (1 + np.cos(np.pi * EPOCH / 20)) / 2,
        ),
        (
            {"schedule": "cosine", "schedule_by": "epoch", "first_epoch": 1},
            (1 + np.cos(np.pi * (EPOCH + 1) / 20)) / 2,
        ),
        (
            {"schedule": "steps", "decay_epochs": (6, 12, 16)},
            0.1 ** ((EPOCH >= 6) * 1.0 + (EPOCH >= 12) + (EPOCH >= 16)),
        ),
        (
            {"schedule": "steps", "decay_epochs": (5,), "decay_factor": 0.2},
            np.where(EPOCH < 5, 1, 0.2),
        ),
    ],
)
def test_schedules_by_step_and_by_epoch_follow_their_formulas(options, expected):
    """The rates of PyTorch's LambdaLR, CosineAnnealingLR and MultiStepLR, times .1."""
    chosen = settings.OptimizerSettings(learning_rate=0.1, **options)
    rate, momentum = build_optimizers.training_schedules(
        chosen, num_epochs=20, steps_per_epoch=3
    )
    assert np.allclose(curve(rate, STEPS), 0.1 * expected, rtol=1e-5, atol=1e-8)
    assert np.all(curve(momentum, STEPS) == np.float32(0.9))


@pytest.mark.parametrize(
    ("preset", "changes", "expected"),
    [
        ("digits", {}, []),
        ("digits", {"learning_rate": 1e-3}, ["low_learning_rate=0.0025"]),
        ("digits", {"learning_rate": 1e-3, "low_learning_rate": 1e-3}, []),
        ("d", {"learning_rate": 1e-6}, ["min_learning_rate=1e-05"]),
        # Which reads no lower rate.
        (
            "digits",
            {"learning_rate": 1e-6, "schedule": "steps", "decay_epochs": (5,)},
            [],
        ),
    ],
)
def test_a_learning_rate_below_those_that_it_is_the_highest_of_is_noticed(
    preset, changes, expected
):
    """The cycle of train:digits would go down and up with a rate of 1e-3."""
    config = train.get_config(preset)
    config.optimizer.update(changes)
    found = build_optimizers.higher_rates(settings.from_config(config))
    assert found == [f"config.optimizer.{name}" for name in expected]


def test_a_search_whose_learning_rate_would_rise_is_noticed():
    config = search.get_config("digits_darts")
    assert build_optimizers.higher_rates(settings.from_config(config)) == []
    config.weights.learning_rate = 1e-4
    found = build_optimizers.higher_rates(settings.from_config(config))
    assert found == ["config.weights.min_learning_rate=0.001"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "config.optimizer.first_epoch"),
        ({"first_epoch": 0}, None),
        ({"min_learning_rate": 1e-5}, None),
    ],
)
def test_a_learning_rate_that_is_0_in_every_step_is_noticed(changes, expected):
    """Bi-Real's schedule begins at its position 1, where one epoch has ended."""
    config = train.get_config("digits")
    config.recipe, config.num_epochs = "bireal", 1
    config.optimizer.update(changes)
    run = settings.from_config(config)
    assert build_optimizers.never_learns(run) == expected
    rate = build_optimizers.learning_rate(run, steps_per_epoch=3)
    assert (max(curve(rate, range(3))) < 1e-9) == (expected is not None)

    config.num_epochs = 2
    assert build_optimizers.never_learns(settings.from_config(config)) is None


def test_a_training_says_that_its_learning_rate_is_always_0(tmp_path, capfd):
    config = train.get_config("digits")
    config.recipe, config.num_epochs = "bireal", 1
    config.network.update(num_cells=3, channels=2)
    with contextlib.closing(WorkDir(tmp_path / "run")) as workdir:
        TrainTask(settings.from_config(config), workdir, where=devices.ONE)
    warning = (
        "warning: the learning rate is 0 in every step, so that nothing is learned"
    )
    assert f"{warning}: write config.optimizer.first_epoch=0" in capfd.readouterr().err


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_that_has_ended_stays_where_it_ends(schedule):
    chosen = settings.OptimizerSettings(
        learning_rate=0.1, min_learning_rate=0.02, schedule=schedule
    )
    rate, _ = build_optimizers.training_schedules(
        chosen, num_epochs=2, steps_per_epoch=3
    )
    assert np.allclose(curve(rate, [6, 7, 60]), 0.02)


@pytest.mark.parametrize(
    ("conventions", "minimum", "first"), [("paper", 0.0, 0), ("release", 0.001, 1)]
)
def test_the_search_follows_half_a_cosine_epoch_by_epoch(conventions, minimum, first):
    """The release steps its scheduler before each epoch, so that its first epoch stands
    at 1 on the cosine.
    """
    rate = build_optimizers.learning_rate(searching(conventions), steps_per_epoch=3)
    epoch = np.arange(150) // 3 + first
    expected = minimum + (0.025 - minimum) * (1 + np.cos(np.pi * epoch / 50)) / 2
    assert np.allclose(curve(rate, np.arange(150)), expected, rtol=1e-5, atol=1e-9)


def test_the_search_ends_at_the_minimum_in_the_release_alone():
    last = {
        name: curve(build_optimizers.learning_rate(searching(name), 3), [0, 149])
        for name in ("paper", "release")
    }
    assert last["paper"][0] == np.float32(0.025) > last["release"][0]
    assert last["release"][1] == pytest.approx(0.001) and last["paper"][1] > 0


def test_the_rate_of_a_training_is_that_of_its_schedules():
    run = settings.from_config(train.get_config("a"))
    rate, _ = build_optimizers.training_schedules(run.optimizer, run.num_epochs, 3)
    steps = np.linspace(0, 3 * run.num_epochs - 1, 20).astype(int)
    assert np.array_equal(
        curve(build_optimizers.learning_rate(run, 3), steps), curve(rate, steps)
    )


# Another value of each setting of a schedule than in `read_settings`.
OTHER = {
    "low_learning_rate": 0.002,
    "momentum_low": 0.7,
    "tail": 0.25,
    "min_learning_rate": 0.003,
    "cycle_epochs": 3,
    "decay_epochs": (4,),
    "decay_factor": 0.5,
}


@pytest.mark.parametrize("schedule", settings.train.SCHEDULES)
def test_what_a_schedule_does_not_read_changes_nothing(schedule):
    """`settings.unread` names these settings, and no other."""

    def curves(**changes):
        read = training("digits", "paper", schedule=schedule, decay_epochs=(2,))
        changed = dataclasses.replace(read, **changes)
        both = build_optimizers.training_schedules(
            changed, num_epochs=6, steps_per_epoch=4
        )
        # A constant momentum is one number.
        return [np.broadcast_to(curve(one, np.arange(24)), 24) for one in both]

    run = training_run("digits", "paper", schedule=schedule, decay_epochs=(2,))
    unread = settings.unread(run)
    before = curves()
    for name, value in OTHER.items():
        same = np.array_equal(before, curves(**{name: value}))
        assert same == (f"optimizer.{name}" in unread), name


@pytest.mark.parametrize("optimizer", settings.train.OPTIMIZERS)
def test_what_an_optimizer_does_not_read_changes_nothing(optimizer):
    """`settings.unread` names these settings, and no other."""
    run = training_run("digits", "paper", name=optimizer)
    unread = settings.unread(run)

    def moved(**changes):
        """A parameter after three steps."""
        changed = dataclasses.replace(run.optimizer, **changes)
        rule = build_optimizers.training_optimizer(
            dataclasses.replace(run, optimizer=changed), steps_per_epoch=4
        )
        params = {"kernel": jnp.ones(2)}
        state = rule.init(params)
        for gradient in (1.0, -2.0, 0.5):
            grads = {"kernel": jnp.full(2, gradient)}
            updates, state = rule.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params["kernel"])

    before = moved()
    others = {"momentum": 0.5, "momentum_low": 0.7, "nesterov": True}
    others |= {"beta1": 0.5, "beta2": 0.9, "eps": 0.1}
    for name, value in others.items():
        same = np.array_equal(before, moved(**{name: value}))
        assert same == (f"optimizer.{name}" in unread), name
