"""One HTML page about a run: its result, its curves, its cells, its settings. It reads the work directory and nothing else."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bnas_jax import __version__
from bnas_jax.core.genotype import from_dict
from bnas_jax.report import cells
from bnas_jax.report.curves import charts_of_alphas, charts_of_metrics
from bnas_jax.report.sheet import printable, style
from bnas_jax.workdir.directory import RunDirectory
from bnas_jax.workdir.history import HISTORY, read_history

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; } th { font-weight: 600; } td { overflow-wrap: break-word; }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; max-width: 36rem; }
svg { max-width: 100%; height: auto; } figure { margin: .8rem 0; overflow-x: auto; }
"""
# Of the metrics of a summary, in words.
_NAMES = {
    "top1": "test accuracy (top-1) in %",
    "top5": "test accuracy (top-5) in %",
    "loss": "test loss",
    "num_examples": "test images",
    "steps": "steps",
    "best_top1": "the best epoch's, chosen on the test images, in %",
    "best_epoch": "the best epoch, from 0",
    "valid_top1": "validation accuracy (top-1) of the supernet in %",
    "epoch": "the epoch whose genotype was taken, from 0",
}

Rows = Sequence[tuple[str, Any]]


class Run(NamedTuple):
    """What a work directory holds. summary: None while the run is under way."""

    directory: RunDirectory
    config: dict
    facts: dict
    records: list[dict]
    summary: dict | None


def page(path: str) -> str:
    """The page of the run in a work directory, HTML that needs no other file.

    Raises `UserError` where there is no run, or one of its files is damaged.
    """
    directory = RunDirectory(path)
    config = directory.config()
    run = Run(
        directory=directory,
        config=config,
        facts=directory.facts(),
        records=directory.read_metrics(),
        summary=directory.summary(),
    )
    with style():
        sections = [
            ("Result", _table(_result(run))),
            ("Curves", _figures(charts_of_metrics(run.records), "No epoch has ended yet.")),
            ("How alpha moved", _figures(_alphas(run), "")),
            ("Cells", _figures(_cells(run), "")),
            ("Data", _table(_data(run))),
            ("Made with", _table(_environment(run))),
            ("Settings", _table(list(_flat(config)))),
            ("Changes on the way", _table(_changes(directory))),
        ]
    task = config.get("task", "run")
    title = f"{directory.path.name}: {_TASKS.get(task, task)}"
    body = "".join(
        f"<section><h2>{heading}</h2>{content}</section>\n"
        for heading, content in sections
        if content
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{_text(title)}</h1>\n{body}"
        f"<p>Written by bnas-jax {__version__}.</p></body></html>\n"
    )


_TASKS = {"search": "search of a cell", "train": "training of a network"}


def _result(run: Run) -> Rows:
    """What the run came to, or how far it is."""
    epochs = [record["epoch"] for record in run.records if isinstance(record.get("epoch"), int)]
    if run.summary is None:
        done, planned = max(epochs, default=-1) + 1, run.config.get("num_epochs", "?")
        return [("state", f"not ended: {done} of {planned} epochs are recorded")]
    rows: list[tuple[str, Any]] = [("state", "ended")]
    for name, value in run.summary.items():
        # It is drawn.
        if name != "genotype":
            rows.append((_NAMES.get(name, name), value))
    seconds = [record.get("seconds") for record in run.records]
    known = [value for value in seconds if isinstance(value, int | float)]
    if known:
        rows.append(("seconds of the epochs that are recorded", round(sum(known), 1)))
    return rows


def _alphas(run: Run) -> list[str]:
    """Charts of a search that has alphas."""
    if run.config.get("task") != "search" or not (run.directory / HISTORY).is_file():
        return []
    layer_types = run.config.get("network", {}).get("layer_types", ())
    return charts_of_alphas(read_history(run.directory), layer_types)


def _cells(run: Run) -> list[str]:
    """The picture of the cells that a search found, or that a network is made of."""
    given: Any = run.config.get("network", {}).get("genotype")
    if run.config.get("task") == "search":
        given = (run.summary or {}).get("genotype")
    # A hand-made network, or a search under way.
    if not isinstance(given, Mapping):
        return []
    skip = bool(run.config.get("network", {}).get("skip", True))
    named = [(run.directory.path.name, from_dict(given))]
    return [cells.genotypes(named, skip=[skip]).svg()]


def _data(run: Run) -> Rows:
    """The images that the run learned from."""
    shape = run.facts.get("image_shape", ())
    rows: list[tuple[str, Any]] = [
        ("data set", run.config.get("dataset", {}).get("name")),
        ("images", " x ".join(map(str, shape))),
        ("training images", run.facts.get("num_train")),
        ("classes", run.facts.get("num_classes")),
        ("their names", ", ".join(map(str, run.facts.get("class_names", ())))),
        ("mean and deviation of the channels", _pair(run.facts)),
    ]
    return [(name, value) for name, value in rows if value not in (None, "")]


def _pair(facts: Mapping) -> str | None:
    if "mean" not in facts or "std" not in facts:
        return None
    return f"{facts['mean']} and {facts['std']}"


def _environment(run: Run) -> Rows:
    """Versions and hardware, the weights that a run began with, and a user's extensions."""
    rows = list(run.facts.get("environment", {}).items())
    if "init" in run.facts:
        rows.append(("began with the weights of", run.facts["init"]))
    for extension in run.facts.get("extensions", ()):
        rows.append(("extension", extension.get("file")))
    return rows


def _changes(directory: RunDirectory) -> Rows:
    """Settings that were changed while the run was under way."""
    rows = []
    for change in directory.changed():
        text = f"{change.get('from')} to {change.get('to')}, at step {change.get('step')}"
        rows.append((str(change.get("key")), text))
    return rows


def _flat(values: Mapping, prefix: str = "config.") -> Iterator[tuple[str, Any]]:
    """(setting, value) of all settings that have one, as they are written on a command line; a genotype is drawn instead."""
    for name, value in values.items():
        if name == "genotype" or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, prefix=f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _table(rows: Rows) -> str:
    """Names and values, one below the other; nothing where there are none."""
    if not rows:
        return ""
    lines = [f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows]
    return f"<table>{''.join(lines)}</table>"


def _figures(pictures: Sequence[str], without: str) -> str:
    """Pictures one below the other. without: what stands in their place where there are none."""
    if not pictures:
        return f"<p>{without}</p>" if without else ""
    return "".join(f"<figure>{svg}</figure>" for svg in pictures)


def _text(value: Any) -> str:
    # More digits than anyone reads.
    if isinstance(value, float):
        value = f"{value:.5g}"
    return html.escape(printable(str(value)))
