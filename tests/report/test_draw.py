"""The command `draw`, and the picture that a search leaves: what is in it, and that the
same cell gives the same bytes.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest
from commands import error, printed

from bnas_jax import settings
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotypes
from bnas_jax.core.genotype import TABLE_3
from bnas_jax.core.layers import LAYERS
from bnas_jax.report import palette
from configs import search as search_configs

ROOT = pathlib.Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


class Picture:
    """An SVG: its texts, and the style of each of its elements by its id."""

    def __init__(self, path: pathlib.Path):
        root = ElementTree.parse(path).getroot()
        self.texts = [element.text for element in root.iter(f"{SVG}text")]
        self.styles = {}
        for group in root.iter(f"{SVG}g"):
            shape = group.find(f"{SVG}path")
            if shape is not None and group.get("id") is not None:
                self.styles[group.get("id")] = shape.get("style")

    def named(self, pattern: str) -> list[str]:
        """The styles of the elements whose id matches."""
        return [
            style for name, style in self.styles.items() if re.fullmatch(pattern, name)
        ]


def draw(capfd, out: pathlib.Path, *arguments: str) -> Picture | None:
    """The SVG that the command writes; of another file nothing is read."""
    assert printed(capfd, "draw", f"--out={out}", *arguments) == {"out": str(out)}
    return Picture(out) if out.suffix == ".svg" else None


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> pathlib.Path:
    """A search under way, three epochs ended: in row r of its alphas all edges are of
    layer type r.
    """
    folder = tmp_path_factory.mktemp("draw") / "search"
    folder.mkdir()
    config = settings.to_dict(settings.from_config(search_configs.get_config("digits")))
    (folder / "config.json").write_text(json.dumps(config))
    alphas = 9 * np.eye(len(TABLE_3))[:4, None].repeat(14, axis=1)
    np.savez(
        folder / "alphas.npz", normal=alphas, reduce=alphas, valid_top1=np.zeros(3)
    )
    return folder


@pytest.mark.parametrize("name", genotypes.named())
def test_a_picture_of_each_named_cell_has_all_that_the_cell_has(capfd, tmp_path, name):
    genotype = genotypes.load(name)
    picture = draw(capfd, tmp_path / "cell.svg", f"--genotype={name}")
    assert {
        f"{name}: normal cell",
        f"{name}: reduction cell",
        "inter-cell skip",
    } <= set(picture.texts)
    for row, cell in enumerate((genotype.normal, genotype.reduce)):
        lines = picture.named(f"cell{row}-0-line.*")
        if isinstance(cell, str):
            assert cell in picture.texts and len(lines) == 3
            continue
        # Two for each edge, four to the concatenation, and the output; those from
        # c_(k-2) are dotted.
        edges = genotype_lib.edges(cell)
        dotted = [style for style in lines if "stroke-dasharray" in style]
        assert len(lines) == 2 * 8 + 5 and len(dotted) == 2 * sum(
            edge.source == 0 for edge in edges
        )
        assert len(picture.named(f"cell{row}-0-box.*")) == 8 + 8
    drawn = collections.Counter(picture.texts)
    cells = [
        cell for cell in (genotype.normal, genotype.reduce) if not isinstance(cell, str)
    ]
    assert (
        collections.Counter(
            edge.layer_type for cell in cells for edge in genotype_lib.edges(cell)
        ).items()
        <= drawn.items()
    )
    for text in ("c_(k-2)", "c_(k-1)", "c_(k)"):
        assert drawn[text] == 2
    for text in ("2", "3", "4", "5", "concat"):
        assert drawn[text] == len(cells)
    skips = picture.named("cell.-0-skip")
    assert len(skips) == 2 and all(
        f"stroke: {palette.SKIP.lower()}" in style for style in skips
    )


def test_the_densest_cell_has_fourteen_edges(capfd, tmp_path):
    pairs = [
        ["bin_dil_conv_5x5", source] for node in range(4) for source in range(2 + node)
    ]
    (tmp_path / "dense.json").write_text(json.dumps({"normal": pairs, "reduce": pairs}))
    picture = draw(
        capfd, tmp_path / "cell.svg", f"--genotype={tmp_path / 'dense.json'}"
    )
    assert (
        picture.texts.count("bin_dil_conv_5x5") == 28
        and len(picture.named("cell0-0-line.*")) == 2 * 14 + 5
    )


def test_each_layer_type_has_the_colour_of_its_kind():
    assert (
        palette.kind("sep_conv_3x3") == palette.SEPARABLE
        and palette.kind("of_ones_own") == palette.OTHER
    )
    assert all(palette.kind(name) != palette.OTHER for name in LAYERS)
    assert len({kind.color for kind in palette.KINDS}) == len(palette.KINDS)


def test_zeroise_is_pale_or_left_out_and_the_skip_can_be(capfd, tmp_path):
    """Twelve of the sixteen layers of that cell are Zeroise."""
    picture = draw(capfd, tmp_path / "cell.svg", "--genotype=latest_cell_zeroise")
    pale = [
        style
        for style in picture.named("cell.*")
        if f"stroke: {palette.PALE_LINE.lower()}" in style
    ]
    assert (
        picture.texts.count("none") == 12
        and len(pale) == 3 * 12
        and "Zeroise (none)" in picture.texts
    )
    options = ["--zeroise=False", "--skip=False"]
    without = draw(
        capfd, tmp_path / "cell.svg", "--genotype=latest_cell_zeroise", *options
    )
    assert len(without.named("cell.-0-line.*")) == 2 * (
        2 * 2 + 5
    ) and not without.named(".*skip")
    assert not {"none", "Zeroise (none)", "inter-cell skip"} & set(without.texts)


def test_two_genotypes_stand_side_by_side(capfd, tmp_path):
    """One by its name, one in a work directory, whose network has no skip."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "genotype.json").write_text(genotypes.load("darts_v1").to_json())
    (folder / "config.json").write_text(json.dumps({"network": {"skip": False}}))
    picture = draw(
        capfd, tmp_path / "cell.svg", "--genotype=latest_cell", f"--genotype={folder}"
    )
    assert {"latest_cell: normal cell", "plain: normal cell"} <= set(picture.texts)
    assert len(picture.named("cell[01]-[01]-line.*")) == 4 * 21
    assert len(picture.named("cell[01]-0-skip")) == 2 and not picture.named(
        "cell[01]-1-skip"
    )
    file = draw(capfd, tmp_path / "file.svg", f"--genotype={folder / 'genotype.json'}")
    assert "plain: normal cell" in file.texts and not file.named(".*skip")


