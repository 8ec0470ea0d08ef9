"""Genotypes from the history of alpha that a search keeps in alphas.npz: of which epoch, before or after it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.search import Searcher
from bnas_jax.settings import SearchSettings
from bnas_jax.training.workdir import WorkDir, write_whole
from bnas_jax.workdir.history import read_history


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which alpha of a search is taken. epoch: a number, counted from 0 as in metrics.jsonl; `best`, the one of best validation
    accuracy (the first of equals), or `last`. as_of: alpha as it was `after` that epoch, or `before` it, as in the release."""

    epoch: int | str
    as_of: str


def rule_of(run: SearchSettings) -> Rule:
    """The rule that the run's settings hold."""
    return Rule(run.select, run.alphas_as_of)


def taken(searcher: Searcher, rule: Rule, history: Mapping) -> dict:
    """The genotype that the rule takes from a history, and how it was taken, as genotype.json holds it.

    history: as `read_history` gives it. `UserError` for an epoch that is not there, or the best of epochs that were not
    validated.
    """
    valid_top1 = np.asarray(history["valid_top1"])
    epoch = _epoch(rule.epoch, valid_top1)
    row = epoch
    if rule.as_of == "after":
        row += 1
    names = [name for name in history if name != "valid_top1"]
    genotype = searcher.derive({name: np.asarray(history[name])[row] for name in names})
    return {
        **genotype.to_dict(),
        "select": rule.epoch,
        "alphas_as_of": rule.as_of,
        "epoch": epoch,
        **{
            name: getattr(searcher, name)
            for name in ("gamma", "keep_zeroise")
            if hasattr(searcher, name)
        },
        "valid_top1": number_or_none(valid_top1[epoch]),
    }


def number_or_none(accuracy) -> float | None:
    """An accuracy in %; None where an epoch had no images held out to be validated on."""
    return float(accuracy) if np.isfinite(accuracy) else None


def _epoch(wanted: int | str, valid_top1: np.ndarray) -> int:
    count = len(valid_top1)
    if wanted == "best":
        if not np.isfinite(valid_top1).any():
            raise UserError(
                "no epoch of this search is the best, as it holds no images out: write last, or a number"
            )
        return int(np.nanargmax(valid_top1))
    if wanted == "last":
        return count - 1
    if not 0 <= int(wanted) < count:
        ended = f"epochs 0 to {count - 1} have ended"
        raise UserError(
            f"there is no epoch {wanted} of this search: {ended}; write one of these, best or last"
        )
    return int(wanted)


def derive(searcher: Searcher, workdir: WorkDir, rule: Rule, *, out: str) -> dict:
    """Writes the genotype that the rule takes from a search's work directory into the file `out`."""
    if not searcher.has_alphas:
        raise UserError(
            f"{workdir.path} holds a search without alphas, of which nothing is derived: its cell is that of its genotype.json"
        )
    record = taken(searcher, rule, read_history(workdir))
    path = paths.local(out, "--out")
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; write the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, record)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); choose another --out") from None
    described = [name for name in record if name not in ("normal", "reduce", "select")]
    genotype = {name: record[name] for name in ("normal", "reduce")}
    return {"genotype": genotype, **{name: record[name] for name in described}, "out": out}
