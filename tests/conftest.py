"""What all tests share."""

import os
import pathlib

# Before anything imports jax. The numbers are those of a CPU; set the variable to try another platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """The folder of numbers that the authors' code gave."""
    return pathlib.Path(__file__).parent / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="every number of devices; fifty kills instead of a few")
