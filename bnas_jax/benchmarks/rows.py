"""A table of benchmarks that were measured: `python -m bnas_jax.benchmarks.rows DIR`, of the files DIR/NAME.json."""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

_HEAD = (
    "benchmark",
    "step, median (lowest to highest)",
    "images a second",
    "all steps",
    "at least, by",
    "GPU busy",
    "compiling",
    "memory",
    "device, versions",
)


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each name with what `step.benchmark` gave."""
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for name, result in results.items():
        lines.append(f"| {' | '.join([name, *_cells(result)])} |")
    return "\n".join(lines)


def _cells(result: Mapping[str, Any]) -> list[str]:
    step, conditions = result["step_seconds"], result["conditions"]
    times = [f"{1000 * step[which]:.4g}" for which in ("median", "lowest", "highest")]
    hours, busy, bound = (
        result.get(name) for name in ("hours_of_all_steps", "gpu_busy_percent", "bound")
    )
    at_least = ""
    if bound is not None:
        seconds, share = bound["step_seconds_at_least"], bound["share_of_the_bound_percent"]
        at_least = f"{1000 * seconds:.4g} ms ({share:.3g} %), {bound['bound_by']}"
    return [
        f"{times[0]} ms ({times[1]} to {times[2]})",
        f"{result['images_per_second']:,.0f}",
        "" if hours is None else f"{hours:.3g} h",
        at_least,
        "" if busy is None else f"{busy:.3g} %",
        f"{result['compiling_seconds']:.0f} s",
        f"{result['peak_memory_mib'] / 1024:.2f} GiB",
        f"{conditions['device']}, jax {conditions['jax']}",
    ]


def main() -> None:
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
    print(markdown({file.stem: json.loads(file.read_text()) for file in files}))


if __name__ == "__main__":
    main()
