"""The scripts of launch/: what they would do, and that they have no usual faults.

`test_devices` runs one for real.
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
COMMAND = ["train", "--config=configs/train.py:digits", "--workdir=/runs/a b"]


def launch(
    script: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess:
    """variables: of the environment, but for `python`, the interpreter."""
    python = variables.pop("python", sys.executable)
    environment = {
        **os.environ,
        "BNAS_PYTHON": python,
        "JAX_PLATFORMS": "cpu",
        **variables,
    }
    return subprocess.run(
        [LAUNCH / script, *arguments], env=environment, capture_output=True, text=True
    )


def dry(script: str, *arguments: str) -> list[list[str]]:
    """The words of each line that --dry-run prints."""
    done = launch(script, "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line, comments=True) for line in done.stdout.splitlines()]


def test_shellcheck_finds_nothing():
    scripts = sorted(map(str, [*LAUNCH.glob("*.sh"), LAUNCH.parent / ".ci" / "run"]))
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(scripts) >= 8


def test_the_scripts_need_no_newer_bash_than_that_of_macos():
    # It is 3.2, without these; and its mktemp has no long options.
    newer = re.compile(
        r"(declare|local|typeset) -[a-zA-Z]*[An]|mapfile|readarray|coproc|wait -n"
        r"|\|&|&>>|\$\{\w+(,|\^|@|\[-)|\[\[ -v|mktemp --|EPOCHSECONDS"
    )
    # With `set -u`, it refuses "${words[@]}" of an empty array.
    empty = re.compile(r'^ *for \w+ in "\$\{(\w+)\[@\]\}"')
    never_empty = {"rows", "running"}
    for script in LAUNCH.glob("*.sh"):
        for line in script.read_text().splitlines():
            if line.startswith("#"):
                continue
            assert not newer.search(line), (script.name, line)
            loop = empty.search(line)
            assert loop is None or loop[1] in never_empty, (script.name, line)


@pytest.mark.parametrize(
    "script",
    ["multi_process.sh", "slurm.sh", "tpu_vm.sh", "gke.sh", "sweep.sh", "measure.sh"],
)
@pytest.mark.parametrize("arguments", [[], ["--no-such-option"]])
def test_a_wrong_call_is_answered_with_one_line(script, arguments):
    done = launch(script, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("bnas_jax: error: ")


def test_multi_process_starts_each_process_with_its_number_and_its_devices():
    lines = dry("multi_process.sh", "--processes=3", "--cpu=4", "--port=1234", *COMMAND)
    assert len(lines) == 3
    for index, words in enumerate(lines):
        assert words[:3] == ["env", "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=4"]
        assert words[3:9] == [sys.executable, "-m", "bnas_jax", *COMMAND]
        own = {"coordinator": "localhost:1234", "num_processes": 3, "process_id": index}
        assert words[9:] == [
            f"--config.distributed.{name}={value}" for name, value in own.items()
        ]
    assert [words[1] for words in dry("multi_process.sh", *COMMAND)] == [
        "CUDA_VISIBLE_DEVICES=0",
        "CUDA_VISIBLE_DEVICES=1",
    ]


def test_processes_take_the_gpus_that_the_user_has_left_visible():
    started = lambda mask, *options: launch(
        "multi_process.sh", "--dry-run", *options, *COMMAND, CUDA_VISIBLE_DEVICES=mask
    )
    lines = started("3,GPU-a").stdout.splitlines()
    assert [line.split()[1] for line in lines] == [
        "CUDA_VISIBLE_DEVICES=3",
        "CUDA_VISIBLE_DEVICES=GPU-a",
    ]
    refused = started("3,GPU-a", "--processes=3")
    assert (
        refused.returncode == 2
        and "CUDA_VISIBLE_DEVICES has 2 (3,GPU-a)" in refused.stderr
    )
    assert started("3", "--cpu=1").returncode == 0


@pytest.mark.parametrize(
    "script", ["multi_process.sh", "slurm.sh", "gke.sh", "tpu_vm.sh"]
)
@pytest.mark.parametrize("number", ["abc", "08", "-1"])
def test_restarts_are_a_whole_number(script, number):
    done = launch(script, "--dry-run", f"--restarts={number}", *COMMAND)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.endswith(
        f"--restarts takes a whole number, got {number}"
    )


def test_quickstart_takes_no_option():
    done = launch("quickstart.sh", "--help")
    assert (
        done.returncode == 2 and "one folder and no options, got --help" in done.stderr
    )


def test_an_environment_that_was_not_made_here_is_never_cleared(tmp_path):
    """Such as one of another host's Python, which does not run here."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").write_text("home = /elsewhere\n")
    script = "source environment.sh; install_requirements requirements.txt"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=LAUNCH,
        env={**os.environ, "BNAS_VENV": str(tmp_path / "env")},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2 and "set BNAS_VENV to one, or to a folder" in done.stderr
    )
    assert (tmp_path / "env" / "pyvenv.cfg").is_file()


