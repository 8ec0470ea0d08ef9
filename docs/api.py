"""Builds the API pages from the docstrings: `python -m docs.api [FOLDER]`, by default into api/.

The first page is index.html. Needs pdoc (tests/requirements.txt). A warning of pdoc ends it with an error.
"""

import pathlib
import pkgutil
import sys
import warnings

import pdoc

import bnas_jax


def build(folder: pathlib.Path) -> None:
    """Writes a page for each module of the package."""
    # The public names are loaded when they are asked for; pdoc looks at those that are there.
    for name in bnas_jax.__all__:
        setattr(bnas_jax, name, getattr(bnas_jax, name))
    rooms = [f"bnas_jax.{module.name}" for module in pkgutil.iter_modules(bnas_jax.__path__)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("bnas_jax", *rooms, output_directory=folder)


if __name__ == "__main__":
    build(pathlib.Path(*sys.argv[1:2] or ["api"]))
