"""Several devices and several processes give what one device does, and end together."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest
from image_files import write_folder
from work_directories import CELL, arrays, largest_difference

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.runtime import hosts
from bnas_jax.runtime.devices import ONE, Devices, choose
from bnas_jax.runtime.jax_setup import configure, configure_alone
from bnas_jax.settings import DistributedSettings
from bnas_jax.training import checksums
from bnas_jax.training.calls import next_call
from bnas_jax.training.workdir import WorkDir
from configs import train as train_configs

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 22  # two epochs of 11

# Where each task runs: how, and on how many devices. The first is what the others
# equal.
SHORT = {"train": [("none", 1), ("pmap", 8)]}
# A device has all or 16 of the 64 examples of a microbatch, of which groups of 32 are
# normalised together.
GROUPS = {"train_groups": [("none", 1), ("pmap", 4)]}
# Without cells.
BASELINES = {"train_resnet": [("none", 1), ("shard_map", 2)]}
# A search compiles for a minute or more in each place. Without --long,
# training/test_steps.py averages the gradients of a search over devices.
LONG = {
    "train": [
        ("none", 1),
        ("pmap", 1),
        ("pmap", 8),
        ("shard_map", 2),
        ("shard_map", 4),
    ],
    "search": [("none", 1), ("shard_map", 4)],
}
BATCHES = {"train": 128, "search": 64}
# What searchers draw, drop, clip and average between their passes: what each preset has
# beside its rates.
SEARCHERS = {
    "search_snas": ["--config.searcher.train_share=0.5", "--config.microbatches=2"],
    "search_gdas": [],
    "search_darts_second": [],
    "search_random": [
        "--config.searcher.candidates=5",
        "--config.searcher.score_batches=2",
    ],
    "search_random_trained": ["--config.searcher.candidate_epochs=1"],
}
# A reduction cell alone compiles faster than three cells. Alphas of normal cells get no
# gradient then.
ONE_CELL = ["--config.network.num_cells=1"]
SEARCHED = {task: [("none", 1), ("shard_map", 4)] for task in SEARCHERS}


def arguments(task: str, folder: pathlib.Path) -> list[str]:
    """A tiny network in float64, where rounding does not flip signs; drop-path and
    shifts are drawn for every example.
    """
    cell = folder / "cell.json"
    cell.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    training = ["--config.optimizer.drop_path=0.2", f"--config.network.genotype={cell}"]
    released = [
        "--config.alpha_batches=fresh",
        "--config.dataset.augment_validation=True",
    ]
    own = {
        "train": training,
        "train_groups": [
            *training,
            "--config.bn_examples=32",
            "--config.microbatches=2",
        ],
        "search": [
            "--config.network.layer_types=('none','bin_conv_3x3')",
            *released,
            "--config.network.num_cells=3",
        ],
    }
    batch_size = BATCHES[kind(task)]
    sizes = {
        "network.num_cells": 1,
        "network.channels": 2,
        "num_epochs": 2,
        "batch_size": batch_size,
        "dataset.pad": 1,
    }
    if task == "train_resnet":
        sizes = {
            "network.width": 4,
            "network.blocks": "(1,)",
            "num_epochs": 2,
            "batch_size": batch_size,
        }
        common = [f"--config.{name}={value}" for name, value in sizes.items()]
        return [
            "--config=configs/baselines.py:digits_resnet18",
            *common,
            "--config.precision=float64",
        ]
    common = [f"--config.{name}={value}" for name, value in sizes.items()]
    if task in SEARCHERS:
        preset, more = (
            task.replace("search", "digits", 1),
            [*own["search"], *SEARCHERS[task]],
        )
    else:
        preset, more = "digits", own[task]
    return [
        f"--config=configs/{kind(task)}.py:{preset}",
        *common,
        "--config.precision=float64",
        *more,
    ]


def kind(task: str) -> str:
    return task.partition("_")[0]


@pytest.mark.parametrize("precision", ["default", "high", "highest"])
def test_products_of_floats_have_the_precision_of_the_setting(precision):
    before = jax.config.jax_default_matmul_precision
    try:
        configure(
            dataclasses.replace(
                settings.from_config(train_configs.get_config("digits")),
                matmul_precision=precision,
            )
        )
        text = jax.jit(lambda a: a @ a).lower(jnp.ones((2, 2))).as_text()
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    assert set(re.findall(r"DEFAULT|HIGHEST|HIGH", text)) == {precision.upper()}


def environment(devices: int) -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Compiling takes far longer than running: with optimizations, 20 minutes for
        # all searchers.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
    }


def on_eight_devices(script: str, specs: list[dict]) -> str:
    """What a script of tests/ prints about the runs of these specs."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / script), json.dumps(specs)],
        cwd=ROOT,
        env=environment(8),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def on(tmp_path_factory, request):
    """(task, how, devices) -> the work directory of a run there; all of them ran in one
    process with eight devices.
    """
    folder = tmp_path_factory.mktemp("runs")
    places = SHORT
    if request.config.getoption("--long"):
        places = LONG | SEARCHED | GROUPS | BASELINES
    runs = [
        (task, how, count) for task, of_task in places.items() for how, count in of_task
    ]
    at = lambda task, how, count: folder / f"{task}-{how}-{count}"
    specs = [
        {
            "task": kind(t),
            "workdir": str(at(t, how, n)),
            "arguments": arguments(t, folder),
            "parallel": how,
            "devices": n,
        }
        for t, how, n in runs
    ]
    on_eight_devices("many_devices.py", specs)
    return at, runs


