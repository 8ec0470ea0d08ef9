"""The scheme `float` gives the float twin of a network.

It is the same stack with ordinary convolutions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bnas_jax.core.genotype import Genotype
from bnas_jax.core.network import Network
from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.ops.pool import avg_pool, plain_max_pool
from bnas_jax.core.schemes import Float, LatentRule

pytestmark = pytest.mark.usefixtures("quick_compilation")

CELL = (
    ("bin_conv_3x3", 0), ("max_pool_3x3", 1), ("bin_dil_conv_5x5", 2), ("none", 0),
    ("avg_pool_3x3", 3), ("bin_conv_5x5", 1), ("bin_dil_conv_3x3", 4), ("none", 1),
)  # fmt: skip
LAYERS = {
    "bin_conv_3x3": (3, 1), "bin_conv_5x5": (5, 1),
    "bin_dil_conv_3x3": (3, 2), "bin_dil_conv_5x5": (5, 2),
}  # fmt: skip


def plain_network(variables, images):
    """Two cells of `CELL` with float convolutions alone, as one writes it down.

    Both cells reduce.
    """
    flat = {
        "/".join(path): value
        for path, value in traverse_util.flatten_dict(variables).items()
    }

    def conv(x, name, geometry):
        scale, bias = flat[f"params/{name}/bn/scale"], flat[f"params/{name}/bn/bias"]
        mean, var = (
            flat[f"batch_stats/{name}/bn/mean"],
            flat[f"batch_stats/{name}/bn/var"],
        )
        normal = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
        return plain_conv(normal, flat[f"params/{name}/conv/kernel"], geometry)

    def edge(x, name, layer, stride):
        if layer == "none":
            return 0
        if layer in LAYERS:
            kernel, dilation = LAYERS[layer]
            return nn.relu(
                conv(x, name, square(kernel, stride=stride, dilation=dilation))
            )
        return {"max_pool_3x3": plain_max_pool, "avg_pool_3x3": avg_pool}[layer](
            x, stride
        )

    before = previous = nn.relu(conv(images, "stem", square(3)))
    for cell in ("cell0", "cell1"):
        kernel, resize = (3, 2) if before.shape[1] > previous.shape[1] else (1, 1)
        first = nn.relu(
            conv(before, f"{cell}/preprocess/input0", square(kernel, stride=resize))
        )
        states = [
            first,
            nn.relu(conv(previous, f"{cell}/preprocess/input1", square(1))),
        ]
        for node in range(4):
            pairs = [
                (position, *CELL[position]) for position in (2 * node, 2 * node + 1)
            ]
            states.append(
                sum(
                    edge(states[s], f"{cell}/layer{p}", layer, 2 if s < 2 else 1)
                    for p, layer, s in pairs
                )
            )
        output = jnp.concatenate(states[2:], axis=-1)
        if cell == "cell1":
            output = output + conv(
                previous, f"{cell}/skip/reduction", square(2, stride=2, padding=0)
            )
        before, previous = previous, output
    head = variables["params"]["classifier"]
    return previous.mean((1, 2)) @ head["kernel"] + head["bias"]


def test_a_float_network_is_the_plain_one():
    """Two cells reduce both (a third and two thirds of 2 are 0 and 1)."""
    cells = Genotype(normal=CELL, reduce=CELL)
    network = Network(
        cells,
        num_cells=2,
        channels=3,
        num_classes=5,
        reduction_skip="binary",
        scheme=Float(),
    )
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
    shapes = traverse_util.flatten_dict(
        jax.eval_shape(network.init, jax.random.key(0), images)
    )
    assert not [path for path in shapes if path[-1].startswith("latent")]
    rng = np.random.default_rng(1)
    flat = {
        path: rng.uniform(0.2, 0.8, leaf.shape).astype(np.float32)
        for path, leaf in shapes.items()
    }
    # The BN in front of a strided preprocessing has no scale and shift.
    strided = ("params", "cell1", "preprocess", "input0", "bn")
    missing = {(*strided, "scale"): np.float32(1), (*strided, "bias"): np.float32(0)}
    flat = {
        path: value - 0.5 if path[-1] == "kernel" else value
        for path, value in flat.items()
    }
    variables, padded = (
        traverse_util.unflatten_dict(flat),
        traverse_util.unflatten_dict(flat | missing),
    )
    expected = jax.jit(plain_network)(padded, images)
    assert np.std(expected) > 0
    np.testing.assert_allclose(
        network.apply(variables, images), expected, rtol=1e-4, atol=1e-4
    )


def test_float_weights_are_left_alone_by_the_optimizer():
    assert Float().latents == LatentRule()
