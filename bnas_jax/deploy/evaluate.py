"""Accuracy of a packed network on a data set."""

import jax
import jax.numpy as jnp

from bnas_jax.deploy.load import PackedNetwork
from bnas_jax.runtime import devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build
from bnas_jax.training.evaluate import Evaluator, evaluation_images


def evaluate(network: PackedNetwork, run: TrainSettings) -> dict:
    """{"top1", "top5", "loss", "num_examples"} on the test split.

    run: the network's settings, perhaps with other data or another precision. Raises `UserError` as
    `training.evaluate.evaluate` does.
    """
    where = devices.configure(run)
    test, augmentation = evaluation_images(run.dataset, network.facts)
    model = build.network(run, network.facts.num_classes)

    def in_precision(leaf):
        # Bits have none.
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.astype(model.arithmetic.dtype)
        return leaf

    evaluator = Evaluator(model, test, augmentation, run, where=where)
    return evaluator(jax.tree.map(in_precision, network.variables))