@pytest.mark.parametrize(
    "task",
    [
        *SHORT,
        *(
            pytest.param(task, marks=pytest.mark.long)
            for task in ("search", *GROUPS, *BASELINES, *SEARCHED)
        ),
    ],
)
def test_any_number_of_devices_gives_the_same_weights_alphas_statistics_and_losses(
    on, task
):
    at, runs = on
    one = arrays(at(task, "none", 1), STEPS)
    for place in runs:
        if place[0] == task:
            assert largest_difference(one, arrays(at(*place), STEPS)) < 1e-9, place
            records = [
                WorkDir(at(task, "none", 1)).read_metrics(),
                WorkDir(at(*place)).read_metrics(),
            ]
            losses = [[record["train_loss"] for record in of_run] for of_run in records]
            assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@pytest.mark.long
def test_the_gradients_of_the_first_step_are_the_same_on_any_number_of_devices(
    tmp_path,
):
    """In float32.

    Sums over other parts of a batch round otherwise, here by some 1e-7 of the largest
    gradient.

    That holds as long as no activation lies so near 0, or to an end of where its sign
    has a gradient, that rounding takes it across, which some day one of them will: then
    gradients differ visibly, and are as good. None does in this batch.
    """
    single = ["--config.precision=float32", *ONE_CELL]
    specs = [
        {
            "task": task,
            "arguments": [*arguments(task, tmp_path), *single],
            "parallel": how,
            "devices": count,
        }
        for task, of_task in LONG.items()
        for how, count in of_task
    ]
    printed = on_eight_devices("first_gradients.py", specs)
    for spec, differences in zip(
        specs, json.loads(printed.splitlines()[-1]), strict=True
    ):
        assert max(differences.values()) < 1e-5, (
            spec["task"],
            spec["parallel"],
            spec["devices"],
            differences,
        )


# Two processes


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


