"""The benchmarks run what they say they do.

How fast, they tell; nothing here holds them to it.
"""

import dataclasses
import json
import re
import sys
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import error, printed

from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.benchmarks import (
    against_torch,
    compile_times,
    grow,
    measure,
    programs,
    step,
)
from bnas_jax.core.genotype import Genotype
from bnas_jax.runtime import devices
from configs import search as search_configs
from configs import train as train_configs

CELL = [["bin_conv_3x3", 0], ["none", 1]] * 4
TINY = [
    "--config.network.num_cells=1",
    "--config.network.channels=2",
    "--config.batch_size=8",
]


def figures(capfd, *arguments: str) -> dict:
    return printed(capfd, "benchmark", *arguments)


@pytest.fixture
def network(tmp_path) -> dict[str, list[str]]:
    """The arguments for a tiny network of each task."""
    cell = tmp_path / "cell.json"
    cell.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    own = {
        "train": ["--config=configs/train.py:a", f"--config.network.genotype={cell}"],
        "search": [
            "--config=configs/search.py:cifar10",
            "--config.network.layer_types=('none','bin_conv_3x3')",
        ],
    }
    return {
        task: [*arguments, *TINY, "--image_size=8", "--repeats=2"]
        for task, arguments in own.items()
    }


@pytest.mark.parametrize(
    "task", [pytest.param("search", marks=pytest.mark.long), "train"]
)
def test_a_step_is_timed_with_what_it_needs(capfd, network, task):
    result = figures(capfd, task, *network[task])
    times = result["step_seconds"]
    assert 0 < times["lowest"] <= times["median"] <= times["highest"]
    assert result["images_per_second"] == pytest.approx(8 / times["median"], rel=1e-2)
    for what in (
        "tracing_seconds",
        "compiling_seconds",
    ):  # one program is compiled while the next is traced
        assert 0 < result[what] < result["first_step_seconds"] + 0.2
    assert (
        result["peak_memory_mib"] > 0
        and result["state_leaves"] > 0
        and result["gflops_per_second_of_a_matrix_product"] > 0
    )
    assert result["temp_memory_mib"] > 0 and result["programs_from_cache"] >= 0
    assert {"jax", "python", "device", "cpu", "cores"} <= set(result["conditions"])
    dispatch = result["dispatch_seconds"]["median"]
    assert (
        result["dispatch_percent"]
        == pytest.approx(100 * dispatch / times["median"], rel=1e-2)
        and dispatch > 0
    )
    assert "plain" not in result and "ratio" not in result


@pytest.mark.long
def test_the_plain_step_is_timed_in_the_same_run(capfd, network):
    result = figures(capfd, "search", *network["search"], "--against=plain")
    plain, ratio = result["plain"], result["ratio"]
    assert plain["state_leaves"] == result["state_leaves"], "of the same variables"
    assert (
        0
        < ratio["step_seconds"]["lowest"]
        <= ratio["step_seconds"]["median"]
        <= ratio["step_seconds"]["highest"]
    )
    own = result["temp_memory_mib"]
    assert ratio["temp_memory_mib"] == pytest.approx(
        plain["temp_memory_mib"] / own, rel=1e-2
    )
    assert ratio["tracing_seconds"] > 0
    cached = result["programs_from_cache"] + plain["programs_from_cache"]
    assert (
        ratio["compiling_seconds"] is None if cached else ratio["compiling_seconds"] > 0
    )


def test_ratios_are_those_of_the_pairs_and_none_where_nothing_can_be_compared():
    figures = {
        "programs_from_cache": 0,
        "tracing_seconds": 2.0,
        "compiling_seconds": 3.0,
        "temp_memory_mib": 4.0,
    }
    times = {"ours": [1.0, 2.0, 4.0], "plain": [2.0, 6.0, 4.0]}
    ratios = step._ratios(
        theirs={**figures, "compiling_seconds": 6.0}, ours=figures, times=times
    )
    assert ratios == {
        "step_seconds": {"median": 2, "lowest": 1, "highest": 3},
        "tracing_seconds": 1,
        "compiling_seconds": 2,
        "temp_memory_mib": 1,
    }
    ratios = step._ratios(
        theirs={**figures, "programs_from_cache": 1},
        ours={**figures, "temp_memory_mib": None},
        times=times,
    )
    assert ratios["compiling_seconds"] is ratios["temp_memory_mib"] is None


