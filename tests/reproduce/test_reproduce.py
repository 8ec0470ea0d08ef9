"""Tables and figures of the paper: what they are made of, what is counted, and real
runs of tiny ones.
"""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import pytest
from ml_collections import ConfigDict

from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.cli import reproduce as reproduce_command
from bnas_jax.core import genotypes
from bnas_jax.core.errors import UserError
from bnas_jax.core.networks import Cells
from bnas_jax.core.schemes import Float, Xnor
from bnas_jax.data.batches import Batches
from bnas_jax.report.curves import chart_of_gradients
from bnas_jax.report.sheet import style
from bnas_jax.reproduce import Reproduction, pictures
from bnas_jax.reproduce.columns import COLUMNS
from bnas_jax.reproduce.reproduction import SCALES
from bnas_jax.reproduce.row_run import RowRun
from bnas_jax.reproduce.run import reproduce
from bnas_jax.reproduce.table import lines_of, markdown
from bnas_jax.runtime import devices
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.study import Row
from bnas_jax.study.results import early_learnable_share
from bnas_jax.study.table import DEVIATION
from bnas_jax.training import build
from bnas_jax.training.gradients import gradient_sums, gradients_of_run
from bnas_jax.training.load import load
from bnas_jax.training.run_data import dataset_of
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
        of_row = RowRun(row, folder=NOWHERE, seed=0)
        numbers = {name: COLUMNS[name].value(of_row) for name in wanted.columns}
        found[row.name] = {
            name: number for name, number in numbers.items() if number is not None
        }
    return found


@pytest.mark.long
@pytest.mark.parametrize("what", ["table9"])
def test_what_is_counted_is_within_a_tenth_of_the_paper_s(what):
    paper = get_reproduction(what, "paper").paper
    compared = 0
    for name, numbers in counted(what).items():
        for column, number in numbers.items():
            if column in paper[name]:
                assert number == pytest.approx(paper[name][column], rel=0.1), (
                    name,
                    column,
                )
                compared += 1
    assert compared


def test_tables_with_the_best_epoch_say_that_test_images_chose_it():
    for what in ("table8", "table11", "figure2", "figure4", "figure9", "figure10"):
        wanted = get_reproduction(what, "smoke")
        result = {
            "title": wanted.title,
            "scale": "smoke",
            "settings": [],
            "remark": wanted.remark,
            "columns": wanted.columns,
            "rows": [],
            "failed": {},
        }
        assert "best epoch, chosen on the test images, %" in markdown(result), what


def test_the_sizes_of_table_5_are_those_of_the_presets():
    table = get_reproduction("table5", "paper")
    for row in table.rows:
        network = settings.from_config(row.train(0)).network
        assert isinstance(network, Cells)
        assert network.num_cells == table.paper[row.name]["num_cells"]
        assert network.channels == table.paper[row.name]["channels"]


@pytest.mark.long
@pytest.mark.parametrize("scale", ["paper", "smoke"])
def test_every_network_of_three_layers_can_be_built(scale):
    for what in ("table1", "table12"):
        for row in get_reproduction(what, scale).rows:
            counted_row = RowRun(row, folder=NOWHERE, seed=0).counted
            assert counted_row is not None and counted_row["params"] > 0, row.name


def test_darts_s_normal_cell_is_five_eighths_separable():
    found = counted("table11")
    paper = get_reproduction("table11", "paper").paper
    assert (
        found["DARTS binarized"]["separable"]
        == paper["DARTS binarized"]["separable"]
        == 62.5
    )
    assert found["BNAS-A"]["separable"] == 0
    # A search that has not ended has no cell to count.
    assert found["BNAS-A separable"] == {}


