"""A plan as plain values for JSON, and as a table to read."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bnas_jax.plan import EVALUATE
from bnas_jax.plan.buffers import Buffer
from bnas_jax.plan.chips import GIB
from bnas_jax.plan.compile import Plan
from bnas_jax.plan.machines import Machine
from bnas_jax.plan.movement import OUTSIDE
from bnas_jax.plan.roofline import MOVING, SENDING, bound
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.workdir.markdown import table_row

# How many buffers, layers and kinds of kernels are shown.
_SHOWN = 10


def summary(
    run: SearchSettings | TrainSettings, plan: Plan, machine: Machine, *, of: str
) -> dict[str, Any]:
    """The figures of a plan, as plain values.

    Memory, operations, bytes and messages are those of one chip.

    of: `step` or `evaluate`.
    """
    fits = plan.too_large is None and plan.memory_bytes <= machine.chip.memory
    result: dict[str, Any] = {
        "machine": machine.name,
        "of": of,
        "quick": plan.quick,
        "devices": plan.devices,
        "hosts": machine.hosts,
        "batch_size": plan.batch_size,
        "batch_per_device": plan.batch_size // plan.devices,
        "microbatches": run.microbatches,
        "fits": fits,
        "memory_bytes": plan.memory_bytes,
        "memory_available_bytes": round(machine.chip.memory),
    }
    # The memory by kind, for the program that needs most.
    if plan.too_large is None:
        largest = max(plan.programs, key=lambda program: program.memory.total)
        result["memory"] = dataclasses.asdict(largest.memory)
    result["compile_seconds"] = round(plan.seconds, 1)
    # A step that does not fit has no times.
    if fits:
        result |= _work(plan) | _times(run, plan, machine, of=of)
    return result


def _work(plan: Plan) -> dict[str, Any]:
    """The work of one chip in a step, over all programs of the step."""
    # The bytes moved for each layer, and the number of kernels of each kind.
    layers: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for program in plan.programs:
        layers.update(program.layers)
        kernels.update(program.kernels)
    outside = layers.pop(OUTSIDE, 0)

    # Buffers and messages of all programs, the largest buffers first.
    buffers: list[Buffer] = []
    messages: list[dict[str, Any]] = []
    for program in plan.programs:
        buffers += program.buffers
        messages += [message._asdict() for message in program.messages]
    buffers.sort(key=lambda buffer: -buffer.bytes)

    works = [program.work for program in plan.programs]
    return {
        "operations": sum(work.operations for work in works),
        "bytes_accessed": sum(program.accessed for program in plan.programs),
        "bytes_moved": sum(work.moved for work in works),
        "bytes_moved_without_padding": sum(program.useful for program in plan.programs),
        "collectives": sum(message["number"] for message in messages),
        "bytes_sent": sum(work.sent for work in works),
        "messages": messages,
        "kernels": dict(kernels.most_common()),
        "largest_buffers": [buffer._asdict() for buffer in buffers[:_SHOWN]],
        "layers": dict(layers.most_common(_SHOWN)),
        "bytes_moved_outside_layers": outside,
    }


def _times(
    run: SearchSettings | TrainSettings, plan: Plan, machine: Machine, *, of: str
) -> dict[str, Any]:
    """The least times of a step, an epoch and all of the run."""
    # A bound for each program of the step.
    bounds = []
    for program in plan.programs:
        of_program = bound(program.work, machine.chip, precision=run.precision)
        # A quick plan's program moves more than the one that would run.
        if plan.quick:
            of_program = of_program.without(MOVING)
        bounds.append(of_program)

    # The programs run one after the other.
    seconds = sum(each.seconds for each in bounds)
    parts = {}
    for name in bounds[0].times:
        parts[name] = sum(each.times[name] for each in bounds)
    longest = max(bounds, key=lambda each: each.seconds)

    # The times of the run, and the rate at which its hosts must read images.
    epoch = seconds * plan.steps
    epochs = 1 if of == EVALUATE else run.num_epochs
    hours = epoch * epochs / 3600
    needed = plan.images / seconds if seconds else math.inf
    return {
        "step_seconds_at_least": seconds,
        "bound_by": longest.by,
        "seconds_of_each_at_least": parts,
        "steps_per_epoch": plan.steps,
        "epoch_seconds_at_least": epoch,
        "hours_at_least": hours,
        "chip_hours_at_least": hours * machine.chips,
        "images_per_second_and_host_needed": needed / machine.hosts,
    }


def table(result: Mapping[str, Any]) -> str:
    """A plan as lines of text.

    result: a `summary`.
    """
    # What is planned, and whether it fits.
    chips, hosts = _many(result["devices"], "chip"), _many(result["hosts"], "host")
    rows = [
        ("machine", f"{result['machine']}: {chips}, {hosts}"),
        ("batch", f"{result['batch_size']}, {result['batch_per_device']} a chip"),
        ("memory of a chip", _memory_text(result)),
    ]
    for name, size in result.get("memory", {}).items():
        rows.append((f"  {name}", _gib(size)))
    if result["fits"]:
        rows += _rows_of_work(result)
    rows.append(("compiled in", _compiled_in(result)))

    # Two columns, and lists below.
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {text}" for name, text in rows]
    if result["fits"] and not result["quick"]:
        lines += ["", *_layer_lines(result)]
    if result["fits"]:
        lines += ["", *_buffer_lines(result)]
    return "\n".join(lines)


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of plans in Markdown, with a row for each.

    results: name -> `summary` with its date and versions, or {"error": ...}.
    """
    lines = [table_row(_COLUMNS), "|---" * len(_COLUMNS) + "|"]
    for name, result in results.items():
        if "error" in result:
            lines.append(table_row([name, result["error"]]) + " |" * 7)
            continue
        lines.append(table_row(_markdown_cells(name, result)))
    return "\n".join(lines)


