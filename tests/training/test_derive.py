"""The command `derive`: other genotypes of the alphas that a search has left, without
an accelerator.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from commands import error, printed

from bnas_jax import settings
from bnas_jax.core import derivation, genotypes
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3
from bnas_jax.search import SEARCHERS, Bnas, Searcher
from bnas_jax.search.searcher import DERIVATION
from bnas_jax.training.derive import rule_of, taken
from configs import search as search_configs
from configs import train as train_configs

ROOT = pathlib.Path(__file__).parents[2]
EPOCHS = 3


@pytest.fixture
def workdir(tmp_path) -> pathlib.Path:
    """A search under way, three epochs ended.

    Row r of its alphas is for Zeroise, and nearly as much for layer type r + 1.
    """
    config = search_configs.get_config("digits")
    history = np.zeros((EPOCHS + 1, 14, len(TABLE_3)), np.float32)
    history[:, :, 0] = 5.5
    for row in range(EPOCHS + 1):
        history[row, :, row + 1] = 5.0
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(settings.to_dict(settings.from_config(config)))
    )
    np.savez(
        folder / "alphas.npz",
        normal=history,
        reduce=history,
        valid_top1=np.array([10, 30, 20], np.float32),
    )
    return folder


def derived(capfd, workdir: pathlib.Path, *options: str) -> tuple[dict, set[str]]:
    """(the JSON that the command ends with; the layer types of the cells that it
    wrote).
    """
    out = workdir.parent / "cell.json"
    summary = printed(capfd, "derive", f"--workdir={workdir}", f"--out={out}", *options)
    written = genotypes.load(str(out))
    assert genotypes.from_dict(summary["genotype"]) == written and summary[
        "out"
    ] == str(out)
    return summary, {
        edge.layer_type
        for cell in (written.normal, written.reduce)
        for edge in genotype_lib.edges(cell)
    }


@pytest.mark.parametrize(
    ("options", "epoch", "layer"),
    [
        ([], 1, "none"),  # as the config says: the best epoch, gamma 1, with Zeroise
        (["--gamma=3"], 1, TABLE_3[3]),
        (["--gamma=0.5"], 1, "none"),
        (["--keep_zeroise=False"], 1, TABLE_3[3]),
        (["--keep_zeroise=True"], 1, "none"),
        (["--gamma=3", "--as_of=before"], 1, TABLE_3[2]),
        (["--gamma=3", "--as_of=after"], 1, TABLE_3[3]),
        (["--gamma=3", "--epoch=0"], 0, TABLE_3[2]),
        (["--gamma=3", "--epoch=0", "--as_of=before"], 0, TABLE_3[1]),
        (["--gamma=3", "--epoch=last"], 2, TABLE_3[4]),
        (["--gamma=3", "--epoch=best"], 1, TABLE_3[3]),
    ],
)
def test_a_genotype_is_taken_by_the_rules_that_are_given(
    capfd, workdir, options, epoch, layer
):
    summary, layers = derived(capfd, workdir, *options)
    assert (summary["epoch"], layers) == (epoch, {layer})
    gamma = next(
        (float(o.removeprefix("--gamma=")) for o in options if "gamma" in o), 1.0
    )
    assert summary["gamma"] == gamma


def test_what_is_not_given_is_as_the_runs_config_says(capfd, workdir):
    config = json.loads((workdir / "config.json").read_text())
    searcher = {**config["searcher"], "gamma": 3.0, "keep_zeroise": True}
    changed = {"searcher": searcher, "select": "last", "alphas_as_of": "before"}
    (workdir / "config.json").write_text(json.dumps({**config, **changed}))
    summary, layers = derived(capfd, workdir)
    assert (summary["epoch"], summary["gamma"], layers) == (2, 3.0, {TABLE_3[3]})
    assert derived(capfd, workdir, "--gamma=1")[1] == {"none"}


@dataclasses.dataclass(frozen=True)
class Threshold(Searcher):
    """A user's searcher: a probability of at most `least` is none."""

    # Written as where annotations are not evaluated.
    least: "float | None" = dataclasses.field(default=0.0, metadata=DERIVATION)

    def derive_cell(self, weights):
        weights = np.where(weights > self.least, weights, 0)
        return derivation.derive(weights, layer_types=self.layer_types)


def test_the_derivation_of_a_users_searcher_has_options_of_its_own(
    capfd, workdir, monkeypatch
):
    monkeypatch.setitem(SEARCHERS, "threshold", Threshold)
    config = json.loads((workdir / "config.json").read_text())
    searcher = {"searcher": {"name": "threshold"}}
    (workdir / "config.json").write_text(json.dumps({**config, **searcher}))
    summary, layers = derived(capfd, workdir)
    assert (summary["least"], layers) == (0.0, {"none"})
    # Nothing is above 0.9, so that the first layer type and the first edges stand for
    # all.
    summary, _ = derived(capfd, workdir, "--least=0.9")
    sources = [source for _, source in summary["genotype"]["normal"]]
    assert (summary["least"], sources) == (0.9, [0, 1] * 4)
    assert "--least=all: write a number" in refused(capfd, workdir, "--least=all")
    assert "the searcher threshold of " in refused(capfd, workdir, "--gamma=3")


