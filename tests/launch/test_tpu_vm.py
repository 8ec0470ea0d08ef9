"""launch/tpu_vm.sh against a gcloud that plays the queue, preemption, want of capacity
and lost hosts.
"""

import pathlib
import subprocess
import threading
import time

import fake_clouds
import pytest
import test_launch
from fake_clouds import NO_CAPACITY, NOT_FOUND, QUOTA, answer

TRAIN = ["train", "--config=configs/train.py:a", "--workdir=bucket/a"]
# A run that goes to its end, once the TPU is there: code copied, installed, started.
RUN = [
    answer("gcloud tpu-vm scp"),
    answer("gcloud tpu-vm ssh"),
    answer("gcloud tpu-vm ssh"),
]
# The same with a bucket, which is mounted and linked into the code's folder.
RUN_IN_BUCKET = [RUN[0], *4 * [answer("gcloud tpu-vm ssh")]]
# The options that the calls take, as Google's reference of gcloud has them.
OPTIONS = {
    "queued-resources create": {
        "--node-id",
        "--accelerator-type",
        "--runtime-version",
        "--spot",
        "--zone",
    },
    "queued-resources delete": {"--force", "--quiet", "--zone"},
    "queued-resources describe": {"--format", "--zone"},
    "tpu-vm create": {"--accelerator-type", "--version", "--spot", "--zone"},
    "tpu-vm delete": {"--quiet", "--zone"},
    "tpu-vm describe": {"--format", "--zone"},
    "tpu-vm scp": {"--worker", "--zone"},
    "tpu-vm ssh": {"--worker", "--command", "--zone"},
}


def request(output: str = "", code: int = 0) -> str:
    return answer("gcloud queued-resources describe", output, code)


def tpu(output: str = "", code: int = 0) -> str:
    return answer("gcloud tpu-vm describe", output, code)


NO_REQUEST, NO_TPU = request(NOT_FOUND, 1), tpu(NOT_FOUND, 1)
ASK, GRANTED = (
    answer("gcloud queued-resources create"),
    [request("ACTIVE"), tpu("READY")],
)
DELETE = answer("gcloud queued-resources delete")


def play(folder, lines: list[str], *options: str) -> fake_clouds.Played:
    """Looks at the state as often as gcloud answers; checks every call's options."""
    fixed = ["--name=n", "--zone=z", "--poll=0"]
    played = fake_clouds.play(folder, lines, "tpu_vm.sh", *fixed, *options, *TRAIN)
    for call in played.calls:
        if call[0] == "gcloud":
            assert call[1:3] == ["compute", "tpus"] and "--zone=z" in call
            given = {word.partition("=")[0] for word in call if word.startswith("--")}
            assert given <= OPTIONS[" ".join(call[3:5])]
    return played


@pytest.mark.parametrize(
    ("type", "software"),
    {
        "v3-8": "tpu-ubuntu2204-base",
        "v4-32": "tpu-ubuntu2204-base",
        "v5litepod-16": "v2-alpha-tpuv5-lite",
        "v5e-16": "v2-alpha-tpuv5-lite",
        "v5p-8": "v2-alpha-tpuv5",
        "v6e-8": "v2-alpha-tpuv6e",
    }.items(),
)
def test_the_software_is_that_of_the_type(type, software):
    create, *_ = test_launch.dry("tpu_vm.sh", f"--type={type}", *TRAIN)
    named = type.replace("v5e", "v5litepod")
    assert create[6:] == [f"--accelerator-type={named}", f"--version={software}"]
    create, *_ = test_launch.dry(
        "tpu_vm.sh", f"--type={type}", "--version=other", "--queued", *TRAIN
    )
    assert (
        create[3:5] == ["queued-resources", "create"]
        and "--runtime-version=other" in create
        and f"--accelerator-type={named}" in create
    )


