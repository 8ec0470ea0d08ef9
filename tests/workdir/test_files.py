"""Files that are written whole or not at all."""

import json
import math
import os
import subprocess
import sys

import pytest

from bnas_jax.core.errors import UserError, first_line
from bnas_jax.workdir.files import file_to_write, whole, write_whole


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_text()))
    write_whole(path, 1)
    assert seen == ["old"] and path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_do_not_write_into_the_same_part(tmp_path):
    with whole(tmp_path / "a.svg") as part:
        part.write_text("")
        assert str(os.getpid()) in part.name and part.suffix == ".svg"


def test_what_a_killed_process_left_of_a_file_is_removed_by_the_next(tmp_path):
    path = tmp_path / "[a].svg"
    write = f"""
from pathlib import Path
from bnas_jax.workdir.files import whole
with whole(Path({str(path)!r})) as part:
    part.write_text("half")
    print("writing", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", write], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    mine = tmp_path / "part.1.[a].svg"
    mine.write_text("a file of the user")

    # A living process keeps its file.
    names = lambda: {entry.name for entry in tmp_path.iterdir()}
    left = f".part.{process.pid}.[a].svg"
    write_whole(path, 1)
    assert names() == {path.name, mine.name, left}

    process.kill()
    process.communicate()
    write_whole(path, 2)
    assert names() == {path.name, mine.name} and path.read_text() == "2\n"


def test_after_an_error_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(UserError, match="cannot write"), whole(path) as part:
        part.write_text("new")
        raise OSError("full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_without_text_is_named_by_its_type():
    assert first_line(RuntimeError()) == "RuntimeError"
    assert first_line(RuntimeError("\none\ntwo")) == "one"


def test_a_number_that_is_not_finite_is_null(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, {"loss": math.nan, "top1": [60.0, -math.inf], "infinity": "NaN"})
    # Other readers of JSON than Python's know no NaN.
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert found == {"loss": None, "top1": [60.0, None], "infinity": "NaN"}


def test_a_link_to_itself_is_replaced_by_the_file(tmp_path):
    link = tmp_path / "cell.svg"
    link.symlink_to("cell.svg")
    with whole(file_to_write(str(link))) as part:
        part.write_text("picture")
    assert link.read_text() == "picture"