POOLED = (("max_pool_3x3", 0), ("bin_dil_conv_3x3", 1), ("none", 0), ("none", 1)) * 2
TYPES = ("none", "max_pool_3x3", "bin_dil_conv_3x3")


def tiny(task: str) -> settings.SearchSettings | settings.TrainSettings:
    """A network with everything that has a plain form, in float64; what is stored on
    purpose needs two cells.
    """
    if task == "search":
        config, own = (
            search_configs.get_config("cifar10"),
            {"layer_types": TYPES, "num_cells": 1},
        )
    else:
        config, own = (
            train_configs.get_config("a"),
            {"genotype": Genotype(POOLED, POOLED), "num_cells": 2},
        )
    run = settings.from_config(
        {**config.to_dict(), "precision": "float64", "batch_size": 4}
    )
    return dataclasses.replace(
        run, network=dataclasses.replace(run.network, channels=2, **own)
    )


def stepped(program):
    """The state after a step. What compiles quickly may run slowly here."""
    options = {"xla_backend_optimization_level": 0}
    state = jax.jit(program.create, compiler_options=options)(0)
    for stage, feed in zip(program.stages, program.feeds(0), strict=True):
        state = jax.jit(stage, compiler_options=options)(state, feed)
    return state


@pytest.mark.long
@pytest.mark.parametrize("task", ["search", "train"])
def test_the_plain_step_is_the_same_function_of_the_same_variables(task):
    """In float64, as one flipped sign would move everything behind it."""
    run, data = tiny(task), programs.noise(16, 8, 5)
    with jax.enable_x64(True):
        ours = stepped(programs.program_of(run, data, devices.ONE))
        theirs = stepped(programs.plain_program_of(run, data, devices.ONE))
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)
    parts = lambda state: {**state.variables, "sums": state.sums}
    for (path, value), other in zip(
        jax.tree.leaves_with_path(parts(ours)),
        jax.tree.leaves(parts(theirs)),
        strict=True,
    ):
        assert value.dtype == np.float64
        assert np.abs(other - value).max() < 1e-9 * max(1, np.abs(value).max()), path


