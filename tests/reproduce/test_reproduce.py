"""Tables and figures of the paper: what they are made of, what is counted, and real runs of tiny ones."""

import dataclasses
import json
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.core.errors import UserError
from bnas_jax.reproduce import Reproduction, pictures
from bnas_jax.reproduce.columns import COLUMNS, Made
from bnas_jax.reproduce.run import SCALES, reproduce
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.study import Row
from bnas_jax.study.runs import early_learnable_share
from bnas_jax.workdir import RunDirectory
from configs import ablations, search, train
from configs.reproduce import REPRODUCTIONS, get_reproduction

pytestmark = pytest.mark.usefixtures("quick_compilation")
NOWHERE = pathlib.Path("/nowhere")


def rows_of(scale: str) -> list[Row]:
    """All rows of all tables and figures."""
    found = []
    for what in REPRODUCTIONS:
        found += get_reproduction(what, scale).rows
    return found


@pytest.mark.parametrize("scale", SCALES)
def test_rows_of_one_name_are_one_run_wherever_they_stand(scale):
    trainings: dict[str, TrainSettings] = {}
    searches: dict[str, SearchSettings] = {}
    for row in rows_of(scale):
        assert "," not in row.name and "/" not in row.name  # --rows divides at commas
        config = row.train(0)
        if row.search is not None:
            config.network.genotype = "latest_cell"
            found = settings.from_config(row.search(0))
            assert isinstance(found, SearchSettings)
            assert searches.setdefault(row.searched_as or row.name, found) == found
        resolved = settings.from_config(config)
        assert isinstance(resolved, TrainSettings)
        assert trainings.setdefault(row.name, resolved) == resolved, row.name
    # The sizes of Table 8 share the search without the regularizer.
    assert "search no_diversity" in searches and len(searches) < len(
        [row for row in rows_of(scale) if row.search]
    )


def test_the_scale_smoke_is_on_the_digits_and_the_paper_s_on_its_data():
    data = {
        settings.from_config(row.train(0)).dataset.name
        for row in rows_of("smoke")
        if not row.search
    }
    assert data == {"digits"}
    data = {
        settings.from_config(row.train(0)).dataset.name
        for row in rows_of("paper")
        if not row.search
    }
    assert data == {"cifar10", "imagenet2012"}


def counted(what: str) -> dict[str, dict]:
    """{row: {column: number}} of what needs no run, at the paper's scale."""
    wanted = get_reproduction(what, "paper")
    found = {}
    for row in wanted.rows:
        made = Made(row, folder=NOWHERE, seed=0)
        numbers = {name: COLUMNS[name].of(made) for name in wanted.columns}
        found[row.name] = {name: number for name, number in numbers.items() if number is not None}
    return found


@pytest.mark.parametrize("what", ["table5", "table9", "tableD", "table13"])
def test_what_is_counted_is_within_a_tenth_of_the_paper_s(what):
    paper = get_reproduction(what, "paper").paper
    compared = 0
    for name, numbers in counted(what).items():
        for column, number in numbers.items():
            if column in paper[name]:
                assert number == pytest.approx(paper[name][column], rel=0.1), (name, column)
                compared += 1
    assert compared


def test_darts_s_normal_cell_is_five_eighths_separable():
    found = counted("table11")
    paper = get_reproduction("table11", "paper").paper
    assert found["DARTS binarized"]["separable"] == paper["DARTS binarized"]["separable"] == 62.5
    assert found["BNAS-A"]["separable"] == 0
    # A search that has not ended has no cell to count.
    assert found["BNAS-A separable"] == {}


def test_the_ablation_of_a_row_reaches_its_run():
    rows = {row.name: row for row in rows_of("paper")}
    run_of = lambda name: settings.from_config(rows[name].train(0))
    assert run_of("BNAS-B").network.skip and not run_of("BNAS-B no skip").network.skip
    without = run_of("BNAS-B no Zeroise").network.genotype
    assert "none" not in json.dumps(without.to_dict())
    assert "none" in json.dumps(run_of("BNAS-B").network.genotype.to_dict())
    search_of = rows["BNAS-A no diversity"].search
    assert search_of is not None and settings.from_config(search_of(0)).searcher.diversity == 0
    expected = ablations.get_config("train_no_skip_b")
    assert settings.from_config(expected) == run_of("BNAS-B no skip")