_COLUMNS = (
    "plan",
    "batch a chip",
    "memory",
    "operations",
    "moved (accessed)",
    "collectives",
    "a step at least, by",
    "compiled in",
    "date, versions",
)


def _markdown_cells(name: str, result: Mapping[str, Any]) -> list[str]:
    """The cells of a plan's row, in the order of `_COLUMNS`."""
    needed, available = result["memory_bytes"], result["memory_available_bytes"]
    memory = f"{_gib(needed)} of {_gib(available)}"
    cells = [name, str(result["batch_per_device"]), memory]

    # The work of a step; it is not known for a step that does not fit.
    if result["fits"]:
        cells += [
            _operations(result),
            _moved(result),
            _collectives(result),
            _least_time(result),
        ]
    else:
        cells += ["does not fit", "", "", ""]

    # How the plan was made.
    pairs = result["versions"].items()
    versions = ", ".join(f"{package} {version}" for package, version in pairs)
    return [*cells, _compiled_in(result), f"{result['date']}, {versions}"]


def _memory_text(result: Mapping[str, Any]) -> str:
    """The memory that is needed on a chip, and whether it is available."""
    needed, available = result["memory_bytes"], result["memory_available_bytes"]
    verdict = "fits" if result["fits"] else "DOES NOT FIT"
    share = 100 * needed / available
    return f"{_gib(needed)} of {_gib(available)} ({share:.1f} %): {verdict}"