class Pair:
    """The command line in two processes of two devices each."""

    def __init__(self, *command: str, more=((), ())):
        joined = [
            f"--config.distributed.coordinator=localhost:{free_port()}",
            "--config.distributed.num_processes=2",
        ]
        self.processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bnas_jax",
                    *command,
                    *joined,
                    f"--config.distributed.process_id={i}",
                    *more[i],
                ],
                cwd=ROOT,
                env=environment(2),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]

    def wait(self) -> list[tuple[int, str, str]]:
        """(exit code, stdout, stderr) of each."""
        try:
            ended = [process.communicate(timeout=240) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [
            (process.returncode, *texts)
            for process, texts in zip(self.processes, ended, strict=True)
        ]

    def signal_after(self, checkpoint: pathlib.Path, number: int, which: int) -> None:
        while not checkpoint.is_dir() and all(
            process.poll() is None for process in self.processes
        ):
            time.sleep(0.01)
        self.processes[which].send_signal(number)


def test_two_processes_give_what_one_device_gives_and_stop_together(
    on, tmp_path, request
):
    """The second is told to stop; both save the same step and end; started again, they
    end where one device ends.
    """
    at, _ = on
    workdir = tmp_path / "run"
    command = ["train", *arguments("train", tmp_path), f"--workdir={workdir}"]
    pair = Pair(*command, "--config.checkpoint_every_steps=1")
    pair.signal_after(workdir / "checkpoints" / "2", signal.SIGTERM, which=1)
    stopped = pair.wait()
    assert [code for code, _, _ in stopped] == [143, 143], stopped
    (step,) = {
        int(re.search(r"stopped by SIGTERM at step (\d+)", stderr)[1])
        for _, _, stderr in stopped
    }
    assert (workdir / "checkpoints" / str(step)).is_dir() and not (
        workdir / "summary.json"
    ).exists()

    launcher = [ROOT / "launch" / "multi_process.sh", "--cpu=2", "--processes=2"]
    # What is compiled already is not compiled again in the short form.
    started = [
        *launcher,
        *command,
        *(["--config.parallel=pmap"] if request.config.getoption("--long") else []),
    ]
    ended = subprocess.run(
        started,
        env={**environment(2), "BNAS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == json.loads(
        (workdir / "summary.json").read_text()
    )
    assert (
        len(re.findall("^epoch 1 ", ended.stderr, re.M)) == 1
        and "] epoch" not in ended.stderr
    )  # the first alone writes
    assert (
        largest_difference(
            arrays(at("train", "none", 1), STEPS), arrays(workdir, STEPS)
        )
        < 1e-9
    )
    # The first process has written the checksums of what both have saved.
    for checkpoint in (workdir / "checkpoints").iterdir():
        assert (checkpoint / checksums.NAME).is_file()
    noted = (workdir / "log.txt").read_text()
    assert (
        f"starts at step {step} of {STEPS}" in noted
        and "2 processes" in noted
        and socket.gethostname() in noted
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("one", "one"), "True"),
        (("one", "other"), "False"),
    ],
)
def test_processes_keep_compiled_programs_where_all_find_them(tmp_path, names, kept):
    """On GPUs they would wait for a process that found a program in its own cache."""
    script = ROOT / "tests" / "runtime" / "caching.py"
    coordinator = f"localhost:{free_port()}"
    processes = []
    for number, name in enumerate(names):
        cache = tmp_path / name
        cache.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, script, coordinator, str(number)],
            env={**environment(1), "JAX_COMPILATION_CACHE_DIR": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    said = [process.communicate(timeout=120)[0] for process in processes]

    assert [text.splitlines()[-1] for text in said] == [kept, kept]
    assert not list(tmp_path.glob("*/shared-*"))


@pytest.mark.long
def test_a_process_that_has_compiled_waits_for_the_other():
    """Which has nothing in its cache, for instance.

    CPUs give up after 30 seconds within a first step.
    """
    script, coordinator = (
        ROOT / "tests" / "runtime" / "meeting.py",
        f"localhost:{free_port()}",
    )
    processes = [
        subprocess.Popen(
            [sys.executable, script, coordinator, str(number), str(seconds)],
            env=environment(2),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, seconds in enumerate((0, 2))
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]

    first, second = (float(text.splitlines()[-1]) for text in said)
    assert first > 1 > second


@pytest.mark.long
def test_a_search_on_two_processes_gives_what_one_device_gives(on, tmp_path):
    at, _ = on
    command = [
        "search",
        *arguments("search", tmp_path),
        f"--workdir={tmp_path / 'run'}",
    ]
    for code, _, stderr in Pair(*command).wait():
        assert code == 0, stderr
    assert (
        largest_difference(
            arrays(at("search", "none", 1), STEPS), arrays(tmp_path / "run", STEPS)
        )
        < 1e-9
    )


@pytest.mark.long
def test_processes_that_compile_stop_together_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "nothing_compiled"))
    pair = Pair("train", *arguments("train", tmp_path), f"--workdir={tmp_path / 'run'}")
    first, second = pair.processes
    assert "compiling\n" in iter(first.stderr.readline, "")
    second.send_signal(signal.SIGTERM)
    for code, stdout, stderr in pair.wait():
        assert code == 143 and stdout.count("{") == 0, stderr
        assert (
            "bnas_jax: stopped by SIGTERM at step 0; the same command continues from "
            "there\n" in stderr
        )
    assert "compiled" not in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.long
