"""Real runs by the command line, small ones: their arguments, and what they leave."""

import json
import pathlib

import jax
from counted_runs import same
from work_directories import arrays

from bnas_jax.training.workdir import WorkDir
from configs import search as search_configs
from configs import train as train_configs

TASKS = {"train": train_configs, "search": search_configs}
SIZES = [
    "--config.network.num_cells=1",
    "--config.network.channels=2",
    "--config.num_epochs=2",
]
# What a search draws by the number of its step or epoch: alpha's batches, and shifts of
# the validation images.
DRAWN = [
    "--config.alpha_batches=fresh",
    "--config.dataset.augment_validation=True",
    "--config.dataset.pad=1",
]
# An epoch: 1,437 examples in batches of 100; in the search half of them in batches of
# 50.
STEPS = 14


def arguments(
    task: str, workdir: pathlib.Path, cell: pathlib.Path, *more: str
) -> list[str]:
    own = {
        "train": ["--config.batch_size=100", f"--config.network.genotype={cell}"],
        "search": [
            "--config.batch_size=50",
            "--config.network.layer_types=('none','bin_conv_3x3')",
            *DRAWN,
        ],
    }
    own["search"].append(
        "--config.network.num_cells=3"
    )  # the fewest that have a normal cell
    return [
        task,
        f"--config=configs/{task}.py:digits",
        f"--workdir={workdir}",
        *SIZES,
        *own[task],
        *more,
    ]


def traces() -> list[str]:
    """What JAX traces and compiles from now on, by name."""
    names: list[str] = []
    events = (
        "/jax/core/compile/jaxpr_trace_duration",
        "/jax/core/compile/backend_compile_duration",
    )
    listener = lambda event, _, fun_name="", **__: (
        names.append(fun_name) if event in events else None
    )
    jax.monitoring.register_event_duration_secs_listener(listener)
    return names


def records(workdir: pathlib.Path) -> list[dict]:
    return [
        {k: v for k, v in r.items() if k != "seconds"}
        for r in WorkDir(workdir).read_metrics()
    ]


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def check_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same losses, the same final parameters and everything else, bit for bit."""
    assert same(arrays(one, 2 * STEPS), arrays(other, 2 * STEPS))
    assert records(one) == records(other) and len(records(one)) == 2
    assert read(one / "summary.json") == read(other / "summary.json")


def check_compiled_once(seen: list[str], task: str) -> None:
    """One program for the step, of a search for each of its two stages, and one for the
    evaluation.
    """
    times = {f"{task}_stage": {"train": 1, "search": 2}[task], "evaluation": 1}
    for name, expected in times.items():
        assert seen.count(name) == seen.count(f"jit({name})") == expected, name
