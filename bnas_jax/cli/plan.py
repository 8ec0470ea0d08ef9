"""`plan`: compiles a run for a machine that is not there."""

import sys
from typing import Any

from bnas_jax.cli.configs import Loaded, configured, last, task_of
from bnas_jax.core.errors import UserError
from bnas_jax.plan import EVALUATE, STEP
from bnas_jax.settings import SearchSettings, TrainSettings


def plan(arguments: list[str], loaded: Loaded) -> dict:
    """Prints what a run's step needs, moves and takes at least on a machine.

    --presets=A,B and --on=X,Y: a table of all pairs. A plan that was made before is
    taken from where it is kept. Returns what it prints, for JSON.
    """
    from bnas_jax.plan.summary import table

    # The options that say which plans there are.
    presets = _words(last(arguments, "--presets="))
    machines = _words(last(arguments, "--on="))
    if presets and last(arguments, "--config=") is not None:
        raise UserError(
            "--presets names the configs of a table; leave --config or --presets out"
        )
    if not machines:
        raise UserError(
            "--on is missing; write --on=MACHINE, such as v4-8, v5e-16 or h100x8"
        )

    # One plan.
    if not presets and len(machines) == 1:
        result = _planned(arguments, machines[0], loaded)
        print(table(result))
        if not result["fits"]:
            print(f"bnas_jax: {_advice(result)}", file=sys.stderr)
        return result

    return _table(arguments, presets, machines, loaded)


def _table(
    arguments: list[str], presets: list[str], machines: list[str], loaded: Loaded
) -> dict[str, Any]:
    """Prints a table of all pairs of a preset and a machine.

    An error of one pair alone is written in its row; any other error ends the command.
    """
    from bnas_jax.plan.machines import machine
    from bnas_jax.plan.summary import markdown

    # Unknown machines and unknown configs are errors before the first plan is compiled.
    for on in machines:
        machine(on)
    of_presets = {"": arguments}  # without --presets, the config of --config
    if presets:
        of_presets = {name: [*arguments, f"--config={name}"] for name in presets}
    for given in of_presets.values():
        _asked(given)

    # Each pair by itself.
    results: dict[str, dict] = {}
    for name, given in of_presets.items():
        for on in machines:
            pair = f"{name} {on}".strip()
            print(f"bnas_jax: {pair}", file=sys.stderr)
            try:
                results[pair] = _planned(given, on, loaded)
            except UserError as error:
                results[pair] = {"error": str(error), "fits": False}
    print(markdown(results))
    all_fit = all(result["fits"] for result in results.values())
    return {"plans": results, "fits": all_fit}


def _planned(arguments: list[str], on: str, loaded: Loaded) -> dict[str, Any]:
    """The summary of one plan. on: the name of the machine that it is for."""
    from bnas_jax.plan.absent import check
    from bnas_jax.plan.machines import machine
    from bnas_jax.plan.request import Request, planned

    # Refuse what cannot be planned for this machine.
    run, values = _asked(arguments)
    there = machine(on)
    if values.quick and there.platform == "gpu":
        raise UserError(f"--quick is for TPUs; leave it out to plan for {there.name}")
    check(run, there, of=values.of)

    # A plan that was made before is taken from where it is kept, unless --again.
    request = Request(
        run=run,
        machine=there.name,
        of=values.of,
        quick=values.quick,
        extensions=tuple(extension.file for extension in loaded),
    )
    return planned(request, again=values.again)


def _asked(arguments: list[str]) -> tuple[Any, Any]:
    """(the settings of --config, the flags).

    Raises `UserError` for a run that cannot be planned on any machine.
    """
    run, values = configured(
        arguments,
        "plan",
        on=None,
        of=STEP,
        presets=None,
        quick=False,
        again=False,
    )
    run = task_of(
        run,
        kind=(SearchSettings, TrainSettings),
        command="plan",
        example="configs/train.py:a",
    )
    if values.of not in (STEP, EVALUATE):
        raise UserError(f"--of takes {STEP} or {EVALUATE}, got {values.of!r}")
    return run, values


def _words(text: str | None) -> list[str]:
    """The words between commas, none of them empty."""
    words = (text or "").split(",")
    return [word.strip() for word in words if word.strip()]


def _advice(result: dict) -> str:
    """What to write where a step does not fit."""
    # An evaluation has no microbatches: its batch must be smaller.
    if result["of"] == EVALUATE:
        return (
            f"a batch of the evaluation does not fit a chip of {result['machine']};"
            " lower --config.eval_batch_size, or take a machine with more chips"
        )

    # A training step keeps its batch size where microbatches fit.
    name = f"this step does not fit a chip of {result['machine']}"
    number = result.get("microbatches_that_fit")
    if number:
        return f"{name}; with --config.microbatches={number} it does"
    return f"{name}; lower --config.batch_size, or take a machine with more chips"