def test_processes_that_stream_read_their_own_rows_and_train_like_one(tmp_path):
    sizes = {
        f"{part}/{name}": count
        for part, count in (("train", 12), ("test", 5))
        for name in ("cat", "dog")
    }
    write_folder(tmp_path / "photos", sizes, height=8, width=8)
    dataset = {
        "name": "folder",
        "path": tmp_path / "photos",
        "image_size": 8,
        "in_memory_mib": 0,
    }
    changes = {
        **{f"dataset.{key}": value for key, value in dataset.items()},
        "batch_size": 8,
    }
    command = [
        "train",
        *arguments("train", tmp_path),
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]
    alone = [
        sys.executable,
        "-m",
        "bnas_jax",
        *command,
        f"--workdir={tmp_path / 'one'}",
    ]
    one = subprocess.run(
        alone, cwd=ROOT, env=environment(1), capture_output=True, text=True
    )
    assert one.returncode == 0, one.stderr
    for code, _, stderr in Pair(*command, f"--workdir={tmp_path / 'two'}").wait():
        assert code == 0, stderr
    assert (
        largest_difference(arrays(tmp_path / "one", 6), arrays(tmp_path / "two", 6))
        < 1e-9
    )
    results = [
        json.loads((tmp_path / name / "summary.json").read_text())
        for name in ("one", "two")
    ]
    assert results[0]["num_examples"] == results[1]["num_examples"] == 10
    assert results[0]["top1"] == results[1]["top1"]


