"""The runs of a study, one after the other. What is finished is kept; a run that was stopped goes on."""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.study.table import figures, markdown
from bnas_jax.training.search import search
from bnas_jax.training.train import train
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir import RunDirectory
from bnas_jax.workdir.files import whole, write_whole

# A seed -> the settings of a run; `config.seed` is set afterwards.
Config = Callable[[int], ConfigDict]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a study's table: one training for each seed, of a cell that is searched before it where `search` is given.

    name: of its folder, too. train, search: from a seed to the settings. seeds: how many, from 0 on.
    """

    name: str
    train: Config
    search: Config | None = None
    seeds: int = 5


@dataclasses.dataclass(frozen=True)
class Study:
    """rows: in the order of the table. baseline: the name of the row that all others are compared with, None for none."""

    title: str
    rows: tuple[Row, ...]
    baseline: str | None = None


def run_study(study: Study, folder: pathlib.Path, *, only: tuple[str, ...] = ()) -> dict:
    """Makes all runs that are not finished; writes folder/study.json and study.md, after each row anew.

    folder: holds a work directory for each run, ROW/SEED/train and ROW/SEED/search. only: names of rows; () is all of them.
    A run that fails is left out of the figures and named there. Returns what study.json holds.
    """
    names = [row.name for row in study.rows]
    for name in only:
        if name not in names:
            raise UserError(f"the study has no row {name!r}; write one of {', '.join(names)}")
    accuracies: dict[str, dict[int, float]] = {}
    shares: dict[str, float] = {}
    failed: dict[str, str] = {}
    result: dict = {}
    for row in study.rows:
        if only and row.name not in only:
            continue
        accuracies[row.name] = {}
        for seed in range(row.seeds):
            try:
                accuracies[row.name][seed] = _run(row, seed, folder / row.name / str(seed))
            except UserError as error:
                failed[f"{row.name}/{seed}"] = str(error)
                _say(f"{row.name}, seed {seed} failed: {error}")
            else:
                _say(f"{row.name}, seed {seed}: {accuracies[row.name][seed]:.2f} %")
        if row.search is not None:
            searches = [folder / row.name / str(seed) / "search" for seed in accuracies[row.name]]
            found = [
                share for path in searches if (share := early_learnable_share(path)) is not None
            ]
            if found:
                shares[row.name] = float(np.mean(found))
        # What the next row needs is compiled anew; what this one did would stay in memory.
        jax.clear_caches()
        result = {
            "title": study.title,
            "failed": failed,
            **figures(accuracies, baseline=study.baseline),
        }
        for line in result["rows"]:
            if line["name"] in shares:
                line["early_learnable_share"] = shares[line["name"]]
        write_whole(folder / "study.json", result)
        with whole(folder / "study.md") as part:
            part.write_text(markdown(result))
    return result


def early_learnable_share(path: pathlib.Path) -> float | None:
    """The share of layers with weights in the genotypes of a search's first 40 % of epochs, as section 4.3 counts it.

    None where its records say nothing of it, as those of a random search.
    """
    records = [
        record for record in RunDirectory(path).read_metrics() if "learnable_share" in record
    ]
    early = records[: max(1, round(0.4 * len(records)))]
    if not early:
        return None
    return float(np.mean([record["learnable_share"] for record in early]))


def _run(row: Row, seed: int, folder: pathlib.Path) -> float:
    """Top-1 in % of a row's training with that seed."""
    config = row.train(seed)
    if row.search is not None:
        if _finished(folder / "search") is None:
            _search(row.search(seed), seed, folder / "search")
        config.network.genotype = str(folder / "search")
    summary = _finished(folder / "train") or _train(config, seed, folder / "train")
    return summary["top1"]


def _finished(workdir: pathlib.Path) -> dict | None:
    """The summary of a run that has ended."""
    path = workdir / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _search(config: ConfigDict, seed: int, path: pathlib.Path) -> dict:
    config.seed = seed
    run = settings.from_config(config)
    if not isinstance(run, SearchSettings):
        raise UserError(
            "a row's `search` needs the settings of a search, such as those of configs/search.py:digits"
        )
    with contextlib.closing(WorkDir(path)) as workdir:
        return search(run, workdir)


def _train(config: ConfigDict, seed: int, path: pathlib.Path) -> dict:
    config.seed = seed
    run = settings.from_config(config)
    if not isinstance(run, TrainSettings):
        raise UserError(
            "a row's `train` needs the settings of a training, such as those of configs/train.py:digits"
        )
    with contextlib.closing(WorkDir(path)) as workdir:
        return train(run, workdir)


def _say(text: str) -> None:
    print(f"bnas_jax: {text}", file=sys.stderr, flush=True)