# What each row is at the paper's scale: network, scheme, and what sets it apart.
ROWS = {
    "BNAS-A": "cells latest_cell_zeroise 20/36 xnor",
    "BNAS-Mini": "cells latest_cell_zeroise 10/24 xnor",
    "BNAS-D": "cells latest_cell 12/64 xnor",
    "BNAS-F": "cells latest_cell 12/84 xnor",
    "BNAS-G": "cells latest_cell 16/128 xnor",
    "BNAS-B no skip": "cells latest_cell_zeroise 12/64 xnor no skip",
    "BNAS-B no Zeroise": "cells latest_cell 12/64 xnor",
    "BNAS-C no diversity": "cells found 16/108 xnor",
    "BNAS-A separable": "cells found 20/36 xnor centred",
    "BNAS-A separable uncentred": "cells found 20/36 xnor",
    "DARTS": "cells found 20/36 float no skip recipe darts cutout",
    "DARTS zeroise": "cells found 20/36 float no skip recipe darts cutout",
    "DARTS without cutout": "cells found 20/36 float no skip recipe darts",
    "DARTS binarized": "cells darts_v2 20/36 xnor centred no skip",
    "SNAS binarized": "cells snas_mild 20/36 xnor centred no skip",
    "GDAS binarized uncentred": "cells gdas_f1 20/36 xnor no skip",
    "PCNN (WRN22 i=16)": "wrn22 16 pcnn",
    "PCNN (WRN22 i=64)": "wrn22 64 pcnn",
    "BinaryNet (ResNet18)": "resnet18 64 binarynet",
    "XNOR-Net (SENet)": "senet18 64 xnor",
    "ResNet18 float": "resnet18 64 float",
    "Bi-Real (ImageNet)": "imagenet_resnet18 64 bireal",
    "XNOR-Net++ (ImageNet)": "imagenet_resnet18 64 xnor_pp",
    "ABC-Net (ImageNet)": "imagenet_resnet18 64 abc_net",
    "CBCN (ImageNet)": "imagenet_resnet18 64 cbcn",
    "bin_conv_3x3 float": "small_cnn bin_conv_3x3 float",
    "sep_conv_5x5 binary": "small_cnn sep_conv_5x5 xnor centred",
    "sep_conv_5x5 binary uncentred": "small_cnn sep_conv_5x5 xnor",
    "mobinet_k4_3x3 binary": "small_cnn mobinet_k4_3x3 xnor centred",
}


def described(row: Row) -> str:
    """A row as in `ROWS`."""
    config = row.train(0)
    if row.search is not None:
        config.network.genotype = "latest_cell"
    found = settings.from_config(config)
    assert isinstance(found, TrainSettings)
    network, values = found.network, settings.to_dict(found)
    words = [values["network"]["name"]]
    if isinstance(network, Cells):
        named = {genotypes.load(name): name for name in genotypes.named()}
        words.append("found" if row.search is not None else named[network.genotype])
        words.append(f"{network.num_cells}/{network.channels}")
    else:
        words.append(str(getattr(network, "layer_type", None) or network.width))
    words.append(values["scheme"]["name"])
    if getattr(found.scheme, "depthwise_center", False):
        words.append("centred")
    if isinstance(network, Cells) and not network.skip:
        words.append("no skip")
    if found.recipe != "none":
        words.append(f"recipe {found.recipe}")
    if found.dataset.cutout:
        words.append("cutout")
    return " ".join(words)


def test_rows_are_the_networks_of_the_paper():
    rows = {row.name: row for row in rows_of("paper")}
    assert {name: described(rows[name]) for name in ROWS} == ROWS


def test_rows_are_trained_as_long_as_the_paper_says():
    epochs: dict[str, set[int]] = {}
    for row in rows_of("paper"):
        config = row.train(0)
        if row.search is not None:
            config.network.genotype = "latest_cell"
        run = settings.from_config(config)
        is_small = settings.to_dict(run)["network"]["name"] == "small_cnn"
        kind = "small" if is_small else run.dataset.name
        epochs.setdefault(kind, set()).add(run.num_epochs)
    assert epochs == {"small": {50}, "cifar10": {600}, "imagenet2012": {250}}