def test_texts_that_a_picture_cannot_show_as_they_are(capfd, tmp_path):
    """A layer type of a user's, a text that looks like a formula, and what no XML file
    may hold.
    """
    pairs = [["my_layer", 0], ["$x_1$ <&>", 1], ["bell\a", 0], *[["none", 0]] * 5]
    (tmp_path / "$cell$.json").write_text(
        json.dumps({"normal": pairs, "reduce": "gdas_fixed"})
    )
    picture = draw(
        capfd, tmp_path / "cell.svg", f"--genotype={tmp_path / '$cell$.json'}"
    )
    texts = {
        "my_layer",
        "$x_1$ <&>",
        "bell\N{REPLACEMENT CHARACTER}",
        "$cell$: normal cell",
    }
    assert texts | {"another layer type", "hand-made cell"} <= set(picture.texts)


def test_the_template_shows_the_skips_of_bnas_alone(capfd, tmp_path):
    picture = draw(capfd, tmp_path / "template.svg", "--template")
    assert (
        picture.texts.count("ConvCell") == 4
        and "(b) BNAS cell template" in picture.texts
    )
    assert len(picture.named("bnas-skip.")) == 2 and not picture.named("darts-skip.")
    assert all(
        "stroke-dasharray" in style for style in picture.named("(bnas|darts)-before.")
    )


def test_a_strip_shows_what_the_searcher_derived_at_each_epoch(capfd, tmp_path, search):
    picture = draw(capfd, tmp_path / "strip.svg", f"--genotype={search}", "--strip=3")
    titles = [text for text in picture.texts if text.endswith("cell")]
    assert titles[::2] == [
        f"{when}: normal cell"
        for when in ("before epoch 0", "after epoch 1", "after epoch 2")
    ]
    drawn = collections.Counter(picture.texts)
    assert (
        all(drawn[TABLE_3[row]] == 16 for row in (0, 2, 3)) and drawn[TABLE_3[1]] == 0
    )
    assert len(picture.named("cell.-.-line.*")) == 6 * 21
    every = draw(capfd, tmp_path / "strip.svg", f"--genotype={search}", "--strip=10")
    assert len(every.named("cell.-.-skip")) == 2 * 4