def _rows_of_work(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows (name, text) of the work of a step and of its least time."""
    what = "batch" if result["of"] == EVALUATE else "step"
    rows = [
        (f"operations a chip and {what}", _operations(result)),
        *_rows_of_bytes(result),
        *_rows_of_messages(result),
    ]
    most = list(result["kernels"].items())[:_SHOWN]
    kernels = ", ".join(f"{number} {kind}" for kind, number in most)
    return [*rows, ("kernels", kernels), *_rows_of_times(result, what)]


def _rows_of_bytes(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of the bytes that are moved to and from the main memory."""
    if result["quick"]:
        return [("bytes moved", "not known with --quick")]
    moved, useful = result["bytes_moved"], result["bytes_moved_without_padding"]
    padding = 1 - useful / max(moved, 1)
    return [
        ("bytes moved", f"{_gb(moved)}, {100 * padding:.0f} % of it padding"),
        ("bytes accessed, XLA's count", _accessed(result)),
    ]


def _rows_of_messages(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of the bytes that chips send each other."""
    sent = _gb(result["bytes_sent"])
    rows = [("collectives", f"{result['collectives']}, {sent} sent")]
    for message in result["messages"]:
        links = "between hosts, too" if message["between_hosts"] else "within a host"
        of = f"{message['number']} in groups of {message['group']}, {links}"
        rows.append((f"  {message['kind']}", f"{of}, {_gb(message['bytes'])}"))
    return rows


def _rows_of_times(result: Mapping[str, Any], what: str) -> list[tuple[str, str]]:
    """The rows of the least times. what: "step" or "batch"."""
    # The least time of a step, and of each kind of work by itself.
    seconds = _milliseconds(result["step_seconds_at_least"])
    rows = [(f"a {what} takes at least", f"{seconds}, by {result['bound_by']}")]
    for name, least in result["seconds_of_each_at_least"].items():
        rows.append((f"  {name}", _milliseconds(least)))

    # The times of the run, and the rate at which images must be read.
    epoch = result["epoch_seconds_at_least"]
    hours, chip_hours = result["hours_at_least"], result["chip_hours_at_least"]
    images = result["images_per_second_and_host_needed"]
    rows += [
        ("an epoch at least", f"{epoch:.3g} s"),
        ("all of it at least", f"{hours:.3g} hours, {chip_hours:.3g} chip-hours"),
        ("images a second and host", f"{images:,.0f} needed for that"),
    ]
    return rows


def _moved(result: Mapping[str, Any]) -> str:
    if result["quick"]:
        return "not known"
    return f"{_gb(result['bytes_moved'])} ({_accessed(result)})"


def _least_time(result: Mapping[str, Any]) -> str:
    beside = "; bytes moved not known" if result["quick"] else ""
    seconds = _milliseconds(result["step_seconds_at_least"])
    return f"{seconds}, {result['bound_by']}{beside}"


def _compiled_in(result: Mapping[str, Any]) -> str:
    quickly = ", --quick" if result["quick"] else ""
    return f"{result['compile_seconds']:.0f} s{quickly}"


def _operations(result: Mapping[str, Any]) -> str:
    # Three digits, without an exponent.
    rounded = float(f"{result['operations'] / 1e9:.3g}")
    return f"{rounded:,g} G"


def _collectives(result: Mapping[str, Any]) -> str:
    if not result["collectives"]:
        return "0"
    sending = _milliseconds(result["seconds_of_each_at_least"][SENDING])
    return f"{result['collectives']}, {sending}"


def _accessed(result: Mapping[str, Any]) -> str:
    # XLA's compiler for GPUs gives no count.
    if not result["bytes_accessed"]:
        return "not given"
    return _gb(result["bytes_accessed"])


def _layer_lines(result: Mapping[str, Any]) -> list[str]:
    """The layers that move most, one a line."""
    lines = ["What moves most:"]
    for name, size in result["layers"].items():
        lines.append(f"  {_gb(size):>10}  {name}")
    lines.append(f"  {_gb(result['bytes_moved_outside_layers']):>10}  {OUTSIDE}")
    return lines


def _buffer_lines(result: Mapping[str, Any]) -> list[str]:
    """The largest arrays, one a line."""
    lines = ["The largest arrays (without padding):"]
    for buffer in result["largest_buffers"]:
        padded, useful = buffer["bytes"] / 2**20, buffer["useful"] / 2**20
        sizes = f"{padded:9.1f} MiB ({useful:.1f})"
        lines.append(f"  {sizes}  {buffer['array']}  {buffer['layer']}")
    return lines


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number > 1 else "")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _gb(size: float) -> str:
    if size < 1e8:
        return f"{size / 1e6:.2f} MB"
    return f"{size / 1e9:.2f} GB"
