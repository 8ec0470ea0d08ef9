"""What a work directory holds and refuses: records, settings, locks."""

import dataclasses
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys

import pytest
from counted_runs import RECORDS, Counting
from documents import ROOT
from small_runs import read

import bnas_jax
from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.data.facts import Facts
from bnas_jax.training.log import Log
from bnas_jax.training.workdir import FORMAT, WorkDir
from configs import train as train_configs


def test_records_of_steps_that_are_made_again_are_cut_off(tmp_path):
    counted = Counting(tmp_path)
    counted.start()
    shutil.rmtree(counted.workdir.checkpoints / "10")
    again = Counting(tmp_path)
    again.start()
    assert again.made == [5, 6, 7, 8, 9] and again.records() == RECORDS


def test_a_line_cut_short_or_damaged_leaves_the_others(tmp_path):
    counted = Counting(tmp_path)
    counted.start()
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(
        b"\xff\xfe\n" + lines[0] + b"12\n{}\n" + lines[1][:9]
    )
    assert counted.records() == RECORDS[:1]
    shutil.rmtree(counted.workdir.checkpoints / "10")
    Counting(tmp_path).start()
    assert counted.records() == RECORDS
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_epochs_whose_records_are_lost_are_said_in_a_line(tmp_path, capfd):
    counted = Counting(tmp_path)
    counted.start()
    assert "metrics.jsonl" not in capfd.readouterr().err
    shutil.rmtree(counted.workdir.checkpoints / "10")
    (tmp_path / "metrics.jsonl").write_text("")
    again = Counting(tmp_path)
    again.start()
    assert again.records() == RECORDS[1:]
    line = (
        "warning: metrics.jsonl lacks the records of 1 of the 1 epochs so far; the run "
        "continues"
    )
    assert line in capfd.readouterr().err and line in (tmp_path / "log.txt").read_text()


def test_a_run_that_begins_anew_for_want_of_checkpoints_says_so(tmp_path, capfd):
    counted = Counting(tmp_path)
    counted.start()
    shutil.rmtree(counted.workdir.checkpoints)
    again = Counting(tmp_path)
    again.start()
    assert again.made == list(range(10)) and again.records() == RECORDS
    line = (
        f"warning: no checkpoint in {again.workdir.checkpoints}, though metrics.jsonl "
        "has 2 epochs; the run starts again"
    )
    assert line in capfd.readouterr().err and line in (tmp_path / "log.txt").read_text()


def test_a_loss_that_is_not_finite_is_null_in_the_records_and_a_setting_stays_infinite(
    tmp_path,
):
    workdir = WorkDir(tmp_path / "run")
    run = settings.from_config(train_configs.get_config("digits"))
    run = dataclasses.replace(
        run, optimizer=dataclasses.replace(run.optimizer, clip_norm=math.inf)
    )
    workdir.open(run, Facts(num_classes=2, image_shape=(8, 8, 1)))
    assert settings.from_config(workdir.config()) == run
    # It is JSON, which has no infinity; earlier versions wrote one all the same.
    path = workdir / "config.json"
    strict = json.JSONDecoder(parse_constant=pytest.fail)
    assert strict.decode(path.read_text())["optimizer"]["clip_norm"] == "inf"
    path.write_text(path.read_text().replace('"inf"', "Infinity"))
    assert settings.from_config(workdir.config()) == run
    log = Log(workdir, 0)
    log.write({"step": 1, "epoch": 0, "train_loss": math.nan, "test_loss": math.inf})
    log.close()
    workdir.close()
    text = (workdir / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "epoch": 0, "train_loss": null, "test_loss": null}\n'


def test_a_work_directory_of_another_run_is_refused_by_the_first_setting_that_differs(
    tmp_path,
):
    Counting(tmp_path)
    with pytest.raises(
        UserError,
        match=(
            r"another run: config\.seed is 5 now and 0 there; write "
            r"--config\.seed=0 to continue it, or choose another --workdir"
        ),
    ):
        Counting(tmp_path, seed=5)
    # Of the settings of another run, a long command line is of no use.
    many = {"seed": 5, "batch_size": 32, "microbatches": 2, "sync_bn": False}
    with pytest.raises(UserError, match=r"batch_size is 32 .* there; choose another"):
        Counting(tmp_path, **many)
    Counting(
        tmp_path, log_every_steps=7, checkpoint_every_steps=3
    )  # nothing that is trained hangs on these


