"""The command `report`: what its page has of a run, and that it is one file of
well-formed HTML.
"""

import html
import json
import math
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from commands import printed

from bnas_jax import settings
from bnas_jax.core.genotype import TABLE_3
from bnas_jax.report.charts import Line, Points, chart, scatter
from bnas_jax.report.curves import charts_of_metrics, mean_weights
from bnas_jax.report.sheet import style
from bnas_jax.workdir import FORMAT
from configs import search as search_configs
from configs import train as train_configs

ROOT = pathlib.Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
FACTS = {
    "format": FORMAT,
    "num_classes": 2,
    "num_train": 20,
    "image_shape": [8, 8, 1],
    "class_names": ["<b>cats", "dogs"],
    "mean": [0.5],
    "std": [0.25],
    "environment": {"jax": "0.0.1", "device": "1 x cpu"},
}


def write_run(folder: pathlib.Path, config, *, records, **files) -> pathlib.Path:
    """A work directory with these files, as runs write them."""
    folder.mkdir()
    config = settings.to_dict(settings.from_config(config))
    contents = {"config": config, "run": FACTS, **files}
    for name, value in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


@pytest.fixture
def training(tmp_path) -> pathlib.Path:
    records = [
        {
            "step": 22,
            "epoch": 0,
            "train_loss": 2.0,
            "test_loss": 3.0,
            "test_top1": 40.0,
            "seconds": 1,
        },
        {"step": 30, "train_loss": 9.0},
        {
            "step": 44,
            "epoch": 1,
            "train_loss": 1.0,
            "test_loss": None,
            "test_top1": 60.0,
            "seconds": 2,
        },
    ]
    summary = {"top1": 60.123456789, "loss": 1.5, "steps": 44}
    config = train_configs.get_config("digits")
    return write_run(tmp_path / "run", config, records=records, summary=summary)


@pytest.fixture
def search(tmp_path) -> pathlib.Path:
    """A search under way, whose edges are all of the first layer type in the end."""
    records = [
        {
            "step": 9,
            "epoch": 0,
            "train_loss": 2.0,
            "valid_loss": 2.5,
            "valid_top1": 20.0,
        }
    ]
    config = search_configs.get_config("digits")
    folder = write_run(tmp_path / "search", config, records=records)
    alphas = np.zeros((2, 14, len(TABLE_3)))
    alphas[1, :, 0] = 9
    np.savez(
        folder / "alphas.npz", normal=alphas, reduce=alphas, valid_top1=np.zeros(1)
    )
    return folder


def page_of(
    capfd, folder: pathlib.Path, *options: str
) -> tuple[str, list[ElementTree.Element]]:
    """(the page, its pictures)."""
    out = printed(capfd, "report", f"--workdir={folder}", *options)["out"]
    text = pathlib.Path(out).read_text()
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    return text, [ElementTree.fromstring(picture) for picture in pictures]


def texts(picture: ElementTree.Element) -> list[str]:
    return [element.text for element in picture.iter(f"{SVG}text")]


def rows(page: str) -> dict[str, str]:
    found = re.findall("<tr><th>(.*?)</th><td>(.*?)</td></tr>", page)
    return {html.unescape(name): html.unescape(value) for name, value in found}


def heights(picture: ElementTree.Element) -> list[list[float]]:
    """The y of the points of each line of a chart; those of the grid and the axes have
    two points and are left out.
    """
    found = []
    for path in picture.iter(f"{SVG}path"):
        numbers = re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d", ""))
        style = path.get("style", "")
        if "stroke-width: 1.5" in style and "fill: none" in style:
            found.append([float(y) for _, y in numbers])
    return found


def test_the_page_of_a_training_has_its_result_its_curves_its_cell_and_its_settings(
    capfd, training
):
    page, pictures = page_of(capfd, training)
    found = rows(page)
    assert found["state"] == "ended" and found["test accuracy (top-1) in %"] == "60.123"
    assert found["seconds of the recorded epochs"] == "3"
    config = json.loads((training / "config.json").read_text())
    assert found["config.num_epochs"] == str(config["num_epochs"])
    assert (
        found["jax"] == "0.0.1" and found["names of the classes"] == '"<b>cats", "dogs"'
    )
    assert "<b>cats" not in page, "names are no HTML"

    losses, accuracies, cell = pictures
    assert {"loss", "training", "test", "epoch"} <= set(texts(losses))
    assert {"accuracy (top-1) in %", "test"} <= set(texts(accuracies))
    assert "training" not in texts(accuracies), "no record has it"
    assert "run: normal cell" in texts(cell)
    # The training loss falls; the test's second is not known, so that a single point is
    # left.
    falling = [line for line in heights(losses) if len(line) >= 2]
    assert any(line[-1] > line[0] for line in falling)


