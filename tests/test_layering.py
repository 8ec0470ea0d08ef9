"""The imports of the package: who may know whom, and which libraries where.

What must not be there at all is not.
"""

import ast
import functools
import importlib.metadata
import pathlib
import re
import sys
import tomllib
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "bnas_jax"

# The parts of the package, and the parts that each may import beside itself. Entries
# (schemes, networks, searchers) hold their own settings, which is why settings stand
# above them.
MODELS = {"core", "baselines", "networks", "search", "settings"}
RUNS = MODELS | {"data", "runtime", "workdir", "training"}
MAY_IMPORT = {
    "core": set(),
    "data": {"core"},  # of which errors and paths alone, see below
    "search": {"core"},
    "baselines": {"core"},
    "networks": {"core", "baselines"},  # the table of them
    "settings": {"core", "networks", "search"},
    "runtime": {"core", "settings", "data"},
    "workdir": {"core"},  # of which errors and paths alone, too
    "training": MODELS | {"data", "runtime", "workdir"},
    "report": {
        "core",
        "workdir",
    },  # and no jax, so that a picture takes no longer than it must
    "deploy": RUNS | {"extensions"},
    "interop": RUNS,
    "benchmarks": RUNS | {"plan", "deploy", "interop"},
    "study": RUNS | {"machine"},
    "reproduce": RUNS | {"study", "report", "counting"},
    "plan": RUNS | {"extensions"},
    # Of the command line.
    "machine": {"core"},  # of which errors alone
    "spelling": {"core"},
    "extensions": {"core"},
    "preset_files": {"core"},
    "counting": {"core", "settings"},
    "cli": RUNS
    | {
        "report",
        "study",
        "reproduce",
        "deploy",
        "interop",
        "benchmarks",
        "plan",
        "spelling",
        "extensions",
        "preset_files",
        "counting",
    },
    "__main__": {
        "core",
        "workdir",
        "runtime",
        "machine",
        "spelling",
        "extensions",
        "cli",
    },
    "__init__": set(),
}
# What each room of core may import of core; what stands in no room here stands above
# those.
BASE = {"errors", "checks", "arithmetic"}
IN_CORE = {"ops": BASE | {"ops"}, "schemes": BASE | {"ops", "schemes"}}
# Only imported where used, so that search and training on arrays start without them.
HEAVY = {
    "scipy",
    "tensorflow",
    "grain",
    "tensorflow_datasets",
    "matplotlib",
    "torch",
    "PIL",
    "cv2",
    "tensorboardX",
}
# The one module that is of such a library; it is imported where used itself.
OF_TORCH = "bnas_jax.benchmarks.torch_resnet18"
# core is pure functions and Flax modules: no other library, and no files or flags from
# the standard one.
CORE_LIBRARIES = {"jax", "flax", "numpy", "chex"}
CORE_FORBIDDEN = {"argparse", "io", "json", "os", "pathlib", "shutil", "tempfile"}
CORE_FILES = {
    "core/genotype.py": {"json"},
    "core/genotypes/__init__.py": {"json", "pathlib"},
    "core/genotypes/text.py": {"json"},
    "core/paths.py": {"pathlib"},
}
UNSAFE = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}


class Import(NamedTuple):
    """`from a import b` is the name a.b.

    What b is, a module or a thing in it, makes no difference here.
    """

    name: str
    at_top: bool  # runs when the module is imported

    @property
    def library(self) -> str:
        return self.name.split(".")[0]


def modules() -> list[str]:
    return sorted(
        path.relative_to(ROOT / PACKAGE).as_posix()
        for path in (ROOT / PACKAGE).rglob("*.py")
    )


def part(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / PACKAGE / module).read_text(), module)


def imports(module: str) -> list[Import]:
    # In a package's __init__ the first dot is the package itself, and its path here has
    # one part more: the file's name.
    return list(found_imports(tree(module), [PACKAGE, *module.split("/")]))


def found_imports(node: ast.AST, path: list[str], at_top: bool = True):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = (
                [*path[: -child.level], *filter(None, [child.module])]
                if child.level
                else [child.module]
            )
            yield from (
                Import(".".join([*base, alias.name]), at_top) for alias in child.names
            )
        else:
            inside = isinstance(
                child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
            )
            yield from found_imports(child, path, at_top and not inside)


def imports_of(text: str, module: str = "core/cell.py") -> list[tuple[str, bool]]:
    return [
        tuple(found)
        for found in found_imports(ast.parse(text), [PACKAGE, *module.split("/")])
    ]


