"""Collects the results of a study's runs, and writes its table.

Only finished runs count, and only with the settings that the study asks for.
"""

import pathlib
from collections.abc import Iterable
from typing import Any

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotypes import from_dict
from bnas_jax.core.layers import learnable_share
from bnas_jax.runtime import hosts
from bnas_jax.study.rows import Row, Study, search_settings, training_settings
from bnas_jax.study.table import figures, markdown, mean_of
from bnas_jax.workdir import RunDirectory
from bnas_jax.workdir.files import whole, write_whole

# The share of epochs that are early: section 4.3 looks at the first 20 of 50.
EARLY = 0.4


def write_study(study: Study, *, folder: pathlib.Path, failed: dict[str, str]) -> dict:
    """Writes the table of all finished runs as study.json and study.md.

    Returns the contents of study.json. There, "not_shown" is {ROW/SEED: message} for
    directories that hold a run of other settings, and "without_runs" has the names of
    the rows without a finished run.

    failed: {ROW/SEED: message} of the runs that failed just now.
    """
    accuracies, not_shown = _accuracies(study, folder)
    # If such a directory made a run fail just now, it is only named once.
    others = {name: why for name, why in not_shown.items() if name not in failed}
    result: dict[str, Any] = {
        "title": study.title,
        "failed": failed,
        "not_shown": others,
        "without_runs": [name for name, values in accuracies.items() if not values],
        **figures(accuracies, baseline=study.baseline),
    }

    # Add each row's number of seeds, and its shares of layers with weights.
    rows = {row.name: row for row in study.rows}
    for line in result["rows"]:
        row = rows[line["name"]]
        line["seeds"] = row.seeds
        line.update(_shares(row, folder=folder, seeds=accuracies[row.name]))
    write_table(folder, "study", result=result, text=markdown(result))
    return result


def _accuracies(
    study: Study, folder: pathlib.Path
) -> tuple[dict[str, dict[int, float]], dict[str, str]]:
    """({row: {seed: top-1 in %}} of finished runs, {ROW/SEED: why a run is not shown}).

    The first dict has all rows, including those without a finished run.
    """
    accuracies: dict[str, dict[int, float]] = {}
    not_shown = {}
    for row in study.rows:
        accuracies[row.name] = {}
        for seed in range(row.seeds):
            # `result_of` raises an error if the directory holds a run of other
            # settings, and returns None if the run has not finished.
            try:
                summary = result_of(row, folder=folder, seed=seed)
            except UserError as error:
                not_shown[f"{row.name}/{seed}"] = str(error)
                continue
            if summary is not None:
                accuracies[row.name][seed] = summary["top1"]
    return accuracies, not_shown


def _shares(
    row: Row, *, folder: pathlib.Path, seeds: Iterable[int]
) -> dict[str, float]:
    """The shares of layers with weights, averaged over seeds, where they are known.

    early_learnable_share: the share in the first epochs of the searches (section 4.3).
    learnable_share: the share in the trained cells.
    """
    searches = [row.search_in(folder, seed) for seed in seeds]
    trainings = [row.training_in(folder, seed) for seed in seeds]
    shares = {
        "early_learnable_share": _mean(map(early_learnable_share, searches)),
        "learnable_share": _mean(map(_cell_share, trainings)),
    }
    return {name: share for name, share in shares.items() if share is not None}


def write_table(folder: pathlib.Path, name: str, *, result: dict, text: str) -> None:
    """Writes folder/NAME.json and folder/NAME.md, on the first process.

    Each file is replaced as a whole.
    """
    if not hosts.is_first():
        return
    write_whole(folder / f"{name}.json", result)
    with whole(folder / f"{name}.md") as part:
        part.write_text(text)


def result_of(row: Row, *, folder: pathlib.Path, seed: int) -> dict | None:
    """The contents of summary.json of a row's training with a seed.

    None if the training, or the search before it, has not finished. Raises `UserError`
    if the directory of one of the two holds a run of other settings.
    """
    # The training uses the cell of the search.
    if row.search is not None:
        found = row.search_in(folder, seed)
        if not is_finished(search_settings(row, seed=seed), found):
            return None

    trained = row.training_in(folder, seed)
    if not is_finished(training_settings(row, folder=folder, seed=seed), trained):
        return None
    return RunDirectory(trained).summary()


def is_finished(run: settings.Settings, path: pathlib.Path) -> bool:
    """Whether the run with these settings has finished in the directory `path`.

    A run with a damaged summary has not: it is continued, and writes a new summary.
    Raises `UserError` if the directory holds a finished run of other settings.
    """
    try:
        summary = RunDirectory(path).summary()
    except UserError:
        return False
    if summary is None:
        return False
    # The stored config is compared as `Settings`, which have defaults for settings that
    # are newer than the run.
    stored = settings.from_config(RunDirectory(path).config())
    difference = settings.first_difference(
        settings.to_dict(run), settings.to_dict(stored)
    )
    if difference is not None:
        raise UserError(
            f"{path} belongs to another run: {difference}; choose another --workdir"
        )
    return True


def early_learnable_share(path: pathlib.Path) -> float | None:
    """The share of layers with weights early in a search, from 0 to 1 (section 4.3).

    It is the mean over the genotypes of the first 40 % of epochs; None if the search
    does not record it, as random search.
    """
    records = RunDirectory(path).read_metrics()
    shares = [
        record["learnable_share"] for record in records if "learnable_share" in record
    ]
    # A short search has at least one early epoch.
    count = max(1, round(EARLY * len(shares)))
    return _mean(shares[:count])


def _cell_share(path: pathlib.Path) -> float | None:
    """The share of layers with weights in the trained cells; None without cells."""
    genotype = RunDirectory(path).config()["network"].get("genotype")
    if genotype is None:
        return None
    return learnable_share(from_dict(genotype))


def _mean(shares: Iterable[float | None]) -> float | None:
    """The mean of the shares that are not None; None if there are none."""
    return mean_of([share for share in shares if share is not None])