# Real runs.


def tiny(seed: int) -> ConfigDict:
    del seed
    config = train.get_config("digits")
    config.network.update({"num_cells": 1, "channels": 2})
    config.num_epochs = 2
    config.batch_size = 240
    return config


def longer(seed: int) -> ConfigDict:
    config = tiny(seed)
    config.num_epochs = 3
    return config


@pytest.fixture(scope="module")
def wanted() -> Reproduction:
    """One row with two seeds, and pictures of them."""
    row = Row("tiny", train=tiny, seeds=2)
    drawn = {
        "test": pictures.test_curves,
        "train": pictures.train_curves,
        "gradients": pictures.gradients,
        "flops": pictures.accuracy_over_flops,
    }
    return Reproduction(
        "A tiny table",
        rows=(row,),
        columns=("flops", "top1", "train_top1"),
        paper={"tiny": {"flops": 0.5, "top1": 92.7}},
        pictures=drawn,
    )


@pytest.fixture(scope="module")
def made(wanted, tmp_path_factory) -> tuple[pathlib.Path, dict]:
    """(the folder, the result) of that."""
    folder = tmp_path_factory.mktemp("reproduced")
    return folder, reproduce(wanted, folder, name="table0", scale="smoke")


def test_a_row_has_the_mean_of_its_runs_beside_the_paper_s_number(made):
    folder, result = made
    (line,) = result["rows"]
    summaries = [RunDirectory(folder / f"tiny/{seed}/train").summary() for seed in (0, 1)]
    first, second = (summary["top1"] for summary in summaries)
    assert line["runs"] == 2 and line["ours"]["top1"] == pytest.approx((first + second) / 2)
    # Of a sample of two: the distance over the root of two.
    assert line["deviation"]["top1"] == pytest.approx(abs(first - second) / 2**0.5)
    records = RunDirectory(folder / "tiny/0/train").read_metrics()
    others = RunDirectory(folder / "tiny/1/train").read_metrics()
    last = (records[-1]["train_top1"] + others[-1]["train_top1"]) / 2
    assert line["ours"]["train_top1"] == pytest.approx(last)
    assert line["paper"] == {"flops": 0.5, "top1": 92.7}

    stored = json.loads((folder / "table0.json").read_text())
    assert stored["rows"] == result["rows"]
    text = (folder / "table0.md").read_text()
    assert "| 92.70 |" in text and "| 0.50 |" in text and f"{line['ours']['top1']:.2f} ± " in text
    assert SCALES["smoke"] in text


def test_pictures_are_files_by_themselves(made):
    folder, result = made
    files = [pathlib.Path(name) for name in result["out"] if name.endswith(".svg")]
    assert {path.name for path in files} == {
        "table0_test.svg",
        "table0_train.svg",
        "table0_gradients.svg",
        "table0_flops.svg",
    }
    for path in files:
        assert re.match(r"<\?xml .*\?>\n<svg .*</svg>\s*$", path.read_text(), flags=re.DOTALL)
    assert (
        "the paper&#x27;s" in (folder / "table0_flops.svg").read_text()
        or "the paper's" in (folder / "table0_flops.svg").read_text()
    )


def test_what_is_finished_is_not_run_again_and_other_settings_are_not_shown(made, wanted):
    folder, result = made
    records = (folder / "tiny/0/train/metrics.jsonl").read_text()
    assert reproduce(wanted, folder, name="table0", scale="smoke")["rows"] == result["rows"]
    assert (folder / "tiny/0/train/metrics.jsonl").read_text() == records

    # The same folder for longer runs: nothing of what stands there is taken for one of them.
    other = wanted.changed(lambda row: dataclasses.replace(row, train=longer))
    with pytest.raises(
        UserError, match=r"none of the runs .* config.num_epochs is 3 now and 2 there"
    ):
        reproduce(other, folder, name="table1", scale="smoke", count=True)
    assert not (folder / "table1.json").exists()