def test_the_page_of_a_search_under_way_says_how_far_it_is_and_how_alpha_moved(
    capfd, search
):
    page, pictures = page_of(capfd, search)
    epochs = search_configs.get_config("digits").num_epochs
    assert rows(page)["state"] == f"not ended: 1 of {epochs} epochs are recorded"
    assert len(pictures) == 4 and "Cells" not in page, (
        "two of the metrics, two of alpha, no cell yet"
    )
    normal, reduction = pictures[2:]
    assert "normal cell: mean softmax of alpha" in texts(normal)
    assert "reduction cell: mean softmax of alpha" in texts(reduction)
    assert set(TABLE_3) <= set(texts(normal))
    # Zeroise, the first type, rises to 1, and the others fall; y grows downwards.
    lines = [line for line in heights(normal) if len(line) >= 2]
    rising = [line for line in lines if line[1] < line[0] - 1]
    assert len(rising) >= 1 and any(line[1] > line[0] for line in lines)
    assert math.isclose(lines[0][0], lines[1][0]), "all begin with equal weights"


def test_a_search_that_has_ended_shows_its_cell(capfd, search):
    cell = [["bin_conv_3x3", 0], ["max_pool_3x3", 1]] * 4
    genotype = {"normal": cell, "reduce": cell}
    (search / "summary.json").write_text(
        json.dumps({"genotype": genotype, "valid_top1": 20.0})
    )
    page, pictures = page_of(capfd, search)
    assert "search: normal cell" in texts(pictures[-1]) and len(pictures) == 5
    assert "bin_conv_3x3" not in rows(page).values(), "it is drawn, not written"


def test_a_run_without_epochs_and_a_change_of_settings(capfd, training, tmp_path):
    (training / "metrics.jsonl").unlink()
    config = json.loads((training / "config.json").read_text())
    change = {"step": 22, "key": "config.num_epochs", "from": 2, "to": 4}
    (training / "config.json").write_text(json.dumps({**config, "changed": [change]}))
    page, pictures = page_of(capfd, training, f"--out={tmp_path / 'other.html'}")
    assert "Curves" not in page and len(pictures) == 1
    assert rows(page)["config.num_epochs"] == "2 to 4, at step 22"
    assert not (training / "report.html").exists()


def test_the_page_of_an_imported_network_does_not_call_it_a_training(capfd, tmp_path):
    facts = {name: value for name, value in FACTS.items() if name != "num_train"}
    folder = write_run(
        tmp_path / "net", train_configs.get_config("a"), records=[], run=facts
    )
    page, pictures = page_of(capfd, folder)
    assert "<h1>net: an imported network</h1>" in page and len(pictures) == 1
    assert rows(page)["state"].startswith("imported weights")


@pytest.mark.long
def test_the_same_run_gives_the_same_page_without_jax(training):
    """As a process: the page needs no accelerator, and no other file."""
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "bnas_jax",
        "report",
        f"--workdir={training}",
    ]
    pages = []
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert not re.search(r"\| +jax$", done.stderr, flags=re.MULTILINE)
        pages.append((training / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert not re.search(
        rb"(src|href)=|<script", re.sub(rb'xlink:href="#', b"", pages[0])
    )


def test_what_is_damaged_or_of_another_kind_is_left_out_or_named(capfd, search):
    """The rest of the page is there."""
    facts = {**FACTS, "class_names": None, "environment": [], "extensions": ["x.py"]}
    (search / "run.json").write_text(json.dumps(facts))
    with (search / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 18, "epoch": 1, "train_loss": 10**400}) + "\n")
        file.write(json.dumps({"step": 27, "epoch": 2, "train_loss": None}) + "\n")
    (search / "alphas.npz").write_bytes(b"PK")
    page, pictures = page_of(capfd, search)
    assert "alphas.npz cannot be read" in page and len(pictures) == 2
    assert rows(page)["state"].startswith("not ended: 3 of")


def test_the_weights_of_layer_types_are_the_mean_of_their_softmax_over_the_edges():
    alphas = np.log([[[1.0, 3.0], [1.0, 1.0]], [[9.0, 1.0], [1.0, 4.0]]])
    expected = [
        [(0.25 + 0.5) / 2, (0.75 + 0.5) / 2],
        [(0.9 + 0.2) / 2, (0.1 + 0.8) / 2],
    ]
    np.testing.assert_allclose(mean_weights(alphas + 1000), expected)


