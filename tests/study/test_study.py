"""Studies: runs over seeds, a table of figures, and going on after a stop."""

import dataclasses
import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from bnas_jax.__main__ import run
from bnas_jax.cli.study import study_of
from bnas_jax.core import genotypes
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import learnable_share
from bnas_jax.study import Row, Study, run_study
from bnas_jax.study.results import early_learnable_share, write_study
from bnas_jax.study.rows import search_settings, training_settings
from bnas_jax.study.table import figures, markdown
from configs import baselines, search, train

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_compilation_cache")

SAME = {0: 97.0, 1: 98.0, 2: 99.0}


def test_a_row_has_the_mean_and_the_deviation_of_a_sample():
    (row,) = figures({"a": SAME})["rows"]
    assert (
        row["mean"] == 98
        and row["deviation"] == 1
        and (row["min"], row["max"]) == (97, 99)
    )
    assert figures({"a": {0: 97.0}})["rows"][0]["deviation"] is None


def test_rows_of_the_same_seeds_are_compared_seed_by_seed():
    # Differences of 1.0, 1.1 and 0.9: their mean over their standard error is 1 / (0.1
    # / sqrt(3)).
    rows = figures({"a": SAME, "b": {0: 98.0, 1: 99.1, 2: 99.9}}, baseline="a")["rows"]
    assert rows[1]["difference"] == pytest.approx(1.0)
    statistic = 1 / (0.1 / np.sqrt(3))
    # Student's t with two degrees of freedom: P(|T| > t) = 1 - t / sqrt(2 + t^2).
    assert rows[1]["p"] == pytest.approx(1 - statistic / np.sqrt(2 + statistic**2))
    assert "p" not in rows[0]


def test_rows_of_other_seeds_are_compared_as_two_samples():
    rows = figures(
        {"a": SAME, "b": dict(enumerate([95.0, 97.0, 96.0, 98.0, 94.0]))}, baseline="a"
    )["rows"]
    assert 0 < rows[1]["p_welch"] < 1
    # Those of the same seeds are compared with each other, too.
    ours = [95.0, 97.0, 96.0]
    pairs = figures({"a": SAME, "b": dict(enumerate(ours))}, baseline="a")["rows"]
    assert rows[1]["p"] == pairs[1]["p"] != rows[1]["p_welch"]


def test_of_two_samples_each_has_its_own_deviation():
    """Welch's test: degrees of freedom between 2, of the row that varies, and 4."""
    steady, other = {0: 97.0, 1: 97.1, 2: 96.9}, {0: 98.0, 1: 99.0, 2: 100.0}
    _, row = figures({"a": steady, "b": other}, baseline="a")["rows"]
    first, second = 0.01 / 3, 1 / 3  # the squared errors of both means
    freedom = (first + second) ** 2 / ((first**2 + second**2) / 2)
    expected = 2 * stats.t.sf(2 / np.sqrt(first + second), freedom)
    assert row["p_welch"] == pytest.approx(expected)


def test_a_row_that_does_not_vary_is_compared_without_a_warning():
    """All the deviation is the other row's: Student's t with its two degrees."""
    chance, other = {0: 10.0, 1: 10.0, 2: 10.0}, {0: 98.0, 1: 99.0, 2: 100.0}
    _, row = figures({"a": chance, "b": other}, baseline="a")["rows"]
    expected = 2 * stats.t.sf(89 * np.sqrt(3), 2)
    assert row["p_welch"] == pytest.approx(expected)


def test_early_in_a_search_are_the_first_20_of_50_epochs(tmp_path):
    # Shares of 1 for 20 epochs, then of 0.
    lines = [
        json.dumps({"step": epoch, "learnable_share": float(epoch < 20)})
        for epoch in range(50)
    ]
    metrics = tmp_path / "metrics.jsonl"
    for count, share in ((50, 1.0), (25, 1.0), (1, 1.0)):
        metrics.write_text("\n".join(lines[:count]) + "\n")
        assert early_learnable_share(tmp_path) == share
    metrics.write_text("\n".join(lines[10:]) + "\n")
    assert early_learnable_share(tmp_path) == 10 / 16
    metrics.write_text('{"step": 0}\n')
    assert early_learnable_share(tmp_path) is None


def test_rows_that_do_not_differ_have_no_probability():
    rows = figures({"a": SAME, "b": SAME}, baseline="a")["rows"]
    assert rows[1]["difference"] == 0 and rows[1]["p"] is None
    text = markdown({"title": "t", **figures({"a": SAME, "b": SAME}, baseline="a")})
    assert "| b | 3 | 98.00 | 1.00 | 97.00 to 99.00 | +0.00 |  |" in text


