"""A plan as plain values for JSON, and as a table for people."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bnas_jax.plan import EVALUATE
from bnas_jax.plan.chips import GIB
from bnas_jax.plan.compile import Plan
from bnas_jax.plan.machines import Machine
from bnas_jax.plan.movement import OUTSIDE
from bnas_jax.plan.roofline import MOVING, SENDING, bound
from bnas_jax.settings import SearchSettings, TrainSettings

_SHOWN = 10


def summary(
    run: SearchSettings | TrainSettings, plan: Plan, machine: Machine, *, of: str
) -> dict[str, Any]:
    """The figures of a plan.

    All of memory, operations, bytes and messages are those of one chip.
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
    if plan.too_large is None:
        largest = max(plan.programs, key=lambda program: program.memory.total)
        result["memory"] = dataclasses.asdict(largest.memory)
    result["compile_seconds"] = round(plan.seconds, 1)
    if fits:
        result |= _work(plan) | _times(run, plan, machine, of=of)
    return result


def _work(plan: Plan) -> dict[str, Any]:
    """What a step does, over its programs."""
    layers: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for program in plan.programs:
        layers.update(program.layers)
        kernels.update(program.kernels)
    outside = layers.pop(OUTSIDE, 0)
    buffers = [buffer for program in plan.programs for buffer in program.buffers]
    buffers.sort(key=lambda buffer: -buffer.bytes)
    messages = [
        message._asdict() for program in plan.programs for message in program.messages
    ]
    return {
        "operations": sum(program.work.operations for program in plan.programs),
        "bytes_accessed": sum(program.accessed for program in plan.programs),
        "bytes_moved": sum(program.work.moved for program in plan.programs),
        "bytes_moved_without_padding": sum(program.useful for program in plan.programs),
        "collectives": sum(message["number"] for message in messages),
        "bytes_sent": sum(program.work.sent for program in plan.programs),
        "messages": messages,
        "kernels": dict(kernels.most_common()),
        "largest_buffers": [buffer._asdict() for buffer in buffers[:_SHOWN]],
        "layers": dict(layers.most_common(_SHOWN)),
        "bytes_moved_outside_layers": outside,
    }


def _times(
    run: SearchSettings | TrainSettings, plan: Plan, machine: Machine, *, of: str
) -> dict[str, Any]:
    """The least times."""
    bounds = [
        bound(program.work, machine.chip, precision=run.precision)
        for program in plan.programs
    ]
    # The program that would run moves less than one made with little effort.
    if plan.quick:
        bounds = [each.without(MOVING) for each in bounds]
    seconds = sum(each.seconds for each in bounds)
    parts = {name: sum(each.times[name] for each in bounds) for name in bounds[0].times}
    epoch = seconds * plan.steps
    epochs = 1 if of == EVALUATE else run.num_epochs
    hours = epoch * epochs / 3600
    needed = plan.images / seconds if seconds else math.inf
    return {
        "step_seconds_at_least": seconds,
        "bound_by": max(bounds, key=lambda each: each.seconds).by,
        "seconds_of_each_at_least": parts,
        "steps_per_epoch": plan.steps,
        "epoch_seconds_at_least": epoch,
        "hours_at_least": hours,
        "chip_hours_at_least": hours * machine.chips,
        "images_per_second_and_host_needed": needed / machine.hosts,
    }


