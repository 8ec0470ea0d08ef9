"""Runs that the tests of training share."""

import functools
import json
import pathlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from small_runs import arguments, traces
from work_directories import CELL

from bnas_jax.__main__ import run as command


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """One quick compilation for all runs, those of other processes too, into a cache that is not the user's own."""
    names = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    names["jax_compilation_cache_dir"] = (
        before["jax_compilation_cache_dir"] or names["jax_compilation_cache_dir"]
    )
    environment = pytest.MonkeyPatch()
    for name, value in names.items():
        jax.config.update(name, value)
        environment.setenv(name.upper(), str(value))
    compilation_cache.reset_cache()
    yield
    environment.undo()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def cell(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("cell") / "genotype.json"
    path.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    return path


@pytest.fixture(scope="session")
def whole(tmp_path_factory, cell):
    """Gives the undisturbed run of a task: its work directory, which tests copy, and what JAX traced.

    Modules that use it use `compiled_once`, too.
    """

    @functools.cache
    def run(task: str):
        workdir = tmp_path_factory.mktemp(task) / "run"
        seen = traces()
        assert command(arguments(task, workdir, cell, "--config.checkpoint_every_steps=10")) == 0
        return workdir, list(seen)

    return run