def test_count_runs_nothing(wanted, tmp_path):
    result = reproduce(wanted, tmp_path, name="table0", scale="smoke", count=True)
    (line,) = result["rows"]
    assert line["runs"] == 0 and line["ours"]["top1"] is None and line["ours"]["flops"] > 0
    assert not (tmp_path / "tiny").exists()
    assert [pathlib.Path(name).suffix for name in result["out"]] == [".json", ".md"]


def test_the_first_sum_of_gradients_is_of_the_weights_that_the_run_began_with(made):
    folder, _ = made
    sums = json.loads((folder / "tiny/0/gradients.json").read_text())
    assert sums["layers"][0] == "stem/conv" and len(sums["layers"]) == len(sums["last"])
    assert all(number >= 0 for number in sums["first"] + sums["last"])
    assert sums["first"] != sums["last"]


@pytest.mark.long
def test_rows_share_the_search_of_one_name(tmp_path):
    def searched(seed: int) -> ConfigDict:
        del seed
        config = search.get_config("digits")
        config.network.update({"num_cells": 3, "channels": 2})
        config.network.layer_types = ("none", "bin_conv_3x3")
        config.num_epochs, config.batch_size = 1, 256
        return config

    of_search = {"search": searched, "searched_as": "found", "seeds": 1}
    rows = (Row("two", train=tiny, **of_search), Row("three", train=longer, **of_search))
    wanted = Reproduction("t", rows=rows, columns=("top1", "early_learnable"))
    result = reproduce(wanted, tmp_path, name="table0", scale="smoke")
    assert not result["failed"]
    assert not (tmp_path / "two/0/search").exists()
    share = early_learnable_share(tmp_path / "found/0/search")
    assert share is not None
    assert [line["ours"]["early_learnable"] for line in result["rows"]] == [100 * share] * 2


# By the command.


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        ({"columns": ("top2",)}, "no column 'top2'; write one of top1, top5"),
        ({"paper": {"b": {}}}, "the paper's numbers of 'b' belong to no row; rows are a"),
        (
            {"paper": {"a": {"top5": 1.0}}, "columns": ("top1",)},
            "'a' has a number of the paper for 'top5', which is no column of the table",
        ),
    ],
)
def test_a_table_that_does_not_fit_its_numbers_is_refused(made_of, message):
    with pytest.raises(UserError, match=message):
        Reproduction("t", rows=(Row("a", train=tiny),), **made_of)


def test_a_table_of_counts_by_the_command(capfd, tmp_path):
    words = ["reproduce", "--table=D", "--scale=paper", f"--workdir={tmp_path}"]
    assert run(words) == 0
    printed = capfd.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert [line["name"] for line in result["rows"]] == ["BNAS-D", "BNAS-E"]
    assert "| BNAS-D | 0 | 14.30 | 13.91 | 21.93 | 20.85 |" in printed
    assert (tmp_path / "tableD.md").is_file()


def test_settings_of_the_command_line_reach_every_run(capfd, tmp_path):
    words = ["reproduce", "--table=9", "--scale=paper", f"--workdir={tmp_path}", "--count"]
    assert run([*words, "--rows=BNAS-A", "--config.dataset.name=imagenet2012"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    flops = {line["name"]: line["ours"]["flops"] for line in result["rows"]}
    # The same network on images of 224 pixels, 49 times as many; the classifier is another.
    assert 45 < flops["BNAS-A"] / 0.152 < 53


@pytest.mark.parametrize("figure", ["3", "5", "6", "7", "8"])
def test_figures_without_runs(capfd, tmp_path, figure):
    words = ["reproduce", f"--figure={figure}", "--scale=smoke", f"--workdir={tmp_path}"]
    assert run(words) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    (picture,) = [name for name in result["out"] if name.endswith(".svg")]
    assert "<svg" in pathlib.Path(picture).read_text()
