"""`derive`: derives another genotype from the alphas of a search."""

import dataclasses
from typing import Any

from absl import flags

from bnas_jax import settings, spelling
from bnas_jax.cli.configs import Loaded, workdir_of
from bnas_jax.cli.flags import read_flags, required
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SELECT, SearchSettings
from bnas_jax.settings.entries import derivation_settings, settings_of
from bnas_jax.settings.parse import field_types
from bnas_jax.workdir.files import file_to_write


def derive(arguments: list[str], loaded: Loaded) -> dict:
    """Derives a genotype from the alphas of a search.

    Settings of the derivation that no option changes are those of the search.
    """
    from bnas_jax.runtime import jax_setup
    from bnas_jax.training.derive import Rule, derive

    # Read the options and the settings of the search.
    values = _options(arguments)
    path = required(values, "workdir", example="DIR, the directory of a search")
    workdir = workdir_of(path, loaded)
    out = file_to_write(required(values, "out", example="FILE, such as genotype.json"))
    run = settings.from_config(workdir.config())
    if not isinstance(run, SearchSettings):
        raise UserError(
            f"{workdir.path} holds a training; derive takes the work directory of a "
            "search"
        )

    # Change its searcher and its rule as the options say.
    searcher = run.searcher.of(run.network)
    try:
        searcher = dataclasses.replace(searcher, **_derivation(run, values))
    # The searcher's message names settings, which are options of this command.
    except UserError as error:
        raise UserError(str(error).replace("config.searcher.", "--")) from None
    rule = Rule(
        epoch=_epoch(values.epoch or run.select),
        as_of=values.as_of or run.alphas_as_of,
    )
    jax_setup.keep_to_host()
    return derive(searcher, workdir, rule, out=out)


def _options(arguments: list[str]) -> flags.FlagValues:
    """The options: the search, the epoch whose alphas are taken, and the derivation."""
    values = flags.FlagValues()
    for name in ("workdir", "epoch", "out"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    about = "alpha before or after the epoch"
    flags.DEFINE_enum("as_of", None, settings.AS_OF, about, flag_values=values)

    # The settings of the derivation; None keeps the value of the search.
    for name, kind in _kinds().items():
        define = flags.DEFINE_boolean if kind is bool else flags.DEFINE_string
        define(name, None, f"config.searcher.{name}", flag_values=values)
    read_flags(values, arguments, "derive")
    return values


def _kinds() -> dict[str, type]:
    """Each setting that only the derivation reads -> its type."""
    kinds = {}
    for name, entry in derivation_settings().items():
        kinds[name] = field_types(entry)[name]
    return kinds


def _derivation(run: SearchSettings, values: flags.FlagValues) -> dict[str, Any]:
    """The values of the searcher's settings that the options change, by their names.

    Raises `UserError` for a setting that this searcher does not have.
    """
    given: dict[str, Any] = {}
    for name, kind in _kinds().items():
        # Convert the text to the type of the setting. None: the option is not given.
        value = values[name].value
        if isinstance(value, str):
            value = spelling.read(value, kind=kind, name=f"--{name}")
        if value is None:
            continue
        # Another searcher may have this setting.
        if name not in settings_of(type(run.searcher)):
            searcher = settings.to_dict(run)["searcher"]["name"]
            raise UserError(
                f"the searcher {searcher} of {values.workdir} has no {name}; leave "
                f"--{name} out"
            )
        given[name] = value
    return given


def _epoch(text: str) -> int | str:
    """The value of --epoch: best, last or a number from 0 on."""
    if text in SELECT:
        return text
    if not text.isdecimal():
        raise UserError(
            f"--epoch must be best, last or a number from 0 on, got {text!r}"
        )
    return int(text)
