"""The batch source that fits a data set: in memory, or streamed."""

from typing import Any

import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.encoded import Encoded
from bnas_jax.data.pipeline import EvalSource, Place, TrainSource
from bnas_jax.data.stream import StreamEvalSource, StreamTrainSource


def train_source(
    examples: Arrays | Encoded,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    dtype: Any = jnp.float32,
    place: Place = jax.device_put,
) -> TrainSource | StreamTrainSource:
    """Endless shuffled batches of the examples."""
    if isinstance(examples, Encoded):
        return StreamTrainSource(examples, batch_size, seed, augmentation, dtype, place)
    if augmentation.min_area:
        raise UserError("config.dataset.min_area is for sets that are streamed: set config.dataset.in_memory_mib=0 as well")
    return TrainSource(examples, batch_size, seed, augmentation, dtype, place)


def eval_source(
    examples: Arrays | Encoded,
    batch_size: int,
    augmentation: Augmentation,
    dtype: Any = jnp.float32,
    place: Place = jax.device_put,
) -> EvalSource | StreamEvalSource:
    """The examples once, in order, in batches."""
    kind = StreamEvalSource if isinstance(examples, Encoded) else EvalSource
    return kind(examples, batch_size, augmentation, dtype, place)  # type: ignore[arg-type]