def table(result: Mapping[str, Any]) -> str:
    """Lines for people. result: a `summary`."""
    rows = [
        (
            "machine",
            f"{result['machine']}: {_many(result['devices'], 'chip')}, "
            f"{_many(result['hosts'], 'host')}",
        ),
        ("batch", f"{result['batch_size']}, {result['batch_per_device']} a chip"),
        ("memory of a chip", _memory_text(result)),
    ]
    for name, size in result.get("memory", {}).items():
        rows.append((f"  {name}", _gib(size)))
    if result["fits"]:
        rows += _rows_of_work(result)
    rows.append(("compiled in", _compiled_in(result)))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {text}" for name, text in rows]
    if result["fits"] and not result["quick"]:
        lines += ["", *_layer_lines(result)]
    if result["fits"]:
        lines += ["", *_buffer_lines(result)]
    return "\n".join(lines)


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of many plans, one a row. results: name -> `summary`, with its date and
    versions.
    """
    head = (
        "| plan | batch a chip | memory | operations | moved (accessed) | collectives "
        "| a step at least, by | compiled in |"
        " date, versions |"
    )
    lines = [head, "|---" * 9 + "|"]
    for name, result in results.items():
        if "error" in result:
            lines.append(f"| {name} | {result['error']} |" + " |" * 7)
            continue
        versions = ", ".join(
            f"{package} {version}" for package, version in result["versions"].items()
        )
        needed = f"{_gib(result['memory_bytes'])} of {_gib(result['memory_available_bytes'])}"
        cells = [name, str(result["batch_per_device"]), needed]
        if result["fits"]:
            cells += [
                _operations(result),
                _moved(result),
                _collectives(result),
                _least_time(result),
            ]
        else:
            cells += ["does not fit", "", "", ""]
        cells += [_compiled_in(result), f"{result['date']}, {versions}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _memory_text(result: Mapping[str, Any]) -> str:
    needed, available = result["memory_bytes"], result["memory_available_bytes"]
    verdict = "fits" if result["fits"] else "DOES NOT FIT"
    share = 100 * needed / available
    return f"{_gib(needed)} of {_gib(available)} ({share:.1f} %): {verdict}"


def _rows_of_work(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    what = "batch" if result["of"] == EVALUATE else "step"
    rows = [
        (f"operations a chip and {what}", _operations(result)),
        *_rows_of_bytes(result),
        ("collectives", f"{result['collectives']}, {_gb(result['bytes_sent'])} sent"),
    ]
    for message in result["messages"]:
        links = "between hosts, too" if message["between_hosts"] else "within a host"
        of = f"{message['number']} in groups of {message['group']}, {links}"
        rows.append((f"  {message['kind']}", f"{of}, {_gb(message['bytes'])}"))
    kernels = [
        f"{number} {kind}" for kind, number in list(result["kernels"].items())[:_SHOWN]
    ]
    rows.append(("kernels", ", ".join(kernels)))
    seconds = result["step_seconds_at_least"]
    parts = result["seconds_of_each_at_least"]
    rows += [
        (
            f"a {what} takes at least",
            f"{1000 * seconds:.3g} ms, by {result['bound_by']}",
        ),
        *[(f"  {name}", f"{1000 * least:.3g} ms") for name, least in parts.items()],
        ("an epoch at least", f"{result['epoch_seconds_at_least']:.3g} s"),
        (
            "all of it at least",
            f"{result['hours_at_least']:.3g} hours, "
            f"{result['chip_hours_at_least']:.3g} chip-hours",
        ),
        (
            "images a second and host",
            f"{result['images_per_second_and_host_needed']:,.0f} needed for that",
        ),
    ]
    return rows


def _rows_of_bytes(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    if result["quick"]:
        return [("bytes moved", "not known with --quick")]
    padding = 1 - result["bytes_moved_without_padding"] / max(result["bytes_moved"], 1)
    return [
        (
            "bytes moved",
            f"{_gb(result['bytes_moved'])}, {100 * padding:.0f} % of it padding",
        ),
        ("bytes accessed, XLA's count", _accessed(result)),
    ]


def _moved(result: Mapping[str, Any]) -> str:
    if result["quick"]:
        return "not known"
    return f"{_gb(result['bytes_moved'])} ({_accessed(result)})"


def _least_time(result: Mapping[str, Any]) -> str:
    beside = "; bytes moved not known" if result["quick"] else ""
    return (
        f"{1000 * result['step_seconds_at_least']:.3g} ms, {result['bound_by']}{beside}"
    )


def _compiled_in(result: Mapping[str, Any]) -> str:
    quickly = ", --quick" if result["quick"] else ""
    return f"{result['compile_seconds']:.0f} s{quickly}"


def _operations(result: Mapping[str, Any]) -> str:
    rounded = float(f"{result['operations'] / 1e9:.3g}")
    return f"{rounded:,g} G"


def _collectives(result: Mapping[str, Any]) -> str:
    if not result["collectives"]:
        return "0"
    sending = 1000 * result["seconds_of_each_at_least"][SENDING]
    return f"{result['collectives']}, {sending:.3g} ms"


def _accessed(result: Mapping[str, Any]) -> str:
    if not result["bytes_accessed"]:
        return "not given"
    return _gb(result["bytes_accessed"])


def _layer_lines(result: Mapping[str, Any]) -> list[str]:
    lines = ["What moves most:"]
    for name, size in result["layers"].items():
        lines.append(f"  {_gb(size):>10}  {name}")
    lines.append(f"  {_gb(result['bytes_moved_outside_layers']):>10}  {OUTSIDE}")
    return lines


def _buffer_lines(result: Mapping[str, Any]) -> list[str]:
    lines = ["The largest arrays (without padding):"]
    for buffer in result["largest_buffers"]:
        sizes = f"{buffer['bytes'] / 2**20:9.1f} MiB ({buffer['useful'] / 2**20:.1f})"
        lines.append(f"  {sizes}  {buffer['array']}  {buffer['layer']}")
    return lines


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number > 1 else "")


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _gb(size: float) -> str:
    if size < 1e8:
        return f"{size / 1e6:.2f} MB"
    return f"{size / 1e9:.2f} GB"