def test_imports_are_found_in_every_form():
    assert imports_of("import os.path as p, jax") == [("os.path", True), ("jax", True)]
    assert imports_of("from bnas_jax import core") == [("bnas_jax.core", True)]
    assert imports_of(
        "from . import alphas\nfrom .genotype import load\nfrom ..data import order"
    ) == [
        ("bnas_jax.core.alphas", True),
        ("bnas_jax.core.genotype.load", True),
        ("bnas_jax.data.order", True),
    ]
    assert imports_of("from . import cell", "core/__init__.py") == [
        ("bnas_jax.core.cell", True)
    ]
    assert imports_of(
        "if x:\n  import torch\nclass A:\n  import PIL\n  def f(self):\n    import "
        "grain"
    ) == [
        ("torch", True),
        ("PIL", True),
        ("grain", False),
    ]


@pytest.mark.parametrize("module", modules())
def test_parts_import_only_what_stands_before_them(module):
    here = part(module)
    assert here in MAY_IMPORT, (
        f"{module}: a new part; write into MAY_IMPORT where it stands"
    )
    ours = [
        found.name.split(".") for found in imports(module) if found.library == PACKAGE
    ]
    parts = {name[1] for name in ours if len(name) > 1} - {"__version__"}
    assert parts <= MAY_IMPORT[here] | {here}


@pytest.mark.parametrize(
    "module", [module for module in modules() if part(module) in ("data", "workdir")]
)
def test_data_and_work_directories_know_no_model(module):
    core = [
        found.name
        for found in imports(module)
        if found.name.startswith(f"{PACKAGE}.core")
    ]
    assert all(name.split(".")[2] in ("errors", "paths") for name in core), core


@pytest.mark.parametrize(
    "module", [module for module in modules() if part(module) == "workdir"]
)
def test_a_work_directory_is_read_with_the_standard_library_and_numpy(module):
    assert {found.library for found in imports(module)} - {PACKAGE} - {
        "numpy"
    } <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "module", [module for module in modules() if part(module) == "core"]
)
def test_core_is_pure(module):
    libraries = {found.library for found in imports(module)} - {PACKAGE}
    assert libraries - sys.stdlib_module_names <= CORE_LIBRARIES
    assert not libraries & (CORE_FORBIDDEN - CORE_FILES.get(module, set()))
    assert "open" not in {
        node.id for node in ast.walk(tree(module)) if isinstance(node, ast.Name)
    }


@pytest.mark.parametrize(
    "module", [module for module in modules() if part(module) == "core"]
)
def test_core_stands_in_its_own_order(module):
    """Operations below schemes, both below layers, cells and networks.

    Nothing but `core.cost` knows of cost.
    """
    room = module.split("/")[1].removesuffix(".py")
    ours = [
        found.name.split(".")
        for found in imports(module)
        if found.name.startswith(f"{PACKAGE}.core.")
    ]
    known = {name[2] for name in ours}
    assert known <= IN_CORE.get(room, known)
    assert room == "cost" or "cost" not in known


@pytest.mark.parametrize("module", ["core/cost/counts.py", "core/cost/table.py"])
def test_a_count_is_plain_numbers(module):
    """What walks a model needs JAX, what it finds does not."""
    assert not {found.library for found in imports(module)} & {"jax", "flax", "numpy"}


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_are_imported_where_used(module):
    at_top = [found for found in imports(module) if found.at_top]
    assert not [found for found in at_top if found.name.startswith(OF_TORCH)]
    if module != "benchmarks/torch_resnet18.py":
        assert not {found.library for found in at_top} & HEAVY


@pytest.mark.parametrize("module", modules())
def test_nothing_is_evaluated_or_unpickled(module):
    assert not {found.library for found in imports(module)} & UNSAFE
    for call in (node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)):
        assert not (
            isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec")
        ), f"{module}:{call.lineno}"
        # How numpy and torch are told to unpickle.
        unpickles = {("allow_pickle", True), ("weights_only", False)}
        keywords = {
            (word.arg, word.value.value)
            for word in call.keywords
            if isinstance(word.value, ast.Constant)
        }
        assert not keywords & unpickles, f"{module}:{call.lineno}"


def distribution(requirement: str) -> str:
    """The name in a requirement, as package tools compare it: flax of Flax>=1."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_everything_imported_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {
        distribution(line): line for line in lines if line and not line.startswith("#")
    }
    assert set(pinned) == {distribution(line) for line in project["dependencies"]}
    for line in project["dependencies"]:
        assert pinned[distribution(line)] == line.replace(">=", "=="), (
            "lower bounds are the versions tested"
        )

    optional = {
        distribution(line)
        for extra in project["optional-dependencies"].values()
        for line in extra
    }
    provided_by = importlib.metadata.packages_distributions()
    third_party = (
        {found.library for module in modules() for found in imports(module)}
        - sys.stdlib_module_names
        - {PACKAGE}
    )
    for library in third_party:
        names = {distribution(name) for name in provided_by.get(library, [library])}
        assert names & (set(pinned) | optional), (
            f"{library} is imported but stands in no requirements"
        )
