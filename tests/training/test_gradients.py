"""The sum of |gradient| at each convolution."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import arguments
from work_directories import CELL

import bnas_jax as bnas
from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.training.gradients import first_rule, gradient_sums, gradients_of_run
from bnas_jax.training.load import restore
from bnas_jax.training.workdir import WorkDir
from configs import train as train_configs

pytestmark = pytest.mark.usefixtures("quick_compilation")


class OneConvolution(nn.Module):
    """Logits that are the mean over pixels of a 1x1 convolution."""

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        del train
        y = nn.Conv(3, (1, 1), use_bias=False, name="only")(images)
        return y.mean(axis=(1, 2))


def test_of_one_convolution_it_is_the_closed_form():
    images = jax.random.normal(jax.random.key(0), (4, 2, 2, 5))
    labels = jnp.array([0, 2, 1, 2])
    model = OneConvolution()
    variables = model.init(jax.random.key(1), images)
    sums = gradient_sums(model, variables, {"image": images, "label": labels})

    # dL / dlogits = (softmax - onehot) / N, and the logits are the mean pixels times
    # the kernel.
    pixels = np.asarray(images).mean(axis=(1, 2))
    logits = pixels @ np.asarray(variables["params"]["only"]["kernel"])[0, 0]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = pixels.T @ (shares - np.eye(3)[np.asarray(labels)]) / 4
    assert set(sums) == {"only"}
    assert float(sums["only"]) == pytest.approx(np.abs(gradient).sum(), rel=1e-5)


@pytest.mark.usefixtures("own_compilation_cache")
def test_the_gradients_before_the_first_step_are_of_the_rule_of_first_weights(tmp_path):
    """A training that learns nothing has them after its last step, too."""
    cell = tmp_path / "genotype.json"
    cell.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    options = (
        "--config.first_weights=nin",
        "--config.num_epochs=1",
        "--config.optimizer.schedule=cosine",
        "--config.optimizer.learning_rate=1e-12",
        "--config.optimizer.min_learning_rate=0.0",
    )
    assert run(arguments("train", tmp_path / "run", cell, *options)) == 0
    # Another rule of later, such as another recipe brings, has no part in it.
    later = ("--change", *options, "--config.first_weights=pytorch")
    assert run(arguments("train", tmp_path / "run", cell, *later)) == 0
    (changed,) = WorkDir(tmp_path / "run").changed()
    assert (changed["key"], changed["from"]) == ("first_weights", "nin")

    # The kernels are the rule's.
    params = restore(WorkDir(tmp_path / "run"), step="last").variables["params"]
    stem = np.asarray(params["stem"]["conv"]["kernel"])
    assert stem.std() == pytest.approx(0.05, rel=0.3)
    found = gradients_of_run(tmp_path / "run")
    assert found["first"] == pytest.approx(found["last"], rel=1e-3)


def test_a_run_from_before_first_weights_began_with_pytorchs(tmp_path):
    """Its recipe has another rule only since."""
    config = train_configs.get_config("digits")
    config.recipe = "nin"
    run = settings.from_config(config)
    assert run.first_weights == "nin"
    values = settings.to_dict(run)
    for written, rule in ((values, "nin"), (without_first_weights(values), "pytorch")):
        (tmp_path / "config.json").write_text(json.dumps(written))
        assert first_rule(run, WorkDir(tmp_path)) == rule


def without_first_weights(values: dict) -> dict:
    return {key: value for key, value in values.items() if key != "first_weights"}


def test_a_search_has_no_network_to_take_gradients_of(tmp_path):
    with pytest.raises(bnas.UserError, match="is not a work directory"):
        gradients_of_run(tmp_path)
