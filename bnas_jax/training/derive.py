"""Derives genotypes from alphas.npz, the history of alpha that a search writes.

A genotype can be derived from alpha before or after any epoch.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.search import Searcher
from bnas_jax.settings import SearchSettings
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir.files import write_whole
from bnas_jax.workdir.history import read_history


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which alpha of a search's history a genotype is derived from.

    epoch: a number from 0 on, as in metrics.jsonl; `best`, the epoch with the best
        validation accuracy (the first of equals); or `last`.
    as_of: `after` or `before`: alpha after that epoch, or before it as in the release.
    """

    epoch: int | str
    as_of: str


def rule_of(run: SearchSettings) -> Rule:
    """The rule that a search's settings ask for."""
    return Rule(epoch=run.select, as_of=run.alphas_as_of)


def taken(searcher: Searcher, rule: Rule, history: Mapping) -> dict:
    """The contents of genotype.json: the genotype, and how it was derived.

    history: the result of `read_history`.

    Raises `UserError` for an epoch that does not exist, and for `best` if no epoch was
    validated.
    """
    valid_top1 = np.asarray(history["valid_top1"])  # (epochs,)
    epoch = _epoch(rule.epoch, valid_top1)

    # Row 0 is alpha before the first epoch. With restarts, the row before an epoch may
    # belong to the previous candidate, so that only alpha after the epoch can be taken.
    row, as_of = epoch, rule.as_of
    if searcher.restart_epochs is not None:
        as_of = "after"
    if as_of == "after":
        row += 1

    # The genotype of that row.
    alphas = {}
    for name, rows in history.items():
        if name != "valid_top1":
            alphas[name] = np.asarray(rows)[row]  # (14, types)
    genotype = searcher.derive(alphas)

    # How it was derived.
    record = {
        **genotype.to_dict(),
        "select": rule.epoch,
        "alphas_as_of": as_of,
        "epoch": epoch,
    }
    # The searcher's settings of the derivation are marked in their metadata.
    derivation = {}
    for field in dataclasses.fields(searcher):
        if field.metadata.get("derivation"):
            derivation[field.name] = getattr(searcher, field.name)
    record["derivation"] = derivation
    record["valid_top1"] = number_or_none(valid_top1[epoch])
    return record


def number_or_none(accuracy) -> float | None:
    """The accuracy in %; None for an epoch without validation (NaN or infinite)."""
    if not np.isfinite(accuracy):
        return None
    return float(accuracy)


def _epoch(wanted: int | str, valid_top1: np.ndarray) -> int:
    """The number of the epoch that a rule names.

    valid_top1: (epochs,) in %.
    """
    count = len(valid_top1)
    if wanted == "best":
        if not np.isfinite(valid_top1).any():
            raise UserError(
                "no epoch of this search was validated: write last, or a number"
            )
        # The first of equals. Epochs without validation have -inf.
        return int(np.nanargmax(valid_top1))
    if wanted == "last":
        return count - 1

    # A number, from the settings or the command line.
    if not 0 <= int(wanted) < count:
        ended = f"epochs 0 to {count - 1} have ended"
        raise UserError(
            f"there is no epoch {wanted} of this search: {ended}; write one of these, "
            "best or last"
        )
    return int(wanted)


def derive(
    searcher: Searcher, workdir: WorkDir, rule: Rule, *, out: pathlib.Path
) -> dict:
    """Writes a genotype derived by a rule; returns the object for the user to see.

    workdir: the work directory of the search.
    out: the file to write.

    Raises `UserError` for a search without alphas, an epoch that does not exist, and a
    file that cannot be written.
    """
    if not searcher.has_alphas:
        raise UserError(
            f"{workdir.path} holds a search without alphas, of which nothing is "
            "derived: its cell is that of its genotype.json"
        )
    record = taken(searcher, rule=rule, history=read_history(workdir))
    write_whole(out, record)

    # The printed object has the contents of the file, but the cells are a single entry,
    # and each setting of the derivation is an entry of its own.
    cells = {name: record[name] for name in ("normal", "reduce")}
    printed = {"genotype": cells, **record["derivation"]}
    for name in ("alphas_as_of", "epoch", "valid_top1"):
        printed[name] = record[name]
    return {**printed, "out": str(out)}
