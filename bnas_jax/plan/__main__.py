"""The process that makes a plan: `python -m bnas_jax.plan REQUEST.json PLAN.json`.

`request` starts it, and says why it is a separate process.
"""

import contextlib
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
from bnas_jax.plan.absent import check
from bnas_jax.plan.blank_data import data_for_plan
from bnas_jax.plan.compile import compile_for
from bnas_jax.plan.machines import Machine, machine
from bnas_jax.plan.request import versions
from bnas_jax.plan.summary import summary
from bnas_jax.settings import Settings
from bnas_jax.workdir.files import write_whole

# The number of values of config.microbatches that are tried.
_TRIES = 3


def main() -> None:
    """Reads a request from the first file, and writes its plan to the second."""
    asked, answered = map(pathlib.Path, sys.argv[1:])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    # Do not cache programs for other machines: they cannot be loaded here.
    jax.config.update("jax_enable_compilation_cache", False)

    # An error that a user can correct is also an answer.
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
    # The file is written completely or, on a full disk, not at all.
    write_whole(answered, result)


def _end_with_stdin() -> None:
    """Ends this process when the one that started it has ended, even by SIGKILL.

    That one holds the other end of stdin, so that a read from stdin returns then.
    """
    # `sys.stdin` would hold a lock while Python shuts down.
    os.read(0, 1)
    os._exit(1)


def plan(request: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a plan, as plain values.

    request: the result of `Request.to_dict`.
    """
    # Load extensions first: the settings may name entries that they add.
    for file in request["extensions"]:
        extensions.load(file)
    run = settings.from_config(request["settings"])
    on, of = machine(request["machine"]), request["of"]
    data = data_for_plan(run.dataset)

    def planned(run) -> dict[str, Any]:
        compiled = compile_for(run, data, on, of=of, quick=request["quick"])
        return summary(run, compiled, on, of=of)

    # Compile the run as it is. If a step is too large, also try microbatches.
    result = planned(run)
    if not result["fits"] and of == STEP:
        result["microbatches_that_fit"] = _microbatches_that_fit(run, on, planned)
    now = datetime.datetime.now(datetime.UTC)
    return {**result, "date": now.date().isoformat(), "versions": versions()}


def _microbatches_that_fit(
    run: Settings, on: Machine, planned: Callable[[Settings], dict]
) -> int | None:
    """A number of microbatches with which the step fits on the machine.

    None if none is found in `_TRIES` tries, each with at least twice the number of the
    one before.

    planned: (settings of a run) -> the summary of its plan.
    """
    tries = 0
    number = 2 * run.microbatches
    while number <= run.batch_size and tries < _TRIES:
        divided = _in_microbatches(run, number, on)
        if divided is None:
            number += 1
            continue
        print(
            f"bnas_jax: does not fit; trying config.microbatches={number}",
            file=sys.stderr,
        )
        # If the compiler refuses the program, it does not fit either.
        with contextlib.suppress(UserError):
            if planned(divided)["fits"]:
                return number
        tries += 1
        number *= 2
    return None


def _in_microbatches(run: Settings, number: int, on: Machine) -> Settings | None:
    """The run with this number of microbatches, None if it cannot be divided so.

    The number must divide each device's part of the batch, and the groups of batch norm
    must divide each microbatch.
    """
    try:
        divided = dataclasses.replace(run, microbatches=number)
        check(divided, on, of=STEP)
    except UserError:
        return None
    return divided


if __name__ == "__main__":
    main()
