"""Builds the API pages from the docstrings: `python -m docs.api [FOLDER]`.

Without a folder they go into api/.

The first page is index.html. Needs pdoc (tests/requirements.txt). A warning of pdoc
ends it with an error.
"""

import pathlib
import sys
import warnings

import pdoc

import bnas_jax

# What is used from Python or changed: not the commands and how they run.
MODULES = (
    *("core", "search", "baselines", "networks", "training", "data", "interop"),
    *("deploy", "report", "reproduce", "settings", "study", "extensions"),
)


def build(folder: pathlib.Path) -> None:
    """Writes a page of the public names, and one for each module.

    Modules within these modules have pages, too.
    """
    # The public names are loaded when they are asked for; pdoc looks at those that are
    # there.
    for name in bnas_jax.__all__:
        setattr(bnas_jax, name, getattr(bnas_jax, name))
    modules = [f"bnas_jax.{name}" for name in MODULES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("bnas_jax", *modules, output_directory=folder)


if __name__ == "__main__":
    build(pathlib.Path(*sys.argv[1:2] or ["api"]))
