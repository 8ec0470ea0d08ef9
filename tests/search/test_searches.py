"""Searches by each searcher, from end to end.

What they leave, that they go on bit for bit, and what is refused.
"""

import functools
import json
import pathlib
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from commands import error, printed
from small_runs import read, records
from work_directories import arrays, largest_difference

from bnas_jax.__main__ import run
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotypes
from bnas_jax.training import search as search_lib
from bnas_jax.training.search import Scores

pytestmark = [
    # ml_collections loads a config's file so.
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("quick_compilation"),
]

EPOCHS = 2
SIZES = {
    "network.num_cells": 3,
    "network.channels": 2,
    "num_epochs": EPOCHS,
    "batch_size": 100,
    "checkpoint_every_steps": 5,
}
TYPES = "--config.network.layer_types=('none','bin_conv_3x3')"
HELD_OUT = ["--config.searcher.train_share=0.8"]
RANDOM = [
    f"--config.searcher.{name}={count}"
    for name, count in (("candidates", 4), ("score_batches", 2), ("finalists", 2))
]
SEARCHES = {
    "snas": [],
    "snas_held_out": HELD_OUT,
    "gdas": [],
    "random": RANDOM,
    "darts_second": [],
    "darts_exact": ["--config.searcher.unrolled=exact"],
}
PRESETS = {"snas_held_out": "snas", "darts_exact": "darts_second"}