@pytest.mark.parametrize("name", ["workdir", "epoch", "out", "as_of", "extensions"])
def test_a_setting_of_the_derivation_is_not_named_like_another_option(
    capfd, workdir, monkeypatch, name
):
    """It is said before the search, too, whose config would have that name."""
    least = dataclasses.field(default=0.0, metadata=DERIVATION)
    mine = dataclasses.make_dataclass(
        "Mine", [(name, float, least)], bases=(Searcher,), frozen=True
    )
    monkeypatch.setitem(SEARCHERS, "mine", mine)
    message = (
        f"Mine.{name} cannot become an option of derive, which has another --{name}; "
        "give the field another name"
    )
    assert message in refused(capfd, workdir)
    with pytest.raises(UserError, match=message):
        settings.from_config(search_configs.get_config("digits"))


def test_no_accelerator_is_started(workdir, tmp_path):
    """On a host whose accelerator another run has, or that has none."""
    options = [f"--workdir={workdir}", f"--out={tmp_path / 'cell.json'}"]
    environment = {**os.environ, "JAX_PLATFORMS": "tpu"}
    command = [sys.executable, "-m", "bnas_jax", "derive", *options]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out="], "--out is missing; write --out=FILE, such as genotype.json"),
        (["--workdir="], "--workdir is missing"),
        (
            ["--gamma=0"],
            "--gamma must be a finite number greater than 0, got 0; 1 leaves Eq. 4 "
            "without effect",
        ),
        (["--gamma=-1"], "--gamma must be a finite number greater than 0, got -1"),
        (["--gamma=nan"], "--gamma must be a finite number greater than 0, got nan"),
        (["--gamma=much"], "--gamma=much: write a number: 0.1 or 1e-3"),
        (
            ["--epoch=3"],
            "there is no epoch 3 of this search: epochs 0 to 2 have ended; write one "
            "of these, best or last",
        ),
        (["--epoch=-1"], "--epoch must be best, last or a number from 0 on, got '-1'"),
        (
            ["--epoch=first"],
            "--epoch must be best, last or a number from 0 on, got 'first'",
        ),
        (["--as_of=during"], "--as_of=during: write after or before"),
        (["--keep_zeroise=perhaps"], "--keep_zeroise=perhaps: write True or False"),
        (
            ["--workdir=/nowhere"],
            "/nowhere is not a work directory: it has no config.json",
        ),
        (["--out=/proc/cell.json"], "cannot write /proc/cell.json ("),
    ],
)
def test_mistakes_are_answered_with_what_to_write(capfd, workdir, options, message):
    assert message in refused(capfd, workdir, *options)


def refused(capfd, workdir: pathlib.Path, *options: str) -> str:
    out = workdir.parent / "cell.json"
    return error(capfd, "derive", f"--workdir={workdir}", f"--out={out}", *options)


def test_work_directories_without_alphas_are_named(capfd, workdir):
    (workdir / "alphas.npz").write_bytes(b"PK")
    assert "alphas.npz cannot be read (" in refused(capfd, workdir)
    (workdir / "alphas.npz").unlink()
    assert (
        "has no alphas.npz: no epoch of its search has ended, or the file is lost; run "
        "search" in refused(capfd, workdir)
    )
    training = settings.to_dict(
        settings.from_config(train_configs.get_config("digits"))
    )
    (workdir / "config.json").write_text(json.dumps(training))
    assert "holds a training; derive takes the work directory of a search" in refused(
        capfd, workdir
    )
    assert not (workdir.parent / "cell.json").exists()


# The epoch that is taken


def ended_search(valid_top1) -> dict:
    """The history of a search of three epochs whose alphas tell the epochs apart."""
    epochs = len(valid_top1)
    history = {
        name: np.zeros((epochs + 1, 14, 7), np.float32) for name in ("normal", "reduce")
    }
    for row in range(epochs + 1):
        history["normal"][row, :, row + 1] = 5.0
    return {**history, "valid_top1": np.array(valid_top1, np.float32)}


@pytest.mark.parametrize(
    ("rule", "alphas_as_of", "valid_top1", "epoch", "row"),
    [
        ("best", "after", (10, 30, 20), 1, 2),
        ("best", "before", (10, 30, 20), 1, 1),
        ("last", "after", (10, 30, 20), 2, 3),
        ("last", "before", (10, 30, 20), 2, 2),
        ("best", "after", (30, 10, 30), 0, 1),
        ("best", "before", (np.nan, 10, 5), 1, 1),
    ],
)
def test_the_genotype_is_that_of_the_epoch_and_side_of_it_that_the_rule_names(
    rule, alphas_as_of, valid_top1, epoch, row
):
    run = settings.from_config(search_configs.get_config("digits"))
    run = dataclasses.replace(run, num_epochs=3, select=rule, alphas_as_of=alphas_as_of)
    record = taken(Bnas(), rule_of(run), ended_search(valid_top1))
    assert record["epoch"] == epoch and {layer for layer, _ in record["normal"]} == {
        TABLE_3[row + 1]
    }
    assert (record["select"], record["alphas_as_of"]) == (rule, alphas_as_of)