@pytest.mark.parametrize(
    ("options", "advice"),
    {
        ("--type=v9-8",): "write for instance --type=v4-8",
        ("--type=v4",): "write for instance --type=v4-8",
        (
            "--type=tpu7x-8",
        ): "write launch/gke.sh --type=tpu7x-8 --bucket=BUCKET train ...",
        ("--poll=1m",): "--poll takes a whole number, got 1m",
        (
            "--spot",
        ): "is lost with it; write --bucket=BUCKET train ... --workdir=bucket/NAME",
        (
            "--spot",
            "--bucket=b",
            "train",
            "--workdir=a",
        ): "write --workdir=bucket/NAME, got a",
    }.items(),
)
def test_a_wrong_option_is_answered_with_one_line(options, advice):
    done = test_launch.launch("tpu_vm.sh", "--dry-run", *options, *TRAIN)
    assert done.returncode == 2 and done.stdout == ""
    assert advice in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_request_waits_in_the_queue_until_it_is_granted(tmp_path):
    waiting = [request("WAITING_FOR_RESOURCES")] * 2 + [request("PROVISIONING")]
    lines = [NO_REQUEST, ASK, *waiting, *GRANTED, *RUN_IN_BUCKET]
    played = play(tmp_path, lines, "--queued", "--spot", "--bucket=b")
    assert played.code == 0
    (create,) = played.of("create")
    assert {"n", "--node-id=n", "--spot", "--accelerator-type=v4-8"} <= set(create)
    shown = [line.split()[5] for line in played.stderr.splitlines() if " is " in line]
    assert shown == ["NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "READY"]


def test_a_second_launcher_goes_on_with_the_request_of_the_first(tmp_path):
    lines = [request("WAITING_FOR_RESOURCES"), *GRANTED, *RUN]
    assert play(tmp_path, lines, "--queued").of("create") == []


def test_a_preempted_tpu_is_deleted_with_its_request_and_asked_for_again(tmp_path):
    notice = [*RUN_IN_BUCKET[:-1], answer("gcloud tpu-vm ssh", "preempted", 143)]
    ending = [request("SUSPENDING")] * 2 + [request("SUSPENDED"), DELETE]
    again = [NO_REQUEST, ASK, *GRANTED, *RUN_IN_BUCKET]
    lines = [*GRANTED, *notice, *ending, *again]
    played = play(tmp_path, lines, "--queued", "--spot", "--bucket=b", "--restarts=0")
    assert played.code == 0 and "--force" in played.of("delete")[0]


def test_a_tpu_that_is_gone_before_its_request_knows_it_is_asked_for_again(tmp_path):
    lines = [request("ACTIVE"), NO_TPU, DELETE, NO_REQUEST, ASK, *GRANTED, *RUN]
    assert play(tmp_path, lines, "--queued").code == 0


def test_a_request_that_failed_for_want_of_capacity_is_deleted_and_made_again(tmp_path):
    lines = [
        request("FAILED"),
        request(NO_CAPACITY),
        DELETE,
        NO_REQUEST,
        ASK,
        *GRANTED,
        *RUN,
    ]
    assert play(tmp_path, lines, "--queued").code == 0


def test_a_request_that_can_never_be_granted_is_deleted_and_said(tmp_path):
    played = play(tmp_path, [request("FAILED"), request(QUOTA), DELETE], "--queued")
    assert played.code == 1 and "Quota limit TPUV4" in played.stderr
    assert played.stderr.splitlines()[-1].endswith(
        "the request for v4-8 failed and is deleted"
    )


def test_after_the_upper_wait_nothing_is_asked_for_any_more(tmp_path):
    lines = [request("WAITING_FOR_RESOURCES"), DELETE]
    played = play(tmp_path, lines, "--queued", "--wait=1", "--poll=2")
    assert played.code == 75 and "no v4-8 in 1 s" in played.stderr


def test_what_was_ready_once_is_waited_for_and_kept(tmp_path):
    busy = ["CREATING", "STARTING", "RESTARTING", "REPAIRING", "REIMAGING", "STOPPING"]
    played = play(tmp_path, [*map(tpu, busy), tpu("READY"), *RUN])
    assert played.code == 0 and played.of("delete") == []
    played = play(tmp_path, [tpu("REPAIRING")], "--wait=1", "--poll=2")
    assert (
        played.code == 75
        and "was not ready in 1 s, but REPAIRING, and is kept" in played.stderr
    )


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (
            "STOPPED",
            "write gcloud compute tpus tpu-vm start n --zone=z and then the same "
            "command",
        ),
        ("HIDDEN", "tpu_vm.sh --name=n --zone=z delete, which deletes its disk"),
    ],
)
def test_a_tpu_that_may_hold_a_run_is_not_deleted_unasked(state, advice, tmp_path):
    played = play(tmp_path, [tpu(state)])
    assert played.code == 2 and advice in played.stderr


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED"])
def test_a_tpu_that_is_lost_is_made_again(state, tmp_path):
    delete, create = answer("gcloud tpu-vm delete"), answer("gcloud tpu-vm create")
    assert (
        play(tmp_path, [tpu(state), delete, NO_TPU, create, tpu("READY"), *RUN]).code
        == 0
    )