def test_slurm_submits_a_task_for_each_gpu_that_is_told_before_it_is_stopped():
    done = launch(
        "slurm.sh",
        "--dry-run",
        "--nodes=2",
        "--gpus=4",
        "--partition=fast",
        "--restarts=7",
        *COMMAND,
    )
    script = done.stdout
    wanted = [
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--partition=fast",
        "--requeue",
        "--signal=TERM@120",
    ]
    assert {f"#SBATCH {option}" for option in wanted} <= set(script.splitlines())
    (srun,) = (line for line in script.splitlines() if line.startswith("srun"))
    # A step of Slurm does not take over the CPUs of its job's tasks.
    assert "--cpus-per-task=8" in shlex.split(srun)[:3]
    assert shlex.split(srun)[3:] == [sys.executable, "-m", "bnas_jax", *COMMAND]
    assert (
        'scontrol requeue "$SLURM_JOB_ID"' in script
        and "SLURM_RESTART_COUNT:-0} < 7" in script
    )
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_tpu_vm_creates_copies_installs_and_starts_on_all_hosts():
    options = ["--name=n", "--zone=z", "--type=v4-16", "--spot", "--bucket=b"]
    lines = dry(
        "tpu_vm.sh",
        *options,
        "train",
        "--config=configs/train.py:a",
        "--workdir=bucket/a b",
    )
    assert all(
        words[:4] == ["gcloud", "compute", "tpus", "tpu-vm"] and words[-1] == "--zone=z"
        for words in lines
    )
    assert [words[4] for words in lines] == [
        "create",
        "scp",
        "ssh",
        "ssh",
        "ssh",
        "ssh",
    ]
    assert {"--accelerator-type=v4-16", "--spot", "n"} <= set(lines[0])
    assert all("--worker=all" in words for words in lines[1:])
    commands = [words[7].removeprefix("--command=") for words in lines[2:]]
    assert "jax[tpu]" in commands[0] and "gcsfuse" in commands[1]
    inner = shlex.split(commands[-1])[-1]  # what bash is given there
    assert (
        "--config=configs/train.py:a --workdir=bucket/a\\ b" in inner
        and "run.pid" in inner
    )
    assert all(
        subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
        for text in [*commands, inner]
    )
    (stop,) = dry("tpu_vm.sh", "--name=n", "stop")
    assert stop[4:7] == ["ssh", "n", "--worker=all"] and "kill -TERM" in stop[7]
    assert dry("tpu_vm.sh", "--name=n", "delete")[0][4:6] == ["delete", "n"]