def test_sampled_cells_are_no_alphas(capfd, search):
    alphas = np.eye(len(TABLE_3))[None, [0] * 14].repeat(2, axis=0)
    np.savez(
        search / "alphas.npz", normal=alphas, reduce=alphas, valid_top1=np.zeros(1)
    )
    page, pictures = page_of(capfd, search)
    assert "<h2>Alpha</h2>" not in page and len(pictures) == 2


def test_any_name_is_in_the_legend():
    names = ["_private", "a$^$b", "x" * 100]
    with style():
        picture = ElementTree.fromstring(
            chart("$title$", [Line(name, [(0, 1.0)]) for name in names])
        )
    found = texts(picture)
    assert {"$title$", "_private", "a$^$b"} <= set(found)
    assert any(text.startswith("xxxx") and len(text) == 32 for text in found)


def test_settings_have_all_their_digits(capfd, training):
    config = json.loads((training / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 0.012345678
    (training / "config.json").write_text(json.dumps(config))
    page, _ = page_of(capfd, training)
    assert rows(page)["config.optimizer.learning_rate"] == "0.012345678"


def test_a_single_epoch_has_its_number_on_the_axis():
    with style():
        picture = ElementTree.fromstring(chart("t", [Line("a", [(0, 1.5)])]))
    assert "0" in texts(picture) and not [
        text for text in texts(picture) if "0.0" in text
    ]


def test_a_point_between_gaps_is_seen_and_a_loss_that_was_never_finite_has_no_chart():
    def marks(values) -> int:
        with style():
            picture = ElementTree.fromstring(
                chart("t", [Line("a", list(enumerate(values)))])
            )
        return sum(
            "#4477aa" in use.get("style", "") for use in picture.iter(f"{SVG}use")
        )

    # The legend has one more.
    assert marks([1.0, None, 2.0, None, 3.0, 4.0]) == 3 and marks([1.0, 2.0]) == 0
    records = [
        {"epoch": epoch, "train_loss": None, "test_top1": 9.0} for epoch in range(2)
    ]
    assert len(charts_of_metrics(records)) == 1


def test_a_logarithmic_chart_marks_zeros_and_draws_no_line_to_them():
    lines = [Line("a", [(1, 1.0), (2, 10.0), (3, 0.0), (4, 100.0), (5, 10.0)])]
    with style():
        picture = ElementTree.fromstring(chart("t", lines, log=True))
    found = heights(picture)[0]
    # Four numbers, and equal steps for equal factors.
    assert len(found) == 4
    assert found[0] - found[1] == pytest.approx(found[1] - found[2], rel=1e-3)
    # The cross stands at the lower edge.
    cross = [
        use
        for use in picture.iter(f"{SVG}use")
        if "stroke: #4477aa" in use.get("style", "")
    ]
    assert max(float(use.get("y", 0)) for use in cross) > max(found)
    assert "epoch; a cross is 0" in texts(picture)


def test_points_have_the_colour_of_their_group_and_rings_are_hollow():
    groups = [
        Points("first", [(1.0, 2.0), (2.0, 3.0)], labels=["one", "<two>"]),
        Points("", [(3.0, 1.0)], style=0, hollow=True),
    ]
    with style():
        svg = scatter("t", groups, x="x", y="y")
    picture = ElementTree.fromstring(svg)
    assert {"one", "<two>", "first", "x", "y", "t"} <= set(texts(picture))
    assert "fill: none; stroke: #4477aa" in svg and "fill: #4477aa" in svg


def test_the_page_shows_gradients_where_they_were_written(capfd, training):
    _, before = page_of(capfd, training)
    sums = {"layers": ["a", "b"], "first": [1.0, 2.0], "last": [0.5, 0.0], "step": 44}
    (training / "gradients.json").write_text(json.dumps(sums))
    page, after = page_of(capfd, training)
    assert "<h2>Gradients</h2>" in page and len(after) == len(before) + 1
    shown = [set(texts(picture)) for picture in after]
    assert any({"before the first step", "at step 44"} <= words for words in shown)
    (training / "gradients.json").write_text('{"first": 3}')
    assert "<h2>Gradients</h2>" not in page_of(capfd, training)[0]
    (training / "gradients.json").write_text("{")
    assert "the command gradients, run again" in page_of(capfd, training)[0]
