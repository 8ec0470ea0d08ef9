"""Makes the batch source of a data set, for arrays in memory or for images on disk."""

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

    A global batch is the concatenation of the hosts' parts, in the order of the hosts.

    everywhere: puts the same array onto every device.
    rows: divides this host's part of a batch over its devices.
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
    """An endless source of shuffled, augmented batches of the examples.

    The batch of a step is `jax.jit(source.prepare)(source.feed(step))`: {"image": (B,
    H, W, C), "label": (B,)}. Raises `UserError` for fewer examples than a batch has,
    and for `min_area` with a set in memory.

    seed: the seed of the order and of the augmentation.
    dtype: the type of the images.
    placement: how arrays are put onto several devices.
    fresh: True draws each batch from all examples, without replacement within the
        batch; False takes each example at most once in an epoch.
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
    """A source of the examples, each once and in order, in `len(source)` batches.

    Batch `number` is `jax.jit(source.prepare)(source.feed(number))`: {"image": (B, H,
    W, C), "label": (B,), "weight": (B,)}. The last batch is padded with examples of
    weight 0. Raises `UserError` for statistics of another number of channels.

    dtype, placement: as in `train_source`.
    augment_seed: the seed of an augmentation as in training; None only normalises the
        images.
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
