"""The process that compiles: `python -m bnas_jax.plan REQUEST.json PLAN.json`, see
`request`.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bnas_jax import extensions, settings
from bnas_jax.core.errors import UserError, first_line
from bnas_jax.plan import STEP
from bnas_jax.plan.blank_data import data_for_plan
from bnas_jax.plan.compile import compile_for
from bnas_jax.plan.machines import machine
from bnas_jax.plan.request import versions
from bnas_jax.plan.summary import summary
from bnas_jax.settings import Settings

# How many numbers of microbatches are compiled at most, to find one that fits.
_TRIES = 3


def main() -> None:
    asked, answered = map(pathlib.Path, sys.argv[1:])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    # Programs for other machines cannot be loaded here, so that keeping them is of no
    # use.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        result = plan(json.loads(asked.read_text()))
    except UserError as error:
        result = {"error": str(error)}
    except RuntimeError as error:
        # A compiler of another version than JAX's, or a machine that it does not know.
        reason = first_line(error)
        result = {
            "error": f"the compiler does not work with this version of JAX: {reason}"
        }
    answered.write_text(json.dumps(result))


def _end_with_stdin() -> None:
    """Ends this process when the one that holds the other end of stdin is gone, even by
    SIGKILL.
    """
    # Not by `sys.stdin`, whose lock would be held while Python shuts down.
    os.read(0, 1)
    os._exit(1)


def plan(request: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of the plan that a `Request` asks for, as plain values."""
    for file in request["extensions"]:
        extensions.load(file)
    run = settings.from_config(request["settings"])
    on, of = machine(request["machine"]), request["of"]
    data = data_for_plan(run.dataset)

    def planned(run) -> dict[str, Any]:
        compiled = compile_for(run, data, on, of=of, quick=request["quick"])
        return summary(run, compiled, on, of=of)

    result = planned(run)
    if not result["fits"] and of == STEP:
        result["microbatches_that_fit"] = _microbatches_that_fit(run, planned)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**result, "date": today, "versions": versions()}


def _microbatches_that_fit(
    run: Settings, planned: Callable[[Settings], dict]
) -> int | None:
    """A number of microbatches with which the step fits, None where none is found in a
    few tries.
    """
    tries = 0
    number = 2 * run.microbatches
    while number <= run.batch_size and tries < _TRIES:
        print(
            f"bnas_jax: does not fit; trying config.microbatches={number}",
            file=sys.stderr,
        )
        try:
            # It must divide each device's part, which batch norm in groups must divide
            # in turn.
            if planned(dataclasses.replace(run, microbatches=number))["fits"]:
                return number
            tries += 1
        except UserError:
            pass
        number *= 2
    return None


if __name__ == "__main__":
    main()
