"""The HTML page of a run, with its result, curves, cells and settings.

It only reads the work directory.
"""

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bnas_jax import __version__
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotypes import from_dict
from bnas_jax.report import cells
from bnas_jax.report.curves import (
    chart_of_gradients,
    charts_of_alphas,
    charts_of_metrics,
)
from bnas_jax.report.sheet import printable, style
from bnas_jax.workdir.directory import RunDirectory
from bnas_jax.workdir.history import HISTORY, read_history

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
td, th { max-width: 36rem; }
th { font-weight: 600; }
td { overflow-wrap: break-word; }
svg { max-width: 100%; height: auto; } figure { margin: .8rem 0; overflow-x: auto; }
"""
_TASKS = {"search": "search of a cell", "train": "training of a network"}
# An entry of summary.json -> its name on the page. The entries in `_ELSEWHERE` are left
# out of this table: the genotype is drawn, and the weights that a run began with are in
# another table.
_NAMES = {
    "top1": "test accuracy (top-1) in %",
    "top5": "test accuracy (top-5) in %",
    "loss": "test loss",
    "num_examples": "test images",
    "steps": "steps",
    "best_top1": "test accuracy of the best epoch, chosen on the test images, in %",
    "best_epoch": "the best epoch, from 0",
    "valid_top1": "validation accuracy (top-1) of the search in %",
    "epoch": "the epoch of the genotype, from 0",
}
_ELSEWHERE = ("genotype", "init")
# The largest number of class names that are listed.
_MOST_CLASSES = 30

# The rows of a table: pairs (name, value).
Rows = Sequence[tuple[str, Any]]


class Run(NamedTuple):
    """The contents of a work directory. summary: None until the run has finished."""

    directory: RunDirectory
    config: dict
    facts: dict
    records: list[dict]
    summary: dict | None
    changed: list


def read_run(path: str) -> Run:
    """The run in a work directory.

    Raises `UserError` if there is no run, or if one of its JSON files is damaged.
    """
    directory = RunDirectory(path)
    return Run(
        directory=directory,
        config=directory.config(),
        facts=directory.facts(),
        records=directory.read_metrics(),
        summary=directory.summary(),
        changed=_of_kind(directory.changed(), list),
    )


def page(run: Run) -> str:
    """The page of a run: HTML that needs no other file.

    If a file is damaged, its section shows the error.
    """
    # (heading, function that reads the contents, function that writes them as HTML).
    sections: list[tuple[str, Callable[[Run], Any], Callable[[Any], str]]] = [
        ("Result", _result, _table),
        ("Curves", _curves, _figures),
        ("Gradients", _gradients, _figures),
        ("Alpha", _alphas, _figures),
        ("Cells", _cells, _figures),
        ("Data", _data, _table),
        ("Made with", _environment, _table),
        ("Settings", _settings, _table),
        ("Changed settings", _changes, _table),
    ]
    body = ""
    with style():
        for heading, content_of, written in sections:
            try:
                content = written(content_of(run))
            except UserError as error:
                content = f"<p>{_text(error)}</p>"
            # An empty section is left out.
            if content:
                body += f"<section><h2>{heading}</h2>{content}</section>\n"

    # Write the whole document, with its style.
    title = _text(f"{run.directory.path.name}: {_kind_of(run)}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{title}</h1>\n{body}"
        f"<p>Written by bnas-jax {__version__}.</p></body></html>\n"
    )


def _kind_of(run: Run) -> str:
    """The kind of run, for the title."""
    if _is_imported(run):
        return "an imported network"
    task = str(run.config.get("task"))
    return _TASKS.get(task, task)


def _is_imported(run: Run) -> bool:
    """Whether the weights were imported.

    A published checkpoint does not say on how many images it was trained.
    """
    return "num_train" not in run.facts


def _result(run: Run) -> Rows:
    """The result of a finished run, or the progress of another one."""
    if _is_imported(run):
        state = (
            "imported weights; the settings that only a training reads had no effect"
        )
        return [("state", state)]
    if run.summary is None:
        return [("state", _progress(run))]

    # Add the entries of summary.json.
    rows: list[tuple[str, Any]] = [("state", "ended")]
    for name, value in run.summary.items():
        if name in _ELSEWHERE:
            continue
        shown = "not known" if value is None else _short(value)
        rows.append((_NAMES.get(name, name), shown))

    # Add the time.
    seconds = [record.get("seconds") for record in run.records]
    known = [value for value in seconds if isinstance(value, int | float)]
    if known:
        rows.append(("seconds of the recorded epochs", _short(sum(known))))
    return rows


def _progress(run: Run) -> str:
    """The progress of a run that has not finished, as a text."""
    recorded = [record.get("epoch") for record in run.records]
    epochs = [epoch for epoch in recorded if isinstance(epoch, int)]
    if not epochs:
        return "not ended: no epoch is recorded yet"
    planned = run.config.get("num_epochs", "?")
    return f"not ended: {max(epochs) + 1} of {planned} epochs are recorded"


def _curves(run: Run) -> list[str]:
    """Charts of losses and accuracies."""
    return charts_of_metrics(run.records)


def _gradients(run: Run) -> list[str]:
    """The chart of gradients.json, if the command `gradients` has written it."""
    found = run.directory.gradients() or {}
    # A file with other contents is not drawn.
    first, last = found.get("first") or [], found.get("last")
    if not isinstance(first, list) or not isinstance(last, list):
        return []
    return [chart_of_gradients(found)]


def _alphas(run: Run) -> list[str]:
    """The charts of alpha, for a search that has alphas."""
    if run.config.get("task") != "search" or not (run.directory / HISTORY).is_file():
        return []
    layer_types = _of_kind(_network(run).get("layer_types"), list)
    names = [str(name) for name in layer_types]
    return charts_of_alphas(read_history(run.directory), names)


def _cells(run: Run) -> list[str]:
    """The picture of the cells of a finished search or of a network."""
    given: Any = _network(run).get("genotype")
    if run.config.get("task") == "search":
        given = (run.summary or {}).get("genotype")
    # A hand-crafted network, or a search that has not finished, has no cells.
    if not isinstance(given, Mapping):
        return []
    skip = bool(_network(run).get("skip", True))
    named = [(run.directory.path.name, from_dict(given))]
    return [cells.genotypes(named, skip=[skip]).svg()]


def _network(run: Run) -> dict:
    """The settings of the network."""
    return _of_kind(run.config.get("network"), dict)


def _data(run: Run) -> Rows:
    """The data set: its images and classes."""
    # If there are many classes, list the first ones.
    names = [f'"{name}"' for name in _of_kind(run.facts.get("class_names"), list)]
    more = len(names) - _MOST_CLASSES
    if more > 0:
        names = [*names[:_MOST_CLASSES], f"and {more} more"]

    # Unknown values have no row.
    dataset = _of_kind(run.config.get("dataset"), dict)
    shape = _of_kind(run.facts.get("image_shape"), list)
    rows: list[tuple[str, Any]] = [
        ("data set", dataset.get("name")),
        ("images", " x ".join(map(str, shape))),
        ("training images", run.facts.get("num_train")),
        ("classes", run.facts.get("num_classes")),
        ("names of the classes", ", ".join(names)),
        ("mean of the channels", _short(run.facts.get("mean"))),
        ("standard deviation of the channels", _short(run.facts.get("std"))),
    ]
    return [(name, value) for name, value in rows if value not in (None, "")]


def _environment(run: Run) -> Rows:
    """Versions and hardware, the first weights, the teacher and the extensions."""
    environment = _of_kind(run.facts.get("environment"), dict)
    rows = list(environment.items())

    # Checkpoints of other runs.
    for name, key in (
        ("initial weights", "init"),
        ("teacher", "teacher"),
    ):
        source = _of_kind(run.facts.get(key), dict)
        if source:
            rows.append((name, f"{source.get('workdir')}, step {source.get('step')}"))

    # The user's Python files.
    for extension in _of_kind(run.facts.get("extensions"), list):
        rows.append(("extension", _of_kind(extension, dict).get("file")))
    return rows


def _changes(run: Run) -> Rows:
    """The settings that were changed with `--change`."""
    rows = []
    for change in run.changed:
        values = _of_kind(change, dict)
        before, after = values.get("from"), values.get("to")
        text = f"{before} to {after}, at step {values.get('step')}"
        rows.append((str(values.get("key")), text))
    return rows


def _settings(run: Run) -> Rows:
    """The settings with a value, written with all digits.

    The genotype is left out, because it is drawn.
    """
    rows = []
    for name, value in _flat(run.config):
        text = value if isinstance(value, str) else json.dumps(value)
        rows.append((name, text))
    return rows


def _flat(values: Mapping, prefix: str = "config.") -> Iterator[tuple[str, Any]]:
    """Pairs (name, value) of all settings, with the names of the command line."""
    for name, value in values.items():
        if name == "genotype" or value is None:
            continue
        # A group of settings, such as config.network.
        if isinstance(value, Mapping):
            yield from _flat(value, prefix=f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _of_kind(value: Any, kind: type) -> Any:
    """The value if it is of the kind, else an empty object of the kind."""
    if isinstance(value, kind):
        return value
    return kind()


def _short(value: Any) -> Any:
    """A float with five digits, a list as text, any other value unchanged."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(str(_short(item)) for item in value)
    return value


def _table(rows: Rows) -> str:
    """An HTML table of names and values; "" without rows."""
    if not rows:
        return ""
    lines = ""
    for name, value in rows:
        lines += f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"
    return f"<table>{lines}</table>"


def _figures(pictures: Sequence[str]) -> str:
    """HTML with pictures one below the other. pictures: SVGs."""
    return "".join(f"<figure>{svg}</figure>" for svg in pictures)


def _text(value: Any) -> str:
    """A value as HTML text."""
    return html.escape(printable(str(value)))