@pytest.mark.long
def test_processes_with_other_settings_end_with_the_setting_that_differs(tmp_path):
    command = ["train", *arguments("train", tmp_path), f"--workdir={tmp_path / 'run'}"]
    # A later start of the same run may save at other steps; the processes of one start
    # must save together.
    differs = "config.checkpoint_every_steps is 5 on process 1 and None on the first"
    for code, stdout, stderr in Pair(
        *command, more=((), ("--config.checkpoint_every_steps=5",))
    ).wait():
        assert code == 2 and "{" not in stdout
        assert (
            f"the processes disagree: {differs}; start all with"
            in stderr.splitlines()[-1]
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("names", "digests", "says"),
    [
        (
            ("one", "other"),
            ("a", "a"),
            "is not the directory of that name on the first",
        ),
        pytest.param(
            ("one", "one"),
            ("a", "b"),
            "is not that of the first process; copy it again",
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_hosts_do_not_share_is_refused(tmp_path, names, digests, says):
    """A work directory, or data of the same digest."""
    script = ROOT / "tests" / "runtime" / "sharing.py"
    coordinator = f"localhost:{free_port()}"
    processes = []
    for number, (name, digest) in enumerate(zip(names, digests, strict=True)):
        # It is there on both hosts, as it was made by hand.
        (tmp_path / name).mkdir(exist_ok=True)
        words = [coordinator, str(number), str(tmp_path / name), digest]
        process = subprocess.Popen(
            [sys.executable, script, *words],
            env=environment(1),
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert all(says in text for text in said), said
    assert not (tmp_path / "one" / "shared").exists()


def alone(
    tmp_path: pathlib.Path, port: int, process_id: int
) -> subprocess.CompletedProcess:
    own = {
        "coordinator": f"localhost:{port}",
        "num_processes": 2,
        "process_id": process_id,
        "timeout_seconds": 3,
    }
    joined = [f"--config.distributed.{name}={value}" for name, value in own.items()]
    command = [
        sys.executable,
        "-m",
        "bnas_jax",
        "train",
        *arguments("train", tmp_path),
        f"--workdir={tmp_path / 'run'}",
    ]
    return subprocess.run(
        [*command, *joined],
        cwd=ROOT,
        env=environment(1),
        capture_output=True,
        text=True,
    )


@pytest.mark.long
@pytest.mark.parametrize("process_id", [0, 1])
def test_a_process_whose_others_do_not_come_says_so(tmp_path, process_id):
    done = alone(tmp_path, free_port(), process_id)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert (
        "not all 2 processes at localhost:" in done.stderr
        and "came in 3 s; start them all" in done.stderr
    )


def test_several_devices_are_mapped_in_the_way_that_takes_less_time_to_call():
    one, other = (types.SimpleNamespace(process_index=i, id=i) for i in range(2))

    assert choose("auto", [one]).parallel == "none"
    assert choose("auto", [other, one]) == Devices("shard_map", (one, other))


def test_what_one_process_does_waits_for_no_cluster(monkeypatch):
    """`export`, for instance, within a job of several tasks."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    joined = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *_, **__: joined.append(True)
    )
    configure_alone(settings.from_config(train_configs.get_config("digits")))
    assert not joined


def test_a_cluster_that_jax_does_not_know_can_be_left_out(monkeypatch):
    """A single pod of an indexed job with a GPU, without the package `kubernetes`."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

    def refuse(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError) as error:
        hosts.join(DistributedSettings())
    assert "the processes of the Kubernetes job: coord" in str(error.value)
    assert "--config.distributed.num_processes=1 for this" in str(error.value)
    hosts.join(DistributedSettings(num_processes=1))


ALONE_IN_A_CLUSTER = """
import os, signal, sys, time
import jax
from bnas_jax import settings
from bnas_jax.runtime.jax_setup import configure
from configs import train

jax.distributed.initialize(sys.argv[1], num_processes=1, process_id=0)
configure(settings.from_config(train.get_config("digits")))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


def test_one_process_of_a_cluster_ends_by_sigterm():
    """`evaluate` or `benchmark` on a TPU machine of one host, for instance."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE_IN_A_CLUSTER, f"localhost:{free_port()}"],
        env=environment(1),
        cwd=ROOT,
        timeout=45,
    )
    assert done.returncode == -signal.SIGTERM


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        done = alone(tmp_path, taken.getsockname()[1], 0)
    assert done.returncode == 2
    (last,) = done.stderr.splitlines()
    assert last.startswith(
        "bnas_jax: error: the port of config.distributed.coordinator=localhost:"
    )
    assert last.endswith("write another port")


# Without running anything


def run_settings(**changes) -> settings.RunSettings:
    return dataclasses.replace(
        settings.from_config(train_configs.get_config("digits")), **changes
    )


@pytest.mark.parametrize(
    ("count", "microbatches", "message"),
    [
        (
            3,
            1,
            (
                r"batch_size=64 cannot be divided over 3 devices: "
                r"write a multiple of 3, for instance 66"
            ),
        ),
        (8, 3, "multiple of 24"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(count, microbatches, message):
    with pytest.raises(UserError, match=message):
        Devices("pmap", (None,) * count).check_batch(
            run_settings(microbatches=microbatches)
        )
    Devices("pmap", (None,) * 8).check_batch(run_settings(microbatches=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_processes": 2}, "belong together"),
        ({"coordinator": "host:1", "num_processes": 2}, "belong together"),
        (
            {"coordinator": "host", "num_processes": 2, "process_id": 0},
            "must be HOST:PORT",
        ),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "from 0 to 1"),
        ({"timeout_seconds": 0}, "at least 1"),
    ],
)
def test_settings_of_processes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        settings.DistributedSettings(**changes)


def test_several_steps_in_one_call_are_the_same_steps():
    double = lambda state, feed: state * 2 + feed["position"] * feed["data"]
    shift = lambda state, feed: state + feed["position"]
    data = jnp.arange(3.0)
    feeds = [
        ({"data": data, "position": jnp.float32(i)}, {"position": jnp.float32(10 * i)})
        for i in range(4)
    ]
    compiled = ONE.compile_steps(double, shift)
    expected = jnp.ones(3)
    for feed in feeds:
        expected = shift(double(expected, feed[0]), feed[1])
    assert jnp.array_equal(compiled(jnp.ones(3), feeds), expected)
    assert jnp.array_equal(
        compiled(compiled(jnp.ones(3), feeds[:3]), feeds[3:]), expected
    )
    assert jnp.array_equal(
        functools.reduce(compiled, [[feed] for feed in feeds], jnp.ones(3)), expected
    )


def test_a_microbatch_holds_the_same_examples_on_any_number_of_devices():
    class Rows:
        @staticmethod
        def prepare(feed, shard, shards):
            return jax.lax.dynamic_slice_in_dim(
                feed, shard * (len(feed) // shards), len(feed) // shards
            )

    rows = jnp.arange(24)
    for count in (1, 2, 4):
        where = Devices("pmap", (None,) * count)
        shards = jax.vmap(lambda _: where.batch(Rows, rows, 3), axis_name=where.axis)(
            jnp.arange(count)
        )
        microbatches = shards.reshape(count, 3, -1).swapaxes(0, 1).reshape(3, -1)
        assert jnp.array_equal(microbatches, rows.reshape(3, -1))


def test_calls_of_several_steps_start_at_the_same_steps_wherever_a_run_was_stopped():
    call = functools.partial(next_call, steps_per_epoch=5, steps_per_call=2)
    assert [call(step) for step in (0, 1, 2, 4, 5)] == [
        range(0, 2),
        range(1, 2),
        range(2, 4),
        range(4, 5),
        range(5, 7),
    ]
