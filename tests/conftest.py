"""What all tests share."""

import gc
import importlib.metadata
import os
import pathlib

# Before anything imports jax. The numbers are those of a CPU; set the variable to try
# another platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Where compiled programs are kept, small ones are, too: most of these are.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import pytest


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """The folder of numbers that the authors' code gave."""
    return pathlib.Path(__file__).parent / "reference"


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests where compiling takes longer than running."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def own_compilation_cache(tmp_path_factory):
    """For tests of the command line, which would turn on the user's."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    jax.config.update(
        "jax_compilation_cache_dir", before or str(tmp_path_factory.mktemp("xla"))
    )
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help=(
            "also every number of devices, whole supernets, the commands of the "
            "documents, ..."
        ),
    )


def pytest_configure(config: pytest.Config) -> None:
    """Has XLA compile in two thirds of the time, but for `--long`.

    Without its fusion emitters it makes other code for CPUs; the long tests run that
    which users have. XLA of jax 0.12 has no such option.
    """
    short = importlib.metadata.version("jaxlib").startswith("0.10.")
    if short and not config.getoption("--long"):
        flags = os.environ.get("XLA_FLAGS", "").split()
        wanted = "--xla_cpu_use_fusion_emitters=false"
        # The processes of pytest-xdist have the first one's. Written twice, it would
        # be another key of the cache.
        if wanted not in flags:
            os.environ["XLA_FLAGS"] = " ".join([*flags, wanted])


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leaves out what is marked `long`, without the flag, and puts modules with slow
    fixtures first: a process of pytest-xdist takes tests from the end of another's, and
    would make the fixtures of a module that it divides once more.
    """
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(
        key=lambda item: item.path.name not in ("test_reference.py", "test_devices.py")
    )


def pytest_collection_finish() -> None:
    """Python looks for garbage less often, and not through the tests themselves: that
    took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