def test_searches_are_the_ablations_of_their_rows():
    searches = {}
    for row in rows_of("paper"):
        if row.search is not None:
            searches[row.name] = settings.from_config(row.search(0))
    assert searches["BNAS-A no diversity"].searcher.diversity == 0
    assert searches["BNAS-A searched"].searcher.diversity == 1
    assert "bin_dil_conv_3x3" not in searches["BNAS-A no dilated"].network.layer_types
    assert "sep_conv_3x3" in searches["BNAS-A separable"].network.layer_types
    assert searches["BNAS-A separable"].scheme.depthwise_center
    assert not searches["BNAS-A separable uncentred"].scheme.depthwise_center
    assert searches["DARTS zeroise"].searcher.keep_zeroise
    assert not searches["DARTS"].searcher.keep_zeroise
    assert (
        isinstance(searches["DARTS"].scheme, Float)
        and not searches["DARTS"].network.skip
    )
    assert searches["DARTS diversity without cutout"].searcher.diversity == 1


# The lines of the paper's tables, as they are printed.
PRINTED = {
    "table1": "61.78 46.15 60.14 42.53 56.97 41.02 55.17 37.68 56.38 10.00 57.00 10.00",
    "table2": "99.18 97.45 35.64 94.43 93.41 89.47 97.46 92.70",
    "table4": "96.53 96.73 90.95 92.70",
    "table6": (
        "89.16 90.12 88.82 85.16 86.28 88.12 89.95 92.70 88.54 91.58 94.31 93.76 84.27 "
        "94.43 94.73"
    ),
    "table7": (
        "42.20 67.10 42.70 67.60 51.20 73.20 57.69 79.89 56.40 79.50 57.10 79.90 57.30 "
        "80.00 58.76 80.61 69.76 89.08"
    ),
    "table8": "92.70 61.23 89.47 90.95 93.76 67.15 91.69 91.55 94.43 70.58 88.74 92.66",
    "table9": "31.79 0.36 58.01 89.47 91.06 0.14 149.14 92.70",
    "table10": "88.82 92.22 92.70",
    "table11": "10.01 62.50 41.72 36.75 43.19 36.75 89.66 12.50 92.70 0.00",
    "table12": "56.38 10.00 10.00 10.00",
    "table13": "2.49 61.40 82.80 6.39 63.51 83.91",
    "tableD": "13.91 20.85 14.51 21.15",
}


@pytest.mark.parametrize("what", PRINTED)
def test_the_paper_s_numbers_are_as_printed(what):
    wanted = get_reproduction(what, "paper")
    found = []
    for row in wanted.rows:
        numbers = wanted.paper[row.name]
        # FLOPs of Tables 6, 7 and 10 are classes.
        if what in ("table6", "table7", "table10"):
            numbers = {
                name: value for name, value in numbers.items() if name != "flops"
            }
        found += [f"{value:.2f}" for value in numbers.values()]
    assert " ".join(found) == PRINTED[what]


# The classes of FLOPs of the networks, 1e8.
CLASSES = {
    "table6": (
        "0.04 0.04 0.16 0.16 0.16 0.16 0.16 0.16 0.27 0.27 0.27 0.27 0.90 0.90 1.41"
    ),
    "table7": "1.48 1.48 1.48 1.48 1.63 1.63 1.63 1.63 18.25",
    "table10": "0.16 0.16 0.16",
}


@pytest.mark.parametrize("what", CLASSES)
def test_the_paper_s_classes_of_flops_are_as_printed(what):
    wanted = get_reproduction(what, "paper")
    found = [f"{wanted.paper[row.name]['flops']:.2f}" for row in wanted.rows]
    assert " ".join(found) == CLASSES[what]


@pytest.mark.parametrize("what", ["table8", "figure4", "figure9", "figure10"])
def test_networks_without_skips_say_whose_cell_they_have(what):
    remark = get_reproduction(what, "paper").remark
    (preset,) = re.findall(r"configs/ablations\.py:(\w+)", remark)
    run = settings.from_config(ablations.get_config(preset))
    assert isinstance(run, SearchSettings)
    assert not run.network.skip
    # Only its caption has a number.
    assert ("150 epochs" in remark) == (what == "figure4")


