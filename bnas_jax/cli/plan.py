"""`plan`: compiles a run for a machine that is not there."""

import sys

from bnas_jax.cli.configs import Loaded, configured, task_of
from bnas_jax.cli.flags import required
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SearchSettings, TrainSettings

_OF = ("step", "evaluate")


def plan(arguments: list[str], loaded: Loaded) -> dict:
    """Prints what a run's step needs, moves and takes at least on a machine; the same as JSON."""
    from bnas_jax.plan.absent import check
    from bnas_jax.plan.machines import machine
    from bnas_jax.plan.request import Request, planned
    from bnas_jax.plan.summary import table

    run, values = configured(arguments, "plan", on=None, of="step", again=False)
    run = task_of(run, (SearchSettings, TrainSettings), "plan", "configs/train.py:a")
    on = machine(required(values, "on"))
    if values.of not in _OF:
        raise UserError(f"--of takes {' or '.join(_OF)}, got {values.of!r}")
    check(run, on)
    request = Request(
        run=run,
        machine=on.name,
        of=values.of,
        extensions=tuple(extension.file for extension in loaded),
    )
    result = planned(request, again=values.again)
    print(table(result))
    if not result["fits"]:
        print(f"bnas_jax: {_advice(result)}", file=sys.stderr)
    return result


def _advice(result: dict) -> str:
    """What to write where a step does not fit."""
    name = f"this step does not fit a chip of {result['machine']}"
    number = result.get("microbatches_that_fit")
    if number:
        return f"{name}; with --config.microbatches={number} it does"
    return f"{name}; lower --config.batch_size, or take a machine with more chips"