def test_a_sweep_runs_each_line_leaves_out_what_is_done_and_lists_what_failed(tmp_path):
    runs = tmp_path / "runs.txt"
    runs.write_text(
        "# seeds\none --config.seed=1\n\ntwo --config.seed=2 "
        "--config.batch_size=5000\nthree --config.batch_size=6000"
    )
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "summary.json").write_text("{}")
    command = ["train", "--config=configs/train.py:digits"]
    lines = dry("sweep.sh", str(runs), str(tmp_path / "out"), *command)
    start, at = (
        [sys.executable, "-m", "bnas_jax", *command],
        f"--workdir={tmp_path / 'out'}",
    )
    assert lines[0] == [
        *start,
        "--config.seed=2",
        "--config.batch_size=5000",
        f"{at}/two",
    ]
    assert (
        lines[1] == [*start, "--config.batch_size=6000", f"{at}/three"]
        and len(lines) == 2
    )
    done = launch("sweep.sh", str(runs), str(tmp_path / "out"), *command)
    assert done.returncode == 1 and "one is done" in done.stderr
    assert done.stderr.splitlines()[-1] == "Failed, with exit code: two (2) three (2)"
    runs.write_text("same --config.seed=1\nsame --config.seed=2\n")
    refused = launch("sweep.sh", str(runs), str(tmp_path / "out"), *command)
    assert refused.returncode == 2 and "names same twice" in refused.stderr


def test_a_sweep_does_not_take_a_result_of_other_settings_for_done(tmp_path):
    runs, out = tmp_path / "runs.txt", tmp_path / "out"
    (out / "one").mkdir(parents=True)
    python = _python(tmp_path, f'echo {{}} >"{out}/one/summary.json"')
    sweep = lambda *words: launch(
        "sweep.sh", str(runs), str(out), *words, python=python
    )
    runs.write_text("one --config.seed=1 --config.name='a b'\n")
    assert sweep("train").returncode == 0
    assert sweep("train").stderr == "one is done\n"
    edited = sweep("train", "--config.x=2")
    assert edited.returncode == 1
    assert "one is done, but by train --config.seed=1" in edited.stderr
    assert "write another name for its line" in edited.stderr
    assert sweep("train", "--config.x=2", "--change").stderr == "one (1 of 1)\n"
    assert sweep("train", "--config.x=2").stderr == "one is done\n"


def test_a_measurement_with_other_options_needs_another_folder(tmp_path):
    measured = lambda *words: launch(
        "measure.sh", str(tmp_path / "out"), *words, python=_python(tmp_path, "echo {}")
    )
    assert measured().returncode == 0
    assert measured().stderr.splitlines() == [f"{name} is done" for name in _measured()]
    refused = measured("--repeats=5")
    assert (
        refused.returncode == 2
        and "write the same options, or another DIR" in refused.stderr
    )


def test_a_benchmark_that_the_kernel_ends_has_failed_and_not_run_out_of_time(tmp_path):
    python = _python(tmp_path, "kill -KILL $$")
    done = launch("measure.sh", str(tmp_path / "out"), "--minutes=10", python=python)
    assert done.returncode == 1 and "want of time" not in done.stderr
    assert f"{_measured()[0]} (137)" in done.stderr