def test_figure_1_has_what_table_6_has_of_xnor_net_s_scheme():
    figure = get_reproduction("figure1", "paper")
    assert len(figure.rows) == 11
    for row in figure.rows:
        assert isinstance(settings.from_config(row.train(0)).scheme, Xnor)


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


def test_a_row_has_the_mean_of_its_runs_beside_the_paper_s_number(made, wanted):
    folder, result = made
    (line,) = result["rows"]
    summaries = [
        RunDirectory(folder / f"tiny/{seed}/train").summary() for seed in (0, 1)
    ]
    first, second = (summary["top1"] for summary in summaries)
    assert line["runs"] == 2 and line["ours"]["top1"] == pytest.approx(
        (first + second) / 2
    )
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
    assert (
        "| 92.70 |" in text
        and "| 0.50 |" in text
        and f"{line['ours']['top1']:.2f} ± " in text
    )
    assert SCALES["smoke"] in text and DEVIATION in text

    # Where a third seed lacks, the numbers are those of the two.
    more = dataclasses.replace(
        wanted, rows=(dataclasses.replace(wanted.rows[0], seeds=3),)
    )
    (line_of_three,) = lines_of(more, folder)
    assert line_of_three == {**line, "seeds": 3}
    assert "| tiny | 2 of 3 |" in markdown({**result, "rows": [line_of_three]})

    # A bar in a name does not end its cell.
    result = {**result, "rows": [{**line, "name": "3|5 bits"}]}
    assert r"| 3\|5 bits | 2 |" in markdown(result)


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
        assert re.match(
            r"<\?xml .*\?>\n<svg .*</svg>\s*$", path.read_text(), flags=re.DOTALL
        )
    # Ours and the paper's, which is a ring.
    curves = (folder / "table0_test.svg").read_text()
    assert "test accuracy (top-1) in %, seed 0" in curves
    points = (folder / "table0_flops.svg").read_text()
    assert "rings: the paper" in points and "fill: none" in points


def test_what_is_finished_is_not_run_again_and_other_settings_are_not_shown(
    made, wanted
):
    folder, result = made
    records = (folder / "tiny/0/train/metrics.jsonl").read_text()
    assert (
        reproduce(wanted, folder, name="table0", scale="smoke")["rows"]
        == result["rows"]
    )
    assert (folder / "tiny/0/train/metrics.jsonl").read_text() == records

    # The same folder for longer runs: nothing of what stands there is taken for one of
    # them.
    other = dataclasses.replace(
        wanted, rows=(dataclasses.replace(wanted.rows[0], train=longer),)
    )
    longer_result = reproduce(other, folder, name="table1", scale="smoke", count=True)
    (line,) = longer_result["rows"]
    assert (
        line["runs"] == 0 and line["ours"]["top1"] is None and line["ours"]["flops"] > 0
    )
    assert set(line["not_shown"]) == {"0", "1"}
    assert "config.num_epochs is 3 now and 2 there" in line["not_shown"]["0"]
    assert "Not shown: tiny/1: " in (folder / "table1.md").read_text()


def test_a_run_that_fails_is_named_beside_those_that_ended(made, wanted):
    folder, _ = made

    def failing(seed: int) -> ConfigDict:
        config = tiny(seed)
        config.dataset.path = "/nowhere"
        config.dataset.name = "folder"
        return config

    rows = (*wanted.rows, Row("lost", train=failing, seeds=1))
    both = dataclasses.replace(wanted, rows=rows, pictures={})
    result = reproduce(both, folder, name="table2", scale="smoke")
    assert [line["runs"] for line in result["rows"]] == [2, 0]
    assert "/nowhere" in result["failed"]["lost/0"]
    assert "Failed: lost/0: " in (folder / "table2.md").read_text()
    # Where none has ended there is no table, but an error.
    alone = dataclasses.replace(both, rows=rows[1:], paper={})
    with pytest.raises(
        UserError, match=r"none of the runs could be made; lost/0: .*/nowhere"
    ):
        reproduce(alone, folder, name="table3", scale="smoke")
    assert not (folder / "table3.json").exists()


