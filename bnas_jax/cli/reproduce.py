"""`reproduce`: a table or figure of the paper, our numbers beside the printed ones."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from bnas_jax import preset_files, spelling
from bnas_jax.cli.configs import Loaded, last, override
from bnas_jax.cli.flags import mistakes, number, read_flags, required
from bnas_jax.cli.study import module_of, row_names
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

if TYPE_CHECKING:
    from bnas_jax.reproduce import Reproduction
    from bnas_jax.study import Row

# Tables of which nothing is to be run.
_DESCRIBED = {
    "table3": "Table 3 is the list of layer types, bnas_jax.core.genotype.TABLE_3; write --table=1 for how they compare",
}


def reproduce(arguments: list[str], loaded: Loaded) -> dict:
    """Makes the runs of a table or figure that are not finished yet, and writes it."""
    from bnas_jax.reproduce.run import SCALES, reproduce
    from bnas_jax.reproduce.table import markdown

    del loaded
    values = flags.FlagValues()
    for name in ("table", "figure", "workdir", "rows", "seeds"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    flags.DEFINE_enum("scale", None, list(SCALES), "size of the runs", flag_values=values)
    flags.DEFINE_boolean("count", False, "runs nothing", flag_values=values)
    settings = [argument for argument in arguments if spelling.is_setting(argument)]
    others = [argument for argument in arguments if argument not in settings]
    if last(others, "--config") is not None:
        raise UserError(
            "reproduce takes no --config=FILE; its runs stand in configs/reproduce.py, and settings are written"
            f" {spelling.PREFIX}KEY=VALUE"
        )
    read_flags(values, others, "reproduce")

    name = _chosen(values)
    scale = required(values, "scale", example=" or ".join(SCALES))
    wanted = _reproduction(name, scale)
    folder = paths.local(required(values, "workdir", example="DIR"), "--workdir").absolute()
    seeds = number(values, "seeds", kind=int, least=1)
    wanted = wanted.changed(lambda row: _changed(row, settings, seeds=seeds))
    result = reproduce(
        wanted, folder, name=name, scale=scale, only=row_names(values.rows), count=values.count
    )
    print(markdown(result))
    return result


def _chosen(values: flags.FlagValues) -> str:
    """The name of the table or figure; `UserError` where none is given, or both are."""
    given = [name for name in ("table", "figure") if values[name].value]
    if len(given) != 1:
        raise UserError("reproduce makes a table or a figure; write --table=8 or --figure=4")
    number = str(values[given[0]].value)
    return given[0] + number.upper()


def _reproduction(name: str, scale: str) -> "Reproduction":
    """What configs/reproduce.py has of that name; `UserError` for one that it has not."""
    if name in _DESCRIBED:
        raise UserError(_DESCRIBED[name])
    path = preset_files.find("reproduce", "--table", example="8")
    module = module_of(path, "reproduce")
    if name not in module.REPRODUCTIONS:
        kind = "figure" if name.startswith("figure") else "table"
        known = [other for other in module.REPRODUCTIONS if other.startswith(kind)]
        numbers = ", ".join(other.removeprefix(kind) for other in known)
        raise UserError(
            f"the paper has no {kind} {name.removeprefix(kind)} to make; write --{kind}= one of {numbers}"
        )
    with mistakes(path, function="get_reproduction"):
        return module.get_reproduction(name, scale)


def _changed(row: "Row", arguments: Sequence[str], *, seeds: int | None) -> "Row":
    """A row whose runs have the settings of the command line. seeds: how many, None for the row's own number."""

    def with_settings(function: Callable[[int], ConfigDict]) -> Callable[[int], ConfigDict]:
        def config_of(seed: int) -> ConfigDict:
            config = function(seed)
            with mistakes():
                override(config, list(arguments))
            return config

        return config_of

    search = None if row.search is None else with_settings(row.search)
    train = with_settings(row.train)
    return dataclasses.replace(row, train=train, search=search, seeds=seeds or row.seeds)