def _python(folder: pathlib.Path, command: str) -> str:
    """A Python whose `-m bnas_jax` is a shell's command.

    What it runs else ends well, and JAX has a CPU.
    """
    path = folder / "python"
    words = (
        f'[ "$2" = bnas_jax ] || '
        f'{{ [ "$1" = - ] && exec {sys.executable} "$@"; echo cpu; exit; }}'
    )
    path.write_text(f"#!/bin/sh\n{words}\n{command}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.long
@pytest.mark.parametrize("measured", [0, 1])
def test_measuring_goes_on_where_it_was_stopped_and_ends_with_a_table(
    tmp_path, measured
):
    """measured: how many benchmarks are left to be made, of the eight."""
    lines = dry("measure.sh", str(tmp_path), "--repeats=1")
    assert all(
        words[:4] == [sys.executable, "-m", "bnas_jax", "benchmark"] for words in lines
    )
    assert all(words[-2:] == ["--repeats=300", "--repeats=1"] for words in lines)
    last = "train-a-64-float32"
    assert lines[-1][4:7] == [
        "train",
        "--config=configs/train.py:a",
        "--config.batch_size=64",
    ]

    # The others are there.
    of_gpu = {
        "step_seconds": {"median": 0.02, "lowest": 0.019, "highest": 0.03},
        "step_seconds_in_a_row": 0.018,
        "images_per_second": 12800.0,
        "hours_of_all_steps": 0.65,
        "gpu_busy_percent": 97.0,
        "bound": {
            "step_seconds_at_least": 0.01,
            "bound_by": "memory bandwidth",
            "percent_of_the_step": 50.0,
        },
        "compiling_seconds": 40.0,
        "programs_from_cache": 0,
        "peak_memory_mib": 2048,
        "conditions": {"device": "1 x H100", "jax": "1.2"},
    }
    names = _measured()
    assert len(names) == len(lines)
    for name in names[: len(names) - measured]:
        (tmp_path / f"{name}.json").write_text(json.dumps(of_gpu))
    tiny = [
        "--config.network.num_cells=1",
        "--config.network.channels=2",
        "--image_size=8",
    ]
    assert len(dry("measure.sh", str(tmp_path), *tiny)) == measured
    done = launch("measure.sh", str(tmp_path), *tiny, "--repeats=1")

    assert done.returncode == 0, done.stderr
    assert f"{names[0]} is done" in done.stderr.splitlines()
    if measured:
        assert done.stderr.splitlines()[-1] == last
        assert json.loads((tmp_path / f"{last}.json").read_text())["batch_size"] == 64
    rows = {line.split(" | ")[0].strip("| "): line for line in done.stdout.splitlines()}
    assert rows[names[0]] == (
        f"| {names[0]} | 20 ms (19 to 30) | 18 ms | 12,800 | 0.65 | 10 ms (50 %), "
        "memory bandwidth | 97 % | 40 s |"
        " 2.00 GiB | 1 x H100, jax 1.2 |"
    )
    assert rows[last].endswith(f"jax {jax.__version__ if measured else '1.2'} |")

    # Without its command a result is one of any options, as the others here are.
    (tmp_path / f"{last}.txt").unlink(missing_ok=True)

    # No time is left for the one that is missing now.
    (tmp_path / f"{names[0]}.json").unlink()
    done = launch("measure.sh", str(tmp_path), "--minutes=0")
    assert done.returncode == 0
    assert "1 of 8 are not measured for lack of time" in done.stderr
    assert names[0] not in done.stdout + done.stderr

    # What failed is said with the reason, and the table has the others.
    done = launch("measure.sh", str(tmp_path), "--repeats=none")
    assert done.returncode == 1
    failed = f"Failed, with exit code: {names[0]} (2): bnas_jax: error: --repeats "
    assert done.stderr.splitlines()[-1].startswith(failed)
    assert names[1] in done.stdout


def test_a_benchmark_ends_with_the_script_that_measures(tmp_path):
    environment = {**os.environ, "BNAS_PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    command = [
        LAUNCH / "measure.sh",
        str(tmp_path / "out"),
        "--config.network.num_cells=19",
    ]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    ) as script:
        assert script.stderr is not None and "train-a-256" in script.stderr.readline()

        script.send_signal(signal.SIGTERM)

        assert script.wait(timeout=60) == 143
    end = time.monotonic() + 30
    while _runs("num_cells=19") and time.monotonic() < end:
        time.sleep(0.1)
    assert not _runs("num_cells=19")
    assert not list(tmp_path.glob("out/*.json"))


def _runs(word: str) -> bool:
    """Whether a process has this in its command line."""
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word in file.read_text():
                return True
    return False


def _measured() -> list[str]:
    """The names in launch/measure.sh."""
    text = (LAUNCH / "measure.sh").read_text()
    _, _, text = text.partition("rows=(")
    text, _, _ = text.partition("\n)")
    return [line.strip().strip('"').split()[0] for line in text.splitlines() if line]
