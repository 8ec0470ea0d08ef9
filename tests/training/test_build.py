"""What is built has the settings that it is built of."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bnas_jax import settings
from bnas_jax.data.load import Dataset, load
from bnas_jax.runtime import devices
from bnas_jax.training import build
from configs import search, train


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_a_training_step_has_the_settings_of_its_run(digits):
    config = train.get_config("digits")
    config.update({"microbatches": 2, "num_epochs": 7})
    of_optimizer = {"label_smoothing": 0.1, "drop_path": 0.2, "auxiliary_weight": 0.3}
    config.optimizer.update(of_optimizer)
    run = settings.from_config(config)
    program = build.training(run, digits, devices.ONE)
    step = program.step
    for name, value in of_optimizer.items():
        assert getattr(step, name) == value
    assert (step.microbatches, step.num_epochs) == (2, 7)
    assert step.steps_per_epoch == len(digits.train) // run.batch_size
    assert program.held_out is digits.test, "training images would flatter it"


def test_a_training_begins_with_the_weights_of_its_rule(digits):
    config = train.get_config("digits")
    config.network.update({"num_cells": 1, "channels": 2})
    config.first_weights = "nin"
    program = build.training(settings.from_config(config), digits, devices.ONE)
    params = program.create(0).params
    assert params["stem"]["conv"]["kernel"].std() == pytest.approx(0.05, rel=0.5)
    # XNOR-Net's latent weights are centred before the first step.
    leaves = flatten_dict(params).items()
    latents = [leaf for path, leaf in leaves if path[-1] == "latent"]
    assert latents and all(abs(leaf.mean(2)).max() < 1e-6 for leaf in latents)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_search_divides_its_images_and_draws_them_as_its_settings_say(digits, fresh):
    config = search.get_config("digits")
    config.dataset.search_split = "in_order"
    config.alpha_batches = "fresh" if fresh else "epoch"
    config.batch_size = 64
    program = build.search(settings.from_config(config), digits, devices.ONE)
    ((valid,), (weights,)) = (tuple(feeds.values()) for feeds in program.feeds(0))
    labels, half = digits.train.labels, -(-len(digits.train) // 2)
    assert np.array_equal(weights["labels"], labels[:half])
    assert np.array_equal(valid["labels"], labels[half:])
    assert valid["order"].shape == ((64,) if fresh else (len(labels) - half,))
    assert weights["order"].shape == (half,)
    # The two batches of a step are not augmented alike.
    assert valid["seed"] != weights["seed"]
    assert len(program.held_out) == len(labels) - half
