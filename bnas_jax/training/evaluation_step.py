"""`EvaluationStep`: loss and hits, summed over the examples of a batch.

Like `TrainStep` and `SearchStep`, it is written for one device and its shard of the
batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from bnas_jax.core.losses import cross_entropy, hits
from bnas_jax.search.searcher import Searcher
from bnas_jax.training.collectives import total
from bnas_jax.training.step_parts import Batch


@dataclasses.dataclass(frozen=True)
class EvaluationStep:
    """Sums over a batch, on all devices: `step(variables, batch) -> Evaluation`.

    A batch is {"image": NHWC, "label": (N,), "weight": (N,)}. Padding has weight 0.

    model: a network or a supernet. The variables of a supernet also have "alphas".
    searcher: makes the mixture weights of a supernet from "alphas"; None for a network.
    axis: the mapped axis of several devices, over which to sum; None on one device.
    batch_statistics: True makes batch norm in a supernet normalise by the batch, as in
        training, and not by the running statistics.
    """

    model: nn.Module
    searcher: Searcher | None = None
    axis: str | None = None
    batch_statistics: bool = False

    def __call__(self, variables: Mapping[str, Any], batch: Batch) -> "Evaluation":
        logits = self._logits(dict(variables), batch["image"])  # (N, classes)
        labels = batch["label"]  # (N,)
        weight = batch["weight"].astype(logits.dtype)  # (N,), 0 for padding

        # `where`, because padding may give NaN, and 0 * NaN is NaN.
        def weighted(values: jax.Array) -> jax.Array:
            values = jnp.where(weight > 0, values * weight, 0)
            return jnp.sum(values)

        # With fewer than five classes, every example is a top-5 hit.
        five = min(5, logits.shape[-1])
        sums = Evaluation(
            loss=weighted(cross_entropy(logits, labels)),
            top1=weighted(hits(logits, labels)),
            top5=weighted(hits(logits, labels, k=five)),
            examples=jnp.sum(weight),
        )
        return total(sums, self.axis)

    def _logits(self, variables: dict, images):
        """The logits, (N, classes)."""
        if self.searcher is None:
            return self.model.apply(variables, images, train=False)

        # No key and no progress: in an evaluation nothing is drawn or annealed.
        alphas = variables.pop("alphas")
        mixture = self.searcher.weights(alphas, None, None)
        options: dict[str, Any] = {"train": False, "method": "mixture"}
        if not self.batch_statistics:
            return self.model.apply(variables, mixture, images, **options)

        # As in training, but the new running statistics are discarded.
        options |= {"train": True, "mutable": ["batch_stats"]}
        logits, _ = self.model.apply(variables, mixture, images, **options)
        return logits


class Evaluation(struct.PyTreeNode):
    """Sums over examples, each multiplied by its weight: scalars."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array
    examples: jax.Array
