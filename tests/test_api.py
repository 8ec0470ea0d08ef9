"""The docstrings: pages are built from them without a warning, and examples run.

What they name is there.
"""

import ast
import collections
import doctest
import functools
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import jax
import optax
import pytest
from documents import ROOT

import bnas_jax as bnas

PACKAGE = ROOT / "bnas_jax"
# `module.name` or `Class.name`.
REFERENCE = re.compile(r"`([A-Za-z]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?`")


def module_of(file: pathlib.Path) -> str:
    """The dotted name of a file of the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
# It imports PyTorch, which need not be installed.
del FILES["bnas_jax.benchmarks.torch_resnet18"]
WITH_EXAMPLES = [name for name, file in FILES.items() if ">>>" in file.read_text()]


@pytest.mark.long
def test_the_pages_are_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "docs.api", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "bnas_jax.html").read_text()
    assert not [name for name in bnas.__all__ if f'id="{name}"' not in page]
    for module in (
        "bnas_jax.core.schemes",
        "bnas_jax.training.train_step",
        "bnas_jax.networks",
    ):
        assert (tmp_path / f"{module.replace('.', '/')}.html").exists()


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_run(module):
    names = {"bnas": bnas, "jax": jax, "optax": optax}
    result = doctest.testmod(importlib.import_module(module), extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_entry_points_have_an_example():
    without_one = {"LAYERS", "NETWORKS", "SCHEMES", "SEARCHERS", "UserError"}
    without_one |= {"latent_adam"}
    documented = {name: inspect.getdoc(getattr(bnas, name)) for name in bnas.__all__}
    example = re.compile(r"^>>> |^Example: ", re.MULTILINE)
    missing = {name for name, text in documented.items() if not example.search(text)}
    assert missing <= without_one


def test_editors_see_the_public_names():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    seen = {"load_genotype": bnas.load_genotype}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if not alias.asname.startswith("_"):
                    module = importlib.import_module(node.module)
                    seen[alias.asname] = getattr(module, alias.name)
    assert seen == {name: getattr(bnas, name) for name in bnas.__all__}


def test_what_the_docstrings_name_is_there():
    assert not [
        f"{module}: {reference}"
        for module, file in FILES.items()
        # Keys of other people's checkpoints look the same.
        if "published" not in module
        for reference in references(file)
        if not is_there(reference)
    ]


def references(file: pathlib.Path) -> list[str]:
    """The `module.name` and `Class.name` of the docstrings of a file."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, documented)
    ]
    return REFERENCE.findall("\n".join(ast.get_docstring(node) or "" for node in nodes))


def test_a_reference_to_what_is_not_there_is_found():
    assert is_there("Scheme.latents") and is_there("jax.jit")
    assert not is_there("Scheme.laments") and not is_there("genotype.unload")


def is_there(reference: str) -> bool:
    """Whether a reference leads to a name of the package, or begins with none."""
    first, *rest = reference.split(".")
    owners = modules_and_classes()[first]
    return not owners or any(leads_somewhere(owner, rest) for owner in owners)


@functools.cache
def modules_and_classes() -> dict[str, list]:
    """Those of the package by their names, a module by the last part of its name."""
    found = collections.defaultdict(list)
    for name in FILES:
        if not name.endswith("__main__"):
            module = importlib.import_module(name)
            found[name.rpartition(".")[2]].append(module)
            for class_name, value in inspect.getmembers(module, inspect.isclass):
                if value.__module__ == name:
                    found[class_name].append(value)
    return found


def leads_somewhere(owner, names: list[str]) -> bool:
    """Whether a module or class has the first name, that the second, and so on."""
    for name in names:
        # A field without a default is no attribute of its class.
        fields = getattr(owner, "__dataclass_fields__", {})
        if not hasattr(owner, name) and name not in fields:
            return False
        owner = getattr(owner, name, None)
    return True
