"""`derive`: another genotype of a search's alphas."""

import dataclasses
from typing import Any

from absl import flags

from bnas_jax import settings
from bnas_jax.cli.configs import Loaded, workdir_of
from bnas_jax.cli.flags import number, read_flags, required
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SELECT, SearchSettings
from bnas_jax.workdir.files import file_to_write


def derive(arguments: list[str], loaded: Loaded) -> dict:
    """Takes a genotype from the alphas of a search, by rules that default to the search's."""
    from bnas_jax.runtime import devices
    from bnas_jax.training.derive import Rule, derive

    # Options in place of settings: what the search has is their default.
    values = flags.FlagValues()
    for name in ("workdir", "gamma", "epoch", "out"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    flags.DEFINE_boolean("keep_zeroise", None, "whether Zeroise may be taken", flag_values=values)
    flags.DEFINE_enum(
        "as_of", None, settings.AS_OF, "alpha before or after the epoch", flag_values=values
    )
    read_flags(values, arguments, "derive")

    workdir = workdir_of(
        required(values, "workdir", example="DIR, the directory of a search"), loaded
    )
    out = file_to_write(required(values, "out", example="FILE, such as genotype.json"))
    run = settings.from_config(workdir.config())
    if not isinstance(run, SearchSettings):
        raise UserError(
            f"{workdir.path} holds a training; derive takes the work directory of a search"
        )

    # The search's searcher and rule, with the changes that the options ask for.
    searcher = run.searcher.of(run.network)
    searcher = dataclasses.replace(searcher, **_derivation(run, values))
    rule = Rule(
        epoch=_epoch(values.epoch or run.select),
        as_of=values.as_of or run.alphas_as_of,
    )
    devices.keep_to_host()
    return derive(searcher, workdir, rule, out=out)


def _derivation(run: SearchSettings, values: flags.FlagValues) -> dict[str, Any]:
    """The settings of the run's searcher that --gamma and --keep_zeroise change; `UserError` where it has no such setting."""
    gamma = number(values, "gamma", kind=float)
    # Written so that NaN is refused, too.
    if gamma is not None and not 0 < gamma < float("inf"):
        raise UserError(
            f"--gamma must be a finite number greater than 0, got {gamma:g}; 1 leaves Eq. 4 without effect"
        )
    given: dict[str, Any] = {}
    if gamma is not None:
        given["gamma"] = gamma
    if values.keep_zeroise is not None:
        given["keep_zeroise"] = values.keep_zeroise
    for name in given:
        # Searchers other than BNAS derive by other rules.
        if not hasattr(run.searcher, name):
            searcher = settings.to_dict(run)["searcher"]["name"]
            raise UserError(
                f"the searcher {searcher} of {values.workdir} has no {name}; leave --{name} out"
            )
    return given


def _epoch(text: str) -> int | str:
    if text in SELECT:
        return text
    if not text.isdecimal():
        raise UserError(f"--epoch must be best, last or a number from 0 on, got {text!r}")
    return int(text)