@pytest.mark.long
def test_as_a_process_it_needs_no_jax_and_gives_the_same_bytes(capfd, tmp_path):
    """Whatever matplotlib is set to."""
    (tmp_path / "matplotlibrc").write_text("svg.fonttype: path\nfont.size: 30\n")
    for name in ("cell.svg", "cell.png"):
        out = tmp_path / name
        code = (
            "import sys\nfrom bnas_jax.__main__ import run\nsys.exit(run(sys.argv[1:]) "
            "or 'jax' in sys.modules)"
        )
        command = [
            sys.executable,
            "-c",
            code,
            "draw",
            "--genotype=latest_cell",
            f"--out={out}",
        ]
        environment = {
            "MATPLOTLIBRC": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path / "nowhere"),
        }
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False
        )
        assert (done.returncode, done.stderr) == (0, "") and json.loads(
            done.stdout
        ) == {"out": str(out)}
        draw(capfd, tmp_path / f"again.{name}", "--genotype=latest_cell")
        assert out.read_bytes() == (tmp_path / f"again.{name}").read_bytes()
    image = cv2.imread(str(tmp_path / "cell.png"))
    red = np.array(
        [int(palette.SKIP[i : i + 2], 16) for i in (5, 3, 1)]
    )  # OpenCV's order
    assert image.shape[1] > 1000 and (image == red).all(-1).sum() > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--genotype=latest_cell"],
            "--out is missing; write --out=FILE.svg or FILE.png",
        ),
        (
            ["--out=c.svg"],
            "--genotype is missing; write --genotype=NAME, FILE or a search's work "
            "directory; names: darts_v1",
        ),
        (
            ["--out=c.pdf", "--genotype=latest_cell"],
            "--out=c.pdf must end in .svg or .png",
        ),
        (["--out=c", "--genotype=latest_cell"], "--out=c must end in .svg or .png"),
        (
            ["--out=no/c.svg", "--genotype=latest_cell"],
            "there is no folder no; make it, or choose another --out",
        ),
        (
            ["--out=gs://b/c.svg", "--genotype=latest_cell"],
            "is an address, not a path of this machine",
        ),
        (
            ["--out=c.svg", "--genotype=latest"],
            "'latest' is neither a file nor a named cell; named: darts_v1",
        ),
        (
            ["--out=c.svg", "--genotype=."],
            "contains no genotype.json, which a search writes at its end",
        ),
        (
            ["--out=c.svg", "--genotype=f.json"],
            'expected a JSON object with the keys "normal" and "reduce"',
        ),
        (
            ["--out=c.svg", "--genotype=latest_cell", "--genotype=f.json"],
            "expected a JSON object",
        ),
        (
            ["--out=c.svg", "--template", "--genotype=latest_cell"],
            "leave --genotype and --strip out",
        ),
        (
            ["--out=c.svg", "--genotype=latest_cell", "--strip=3"],
            "write --genotype=DIR, its work directory; got latest_cell",
        ),
        (
            ["--out=c.svg", "--genotype=.", "--strip=3"],
            "is not a work directory: it has no config.json",
        ),
        (
            ["--out=c.svg", "--genotype=.", "--strip=1"],
            "--strip must be at least 2, got 1",
        ),
        (
            ["--out=c.svg", "--genotype=.", "--strip=two"],
            "--strip=two: write a whole number",
        ),
        (
            ["--out=c.svg", "--genotype=.", "--genotype=.", "--strip=2"],
            "write --genotype once",
        ),
        (["--out=c.svg", "--genotype=train", "--strip=2"], "train contains no search"),
        (
            ["--out=c.svg", "--genotype=begun", "--strip=2"],
            "has no alphas.npz: no epoch of its search has ended, or the file is lost",
        ),
        (
            ["--out=c.svg", "--genotype=damaged", "--strip=2"],
            "alphas.npz cannot be read",
        ),
        (
            ["--out=folder.svg", "--genotype=latest_cell"],
            "--out=folder.svg is a folder; write the name of a file",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said_and_nothing_is_written(
    capfd, tmp_path, monkeypatch, search, arguments, message
):
    (tmp_path / "f.json").write_text("[]")
    (tmp_path / "folder.svg").mkdir()
    for name in ("train", "begun", "damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(
            (search / "config.json").read_bytes()
        )
    (tmp_path / "train" / "config.json").write_text('{"task": "train"}')
    (tmp_path / "damaged" / "alphas.npz").write_bytes(b"PK")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert message in error(capfd, "draw", *arguments)
    assert sorted(tmp_path.rglob("*")) == before