def command(name: str, workdir: pathlib.Path) -> list[str]:
    preset = PRESETS.get(name, name)
    sizes = [f"--config.{key}={value}" for key, value in SIZES.items()]
    return [
        "search",
        f"--config=configs/search.py:digits_{preset}",
        f"--workdir={workdir}",
        *sizes,
        TYPES,
        *SEARCHES[name],
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives the work directory of an undisturbed search."""

    @functools.cache
    def searched(name: str) -> pathlib.Path:
        workdir = tmp_path_factory.mktemp(name) / "whole"
        assert run(command(name, workdir)) == 0
        return workdir

    return searched


@pytest.mark.long
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_leaves_its_records(name, whole):
    check_records(name, whole(name))


# Those of BNAS, which all of them share the loop with, are in
# tests/training/test_runs.py.
@pytest.mark.long
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_goes_on_bit_for_bit(name, whole, tmp_path):
    """From the last checkpoint but one, within the second epoch."""
    steps = sorted(int(path.name) for path in (whole(name) / "checkpoints").iterdir())
    again = shutil.copytree(whole(name), tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / str(steps[-1]))
    for left in ("summary.json", "genotype.json"):
        (again / left).unlink()
    assert run(command(name, again)) == 0
    assert (
        largest_difference(arrays(whole(name), steps[-1]), arrays(again, steps[-1]))
        == 0
    )
    assert records(again) == records(whole(name))
    for left in ("summary.json", "genotype.json"):
        assert read(again / left) == read(whole(name) / left)


def check_records(name: str, workdir: pathlib.Path) -> None:
    written, summary, genotype = (
        records(workdir),
        read(workdir / "summary.json"),
        read(workdir / "genotype.json"),
    )
    cell = genotypes.load(str(workdir / "genotype.json"))
    assert (
        summary["genotype"] == cell.to_dict()
        and summary["valid_top1"] == genotype["valid_top1"]
    )
    with np.load(workdir / "alphas.npz") as stored:
        history = {key: stored[key] for key in stored.files}
    assert len(written) == EPOCHS and history["valid_top1"].shape == (EPOCHS,)
    losses = [record["train_loss"] for record in written]
    assert all(np.isfinite(losses))

    if name == "random":
        check_candidates(workdir, cell, summary)
        assert set(history) == {"valid_top1"} and "alpha_entropy" not in written[0]
        return
    assert history["normal"].shape == history["reduce"].shape == (EPOCHS + 1, 14, 2)
    assert all(
        0 < record["alpha_entropy"] <= np.log(2) + 1e-6
        and 0 <= record["learnable_share"] <= 1
        for record in written
    )
    if name == "snas":
        assert summary["steps"] == EPOCHS * 14, "of all 1,437 images"
        assert (
            summary["valid_top1"] is None
            and [record["valid_top1"] for record in written] == [None] * EPOCHS
        )
        assert all(np.isnan(history["valid_top1"])) and genotype["select"] == "last"
        assert [len(node) for node in cell.normal] == [2, 3, 4, 5]
    else:
        assert np.allclose(
            history["valid_top1"], [record["valid_top1"] for record in written]
        )
    # Searchers without a temperature record none.
    temperatures = {
        "snas": [0.515, 0.03],
        "snas_held_out": [0.515, 0.03],
        "gdas": [10, 0.1],
    }
    found = [record["temperature"] for record in written if "temperature" in record]
    assert found == pytest.approx(temperatures.get(name, []), rel=1e-5)


def test_a_candidate_is_scored_on_each_held_out_batch_once_at_most(monkeypatch):
    """Also where `searcher.score_batches` is more than there are.

    By the statistics of each batch: the running ones are those of other cells.
    """
    task = SimpleNamespace(
        program=SimpleNamespace(held_out=range(11), model="supernet"),
        data=SimpleNamespace(augmentation="none"),
        run=SimpleNamespace(batch_size=2),
        where=SimpleNamespace(place=lambda value: value),
        searcher="random",
    )
    taken, made = [], []

    def evaluator(variables, *, batches, between_batches):
        taken.append(batches)
        return {"top1": 0.0}

    scores = Scores(task, SimpleNamespace(variables={}), between_batches=lambda: None)
    monkeypatch.setattr(
        search_lib, "Evaluator", lambda *_, **fields: made.append(fields) or evaluator
    )
    for numbers in (range(3, 7), range(8, 8 + 10**6), None):
        scores({}, numbers)
    assert taken == [[3, 4, 0, 1], [3, 4, 0, 1, 2], [0, 1, 2, 3, 4]]
    (fields,) = made
    assert fields["batch_size"] == 2 and fields["batch_statistics"]


def check_candidates(
    workdir: pathlib.Path, cell: genotype_lib.Genotype, summary: dict
) -> None:
    candidates = read(workdir / "candidates.json")
    finalists = [c for c in candidates if "top1_of_all" in c]
    assert len(candidates) == 4 and len(finalists) == 2
    assert min(c["top1"] for c in finalists) >= max(
        c["top1"] for c in candidates if c not in finalists
    )
    best = max(finalists, key=lambda c: c["top1_of_all"])
    assert summary["valid_top1"] == best["top1_of_all"]
    assert genotype_lib.Genotype(best["normal"], best["reduce"]) == cell
    assert len({json.dumps([c["normal"], c["reduce"]]) for c in candidates}) == 4


@pytest.mark.long
def test_weights_that_gdas_never_chose_stay_as_they_began(tmp_path):
    """After one step only kernels of the layers that it drew have moved."""
    one_step = [
        "--config.batch_size=700",
        "--config.num_epochs=1",
        "--config.scheme.name=float",
    ]
    assert run([*command("gdas", tmp_path / "run"), *one_step]) == 0
    (step,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    after = arrays(tmp_path / "run", step)["variables"]["params"]
    moved = []
    begun = begin(read(tmp_path / "run" / "config.json"))
    for cell in ("cell0", "cell1", "cell2"):
        for state in range(5):
            name = "kernel_bin_conv_3x3"
            one, other = (
                params[cell][f"state{state}"][name] for params in (begun, after)
            )
            channels = one.shape[2]
            edges = (one != other).reshape(*one.shape[:3], -1, channels)
            moved.append(edges.any(axis=(0, 1, 2, 4)))
    moved = np.concatenate(moved)
    assert 0 < moved.sum() < moved.size
    assert np.any(after["classifier"]["kernel"] != begun["classifier"]["kernel"])


def begin(config: dict):
    """The weights that a search of digits begins with."""
    from bnas_jax import settings
    from bnas_jax.training import build
    from bnas_jax.training.state import initial_variables

    searched = settings.from_config(config)
    params = initial_variables(build.supernet(searched, 10), (8, 8, 1), searched.seed)[
        "params"
    ]
    return jax.tree.map(np.asarray, params)


def test_derive_says_what_a_search_has_no_genotype_of(tmp_path, capfd):
    """Of a random search, and of the best epoch of one that validates none."""
    from bnas_jax import settings
    from configs import search as search_configs

    for preset in ("digits_random", "digits_snas"):
        folder = tmp_path / preset
        folder.mkdir()
        (folder / "config.json").write_text(
            json.dumps(
                settings.to_dict(
                    settings.from_config(search_configs.get_config(preset))
                )
            )
        )
    options = [
        f"--workdir={tmp_path / 'digits_random'}",
        f"--out={tmp_path / 'cell.json'}",
    ]
    assert (
        "digits_random holds a search without alphas, of which nothing is derived"
        in error(capfd, "derive", *options)
    )

    history = np.zeros((3, 14, 7), np.float32)
    np.savez(
        tmp_path / "digits_snas" / "alphas.npz",
        normal=history,
        reduce=history,
        valid_top1=np.full(2, np.nan),
    )
    options = [
        f"--workdir={tmp_path / 'digits_snas'}",
        f"--out={tmp_path / 'cell.json'}",
    ]
    assert "write last, or a number" in error(capfd, "derive", *options, "--epoch=best")
    derived = printed(capfd, "derive", *options)
    assert derived["epoch"] == 1 and derived["valid_top1"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--config.searcher.tau_min=0.0"],
            "config.searcher.tau_min must be a finite number at least 1e-06, got 0.0",
        ),
        (
            ["--config.searcher.gamma=3.0"],
            "config.searcher.gamma is not a setting of config.searcher.name=gdas; it "
            "has tau_max",
        ),
        (
            ["--config.select=first"],
            "config.select must be one of best, last, got 'first'",
        ),
        (
            ["--config.searcher.name=snas"],
            "runs one layer an edge, and the weights of this searcher mix them: write "
            "config.network",
        ),
        (
            [
                "--config.searcher.name=snas",
                "--config.network.edges=shared",
                "--config.select=best",
            ],
            "write config.select=last, or config.searcher.train_share",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    tmp_path, capfd, options, message
):
    command = [
        "search",
        "--config=configs/search.py:digits_gdas",
        f"--workdir={tmp_path / 'run'}",
        *options,
    ]
    assert message in error(capfd, *command)
