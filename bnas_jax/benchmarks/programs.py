"""The steps to measure: those of a run on random images, and the same in plain form."""

import numpy as np

from bnas_jax.core.arithmetic import plain_form
from bnas_jax.core.supernet import Supernet
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.defaults import CIFAR10
from bnas_jax.data.load import Dataset
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training import build, teacher
from bnas_jax.training.build import Program


def noise(size: int, image_size: int, num_classes: int) -> Dataset:
    """A data set of `size` random colour images, in memory.

    The training and the test images are the same.
    """
    rng = np.random.default_rng(0)
    shape = (size, image_size, image_size, 3)
    pixels = rng.integers(
        0, 256, size=shape, dtype=np.uint8
    )  # (size, rows, columns, 3)
    labels = rng.integers(0, num_classes, size=size)  # (size,)
    arrays = Arrays(
        images=pixels,
        labels=labels,
        num_classes=num_classes,
        name="noise",
    )
    # CIFAR-10's augmentation, so that it is part of the measured step.
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
    """The same steps in plain form, to be compiled with XLA's default options.

    In plain form:

    - all stages are one program;
    - every edge of a supernet is computed by itself;
    - a 1x1 convolution is computed like any other convolution;
    - signs are multiplied as floats;
    - JAX differentiates everything but the straight-through estimator of signs;
    - no array is materialized or recomputed explicitly.

    Weights, random numbers and data are the same, and so are the settings of the whole
    process, such as its heap.
    """
    num_classes = data.train.num_classes
    if isinstance(run, SearchSettings):
        supernet = build.supernet(run, num_classes, where.axis)
        program = build.search(run, data, where, model=in_plain_form(supernet))
    else:
        network = in_plain_form(build.network(run, num_classes, where.axis))
        # A teacher, where the run has one, is in plain form, too.
        of_run = teacher.drawn(run, data, where)
        if of_run is not None:
            of_run = of_run._replace(model=in_plain_form(of_run.model))
        program = build.training(run, data, where, model=network, teacher=of_run)
    return in_one(program)


def in_plain_form(model):
    """The same network or supernet in plain form, with the same variables.

    See `Arithmetic.plain`.
    """
    model = plain_form(model)
    # A supernet also computes its edges one by one.
    if isinstance(model, Supernet):
        model = model.clone(edges="plain")
    return model


def in_one(program: Program) -> Program:
    """The same steps with all stages in one, so that XLA compiles them together."""

    # feeds: the feed of each stage.
    def step(state, feeds):
        for stage, feed in zip(program.stages, feeds, strict=True):
            state = stage(state, feed)
        return state

    def feeds(number):
        return (program.feeds(number),)

    return program._replace(stages=(step,), feeds=feeds)


def size_of(run: SearchSettings | TrainSettings, image_size: int) -> str:
    """The size of a run's network and images as a text.

    For instance "8 cells, 16 channels, 32x32 images"; a hand-crafted network has
    neither cells nor channels.
    """
    numbers = {"cells": "num_cells", "channels": "channels"}
    parts = []
    for word, name in numbers.items():
        if hasattr(run.network, name):
            parts.append(f"{getattr(run.network, name)} {word}")
    parts.append(f"{image_size}x{image_size} images")
    return ", ".join(parts)
