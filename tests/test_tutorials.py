"""The tutorials of docs/tutorials: their programs and commands run, in their order.

Networks are small.
"""

import json
import pathlib
import runpy
import shlex

import pytest
from documents import ROOT, blocks, shell_lines

import bnas_jax as bnas
from bnas_jax.__main__ import run

pytestmark = [
    # ml_collections loads a config's file so.
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("quick_compilation", "tables"),
]

# What is added to the commands of a tutorial, so that they take seconds.
SHORT = ["--config.num_epochs=1", "--config.network.channels=2"]
SEARCH = [*SHORT, "--config.network.num_cells=3"]
TRAIN = [*SHORT, "--config.network.num_cells=1"]
FEW_TYPES = "--config.network.layer_types=none,bin_conv_3x3"
# Each edge of a new layer type is compiled by itself: few types, and few steps.
NEW_TYPES = [
    "--config.network.layer_types=none,two_scales_3x3",
    "--config.batch_size=256",
]


@pytest.fixture
def tables():
    """The package's tables as they were, after a tutorial with an extension."""
    before = [(table, dict(table)) for table in (bnas.LAYERS, bnas.SCHEMES)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def follow(
    name: str, capfd, *, smaller: dict[str, str], without: tuple[str, ...] = ()
) -> dict[str, dict]:
    """Runs a tutorial in the current folder; command -> the JSON it ends with.

    smaller: texts of its programs that are replaced.
    without: commands that are left out.
    """
    tutorial = ROOT / "docs" / "tutorials" / f"{name}.md"
    for block in blocks(tutorial):
        if block.file:
            text = block.text
            for old, new in smaller.items():
                text = text.replace(old, new)
            pathlib.Path(block.file).write_text(text)
    script = "\n".join(
        block.text for block in blocks(tutorial) if block.language == "bash"
    )
    ended = {}
    for line in shell_lines(script):
        program, *words = shlex.split(line)
        assert program == "python"
        if words[0] != "-m":
            runpy.run_path(words[0])
            continue
        assert words[:2] == ["-m", "bnas_jax"]
        command = words[2]
        if command in without:
            continue
        capfd.readouterr()
        assert run([*words[2:], *additions(command, words)]) == 0, (
            capfd.readouterr().err
        )
        ended[command] = json.loads(capfd.readouterr().out.splitlines()[-1])
    return ended


def additions(command: str, words: list[str]) -> list[str]:
    """What makes a command smaller."""
    if command in ("train", "cost"):
        return TRAIN
    if command != "search":
        return []
    if "--extensions=mine.py" in words:
        return [*SEARCH, *NEW_TYPES]
    return [*SEARCH, FEW_TYPES]


@pytest.mark.long
def test_search_on_your_own_images(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    ended = follow("own_images", capfd, smaller={"range(200)": "range(60)"})
    assert ended["data"]["num_examples"] == 180 and ended["data"]["num_classes"] == 3
    assert (tmp_path / "photos_cell.svg").read_text().startswith("<?xml")
    assert (
        ended["evaluate"]["num_examples"] == 36
        and ended["evaluate"]["top1"] == ended["train"]["top1"]
    )
    assert ended["cost"]["params"] > 0
    assert ended["predict"]["num_examples"] == 180
    assert (tmp_path / "classes.csv").read_text().count("\n") == 181
    assert (tmp_path / "runs/photos/train/report.html").is_file()


@pytest.mark.long
def test_change_one_idea(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    ended = follow("new_idea", capfd, smaller={}, without=("study",))
    config = json.loads((tmp_path / "runs/mine/search/config.json").read_text())
    assert config["scheme"]["name"] == "smooth" and config["scheme"]["sharpness"] == 2
    assert config["network"]["layer_types"] == ["none", "two_scales_3x3"]
    assert ended["evaluate"]["top1"] == ended["train"]["top1"]


@pytest.mark.long
def test_the_study_of_an_idea(tmp_path, monkeypatch, capfd):
    """The only command that `test_change_one_idea` leaves out."""
    monkeypatch.chdir(tmp_path)
    smaller = {
        'get_config("digits")': 'get_config("digits")\n    config.num_epochs = 1',
        "seeds=5": "seeds=2",
    }
    ended = follow(
        "new_idea",
        capfd,
        smaller=smaller,
        without=("search", "train", "evaluate", "cost"),
    )
    assert [row["name"] for row in ended["study"]["rows"]] == ["xnor", "smooth"]