def test_what_is_counted_varies_with_the_cells_of_the_seeds(tmp_path):
    def config_of(seed: int) -> ConfigDict:
        config = tiny(seed)
        config.network.genotype = ("darts_v2", "snas_mild")[seed]
        return config

    rows = (
        Row("cells", train=config_of, seeds=2),
        Row("cell", train=lambda seed: config_of(0), seeds=2),
    )
    wanted = Reproduction("t", rows=rows, columns=("separable",))
    of_cells, of_cell = lines_of(wanted, tmp_path)
    assert of_cells["ours"]["separable"] == 50  # of 62.5 and 37.5
    assert of_cells["deviation"]["separable"] == pytest.approx(25 / 2**0.5)
    assert of_cell["deviation"]["separable"] is None


def test_count_runs_nothing(wanted, tmp_path):
    result = reproduce(wanted, tmp_path, name="table0", scale="smoke", count=True)
    (line,) = result["rows"]
    assert (
        line["runs"] == 0 and line["ours"]["top1"] is None and line["ours"]["flops"] > 0
    )
    assert not (tmp_path / "tiny").exists()
    assert [pathlib.Path(name).suffix for name in result["out"]] == [".json", ".md"]


def test_gradients_are_those_of_the_run_s_weights_on_its_first_batch(made):
    folder, _ = made
    path = folder / "tiny/1/train"
    sums = gradients_of_run(path)
    assert sums["step"] == RunDirectory(path).summary()["steps"]
    assert sums["layers"] == [
        "stem/conv",
        "cell0/preprocess/input0/conv",
        "cell0/preprocess/input1/conv",
    ]
    # The run's own step, whose first batch is the same one.
    found = settings.from_config(RunDirectory(path).config())
    assert isinstance(found, TrainSettings)
    dataset = dataset_of(found.dataset)
    program = build.training(found, dataset, devices.ONE)
    batch = Batches(dataset, batch_size=found.batch_size, seed=found.seed).train_batch(
        0
    )
    of = jax.jit(lambda variables: gradient_sums(program.model, variables, batch))
    first, last = of(program.create(found.seed).variables), of(load(path)[1])
    for name, expected in (("first", first), ("last", last)):
        numbers = [float(expected[layer]) for layer in sums["layers"]]
        assert sums[name] == pytest.approx(numbers, rel=1e-4)


def test_a_run_that_began_with_other_weights_has_no_first_gradients(made, tmp_path):
    folder, _ = made
    path = shutil.copytree(folder / "tiny/1/train", tmp_path / "run")
    facts = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(
        json.dumps({**facts, "init": {"workdir": "runs/other"}})
    )
    sums = gradients_of_run(path)
    assert sums["first"] is None and len(sums["last"]) == len(sums["layers"])
    with style():
        assert "before the first step" not in chart_of_gradients(sums)