def own_gradients(jaxpr) -> set[str]:
    """The functions with a gradient of their own, in a program and in all programs
    within.
    """
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith("custom_vjp_call"):
            found.add(equation.params["call_jaxpr"].jaxpr.debug_info.func_name)
        for inner in jax.tree.leaves(
            equation.params,
            is_leaf=lambda value: hasattr(value, "eqns") or hasattr(value, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= own_gradients(inner)
    return found


@pytest.mark.parametrize("task", ["search", "train"])
def test_in_the_plain_form_jax_differentiates_all_but_the_signs(task):
    run, data = tiny(task), programs.noise(16, 8, 5)

    def gradients_of(program) -> set[str]:
        shapes = jax.eval_shape(program.create, 0)
        mixture = [program.model.even_mixture()] if task == "search" else []
        method = "mixture" if task == "search" else "__call__"

        def forward(params, images):
            variables = {"params": params, "batch_stats": shapes.batch_stats}
            variables = jax.tree.map(
                lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), variables
            )
            return program.model.apply(
                variables,
                *mixture,
                images,
                train=True,
                mutable=["batch_stats"],
                method=method,
            )

        return own_gradients(
            jax.make_jaxpr(forward)(shapes.params, np.zeros((4, 8, 8, 3))).jaxpr
        )

    with jax.enable_x64(True):
        ours = gradients_of(programs.program_of(run, data, devices.ONE))
        plain = gradients_of(programs.plain_program_of(run, data, devices.ONE))
    assert ours >= {"straight_through", "normalize_all", "max_pool"}
    assert plain == {"straight_through"}


def test_the_plain_step_is_one_program():
    run, data = tiny("search"), programs.noise(16, 8, 5)
    ours, plain = (
        make(run, data, devices.ONE)
        for make in (programs.program_of, programs.plain_program_of)
    )
    assert (len(ours.stages), len(ours.feeds(0))) == (2, 2)
    assert (len(plain.stages), len(plain.feeds(0))) == (1, 1)


@pytest.mark.long
def test_cost_grows_with_each_size_by_itself(capfd, network, monkeypatch):
    for name, factors in {
        "channels": (1,),
        "cells": (1,),
        "batch": (Fraction(1, 2), 1),
    }.items():
        monkeypatch.setitem(grow.FACTORS, name, factors)
    result = figures(capfd, "train", *network["train"], "--grow")
    assert [
        (row["channels"], row["cells"], row["batch"]) for row in result["rows"]
    ] == [
        (2, 1, 8),
        (2, 1, 4),
    ]
    for row in result["rows"]:
        times = row["step_seconds"]
        assert (
            0 < times["lowest"] <= times["median"] <= times["highest"]
            and row["temp_memory_mib"] > 0
        )
    assert result["exponents"]["channels"] == {"seconds": None, "temp_memory": None}
    assert result["exponents"]["batch"]["temp_memory"] > 0


def test_sizes_that_cost_is_measured_at_are_of_networks():
    base = grow.Size(36, 20, 64)
    of = lambda base, name, unit=1: [
        getattr(size, name) for size in grow.sizes(base, name, unit)
    ]
    assert (of(base, "channels"), of(base, "cells"), of(base, "batch")) == (
        [18, 36, 72],
        [10, 20, 40],
        [16, 32, 64],
    )
    assert of(base, "batch", 24) == [24, 48], "that can be divided over devices"
    assert of(base._replace(channels=6), "channels", 2) == [2, 6, 12], (
        "that a stem can halve"
    )
    assert of(base._replace(cells=1), "cells") == [1], "two cells have two reductions"


def test_exponents_are_fitted():
    assert grow.exponent([(2, 12.0), (4, 48.0), (8, 192.0)]) == 2
    assert grow.exponent([(2, 12.0), (4, None)]) is None


@pytest.mark.parametrize(
    "task", [pytest.param("search", marks=pytest.mark.long), "train"]
)
def test_a_save_is_timed_until_it_is_on_disk(capfd, network, task):
    result = figures(capfd, "save", *network[task])
    blocked, on_disk = result["blocked_seconds"], result["seconds_until_on_disk"]
    assert 0 < blocked["lowest"] <= blocked["median"] <= blocked["highest"]
    assert (
        blocked["lowest"] < on_disk["lowest"]
        and blocked["highest"] < on_disk["highest"]
    )
    assert (
        result["bytes_on_disk"] > 0
        and result["state_leaves"] > 0
        and "orbax-checkpoint" in result["conditions"]
    )


@pytest.mark.long
@pytest.mark.usefixtures("quick_compilation")
def test_a_packed_network_is_timed_beside_its_float_twin(capfd, network):
    words = [*network["train"], "--config.network.channels=8", "--batch_size=2"]
    result = figures(capfd, "packed", *words)
    assert (
        set(result["seconds"])
        == {"packed", "latent", "float", "program", "program_here"}
        == set(result["compiling_seconds"])
    )
    for times in result["seconds"].values():
        assert 0 < times["lowest"] <= times["median"] <= times["highest"]
    # Two preprocessing convolutions and four edges of a 3x3 convolution, by their
    # sizes.
    layers = {
        (layer["image"], layer["kernel"]): layer["count"] for layer in result["layers"]
    }
    assert layers == {("8x8x24", "1x1x24x16"): 2, ("8x8x16", "3x3x16x16"): 4}
    for layer in result["layers"]:
        ratio = layer["float_seconds"] / layer["packed_seconds"]
        assert layer["float_over_packed"] == pytest.approx(ratio, rel=1e-2)


def test_noise_is_the_same_every_time_and_fits_its_classes():
    one, other = (programs.noise(16, 8, 5) for _ in range(2))
    assert (one.train.images == other.train.images).all() and one.train.image_shape == (
        8,
        8,
        3,
    )
    assert one.train.labels.max() < one.train.num_classes == 5


def test_what_is_compiled_side_by_side_counts_once():
    assert compile_times.covered([(0, 2), (5, 6), (1, 3), (1.5, 2)]) == 4
    assert compile_times.covered([]) == 0


def test_the_first_call_does_not_count():
    calls: list[int] = []
    assert len(measure.seconds(lambda: calls.append(0), 3)) == 3 and len(calls) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against=pytorch"], "--against takes plain, .* got 'pytorch'"),
        (["--against="], "--against takes plain"),
        (["--against=plain", "--grow"], "leave out --against"),
        (
            ["--against=torch"],
            "write benchmark train --config=configs/baselines.py:resnet18",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(capfd, arguments, said):
    config = "--config=configs/train.py:a"
    assert re.search(said, error(capfd, "benchmark", "train", config, *arguments))


@pytest.mark.parametrize(
    "setting",
    [
        "network.name=resnet34",
        "network.float_shortcut=False",
        "scheme.sign_of_zero=0",
        "scheme.activation=none",
        "scheme.stage=activations",
        "precision=bfloat16",
        "microbatches=2",
        "optimizer.name=adam",
    ],
)
def test_pytorch_has_no_other_step(capfd, setting):
    config = ["--config=configs/baselines.py:resnet18", f"--config.{setting}"]
    assert run(["benchmark", "train", *config, "--against=torch"]) == 2
    assert "--against=torch compares one training alone" in capfd.readouterr().err


def test_a_comparison_with_pytorch_says_what_to_install(capfd, monkeypatch):
    # As where it is not installed.
    monkeypatch.setitem(sys.modules, "torch", None)
    config = "--config=configs/baselines.py:resnet18"
    assert run(["benchmark", "train", config, "--against=torch"]) == 2
    assert "pip install torch" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["search", "--config=configs/train.py:a"], ["train"], ["save"], ["weather"], []],
)
def test_what_cannot_be_timed_is_answered_with_what_can(capfd, arguments):
    assert run(["benchmark", *arguments]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("platform", "peak"), [("linux", 2**10), ("darwin", 1)])
def test_the_peak_of_memory_is_in_mib_on_each_system(monkeypatch, platform, peak):
    monkeypatch.setattr(measure.sys, "platform", platform)
    usage = types.SimpleNamespace(ru_maxrss=2**20)
    monkeypatch.setattr(measure.resource, "getrusage", lambda who: usage)
    assert measure.peak_memory_mib() == peak


def test_losses_that_differ_from_pytorchs_end_the_comparison(monkeypatch):
    loss = types.SimpleNamespace(item=lambda: 1000.0)
    theirs = types.SimpleNamespace(load=lambda params: None, loss=lambda: loss)
    monkeypatch.setattr(
        against_torch, "cross_entropy", lambda logits, labels: jnp.ones(len(labels))
    )
    model = types.SimpleNamespace(apply=lambda *_, **__: (None, {}))
    state = types.SimpleNamespace(variables={"params": {}})
    program = types.SimpleNamespace(create=lambda seed: state, model=model)
    labels = np.zeros(2, int)
    with pytest.raises(RuntimeError, match="loss of 1 here and 1000 in PyTorch"):
        against_torch._check_losses(program, theirs, images=labels, labels=labels)
