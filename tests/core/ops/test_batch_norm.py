"""Batch normalization as a function.

Its closed gradient, its groups of examples, and its messages between devices.
"""

import functools
import itertools
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal, with_gradients

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.batch_norm import (
    EPSILON,
    batch_norm,
    initial_statistics,
    normalize,
    normalize_all,
    plain_normalize,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_of_normalisation_is_that_of_its_steps(dtype):
    with jax.enable_x64(dtype is np.float64):
        x, gradient = (
            jnp.asarray(normal(4, 3, 3, 2, seed=seed), dtype) for seed in (0, 1)
        )

        (ours, (pulled,)), (theirs, (plain_pulled,)) = (
            with_gradients(lambda x: form(x)[0], gradient, x)
            for form in (normalize, plain_normalize)
        )

        tolerance = 1e-5 if dtype is np.float32 else 1e-13
        assert np.allclose(ours, theirs, atol=tolerance)
        assert np.allclose(pulled, plain_pulled, atol=tolerance)


@pytest.mark.parametrize("examples", [None, 2])
def test_the_plain_form_updates_the_same_statistics(examples):
    with jax.enable_x64(True):
        x = jnp.asarray(3 * normal(4, 3, 3, 2) + 1, jnp.float64)
        running = initial_statistics((2,), jnp.float64)
        arithmetic = [
            Arithmetic(plain=plain, bn_examples=examples) for plain in (False, True)
        ]
        compute = lambda of_form: batch_norm(x, running, arithmetic=of_form, train=True)
        forms = [jax.jit(compute, static_argnums=0)(of_form) for of_form in arithmetic]
        for one, other in zip(*map(jax.tree.leaves, forms), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_the_plain_form_refuses_groups_that_do_not_lie_in_one_device():
    with pytest.raises(
        UserError,
        match=r"bn_examples that divides its 4 examples of a microbatch, got 3",
    ):
        plain_normalize(normal(4, 3, 3, 2), None, 3)


def test_batch_norm_keeps_several_statistics_of_one_input():
    x = normal(2, 3, 3, 4)
    y, new = batch_norm(
        x,
        initial_statistics((2, 3, 4), np.float32),
        arithmetic=Arithmetic(),
        train=True,
    )
    expected, single = batch_norm(
        x, initial_statistics((4,), np.float32), arithmetic=Arithmetic(), train=True
    )
    assert np.array_equal(y, expected), "in training all share those of the batch"
    for name in ("mean", "var"):
        assert new[name].shape == (2, 3, 4)
        assert np.all(new[name] == single[name])

    running = {"mean": normal(2, 3, 4, seed=1), "var": np.exp(normal(2, 3, 4, seed=2))}
    y, kept = batch_norm(x, running, arithmetic=Arithmetic(), train=False)
    assert kept is running
    assert y.shape == (2, 3, 3, 2, 3, 4)
    for copy in np.ndindex(2, 3):
        own = {name: values[copy] for name, values in running.items()}
        assert np.allclose(
            y[:, :, :, *copy],
            batch_norm(x, own, arithmetic=Arithmetic(), train=False)[0],
            atol=1e-6,
        )


@functools.partial(jax.jit, static_argnums=1)
def plain_groups(x, examples):
    """(y, mean, var) of x (N, H, W, C) in groups, as one writes it first.

    mean and var are the means of those of the groups.
    """
    groups = x.reshape(-1, examples, *x.shape[1:])
    mean = groups.mean((1, 2, 3), keepdims=True)
    var = ((groups - mean) ** 2).mean((1, 2, 3), keepdims=True)
    y = (groups - mean) / jnp.sqrt(var + EPSILON)
    return y.reshape(x.shape), mean.mean((0, 1, 2, 3)), var.mean((0, 1, 2, 3))


# Of the two tests that divide a batch over devices: images, examples of a group, and
# numbers of devices.
SCALED, FAR = "scaled", "far from zero"
GROUPS = {SCALED: (None, 3, 8, 12), FAR: (None, 16)}
DEVICES = {SCALED: (1, 2, 4), FAR: (1, 8)}


def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, the gradient at y).

    In float64 every example has another scale; in float32 the mean is 1000 deviations.
    """
    if name == FAR:
        return 1000 + normal(32, 4, 4, 3), normal(32, 4, 4, 3, seed=1)
    x, gradient = (normal(24, 2, 3, 4, seed=seed).astype(np.float64) for seed in (0, 1))
    return (1 + np.arange(24.0)[:, None, None, None]) * x, gradient


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """(images, devices, examples) -> (y, mean, var, the gradient of x).

    Each device has its part of x.
    """
    folder = tmp_path_factory.mktemp("devices")
    arrays = {}
    for name in GROUPS:
        x, gradient = images(name)
        for devices, examples in itertools.product(DEVICES[name], GROUPS[name]):
            case = f"{name} {devices} {examples}"
            arrays[f"{case}.x"], arrays[f"{case}.gradient"] = x, gradient
            arrays[f"{case}.sizes"] = np.array([devices, examples or 0])
    np.savez(folder / "cases.npz", **arrays)
    script = pathlib.Path(__file__).with_name("normalize_on_devices.py")
    root = str(script.parents[3])
    subprocess.run(
        [sys.executable, script, folder / "cases.npz", folder / "results.npz"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": root},
        check=True,
    )
    results = np.load(folder / "results.npz")

    def found(name: str, devices: int, examples: int | None) -> list[np.ndarray]:
        case = f"{name} {devices} {examples}"
        return [results[f"{case}.{part}"] for part in ("y", "mean", "var", "pulled")]

    return found


@pytest.mark.parametrize("examples", GROUPS[SCALED])
def test_groups_hold_the_same_examples_on_any_number_of_devices(examples, on_devices):
    """Of 24 examples each device has 24, 12 or 6.

    Groups of 8 lie across devices, within one alone, or both; groups of 12 are two
    devices of 6.
    """
    x, gradient = images(SCALED)
    with jax.enable_x64(True):
        x = jnp.asarray(x)
        at_y = lambda results: (
            jnp.asarray(gradient),
            *map(jnp.zeros_like, results[1:]),
        )
        results, pulled = with_gradients(
            lambda x: plain_groups(x, examples or 24), at_y, x
        )
        (alone, *_), _ = with_gradients(lambda x: normalize(x, None, examples), at_y, x)
    np.testing.assert_allclose(alone, results[0], atol=1e-12)
    for devices in DEVICES[SCALED]:
        found = on_devices(SCALED, devices, examples)
        for one, other in zip(found, (*results, *pulled), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(
        UserError, match="batch norm over 5 examples: a batch of 12 cannot be divided"
    ):
        normalize(jnp.ones((12, 2, 2, 1)), None, 5)


@pytest.mark.parametrize("examples", GROUPS[FAR])
def test_a_mean_a_thousand_times_the_deviation_loses_no_digits_over_devices(
    examples, on_devices
):
    x, _ = images(FAR)
    with jax.enable_x64(True):
        whole = np.asarray(plain_groups(jnp.asarray(x, jnp.float64), examples or 32)[0])
    one, several = (on_devices(FAR, devices, examples) for devices in DEVICES[FAR])
    for apart in (several[0] - one[0], one[0] - whole, several[3] - one[3]):
        assert np.abs(apart).max() < 1e-5
    for name in (1, 2):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-5)


def collectives(function, *inputs) -> int:
    """How many a function of a device contains."""
    jaxpr = jax.make_jaxpr(function, axis_env=[("device", 4)])(*inputs)
    return len(
        re.findall(r" (all_gather|psum\w*|pmax|all_to_all|ppermute)\[", str(jaxpr))
    )


@pytest.mark.parametrize(("examples", "messages"), [(None, 1), (8, 1), (4, 0), (2, 0)])
def test_batch_norm_over_devices_sends_one_message_each_way_or_none(examples, messages):
    x = jnp.ones((4, 2, 2, 3))
    forward = lambda x: normalize(x, "device", examples)[0]
    assert collectives(forward, x) == messages
    assert collectives(jax.grad(lambda x: forward(x).sum()), x) == 2 * messages


def test_groups_of_whole_devices_send_to_each_other_alone():
    """Groups of 8, on 4 devices with 4 examples each.

    The groups are the first two devices and the last two.
    """
    x = jnp.ones((4, 2, 2, 3))
    forward = lambda x: normalize(x, "device", 8)[0].sum()
    text = str(jax.make_jaxpr(jax.grad(forward), axis_env=[("device", 4)])(x))

    assert (
        text.count("all_gather[")
        == text.count("axis_index_groups=((0, 1), (2, 3))")
        == 2
    )


@pytest.mark.parametrize("examples", [None, 8, 3])
def test_several_tensors_share_messages_and_nothing_else(examples):
    """Each has the result and the gradient that it has alone, bit for bit.

    The tensors have other sizes and channels.
    """
    tensors = (normal(24, 2, 3, 4), 5 + normal(24, 4, 1, 2, seed=1))
    gradients = (normal(24, 2, 3, 4, seed=2), normal(24, 4, 1, 2, seed=3))

    def results(function, xs, gradients):
        found, pull = jax.vjp(function, xs)
        zeros = [jax.tree.map(jnp.zeros_like, of_x[1:]) for of_x in found]
        pulled = pull(
            tuple((g, *rest) for g, rest in zip(gradients, zeros, strict=True))
        )
        return found, pulled

    def one(xs, gradients):
        together = lambda xs: normalize_all(xs, "device", examples)
        alone = lambda xs: tuple(normalize(x, "device", examples) for x in xs)
        return results(together, xs, gradients), results(alone, xs, gradients)

    shards = jax.tree.map(
        lambda x: jnp.asarray(x).reshape(4, 6, *x.shape[1:]), (tensors, gradients)
    )
    together, alone = jax.jit(jax.vmap(one, axis_name="device"))(*shards)
    jax.tree.map(np.testing.assert_array_equal, together, alone)

    shard = jax.tree.map(lambda x: x[0], shards[0])
    messages = 0 if examples == 3 else 1
    total = lambda xs: sum(y.sum() for y, *_ in normalize_all(xs, "device", examples))
    assert collectives(total, shard) == messages
    assert collectives(jax.grad(total), shard) == 2 * messages
