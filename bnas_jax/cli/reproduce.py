"""`reproduce`: runs a table or figure of the paper, and compares the numbers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from bnas_jax import preset_files, spelling
from bnas_jax.cli.configs import Loaded, last, override
from bnas_jax.cli.flags import mistakes, number, read_flags, required
from bnas_jax.cli.study import module_of, opening, row_names
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

if TYPE_CHECKING:
    from bnas_jax.reproduce import Reproduction
    from bnas_jax.study import Row

_FILE = "configs/reproduce.py"
# Tables that cannot be reproduced, and what to write instead.
_DESCRIBED = {
    "table3": (
        "Table 3 is the list of layer types, bnas_jax.core.genotype.TABLE_3; write "
        "--table=1 for how they compare"
    ),
}
# Settings that a row decides: the seed of each run, and the row's cell.
_OF_A_ROW = ("config.seed", "config.network.genotype")


def reproduce(arguments: list[str], loaded: Loaded) -> dict:
    """Runs what is missing of a table or figure, and writes the result."""
    from bnas_jax.reproduce import reproduction, run, table

    # The table or figure, and the folder of its runs.
    settings = [word for word in arguments if spelling.is_setting(word)]
    others = [word for word in arguments if word not in settings]
    values = _options(others, list(reproduction.SCALES))
    name = _chosen(values)
    scale = required(values, "scale", example=" or ".join(reproduction.SCALES))
    wanted = _reproduction(name, scale)
    given = required(values, "workdir", example="DIR")
    folder = paths.local(given, "--workdir").absolute()

    # Change its rows as the options say.
    seeds = number(values, "seeds", kind=int, least=1)
    only = row_names(values.rows)
    _check_rows(wanted, name=name, given=bool(only or settings or seeds), scale=scale)
    wanted = _changed(wanted, settings, only=only, seeds=seeds)
    result = run.reproduce(
        wanted,
        folder,
        name=name,
        scale=scale,
        only=only,
        count=values.count,
        settings=settings,
        open_workdir=opening(loaded),
    )
    if wanted.rows:
        print(table.markdown(result))
    return result


def _options(arguments: list[str], scales: Sequence[str]) -> flags.FlagValues:
    """The options.

    arguments: those that are not settings.
    """
    values = flags.FlagValues()
    for name in ("table", "figure", "workdir", "rows", "seeds"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    about = "size of the runs"
    flags.DEFINE_enum("scale", None, list(scales), about, flag_values=values)
    flags.DEFINE_boolean("count", False, "runs nothing", flag_values=values)

    # Explain what to write instead of --config=FILE.
    if last(arguments, "--config") is not None:
        raise UserError(
            f"reproduce takes no --config=FILE; its runs stand in {_FILE}, and "
            f"settings are written {spelling.PREFIX}KEY=VALUE"
        )
    read_flags(values, arguments, "reproduce")
    return values


def _chosen(values: flags.FlagValues) -> str:
    """The name of the table or figure, such as table8.

    Raises `UserError` unless exactly one of --table and --figure is given.
    """
    given = [name for name in ("table", "figure") if values[name].value]
    if len(given) != 1:
        raise UserError(
            "reproduce makes a table or a figure; write --table=8 or --figure=4"
        )
    return given[0] + str(values[given[0]].value)


def _reproduction(name: str, scale: str) -> "Reproduction":
    """The table or figure in configs/reproduce.py; `UserError` for an unknown name."""
    if name in _DESCRIBED:
        raise UserError(_DESCRIBED[name])
    # A user may have changed the file, so that any error is possible.
    path = preset_files.find(_FILE, "--table", example="8")
    with mistakes(path, function="get_reproduction"):
        module = module_of(path, _FILE, option="--table")
        known = list(module.REPRODUCTIONS)
        if name not in known:
            # List the tables, or the figures, that there are.
            kind = "figure" if name.startswith("figure") else "table"
            alike = [one for one in known if one.startswith(kind)]
            numbers = ", ".join(one.removeprefix(kind) for one in alike)
            raise UserError(
                f"the paper has no {kind} {name.removeprefix(kind)} to make; write "
                f"--{kind}= one of {numbers}"
            )
        return module.get_reproduction(name, scale)


def _check_rows(wanted: "Reproduction", *, name: str, given: bool, scale: str) -> None:
    """Raises `UserError` for options without effect on the table or figure.

    A figure may have no rows, and a table of counted costs exists only at the scale of
    the paper.

    given: whether an option about rows is given.
    """
    if given and not wanted.rows:
        raise UserError(
            f"{name} has no runs; leave --rows, --seeds and {spelling.PREFIX}KEY out"
        )
    if wanted.rows and not wanted.measures and scale != "paper":
        raise UserError(
            f"{name} is counted, which says something at one size; write --scale=paper"
        )


def _changed(
    wanted: "Reproduction",
    settings: Sequence[str],
    *,
    only: Sequence[str],
    seeds: int | None,
) -> "Reproduction":
    """The same table or figure with the settings of the command line.

    only: the names of the rows that take the settings; () means all.
    seeds: the number of seeds of every row; None keeps each row's own.
    """
    from bnas_jax.study.rows import chosen_rows

    # At least one run must have each setting.
    chosen = chosen_rows(wanted.rows, only)
    names = [row.name for row in chosen]
    for setting in settings:
        _check_setting(setting, chosen)

    # Change the seeds of all rows, and the settings of the chosen rows.
    def change(row: "Row") -> "Row":
        if seeds:
            row = dataclasses.replace(row, seeds=seeds)
        if row.name not in names:
            return row
        train = _with_settings(row.train, settings)
        search = None if row.search is None else _with_settings(row.search, settings)
        return dataclasses.replace(row, train=train, search=search)

    rows = tuple(change(row) for row in wanted.rows)
    return dataclasses.replace(wanted, rows=rows)


def _check_setting(setting: str, rows: Sequence["Row"]) -> None:
    """Raises `UserError` for a setting that no run has, or that the rows decide."""
    name = f"config.{spelling.key(setting)}"
    if name in _OF_A_ROW:
        raise UserError(
            f"{name} is what a row is about; leave it out, --seeds=N makes N runs of "
            "each"
        )

    # The configs of all runs, with seed 0.
    configs = []
    for row in rows:
        configs.append(row.train(0))
        if row.search is not None:
            configs.append(row.search(0))
    if not any(spelling.is_known(config, setting) for config in configs):
        # `override` raises the error that suggests a known setting.
        with mistakes():
            override(configs[0], [setting])


def _with_settings(
    function: Callable[[int], ConfigDict], settings: Sequence[str]
) -> Callable[[int], ConfigDict]:
    """A function (seed) -> config like the given one, with changed settings.

    Settings that this config does not have are ignored.
    """

    def config_of(seed: int) -> ConfigDict:
        config = function(seed)
        with mistakes():
            known = [word for word in settings if spelling.is_known(config, word)]
            override(config, known)
        return config

    return config_of