def test_what_varies_by_rounding_alone_has_no_probability():
    # One more of 360 images is right with each seed.
    right = (350, 347, 352, 341)
    fewer = {seed: 100 * count / 360 for seed, count in enumerate(right)}
    more = {seed: 100 * (count + 1) / 360 for seed, count in enumerate(right)}
    row = figures({"a": fewer, "b": more}, baseline="a")["rows"][1]
    assert row["p"] is None and row["p_welch"] > 0.5
    # Two samples of one number each.
    chance = {0: 10.0, 1: 10.0, 2: 10.0}
    row = figures({"a": {0: 90.0, 1: 90.0}, "b": chance}, baseline="a")["rows"][1]
    assert row["p"] is None and row["p_welch"] is None


def test_a_bar_in_a_name_does_not_end_its_cell():
    found = figures({"3|5 bits": SAME, "b": SAME}, baseline="3|5 bits")
    text = markdown({"title": "t", **found})
    assert r"| difference to 3\|5 bits, points |" in text
    assert r"| 3\|5 bits | 3 |" in text


def test_a_table_says_what_its_numbers_are_and_what_it_lacks():
    rows = figures({"a": SAME, "b": {0: 97.5, 1: 99.0}, "c": {}}, baseline="a")
    text = markdown({**rows, "without_runs": ["c"]})
    assert "Deviations are those of a sample (n - 1) over the runs of a row." in text
    assert "in common with a; p, Welch: over all runs; not corrected for" in text
    assert text.endswith("\n\nNo finished run: c.\n")
    # Without a baseline there is no p.
    assert "p:" not in markdown(figures({"a": SAME}))


def test_a_row_that_lacks_runs_says_of_how_many_it_is():
    (row,) = figures({"a": SAME})["rows"]
    assert "| a | 3 |" in markdown({"rows": [{**row, "seeds": 3}]})
    assert "| a | 3 of 5 |" in markdown({"rows": [{**row, "seeds": 5}]})


def tiny(config: ConfigDict, **network) -> ConfigDict:
    config.network.update({"num_cells": 3, "channels": 2, **network})
    config.num_epochs = 1
    config.batch_size = 256
    return config


def trained(seed: int) -> ConfigDict:
    del seed
    return tiny(train.get_config("digits"), num_cells=1)


def shorter(seed: int) -> ConfigDict:
    config = trained(seed)
    config.batch_size = 512
    return config


def searched(seed: int) -> ConfigDict:
    del seed
    return tiny(search.get_config("digits"), layer_types=("none", "bin_conv_3x3"))


def test_each_run_of_a_row_has_its_seed(tmp_path):
    row = Row("a", train=trained, search=searched)
    assert [search_settings(row, seed=seed).seed for seed in (0, 1)] == [0, 1]
    alone = dataclasses.replace(row, search=None)
    of_seed = lambda seed: training_settings(alone, folder=tmp_path, seed=seed)
    assert [of_seed(seed).seed for seed in (0, 1)] == [0, 1]


def test_the_first_epochs_of_a_search_are_two_of_four(tmp_path):
    """40 % of them, rounded."""
    shares = enumerate([1.0, 0.5, 0.0, 0.0])
    lines = [json.dumps({"step": n, "learnable_share": share}) for n, share in shares]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert early_learnable_share(tmp_path) == 0.75


