"""README and docs/: short enough, complete, and with links that lead somewhere.

Their commands can be run.
"""

import contextlib
import dataclasses
import pathlib
import re
import shutil

import pytest
from documents import DOCUMENTS, README, ROOT, blocks, commands, prose

import bnas_jax as bnas
from bnas_jax import counting, extensions, settings, spelling
from bnas_jax.__main__ import COMMANDS
from bnas_jax.baselines.blocks import BLOCKS
from bnas_jax.cli import configs as command_line
from bnas_jax.cli import study as study_command
from bnas_jax.core import genotype, genotypes
from bnas_jax.core.errors import UserError
from bnas_jax.core.first_weights import FIRST_WEIGHTS
from bnas_jax.core.losses import LOSSES
from bnas_jax.plan import absent
from bnas_jax.plan.machines import machine
from bnas_jax.settings import entries
from bnas_jax.settings.recipes import RECIPES
from bnas_jax.settings.schema import TASKS

# ml_collections loads a config's file so.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
)

TABLES = (
    bnas.LAYERS,
    bnas.SCHEMES,
    bnas.SEARCHERS,
    bnas.NETWORKS,
    BLOCKS,
    RECIPES,
    FIRST_WEIGHTS,
    LOSSES,
)
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]

# Options of commands whose settings are not those of a config: evaluate's are checked
# below.
OPTIONS = {
    "search": {"workdir", "change"},
    "train": {"workdir", "change", "init", "init_step"},
    "cost": set(counting.OPTIONS),
    "derive": {"workdir", "out", "gamma", "keep_zeroise", "epoch", "as_of"},
    "evaluate": {"workdir", "step", "model"},
    "export": {"workdir", "out", "step", "format", "platforms", "batch_size"},
    "report": {"workdir", "out"},
    "gradients": {"workdir", "step"},
    "predict": {"model", "input", "out", "top", "batch_size"},
    "draw": {"genotype", "out", "strip", "template", "zeroise", "skip"},
    "plan": {"on", "of", "presets", "quick", "again"},
    "study": {"study", "workdir", "rows"},
    "reproduce": {"table", "figure", "scale", "workdir", "rows", "seeds", "count"},
    "import": {"checkpoint", "preset", "workdir"},
    "data": {"out", "source", "path", "split", "white_level"},
    "benchmark": {
        "repeats",
        "image_size",
        "num_classes",
        "against",
        "grow",
        "preset",
        "images",
        "batch_size",
        "workers",
    },
}


