"""The batch source that fits a data set: in memory, or streamed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.pipeline import EvalSource, Place, TrainSource
from bnas_jax.data.readers.encoded import Encoded
from bnas_jax.data.stream import StreamEvalSource, StreamTrainSource


class Placement(NamedTuple):
    """How arrays are put onto devices.

    The parts of the hosts follow each other in the batch.

    everywhere: puts the same array onto every device.
    rows: puts this host's part of a batch onto its devices, divided over them.
    host, hosts: the index of this process, and the number of processes.
    """

    everywhere: Place = jax.device_put
    rows: Place = jax.device_put
    host: int = 0
    hosts: int = 1


HERE = Placement()


def train_source(
    examples: Arrays | Encoded,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    dtype: Any = jnp.float32,
    placement: Placement = HERE,
    *,
    fresh: bool = False,
) -> TrainSource | StreamTrainSource:
    """Endless shuffled, augmented batches of the examples.

    They come from arrays in memory, or are decoded from disk meanwhile. A batch is
    `jax.jit(source.prepare)(source.feed(step))` with the step from 0 on: {"image": (B,
    H, W, C), "label": (B,)}. Raises `UserError` for less data than a batch, and for
    `min_area` of a set in memory.

    seed: of the order and of the augmentation.
    dtype: of the images.
    placement: how arrays get onto several devices.
    fresh: each batch is drawn from all examples, instead of each example once an epoch.
    """
    if isinstance(examples, Encoded):
        return StreamTrainSource(
            examples,
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
            dtype=dtype,
            place=placement.everywhere,
            place_rows=placement.rows,
            host=placement.host,
            hosts=placement.hosts,
            fresh=fresh,
        )

    # Random resized crops are made where images are decoded.
    if augmentation.min_area:
        raise UserError(
            "config.dataset.min_area is for sets that are streamed: set "
            "config.dataset.in_memory_mib=0 as well"
        )
    return TrainSource(
        examples,
        batch_size=batch_size,
        seed=seed,
        augmentation=augmentation,
        dtype=dtype,
        place=placement.everywhere,
        fresh=fresh,
    )


def eval_source(
    examples: Arrays | Encoded,
    batch_size: int,
    augmentation: Augmentation,
    dtype: Any = jnp.float32,
    placement: Placement = HERE,
    *,
    augment_seed: int | None = None,
) -> EvalSource | StreamEvalSource:
    """The examples once, in order, in `len(source)` batches of that size.

    They come from memory or from disk. A batch is
    `jax.jit(source.prepare)(source.feed(number))`: {"image", "label", "weight"}, with
    weight 0 for what fills up the last batch. Raises `UserError` for statistics of
    another number of channels.

    dtype, placement: as in `train_source`.
    augment_seed: of an augmentation as in training. None normalises the images, and no
      more.
    """
    if isinstance(examples, Encoded):
        return StreamEvalSource(
            examples,
            batch_size=batch_size,
            augmentation=augmentation,
            dtype=dtype,
            place=placement.everywhere,
            place_rows=placement.rows,
            host=placement.host,
            hosts=placement.hosts,
            augment_seed=augment_seed,
        )
    return EvalSource(
        examples,
        batch_size=batch_size,
        augmentation=augmentation,
        dtype=dtype,
        place=placement.everywhere,
        augment_seed=augment_seed,
    )