def test_a_work_directory_of_an_older_format_is_refused(tmp_path):
    Counting(tmp_path)
    noted = read(tmp_path / "run.json")
    assert noted.pop("format") == FORMAT
    (tmp_path / "run.json").write_text(json.dumps(noted))
    older = (
        r"^.* written by another version of bnas-jax, in the format 1; .*: choose "
        r"another --workdir$"
    )
    for reads in (
        lambda: Counting(tmp_path),
        lambda: WorkDir(tmp_path).config(),
        lambda: bnas_jax.load(tmp_path),
    ):
        with pytest.raises(UserError, match=older):
            reads()


def test_two_runs_at_a_time_in_one_work_directory_are_refused(tmp_path):
    counted = Counting(tmp_path)
    script = (
        "import sys; from bnas_jax.training.workdir import WorkDir; "
        "WorkDir(sys.argv[1])._lock()"
    )
    lock = lambda: subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert f"is in use by process {os.getpid()} on " in lock().stderr
    counted.workdir.close()
    assert lock().returncode == 0
    Counting(tmp_path)  # the process that had it has ended


def test_files_that_a_killed_run_was_writing_are_removed_at_the_next_start(tmp_path):
    """Those that other commands may be writing stay."""
    counted = Counting(tmp_path)
    # Without the dot, an earlier state of 0.3.0 wrote them.
    for name in ("metrics.jsonl", "config.json", "alphas.npz", "report.html"):
        (tmp_path / f".part.1.{name}").write_text("{")
        (tmp_path / f"part.1.{name}").write_text("{")
    counted.workdir.close()
    Counting(tmp_path)
    left = {path.name for path in tmp_path.glob("*part.*")}
    assert left == {".part.1.report.html", "part.1.report.html"}


def test_the_log_has_clock_host_and_process(tmp_path):
    Counting(tmp_path).start()
    for line in (tmp_path / "log.txt").read_text().splitlines():
        assert re.match(
            (
                rf"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ {platform.node()} {os.getpid()} "
                r"(starts|code|compiled|epoch)"
            ),
            line,
        )


def test_checkpoints_without_a_config_are_nobodys(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"no config\.json to tell whose"):
        Counting(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoints"]


def test_a_file_in_the_way_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot write to the work directory .*choose another"
    ):
        Counting(tmp_path / "file")


def test_a_name_that_orbax_cannot_write_is_noticed_at_the_start(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"a name that is no UTF-8; choose another"):
        Counting(folder)
    assert not folder.exists()


def test_a_file_in_the_place_of_the_checkpoints_is_noticed_at_the_start(tmp_path):
    """Once it is moved away, the run begins."""
    Counting(tmp_path)
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(
        UserError, match=r"checkpoints is a file where .* belongs; move it away, or"
    ):
        Counting(tmp_path)
    (tmp_path / "checkpoints").unlink()
    assert len(Counting(tmp_path).start().params) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\x00"])
def test_a_damaged_config_is_named(tmp_path, text):
    Counting(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        UserError,
        match=r"config\.json (cannot be read|contains no JSON object).*restore it",
    ):
        WorkDir(tmp_path).config()


def test_a_work_directory_that_has_lost_its_run_json_is_called_so(tmp_path):
    Counting(tmp_path)
    (tmp_path / "run.json").unlink()
    for reads in (WorkDir(tmp_path).facts, lambda: Counting(tmp_path)):
        with pytest.raises(
            UserError, match=r"has lost its run\.json; restore it or choose another"
        ):
            reads()


def test_a_folder_without_a_config_is_no_work_directory(tmp_path):
    with pytest.raises(
        UserError, match=r"is not a work directory: it has no config\.json"
    ):
        WorkDir(tmp_path).config()
