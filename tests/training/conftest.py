"""Runs that the tests of training share."""

import functools
import json
import pathlib

import jax
import pytest
from small_runs import arguments, traces
from work_directories import CELL

from bnas_jax.__main__ import run as command


@pytest.fixture(scope="module")
def compiled_once(quick_compilation, own_compilation_cache):
    """One quick compilation for all runs, those of other processes too."""
    environment = pytest.MonkeyPatch()
    environment.setenv(
        "JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir
    )
    environment.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    yield
    environment.undo()


@pytest.fixture(scope="session")
def cell(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("cell") / "genotype.json"
    path.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    return path


@pytest.fixture(scope="session")
def whole(tmp_path_factory, cell):
    """Gives the undisturbed run of a task: its work directory, which tests copy, and
    what JAX traced.

    Modules that use it use `compiled_once`, too.
    """

    @functools.cache
    def run(task: str):
        workdir = tmp_path_factory.mktemp(task) / "run"
        seen = traces()
        assert (
            command(
                arguments(task, workdir, cell, "--config.checkpoint_every_steps=10")
            )
            == 0
        )
        return workdir, list(seen)

    return run
