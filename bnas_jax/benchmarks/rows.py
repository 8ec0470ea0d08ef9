"""A table of the results of benchmarks.

`python -m bnas_jax.benchmarks.rows DIR` makes it from the files DIR/NAME.json.
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from bnas_jax.workdir.markdown import table_row

_HEAD = (
    "benchmark",
    "step, median (lowest to highest)",
    "in a row",
    "images a second",
    "hours of all steps",
    "least time (percent of the median), bound by",
    "GPU busy",
    "compiling",
    "memory",
    "device, version",
)


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as Markdown. results: name of a row -> result of `step.benchmark`."""
    lines = [table_row(_HEAD), "|---" * len(_HEAD) + "|"]
    for name, result in results.items():
        lines.append(table_row([name, *_cells(result)]))
    return "\n".join(lines)


def _cells(result: Mapping[str, Any]) -> list[str]:
    """The cells of a row, in the order of `_HEAD`, without its name."""
    # The time of a step in milliseconds.
    step = result["step_seconds"]
    median, lowest, highest = (
        f"{1000 * step[which]:.4g}" for which in ("median", "lowest", "highest")
    )

    # Some figures are not known on every machine, or for every run.
    hours, busy = result["hours_of_all_steps"], result["gpu_busy_percent"]
    in_a_row = result.get("step_seconds_in_a_row")
    compiling = f"{result['compiling_seconds']:.0f} s"
    if result["programs_from_cache"]:
        compiling = "from the cache"
    conditions = result["conditions"]
    return [
        f"{median} ms ({lowest} to {highest})",
        "" if in_a_row is None else f"{1000 * in_a_row:.4g} ms",
        f"{result['images_per_second']:,.0f}",
        "" if hours is None else f"{hours:.3g}",
        _least_time(result.get("bound")),
        "" if busy is None else f"{busy:.3g} %",
        compiling,
        f"{result['peak_memory_mib'] / 1024:.2f} GiB",
        f"{conditions['device']}, jax {conditions['jax']}",
    ]


def _least_time(bound: Mapping[str, Any] | None) -> str:
    """The cell of the least time, from `bound.figures`; empty without a bound."""
    if bound is None:
        return ""
    time = f"{1000 * bound['step_seconds_at_least']:.4g} ms"
    return f"{time} ({bound['percent_of_the_step']:.3g} %), {bound['bound_by']}"


def main() -> None:
    """Prints the table of the folder that the command line names."""
    results = {}
    folder = pathlib.Path(sys.argv[1])
    for file in sorted(folder.glob("*.json")):
        try:
            result = json.loads(file.read_text())
            _cells(result)  # raises where a figure is missing
        except (OSError, ValueError, LookupError, TypeError):
            print(
                f"bnas_jax: {file} is not a benchmark of a step, and left out of the "
                "table",
                file=sys.stderr,
            )
            continue
        results[file.stem] = result
    print(markdown(results))


if __name__ == "__main__":
    main()