@pytest.mark.long
def test_gradients_of_another_step_are_computed_anew(capfd, made, wanted):
    folder, _ = made
    path = folder / "tiny/0/train"
    assert run(["gradients", f"--workdir={path}", "--step=5"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (
        result["step"] == 5
        and json.loads((path / "gradients.json").read_text()) == result
    )
    pictures.gradients(wanted, folder)
    assert json.loads((path / "gradients.json").read_text())["step"] == 10


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
    rows = (
        Row("two", train=tiny, **of_search),
        Row("three", train=longer, **of_search),
    )
    wanted = Reproduction("t", rows=rows, columns=("top1", "early_learnable"))
    result = reproduce(wanted, tmp_path, name="table0", scale="smoke")
    assert not result["failed"]
    assert not (tmp_path / "two/0/search").exists()
    share = early_learnable_share(tmp_path / "found/0/search")
    assert share is not None
    assert [line["ours"]["early_learnable"] for line in result["rows"]] == [
        100 * share
    ] * 2


# By the command.


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        ({"columns": ("top2",)}, "no column 'top2'; write one of top1, best_top1"),
        (
            {"paper": {"b": {}}},
            "the paper's numbers of 'b' belong to no row; rows are a",
        ),
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
    # The remark names the other savings.
    for name, saving in (("BNAS-D", "14.67"), ("BNAS-E", "15.11")):
        (row,) = [row for row in rows_of("paper") if row.name == name][:1]
        of_row = RowRun(row, folder=NOWHERE, seed=0)
        number = COLUMNS["memory_saving_without_bn"].value(of_row)
        assert f"{number:.2f}" == saving and saving in result["remark"]
    assert (tmp_path / "tableD.md").is_file()


@pytest.mark.long
def test_settings_of_the_command_line_reach_every_run(capfd, tmp_path):
    words = [
        "reproduce",
        "--table=9",
        "--scale=paper",
        f"--workdir={tmp_path}",
        "--count",
    ]
    assert run([*words, "--rows=BNAS-A", "--config.dataset.name=imagenet2012"]) == 0
    printed = capfd.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    flops = {line["name"]: line["ours"]["flops"] for line in result["rows"]}
    # The same network on images of 224 pixels, 49 times as many; the classifier is
    # another.
    assert 45 < flops["BNAS-A"] / 0.152 < 53
    # Rows that are not run with it stay as they are, and the table says what was
    # changed.
    assert flops["BNAS-A no Zeroise"] == pytest.approx(0.3648, rel=1e-3)
    assert "`--config.dataset.name=imagenet2012`" in printed


def test_a_setting_reaches_the_runs_that_have_it(capfd, tmp_path):
    words = [
        "reproduce",
        "--table=4",
        "--scale=paper",
        f"--workdir={tmp_path}",
        "--count",
    ]
    assert (
        run(
            [*words, "--config.searcher.tau=5", "--config.optimizer.learning_rate=0.01"]
        )
        == 0
    )
    changed = with_settings(
        ["--config.searcher.tau=5", "--config.optimizer.momentum=0.5"]
    )
    (row,) = [row for row in changed.rows if row.name == "BNAS-A no diversity"]
    assert row.search is not None
    assert row.search(0).searcher.tau == 5 and row.train(0).optimizer.momentum == 0.5


def with_settings(words: list[str]) -> Reproduction:
    """Table 4 as the command changes it."""
    table = get_reproduction("table4", "paper")
    return reproduce_command._changed(table, words, only=(), seeds=3)


def test_seeds_are_of_every_row():
    assert {row.seeds for row in with_settings([]).rows} == {3}


def test_figure_6_shows_a_block_of_resnet18_beside_the_cells_of_bnas(capfd, tmp_path):
    words = ["reproduce", "--figure=6", "--scale=smoke", f"--workdir={tmp_path}"]
    assert run(words) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    names = [pathlib.Path(name).name for name in result["out"]]
    assert names == ["figure6_resnet.svg", "figure6_cells.svg"]

    # Two blocks of two binary convolutions each; the shortcut of one convolves.
    picture = (tmp_path / "figure6_resnet.svg").read_text()
    assert picture.count("bin_conv_3x3</text>") == 3
    assert picture.count("bin_conv_3x3, stride 2</text>") == 1
    assert picture.count('-shortcut"') == 2
    assert picture.count("conv_1x1, stride 2</text>") == 1
    assert "c_(k-2)</text>" in (tmp_path / "figure6_cells.svg").read_text()


@pytest.mark.parametrize("figure", ["3", "5", "7", "8"])
def test_figures_without_runs(capfd, tmp_path, figure):
    words = [
        "reproduce",
        f"--figure={figure}",
        "--scale=smoke",
        f"--workdir={tmp_path}",
    ]
    assert run(words) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    (picture,) = [name for name in result["out"] if name.endswith(".svg")]
    assert "<svg" in pathlib.Path(picture).read_text()