def test_a_study_trains_each_seed_and_goes_on(tmp_path):
    study = Study("tiny", (Row("trained", train=trained, seeds=2),), baseline="trained")
    result = run_study(study, tmp_path)
    assert len(result["rows"][0]["top1"]) == 2 and not result["failed"]
    assert json.loads((tmp_path / "study.json").read_text()) == result
    assert "| trained | 2 |" in (tmp_path / "study.md").read_text()

    # A row that is to have more runs says so.
    more = Study("tiny", (dataclasses.replace(study.rows[0], seeds=3),))
    (line,) = write_study(more, folder=tmp_path, failed={})["rows"]
    assert (len(line["top1"]), line["seeds"]) == (2, 3)

    # What is finished is not run again, which would take a new record.
    before = (tmp_path / "trained/0/train/metrics.jsonl").read_text()
    assert run_study(study, tmp_path) == result
    assert (tmp_path / "trained/0/train/metrics.jsonl").read_text() == before
    with pytest.raises(UserError, match="no row 'other'; write one of trained"):
        run_study(study, tmp_path, only=("other",))

    # Half a summary is written anew.
    path = tmp_path / "trained/0/train/summary.json"
    path.write_text(path.read_text()[:20])
    assert run_study(study, tmp_path) == result

    # So it is where its config lacks a setting that is newer than it.
    path = tmp_path / "trained/1/train/config.json"
    older = json.loads(path.read_text())
    del older["teacher"]
    path.write_text(json.dumps(older))
    assert run_study(study, tmp_path) == result

    # Rows that are left out this time keep their place; a run of other settings is not
    # taken for this one.
    further = Study("tiny", (*study.rows, Row("further", train=shorter, seeds=1)))
    assert [
        row["name"] for row in run_study(further, tmp_path, only=("further",))["rows"]
    ] == [
        "trained",
        "further",
    ]
    changed = Study("tiny", (Row("trained", train=shorter, seeds=1),))
    result = run_study(changed, tmp_path)
    assert "config.batch_size is 512 now and 256 there" in result["failed"]["trained/0"]
    # Nor are its numbers shown, where it is not to be run either.
    assert not result["rows"] and not result["not_shown"]
    assert result["without_runs"] == ["trained"]
    both = Study("tiny", (*changed.rows, further.rows[1]))
    result = run_study(both, tmp_path, only=("further",))
    assert [row["name"] for row in result["rows"]] == ["further"]
    assert (
        "config.batch_size is 512 now and 256 there" in result["not_shown"]["trained/0"]
    )
    assert "Not shown: trained/0: " in (tmp_path / "study.md").read_text()


STUDY = """
from bnas_jax.study import Row, Study
from configs import train

def lost(seed):
    config = train.get_config("digits")
    config.dataset.name, config.dataset.path = "folder", "/nowhere"
    return config

def get_study(variant):
    return Study("of lost images", (Row("lost", train=lost, seeds=1),))
"""


def test_the_exit_code_says_that_runs_failed(tmp_path, capsys):
    (tmp_path / "lost.py").write_text(STUDY)
    code = run(
        ["study", f"--study={tmp_path}/lost.py:any", f"--workdir={tmp_path}/study"]
    )
    out, err = capsys.readouterr()
    assert (
        code == 1 and "/nowhere" in json.loads(out.splitlines()[-1])["failed"]["lost/0"]
    )
    assert (
        err.splitlines()[-1]
        == "bnas_jax: failed runs: lost/0; the same command tries them again"
    )


def test_get_study_may_take_no_variant(tmp_path):
    path = tmp_path / "lost.py"
    path.write_text(STUDY)
    assert (
        study_of(f"{path}:any").title == study_of(str(path)).title == "of lost images"
    )
    path.write_text(STUDY.replace("(variant)", "()"))
    assert study_of(str(path)).title == "of lost images"
    with pytest.raises(UserError, match="no variant; leave out what follows the colon"):
        study_of(f"{path}:any")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: Row("a", train=3),
            "must be a function from a seed to a config, got 3",
        ),
        (lambda: Row("a", train=trained, seeds=0), "must be at least 1, got 0"),
        (
            lambda: Study("t", (Row("a", train=trained),) * 2),
            "two rows of the name 'a'",
        ),
        (
            lambda: Study("t", (Row("a", train=trained),), baseline="b"),
            "baseline='b' is not a row of the study; write one of a",
        ),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(made, message):
    with pytest.raises(UserError, match=message):
        made()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda seed: 3, "the row 'wrong' gives a int, not a config"),
        (lambda seed: seed.missing, "the row 'wrong' ended with AttributeError"),
        (searched, "`train` of a row needs a config such as configs/train.py:digits"),
    ],
)
def test_a_mistake_in_the_last_row_shows_before_the_first_run(
    tmp_path, function, message
):
    rows = (Row("right", train=trained), Row("wrong", train=function))

    with pytest.raises(UserError, match=message):
        run_study(Study("t", rows), tmp_path / "new")

    assert not (tmp_path / "new").exists()


def test_a_row_with_a_search_needs_a_training_of_cells(tmp_path):
    row = Row(
        "a", train=lambda seed: baselines.get_config("digits_nin"), search=searched
    )
    with pytest.raises(UserError, match="genotype is not a setting of"):
        run_study(Study("t", (row,)), tmp_path)


@pytest.mark.long
def test_a_row_with_a_search_trains_the_cell_that_it_finds(tmp_path):
    row = Row("searched", train=trained, search=searched, seeds=1)
    result = run_study(Study("tiny", (row,)), tmp_path)
    workdir = tmp_path / "searched/0"
    config = json.loads((workdir / "train/config.json").read_text())
    found = genotypes.load(str(workdir / "search"))
    assert genotypes.from_dict(config["network"]["genotype"]) == found
    assert result["rows"][0]["learnable_share"] == learnable_share(found)
