"""Whether all hosts of a run have the same work directory, and the same data."""

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

# Seconds after which a host sees what another one has written: NFS asks again for what
# was not there after a minute at most.
_SEEN = 90


def check(folder: pathlib.Path, facts: Facts) -> None:
    """Raises `UserError` unless all processes have this directory, and one data.

    Without the directory a run would begin, but the processes could not go on from one
    checkpoint.

    folder: the work directory. facts: about the data, as this process found them.
    """
    here = platform.node()
    problem = ""
    if not _is_that_of_first(folder):
        problem = (
            f"{folder} on {here} is not the directory of that name on the first "
            "process; choose a --workdir on a file system that all hosts share"
        )

    # The data, which may be copies on the disk of each host.
    of_first = json.loads(hosts.from_first(json_text(facts.known())))
    if facts_lib.difference(facts, facts_lib.from_dict(of_first)):
        problem = (
            f"the data on {here} is not that of the first process; copy it anew to "
            "where config.dataset.path is"
        )
    hosts.end_together(problem)


def _is_that_of_first(folder: pathlib.Path) -> bool:
    """Whether a file of the first process comes to stand in this process's directory.

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
    """Whether a file of JSON holds a value, or does so within `_SEEN` seconds."""
    last = time.monotonic() + _SEEN
    while True:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text()) == value:
                return True
        if time.monotonic() > last:
            return False
        time.sleep(0.2)
