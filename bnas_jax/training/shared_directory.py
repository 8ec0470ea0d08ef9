"""Checks that all hosts of a run have the same work directory and the same data."""

import contextlib
import json
import pathlib
import platform
import time
import uuid

from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.runtime import hosts
from bnas_jax.workdir.files import json_text, write_whole

# Seconds until a host sees a file that another host has written. NFS caches for at most
# a minute that a file does not exist.
_SEEN = 90


def check(folder: pathlib.Path, facts: Facts) -> None:
    """Raises `UserError` unless all processes share the directory and have equal data.

    Without a shared directory a run could start, but its processes could not continue
    from the same checkpoint.

    folder: the work directory.
    facts: the facts about the data of this process.
    """
    here = platform.node()
    problem = ""
    if not _is_that_of_first(folder):
        problem = (
            f"{folder} on {here} is not the directory of that name on the first "
            "process; choose a --workdir on a file system that all hosts share"
        )

    # Each host may have its own copy of the data.
    of_first = json.loads(hosts.from_first(json_text(facts.known())))
    if facts_lib.difference(facts, facts_lib.from_dict(of_first)):
        problem = (
            f"the data on {here} is not that of the first process; copy it again to "
            "where config.dataset.path is"
        )
    hosts.end_together(problem)


def _is_that_of_first(folder: pathlib.Path) -> bool:
    """Whether a file written by the first process appears in this process's directory.

    The file is removed once every process has looked.
    """
    word = hosts.from_first(uuid.uuid4().hex)
    path = folder / "shared"
    hosts.on_first(lambda: write_whole(path, word))
    same = _comes_to_hold(path, word)
    hosts.meet()
    hosts.on_first(lambda: path.unlink(missing_ok=True))
    return same


def _comes_to_hold(path: pathlib.Path, value: str) -> bool:
    """Whether a JSON file holds a value within `_SEEN` seconds."""
    last = time.monotonic() + _SEEN
    while True:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text()) == value:
                return True
        if time.monotonic() > last:
            return False
        time.sleep(0.2)
