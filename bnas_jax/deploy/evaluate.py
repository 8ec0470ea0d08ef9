"""Accuracy of a packed network on a data set."""

import jax
import jax.numpy as jnp

from bnas_jax.deploy.load import PackedNetwork, model_of
from bnas_jax.runtime import jax_setup
from bnas_jax.settings import TrainSettings
from bnas_jax.training.evaluate import Evaluator
from bnas_jax.training.run_data import evaluation_images


def evaluate(network: PackedNetwork, run: TrainSettings) -> dict:
    """{"top1", "top5", "loss", "num_examples"} on the test split.

    run: the network's settings, perhaps with other data or another precision.

    Raises `UserError` as `training.evaluate.evaluate` does.
    """
    # The data and the model of the run.
    where = jax_setup.configure(run)
    test, augmentation = evaluation_images(run.dataset, network.facts)
    model = model_of(network, run)

    # Floats become those of the run's precision; bits and whole numbers stay.
    def in_precision(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.astype(model.arithmetic.dtype)
        return leaf

    variables = where.settle(jax.tree.map(in_precision, network.variables))
    evaluator = Evaluator(model, test, augmentation, run, where=where)
    return evaluator(variables)
