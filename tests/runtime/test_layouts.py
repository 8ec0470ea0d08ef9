"""How GPUs store the kernels of a state; a CPU can store them so, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.plan.absent import AbsentDevices
from bnas_jax.runtime import layouts
from bnas_jax.runtime.devices import Devices

OUTPUTS_FIRST, PLAIN = (3, 0, 1, 2), (0, 1, 2, 3)


@pytest.fixture(params=["none", "shard_map", "pmap"])
def devices(request, monkeypatch):
    monkeypatch.setattr(layouts, "PLATFORMS", ("cpu",))
    return Devices(request.param, tuple(jax.devices()[:1]))


def first_state():
    kernel = jnp.arange(3 * 3 * 2 * 4.0).reshape(3, 3, 2, 4)
    return {
        "kernel": kernel,
        "momentum": (jnp.zeros_like(kernel), None),
        "bias": jnp.ones(4),
    }


def order(array):
    return array.format.layout.major_to_minor


def test_kernels_keep_their_numbers_and_their_order_from_step_to_step(devices):
    traced = []

    def step(state, feed):
        traced.append(state)
        kernel = state["kernel"] * feed + state["bias"]
        return {**state, "kernel": kernel, "momentum": (kernel - 1, None)}

    state = devices.settle(devices.create(first_state))
    steps = devices.compile_steps(step)
    feed = devices.place(np.float32(2))
    for _ in range(3):
        state = steps(state, [(feed,)])
        wanted = PLAIN if devices.parallel == "pmap" else OUTPUTS_FIRST
        assert order(state["kernel"]) == order(state["momentum"][0]) == wanted
    assert len(traced) == 1, "a state that is stored differently is compiled anew"

    kernel = first_state()["kernel"] * 8 + 7
    assert np.array_equal(state["kernel"], kernel)
    assert np.array_equal(state["momentum"][0], kernel - 1)

    # A checkpoint is written, and a state restored, in the usual order: files are
    # written from restored arrays, byte by byte.
    saved = devices.saveable(state)
    assert order(saved["kernel"]) == order(devices.restored(saved)["kernel"]) == PLAIN


def test_a_plan_compiles_for_kernels_that_are_stored_so(monkeypatch):
    monkeypatch.setattr(layouts, "PLATFORMS", ("cpu",))
    absent = AbsentDevices("none", tuple(jax.devices()[:1]))
    state = absent.create(first_state)
    assert order(state["kernel"]) == OUTPUTS_FIRST
    steps = absent.compile_steps(lambda state, feed: state, tuned=False)
    ((program, arguments),) = steps.calls(state, [(absent.place(np.float32(2)),)])
    compiled = program.lower(*arguments).compile()
    assert compiled.output_formats["kernel"].layout.major_to_minor == OUTPUTS_FIRST


def test_a_cpu_and_a_tpu_store_a_state_as_jax_does():
    state = Devices().settle(first_state())
    assert order(state["kernel"]) == PLAIN
    assert layouts.PLATFORMS == ("gpu",)
