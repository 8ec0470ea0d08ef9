"""Measures a packed network and its float twin, in turns.

It measures the whole networks, and their convolutions one by one.
"""

import functools
import importlib.util
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
from bnas_jax.core.ops.conv_forms import fast_conv
from bnas_jax.core.ops.geometry import Geometry
from bnas_jax.core.ops.packed import pack_signs
from bnas_jax.core.ops.sign_conv import packed_sign_conv
from bnas_jax.deploy.pack import each_binarized, float_weights, pack
from bnas_jax.deploy.program import Target, program
from bnas_jax.runtime import jax_setup
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build
from bnas_jax.training.state import initial_variables

Shape = tuple[int, ...]
# A call without arguments, which waits for its result.
Run = Callable[[], object]


class Conv(NamedTuple):
    """The shapes of a binary convolution."""

    image: Shape  # (N, H, W, C)
    kernel: Shape  # (kh, kw, C / groups, O)
    geometry: Geometry


def benchmark(
    run: TrainSettings,
    *,
    image_size: int,
    num_classes: int,
    repeats: int,
    batch_size: int,
) -> dict:
    """Seconds in which a packed network and its float twin evaluate a batch of noise.

    The network with latent weights is measured, too. All weights are those at the
    beginning of a training, since times do not depend on their values. The float twin
    has the same layers with float convolutions, computed by XLA, and ReLU in place of
    signs.

    If flatbuffers is installed, the packed network is also measured as two exported
    programs, which take pixels and normalise them: "program" is for all platforms and
    any number of images, "program_here" only for this platform and batch.

    "layers" has each binary convolution alone, including the signs of its input, and a
    float convolution of the same shapes. Raises `UserError` for a network without
    binary weights.
    """
    # The network, and a batch of noise.
    jax_setup.configure(run)
    model = build.network(run, num_classes)
    if not run.scheme.binary_weights:
        raise UserError(
            "benchmark packed needs a network of binary weights: "
            f"{float_weights(model)}"
        )
    image = (image_size, image_size, 3)
    images = _noise((batch_size, *image))  # (batch, rows, columns, 3)

    # Each form of the network, compiled.
    forms = _forms(model, image)
    runs, compiling = {}, {}
    for name, (network, weights) in forms.items():
        evaluate = functools.partial(network.apply, train=False)
        runs[name], compiling[name] = _compiled(evaluate, weights, images)
    if importlib.util.find_spec("flatbuffers"):
        pixels = np.asarray(images * 64 + 128).clip(0, 255).astype(np.uint8)
        here = Target(
            platforms=(jax.export.default_export_platform(),), batch_size=batch_size
        )
        for name, target in {"program": Target(), "program_here": here}.items():
            call = _program(*forms["packed"], image, target)
            runs[name], compiling[name] = _compiled(call, pixels)

    # The whole networks, then each convolution.
    times = _in_turns(runs, repeats)
    seconds = {name: measure.summary(of_run) for name, of_run in times.items()}
    ratios = np.divide(times["float"], times["packed"])  # (turns,)
    layers = []
    for conv, count in _convolutions(model, image, batch_size):
        layers.append(_layer(conv, count, repeats))
    return {
        "network": size_of(run, image_size),
        "batch_size": batch_size,
        "seconds": seconds,
        "float_over_packed": measure.summary(list(ratios)),
        "compiling_seconds": compiling,
        "layers": layers,
        "conditions": measure.conditions(),
    }


def _forms(model: nn.Module, image: Shape) -> dict[str, tuple[nn.Module, Any]]:
    """{name: (network, variables)} for three forms of a network."""
    latent = initial_variables(model, image, seed=0)
    twin = float_twin(model)
    return {
        "packed": (model, pack(model, latent, image_shape=image)),
        "latent": (model, latent),
        "float": (twin, initial_variables(twin, image, seed=0)),
    }


def _program(model: nn.Module, packed: dict, image: Shape, target: Target) -> Callable:
    """The function (pixels) -> logits of the program that `export` would write."""

    def logits_of(pixels):
        images = pixels / 127.5 - 1  # (batch, rows, columns, 3)
        return model.apply(packed, images, train=False)

    written = program(logits_of, image, target)
    return jax.export.deserialize(bytearray(written)).call


def _convolutions(
    model: nn.Module, image: Shape, batch_size: int
) -> list[tuple[Conv, int]]:
    """(convolution, how many the network has) of its different binary convolutions.

    Those with the most products, added up over all of their kind, come first.
    """
    found: Counter[Conv] = Counter()

    def note(module, x, binarized):
        # The kernel has the shape of the signs: a scheme may make several kernels of
        # signs from one latent kernel.
        signs, _ = binarized
        if module.binary_input:
            image, kernel = tuple(x.shape), tuple(signs.shape)
            found[Conv(image, kernel, module.geometry)] += 1

    # Trace a forward pass, which notes each convolution, without computing it.
    with each_binarized(note):
        images = jnp.zeros((batch_size, *image))
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def all_products(item: tuple[Conv, int]) -> int:
        conv, count = item
        return count * _products(conv)

    return sorted(found.items(), key=all_products, reverse=True)


def _products(conv: Conv) -> int:
    """The multiply-accumulates of a convolution, for the whole batch."""
    batch, rows, columns, _ = conv.image
    kernel_rows, kernel_columns, *_ = conv.kernel
    size = conv.geometry.output_size((rows, columns), (kernel_rows, kernel_columns))
    return int(batch * np.prod(size) * np.prod(conv.kernel))


def _layer(conv: Conv, count: int, repeats: int) -> dict:
    """The figures of both forms of a convolution, measured in turns.

    count: how many such convolutions the network has.
    """
    x, kernel = _noise(conv.image), _noise(conv.kernel, seed=1)

    def sums_alone(sums):
        # Measure only the sums of products, without scales and activation.
        return sums

    def binary(x, bits):
        signs = jnp.where(x < 0, -1.0, 1.0)
        return packed_sign_conv(sums_alone, conv.geometry, signs, bits)

    def floating(x, kernel):
        return fast_conv(x, kernel, conv.geometry)

    # The times of compiling are not used.
    packed_run, _ = _compiled(binary, x, pack_signs(kernel))
    float_run, _ = _compiled(floating, x, kernel)
    runs = {"packed": packed_run, "float": float_run}

    # The medians of both, and the shapes of the convolution.
    times = _in_turns(runs, repeats)
    packed = float(np.median(times["packed"]))
    floats = float(np.median(times["float"]))
    return {
        "image": "x".join(map(str, conv.image[1:])),
        "kernel": "x".join(map(str, conv.kernel)),
        "stride": conv.geometry.stride[0],
        "dilation": conv.geometry.dilation[0],
        "groups": conv.geometry.groups,
        "count": count,
        "packed_seconds": measure.short(packed),
        "float_seconds": measure.short(floats),
        "float_over_packed": measure.short(floats / packed),
    }


def _compiled(function: Callable, *arguments: Any) -> tuple[Run, float]:
    """(a run of the function on these arguments, seconds to trace and compile it)."""
    made = []

    def compile_it() -> None:
        made.append(jax.jit(function).lower(*arguments).compile())

    seconds = measure.once(compile_it)
    (program,) = made
    on_device = jax.device_put(arguments)

    def run() -> None:
        jax.block_until_ready(program(*on_device))

    return run, measure.short(seconds)


def _in_turns(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """{name: seconds of each turn} of the runs, after a first call of each."""
    for run in runs.values():
        run()
    measured = measure.in_turns(list(runs.values()), repeats)
    return dict(zip(runs, measured, strict=True))


def _noise(shape: Shape, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)
