"""A packed network beside its float twin, in turns: the whole networks, and their
convolutions one by one.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import size_of
from bnas_jax.core.cost.walk import float_twin
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv import Geometry, fast_conv
from bnas_jax.core.ops.packed import pack_signs
from bnas_jax.core.ops.sign_conv import packed_sign_conv
from bnas_jax.deploy.pack import each_binarized, float_weights, pack
from bnas_jax.runtime import devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build
from bnas_jax.training.state import initial_variables

Shape = tuple[int, ...]


class Conv(NamedTuple):
    """The sizes of a binary convolution. image: (N, H, W, C); kernel: (kh, kw, C /
    groups, O).
    """

    image: Shape
    kernel: Shape
    geometry: Geometry


def benchmark(
    run: TrainSettings,
    *,
    image_size: int,
    num_classes: int,
    repeats: int,
    batch_size: int,
) -> dict:
    """Seconds of an evaluation of noise by the packed network, by the same one with
    latent weights, and by its float twin.

    Weights are those that a training begins with: times do not depend on their values.
    The float twin has the same layers, with every convolution float (and ReLU in place
    of signs), by XLA's float convolutions. "layers": each binary convolution alone,
    signs of its input included, beside a float one of the same sizes.
    Raises `UserError` for a network without binary weights.
    """
    devices.configure(run)
    model = build.network(run, num_classes)
    if not run.scheme.binary_weights:
        raise UserError(
            "benchmark packed needs a network of binary weights: "
            f"{float_weights(model)}"
        )
    image = (image_size, image_size, 3)
    latent = initial_variables(model, image, seed=0)
    twin = float_twin(model)
    variables = pack(model, latent, image_shape=image)

    images = _noise((batch_size, *image))
    networks = {
        "packed": (model, variables),
        "latent": (model, latent),
        "float": (twin, initial_variables(twin, image, seed=0)),
    }
    runs, compiling = {}, {}
    for name, (network, weights) in networks.items():
        runs[name], compiling[name] = _compiled(
            lambda weights, images, network=network: network.apply(
                weights, images, train=False
            ),
            weights,
            images,
        )
    times = _in_turns(runs, repeats)
    seconds = {name: measure.summary(of_run) for name, of_run in times.items()}
    ratios = np.divide(times["float"], times["packed"])
    return {
        "network": size_of(run, image_size),
        "batch_size": batch_size,
        "seconds": seconds,
        "float_over_packed": measure.summary(list(ratios)),
        "compiling_seconds": compiling,
        "layers": [
            _layer(conv, count, repeats)
            for conv, count in _convolutions(model, image, batch_size)
        ],
        "conditions": measure.conditions(),
    }


def _convolutions(
    model: nn.Module, image: Shape, batch_size: int
) -> list[tuple[Conv, int]]:
    """The different binary convolutions of a network, and how many of each; those with
    the most products first.
    """
    found: Counter[Conv] = Counter()

    def note(module, x, binarized):
        # The kernel that is multiplied, of which a scheme may make several out of one.
        signs, _ = binarized
        if module.binary_input:
            found[Conv(tuple(x.shape), tuple(signs.shape), module.geometry)] += 1

    with each_binarized(note):
        images = jnp.zeros((batch_size, *image))
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return sorted(found.items(), key=lambda item: -item[1] * _products(item[0]))


def _products(conv: Conv) -> int:
    """Multiply-accumulates of the batch."""
    size = conv.geometry.output_size(
        (conv.image[1], conv.image[2]), (conv.kernel[0], conv.kernel[1])
    )
    return int(conv.image[0] * np.prod(size) * np.prod(conv.kernel))


def _layer(conv: Conv, count: int, repeats: int) -> dict:
    """Both forms of a convolution in turns."""
    x, kernel = _noise(conv.image), _noise(conv.kernel, seed=1)
    sums: Callable = lambda sums: sums

    def binary(x, w):
        signs = jnp.where(x < 0, -1.0, 1.0)
        return packed_sign_conv(sums, conv.geometry, signs, w)

    def floating(x, kernel):
        return fast_conv(x, kernel, conv.geometry)

    runs = {
        "packed": _compiled(binary, x, pack_signs(kernel))[0],
        "float": _compiled(floating, x, kernel)[0],
    }
    times = _in_turns(runs, repeats)
    middle = {name: float(np.median(of_run)) for name, of_run in times.items()}
    return {
        "image": "x".join(map(str, conv.image[1:])),
        "kernel": "x".join(map(str, conv.kernel)),
        "stride": conv.geometry.stride[0],
        "dilation": conv.geometry.dilation[0],
        "groups": conv.geometry.groups,
        "count": count,
        "packed_seconds": measure.short(middle["packed"]),
        "float_seconds": measure.short(middle["float"]),
        "float_over_packed": measure.short(middle["float"] / middle["packed"]),
    }


def _compiled(
    function: Callable, *arguments: Any
) -> tuple[Callable[[], object], float]:
    """(a call of the function on these arguments that waits for its result, seconds to
    trace and compile it).
    """
    made = []
    seconds = measure.once(
        lambda: made.append(jax.jit(function).lower(*arguments).compile())
    )
    (program,) = made
    call = functools.partial(program, *jax.device_put(arguments))
    return lambda: jax.block_until_ready(call()), measure.short(seconds)


def _in_turns(
    runs: dict[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each of the runs, after a first call that is not measured."""
    for run in runs.values():
        run()
    measured = measure.in_turns(list(runs.values()), repeats)
    return dict(zip(runs, measured, strict=True))


def _noise(shape: Shape, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)
