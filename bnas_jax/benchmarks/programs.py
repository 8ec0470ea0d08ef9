"""The steps that are measured: those of a run on images of seeded noise, and the same
ones in plain form.
"""

import dataclasses

import numpy as np

from bnas_jax.core.supernet import Supernet
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.load import CIFAR10, Dataset
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training import build, teacher
from bnas_jax.training.build import Program


def noise(size: int, image_size: int, num_classes: int) -> Dataset:
    """`size` colour images of seeded noise, in memory; the same ones to train and to
    test.
    """
    rng = np.random.default_rng(0)
    shape = (size, image_size, image_size, 3)
    pixels = rng.integers(0, 256, size=shape, dtype=np.uint8)
    labels = rng.integers(0, num_classes, size=size)
    arrays = Arrays(
        images=pixels,
        labels=labels,
        num_classes=num_classes,
        name="noise",
    )
    # As for CIFAR-10, so that a step has the usual augmentation in it.
    return Dataset(train=arrays, test=arrays, augmentation=CIFAR10)


def program_of(
    run: SearchSettings | TrainSettings, data: Dataset, where: Devices
) -> Program:
    """The steps that `search` or `train` would make."""
    if isinstance(run, SearchSettings):
        return build.search(run, data, where)
    return build.training(run, data, where, teacher=teacher.drawn(run, data, where))


def plain_program_of(
    run: SearchSettings | TrainSettings, data: Dataset, where: Devices
) -> Program:
    """The same steps written plainly, all stages as one program; to be compiled with
    XLA's default options.

    Every edge of a supernet is computed by itself, a 1x1 convolution is one like any
    other, signs are multiplied as floats, JAX differentiates all but the
    straight-through signs, and nothing is stored on purpose. Weights, random numbers
    and data are the same, and so is what is set for the whole process, such as its
    heap.
    """
    num_classes = data.train.num_classes
    if isinstance(run, SearchSettings):
        supernet = build.supernet(run, num_classes, where.axis)
        program = build.search(run, data, where, model=in_plain_form(supernet))
    else:
        network = build.network(run, num_classes, where.axis)
        of_run = teacher.drawn(run, data, where)
        if of_run is not None:
            of_run = of_run._replace(model=in_plain_form(of_run.model))
        program = build.training(
            run, data, where, model=in_plain_form(network), teacher=of_run
        )
    return in_one(program)


def in_plain_form(model):
    """A network or a supernet that computes the same from the same variables, see
    `Arithmetic.plain`.
    """
    arithmetic = dataclasses.replace(model.arithmetic, plain=True)
    # Of a network that is all.
    if isinstance(model, Supernet):
        return model.clone(arithmetic=arithmetic, edges="plain")
    return model.clone(arithmetic=arithmetic)


def in_one(program: Program) -> Program:
    """The same steps, of a single stage."""

    # `feeds` are those of all stages, which XLA then sees together.
    def step(state, feeds):
        for stage, feed in zip(program.stages, feeds, strict=True):
            state = stage(state, feed)
        return state

    def feeds(number):
        return (program.feeds(number),)

    return program._replace(stages=(step,), feeds=feeds)


def size_of(run: SearchSettings | TrainSettings, image_size: int) -> str:
    """The size of its network and images in words, such as "8 cells, 16 channels, 32x32
    images".
    """
    # Hand-crafted networks have neither.
    numbers = {"cells": "num_cells", "channels": "channels"}
    parts = []
    for of, name in numbers.items():
        if hasattr(run.network, name):
            parts.append(f"{getattr(run.network, name)} {of}")
    parts.append(f"{image_size}x{image_size} images")
    return ", ".join(parts)