@pytest.fixture(autouse=True)
def tables():
    """The package's tables as they were, after each test."""
    before = [(table, dict(table)) for table in TABLES]
    yield
    for table, entries_before in before:
        table.clear()
        table.update(entries_before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with the files that the documents name.

    They are a search's cell, and the blocks that are files.
    """
    monkeypatch.chdir(tmp_path)
    cell = pathlib.Path(genotype.__file__).parent / "genotypes" / "latest_cell.json"
    for name in (
        "search",
        "photos/search",
        "mine/search",
        "c10_search",
        "no_diversity",
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        shutil.copy(cell, tmp_path / "runs" / name / "genotype.json")
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.file:
                (tmp_path / block.file).write_text(block.text)
    return tmp_path


def test_the_readme_has_at_most_900_words_beside_code_and_tables():
    assert len(prose(README).split()) <= 900


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_to_files_that_are_there(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_command_is_one_with_settings_that_resolve(document, folder):
    for words in commands(document):
        with mistakes_of(words):
            check(spelling.options(words))


@contextlib.contextmanager
def mistakes_of(words: list[str]):
    """A mistake is reported with the command that has it."""
    try:
        yield
    except UserError as error:
        pytest.fail(f"{' '.join(words)}: {error}")


def check(words: list[str]) -> None:
    """Reads a command as the command line does, until it would begin to work."""
    command, *rest = words
    assert command in COMMANDS, words
    rest, _ = extensions.take(rest)
    options = [word for word in rest if word.startswith("--")]
    for option in options:
        name = option.removeprefix("--").partition("=")[0]
        assert (
            name == "config" or name in OPTIONS[command] or spelling.is_setting(option)
        ), option

    given = dict(option.removeprefix("--").partition("=")[::2] for option in options)
    if "config" in given:
        names = {
            name: False if name in ("change", "grow", "again", "quick") else None
            for name in OPTIONS[command]
        }
        run, _ = command_line.configured(options, command, **names)
        assert run is not None
        assert command in ("cost", "benchmark", "plan") or run.task == command, words
    if command == "cost" and "config" not in given:
        genotypes.load(given["genotype"])
    if "preset" in given:
        settings.from_config(command_line.preset_of(given["preset"]))
    if "study" in given:
        check_study(given["study"])
    if command == "plan":
        check_plan(options, on=given["on"].split(","), of=given.get("of", "step"))


def check_plan(options: list[str], *, on: list[str], of: str) -> None:
    """Every batch can be divided over the chips of every machine."""
    (presets,) = [
        word for word in options if word.startswith(("--presets=", "--config="))
    ]
    settings_given = [word for word in options if spelling.is_setting(word)]
    for preset in presets.partition("=")[2].split(","):
        run, _ = command_line.configured(
            [f"--config={preset}", *settings_given], "plan"
        )
        for name in on:
            absent.check(run, machine(name), of=of)


def check_study(name: str) -> None:
    """Its rows have settings that resolve."""
    for row in study_command.study_of(name).rows:
        config = row.train(0)
        if row.search is None:
            assert settings.from_config(config).task == "train"
        else:
            assert settings.from_config(row.search(0)).task == "search"


# Complete


@pytest.mark.parametrize(
    ("table", "document"),
    [
        (bnas.SCHEMES, "schemes"),
        (bnas.SEARCHERS, "searchers"),
        (bnas.NETWORKS, "networks"),
        (bnas.LAYERS, "networks"),
        (BLOCKS, "networks"),
        (dict.fromkeys(genotypes.named()), "networks"),
    ],
    ids=["schemes", "searchers", "networks", "layer types", "blocks", "cells"],
)
def test_every_entry_and_each_of_its_settings_has_a_place(table, document):
    text = (ROOT / "docs" / f"{document}.md").read_text()
    for name, entry in table.items():
        assert f"`{name}`" in text
        if (
            dataclasses.is_dataclass(entry)
            and isinstance(entry, type)
            and table is not BLOCKS
        ):
            missing = [
                setting
                for setting in entries.settings_of(entry)
                if f"`{setting}`" not in text
            ]
            assert not missing, f"{name}: {missing}"


def names_of(settings_class: type, prefix: str = "") -> list[str]:
    """The settings of a dataclass and of those within it.

    Groups with a name are described elsewhere.
    """
    groups = {
        "checkpoint": settings.CheckpointSettings,
        "distributed": settings.DistributedSettings,
        "dataset": settings.DatasetSettings,
        "weights": settings.WeightSettings,
        "alphas": settings.AlphaSettings,
        "optimizer": settings.OptimizerSettings,
        "teacher": settings.TeacherSettings,
    }
    if settings_class is settings.SearchSettings:
        groups["network"] = settings.SupernetSettings
    names = []
    for field in dataclasses.fields(settings_class):
        if field.name in groups and not prefix:
            names += names_of(groups[field.name], field.name + ".")
        elif field.name not in ("scheme", "searcher", "network"):
            names.append(prefix + field.name)
    return names


@pytest.mark.parametrize("task", ["search", "train"])
def test_every_setting_is_in_usage(task):
    text = (ROOT / "docs" / "usage.md").read_text()
    wanted = names_of(TASKS[task])
    assert not [name for name in wanted if f"`{name}`" not in text]


def test_the_blocks_of_extending_run_and_add_their_entries():
    text = "\n".join(
        block.text
        for block in blocks(ROOT / "docs" / "extending.md")
        if block.language == "python"
    )
    before = [set(table) for table in TABLES]
    exec(compile(text, "extending.md", "exec"), {"__name__": "extending"})
    added = [
        sorted(set(table) - known) for table, known in zip(TABLES, before, strict=True)
    ]
    assert added == [
        ["bin_conv_7x7", "shifted_conv_1x1"],
        ["gain", "ir_net"],
        ["evolution", "sharpen", "sigmoids"],
        ["chain"],
        ["plain"],
        ["mine"],
        ["wide"],
        ["focal"],
    ]