def test_no_archive_of_the_code_is_left_behind(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    failed = [tpu("READY"), answer("gcloud tpu-vm scp", "no", 1), tpu("READY")]
    assert play(tmp_path, failed).code == 1
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_the_queue_a_want_of_capacity_is_waited_for_but_no_quota(tmp_path):
    create = "gcloud tpu-vm create"
    lines = [
        NO_TPU,
        answer(create, NO_CAPACITY, 1),
        NO_TPU,
        answer(create),
        tpu("READY"),
        *RUN,
    ]
    played = play(tmp_path, lines)
    assert played.code == 0 and "no more capacity" in played.stderr
    played = play(tmp_path, [NO_TPU, answer(create, QUOTA, 1)])
    assert played.code == 1 and "Quota" in played.stderr


def test_a_lost_host_is_started_again_so_often(tmp_path):
    lost = answer("gcloud tpu-vm ssh", "connection closed", 255)
    once = [tpu("READY"), *RUN[:2], lost]
    # The second time it is lost while it installs.
    twice = [tpu("READY"), RUN[0], lost]
    played = play(tmp_path, [*once, *twice, tpu("READY"), *RUN], "--restarts=2")
    assert played.code == 0 and "starting again (2 of 2)" in played.stderr
    assert play(tmp_path, once, "--restarts=0").code == 255


@pytest.mark.parametrize("code", [2, 130, 1])
def test_what_would_fail_again_is_not_started_again(code, tmp_path):
    """A mistake in the settings, Ctrl-C, and an installation that fails on a TPU that
    is there.
    """
    failed = answer("gcloud tpu-vm ssh", "no", code)
    lines = [tpu("READY"), *RUN[:2], failed]
    if code == 1:
        lines = [tpu("READY"), RUN[0], failed, tpu("READY")]
    assert play(tmp_path, lines).code == code


def test_where_gcloud_cannot_tell_nothing_is_created(tmp_path):
    played = play(tmp_path, [tpu("ERROR: no active account", 1)])
    assert played.code == 1 and "no active account" in played.stderr


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_plan_comes_before_anything_is_created(code, tmp_path):
    plan = answer("python plan", "planned", code)
    rest = []
    if code == 0:
        rest = [tpu("READY"), *RUN]
    played = play(tmp_path, [plan, *rest], "--plan", "--type=v6e-8")
    words = ["-m", "bnas_jax", "plan", "--on=v6e-8", "--config=configs/train.py:a"]
    assert played.code == code and played.calls[0] == ["python", *words]
    assert ("does not fit on v6e-8, so nothing was created" in played.stderr) == (
        code == 1
    )


def test_a_plan_gets_the_settings_of_the_run_in_all_their_spellings():
    options = [
        "-config",
        "a.py:x",
        "--config.batch_size=64",
        "--noconfig.sync_bn",
        "--extensions=e.py",
    ]
    command = ["train", "--workdir", "w", *options, "--change"]
    plan, *_ = test_launch.dry("tpu_vm.sh", "--plan", *command)
    assert plan[1:] == ["-m", "bnas_jax", "plan", "--on=v4-8", *options]


@pytest.mark.parametrize("how", ["stop", "start"])
def test_a_run_that_outlived_its_connection_is_ended_before_the_next(tmp_path, how):
    """What is started on a host, or stops it, run here; a process without the package's
    name is left alone.
    """
    words = {"start": ["train", "--config=x"], "stop": ["stop"]}[how]
    *_, called = test_launch.dry("tpu_vm.sh", *words)
    (command,) = (
        word.removeprefix("--command=")
        for word in called
        if word.startswith("--command=")
    )
    python = tmp_path / "bnas" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\nexit 75\n')
    python.chmod(0o755)
    for name, seconds, left_alone in (("bnas_jax", 10, False), ("other", 0, True)):
        process = subprocess.Popen(["bash", "-c", f"exec -a {name} sleep 100"])
        reaped = threading.Thread(target=process.wait)
        reaped.start()
        command_line = pathlib.Path(f"/proc/{process.pid}/cmdline")
        while not command_line.read_bytes().startswith(name.encode()):
            time.sleep(0.01)
        (tmp_path / "bnas" / "run.pid").write_text(str(process.pid))
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True
        )
        if how == "start":
            assert (
                done.returncode == 75
                and done.stdout == "-m bnas_jax train --config=x\n"
            )
        else:
            assert (
                done.returncode == left_alone
                and ("no run" in done.stderr) == left_alone
            )
        reaped.join(seconds)
        assert reaped.is_alive() == left_alone
        process.kill()
        reaped.join()
