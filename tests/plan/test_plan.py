"""A tiny network, compiled for TPUs by their own compiler, in a process of its own."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.cli import plan as plan_command
from bnas_jax.core.errors import UserError
from bnas_jax.plan import request as request_lib
from bnas_jax.plan.__main__ import _microbatches_that_fit
from bnas_jax.plan.blank_data import SIZES, BlankReader, data_for_plan
from bnas_jax.plan.compile import Plan, bytes_needed
from bnas_jax.plan.machines import machine
from bnas_jax.plan.request import Request
from bnas_jax.plan.summary import markdown, summary, table
from configs import train as train_configs

ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = [
    "--config=configs/baselines.py:digits_small_cnn",
    "--config.network.widths=(4,8)",
    "--config.network.dense=8",
]


def command(*arguments: str, cache: pathlib.Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [sys.executable, "-m", "bnas_jax", "plan", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def planned(cache) -> subprocess.CompletedProcess:
    return command(*TINY, "--on=v5litepod-8", "--config.batch_size=64", cache=cache)


@pytest.fixture(scope="module")
def result(planned) -> dict:
    assert planned.returncode == 0, planned.stderr
    return json.loads(planned.stdout.splitlines()[-1])


def test_the_step_fits(result):
    assert result["fits"]
    assert (result["machine"], result["devices"], result["hosts"]) == ("v5e-8", 8, 1)
    assert result["batch_per_device"] == 8
    assert result["memory_bytes"] == sum(result["memory"].values())
    assert result["memory_available_bytes"] == 16 * 2**30
    # The digits, and little more: each chip has all of them.
    assert result["memory"]["arguments"] > 1437 * 8 * 8


def test_the_step_averages_once(result):
    """Gradients, statistics, loss and hits travel as one vector."""
    (message,) = [each for each in result["messages"] if each["kind"] == "all-reduce"]

    assert message["number"] == 1
    assert message["group"] == 8
    assert not message["between_hosts"]
    assert result["bytes_sent"] >= message["bytes"] > 0


def test_the_least_time_is_a_roofline(result):
    seconds = result["step_seconds_at_least"]

    assert seconds > 0
    assert seconds == max(result["seconds_of_each_at_least"].values())
    assert seconds >= result["operations"] / 197e12
    assert seconds >= result["bytes_moved"] / 819e9
    assert result["steps_per_epoch"] == 1437 // 64
    assert result["epoch_seconds_at_least"] == pytest.approx(seconds * 22)
    assert result["bytes_moved"] >= result["bytes_moved_without_padding"]


def test_the_table_says_the_same(planned):
    assert "v5e-8: 8 chips" in planned.stdout
    assert ": fits" in planned.stdout
    assert "all-reduce" in planned.stdout
    assert "  links between chips" in planned.stdout
    assert planned.stderr == ""


def test_a_row_of_the_table_has_the_time_of_its_collectives(result):
    row = markdown({"train:digits v5e-8": result}).splitlines()[-1]

    sending = 1000 * result["seconds_of_each_at_least"]["links between chips"]
    assert f"| {result['collectives']}, {sending:.3g} ms |" in row


@pytest.mark.parametrize(
    ("signal_number", "code", "said"),
    [
        pytest.param(signal.SIGKILL, -9, "", marks=pytest.mark.long),
        (signal.SIGINT, 130, "bnas_jax: stopped by Ctrl-C\n"),
    ],
)
def test_the_compiler_ends_with_a_command_that_is_stopped(
    signal_number, code, said, tmp_path
):
    """Even by SIGKILL; compiling would take minutes. A terminal sends the signal of
    Ctrl-C to all of a group, and the compiler has nothing to say of it.
    """
    network = ["--config=configs/train.py:a", "--on=v5litepod-8"]
    words = [sys.executable, "-m", "bnas_jax", "plan", *network]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    # In the background of a shell tests ignore Ctrl-C, and so would the command.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    signal.signal(signal.SIGINT, before)
    children = pathlib.Path(f"/proc/{started.pid}/task/{started.pid}/children")
    assert becomes_true(lambda: children.read_text() != "", seconds=60)
    (compiler,) = children.read_text().split()
    # Python itself is there, which would answer.
    imported = pathlib.Path(f"/proc/{compiler}/maps")
    assert becomes_true(lambda: "_datetime" in imported.read_text(), seconds=60)

    os.killpg(started.pid, signal_number)
    _, error = started.communicate()
    ended = becomes_true(lambda: not is_running(compiler), seconds=10)
    if not ended:
        os.kill(int(compiler), signal.SIGKILL)
    assert ended
    assert (started.returncode, error) == (code, said)


def becomes_true(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Whether the condition holds within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def is_running(process: str) -> bool:
    """Whether the process has not ended.

    A zombie (Z) has: its parent has not asked for its exit code yet.
    """
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.long
def test_a_batch_of_the_evaluation_is_planned_too(result, cache):
    """It moves no gradients and needs fewer operations; of 360 test images the last
    batch is filled up.
    """
    done = command(
        *TINY,
        "--on=v5e-8",
        "--of=evaluate",
        "--config.eval_batch_size=100",
        cache=cache,
    )

    assert done.returncode == 0, done.stderr
    evaluated = json.loads(done.stdout.splitlines()[-1])
    assert (evaluated["of"], evaluated["fits"]) == ("evaluate", True)
    assert evaluated["batch_size"] == 104 and evaluated["batch_per_device"] == 13
    assert evaluated["steps_per_epoch"] == 4
    of_image = lambda plan: plan["operations"] / plan["batch_per_device"]
    assert 0 < of_image(evaluated) < of_image(result) / 2


@pytest.mark.long
def test_a_quick_plan_has_the_memory_and_the_messages(result, cache):
    """Not what moves, so that the memory's bandwidth gives no bound."""
    done = command(
        *TINY, "--on=v5e-8", "--config.batch_size=64", "--quick", cache=cache
    )

    assert done.returncode == 0, done.stderr
    quick = json.loads(done.stdout.splitlines()[-1])
    assert (quick["quick"], result["quick"]) == (True, False)
    assert quick["memory_bytes"] == pytest.approx(result["memory_bytes"], rel=0.3)
    assert quick["bytes_sent"] == result["bytes_sent"]
    assert quick["collectives"] == result["collectives"]
    assert quick["bytes_moved"] > result["bytes_moved"]
    times = quick["seconds_of_each_at_least"]
    assert set(times) == {"operations", "links between chips"}
    assert quick["step_seconds_at_least"] == max(times.values())
    assert (
        "not known with --quick" in done.stdout and "What moves most" not in done.stdout
    )
    row = markdown({"quick": quick}).splitlines()[-1]
    assert (
        "| not known |" in row
        and "; bytes moved not known |" in row
        and ", --quick |" in row
    )


def test_a_plan_is_kept_by_settings(result, cache, planned):
    """The same plan once more is the same, compile time and all; other settings have
    another place.
    """
    again = command(*TINY, "--on=v5e-8", "--config.batch_size=64", cache=cache)

    assert json.loads(again.stdout.splitlines()[-1]) == result
    digits = settings.from_config(train_configs.get_config("digits"))
    places = {
        request_lib._kept(Request(run=digits, machine="v5e-8", of="step")),
        request_lib._kept(Request(run=digits, machine="v5e-8", of="evaluate")),
        request_lib._kept(Request(run=digits, machine="v5e-8", of="step", quick=True)),
        request_lib._kept(Request(run=digits, machine="v4-8", of="step")),
        request_lib._kept(
            Request(run=dataclasses.replace(digits, seed=1), machine="v4-8", of="step")
        ),
    }
    assert len(places) == 5


def test_a_table_of_plans_takes_those_that_are_kept(result, cache, planned):
    name = TINY[0].removeprefix("--config=")
    done = command(
        f"--presets={name}",
        *TINY[1:],
        "--on=v5e-8",
        "--config.batch_size=64",
        cache=cache,
    )

    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout.splitlines()[-1])
    assert table == {"plans": {f"{name} v5e-8": result}, "fits": True}
    (row,) = [
        line
        for line in done.stdout.splitlines()
        if line.startswith(f"| {name} v5e-8 |")
    ]
    assert row.count("|") == 10
    assert "jax" in row


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--on=v5e-9"],
            "a machine of that size is not planned for; write one of v5e-1",
        ),
        (["--on="], "--on is missing; write --on=MACHINE, such as v4-8"),
        (["--on=v5e-8", "--of=search"], "--of takes step or evaluate, got 'search'"),
        (
            ["--on=h100x8"],
            "the compiler for h100x8 is not installed: pip install 'jax[cuda12]==",
        ),
        (
            ["--on=v5e-8", "--config.batch_size=60"],
            "config.batch_size=60 cannot be divided over 8 devices: write a multiple "
            "of 8, for instance 64",
        ),
        (
            ["--on=v5e-8", "--config.precision=float64"],
            "v5e-8 has no float64; write --config.pre",
        ),
    ],
)
def test_mistakes_are_answered_in_one_line(
    arguments, said, capsys, own_compilation_cache
):
    code = run(["plan", *TINY, *arguments])

    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bnas_jax: error: ")
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--presets=train:digits,train:zz"], "no training preset 'zz'"),
        (
            ["--presets=train:digits", "--batch_size=3"],
            "Unknown command line flag 'batch_size'",
        ),
        (
            ["--presets=train:digits", "--config=train:a"],
            "leave --config or --presets out",
        ),
    ],
)
def test_a_mistake_in_a_table_is_found_before_anything_is_compiled(
    arguments, said, capsys
):
    assert run(["plan", "--on=v5e-8", *arguments]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_pmap_makes_the_program_of_shard_map():
    """So that a plan, which is compiled by shard_map, holds for both."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    script = pathlib.Path(__file__).parent / "lowered.py"
    done = subprocess.run(
        [sys.executable, str(script), *TINY, "--config.batch_size=64"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    counts = json.loads(done.stdout)

    assert counts["pmap"] == counts["shard_map"]
    assert counts["pmap"]["stablehlo.all_reduce"] == 1


def test_a_step_that_does_not_fit():
    """By the bytes that the compiler names, and the program's own."""
    full = "Ran out of memory in memory space hbm. Used 34.20G of 15.75G hbm. Exceeded"
    assert bytes_needed(full) == round(34.2 * 2**30)
    alone = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (33.39G) exceeds available HBM (15.75G)."
    )
    assert bytes_needed(alone) == round(33.39 * 2**30)
    assert (
        bytes_needed(
            "Ran out of memory in memory space vmem. Used 17.05M of 16.00M vmem"
        )
        is None
    )

    plan = Plan(
        programs=(),
        too_large=bytes_needed(full),
        devices=8,
        batch_size=64,
        images=64,
        steps=22,
        seconds=1.0,
    )
    digits = settings.from_config(train_configs.get_config("digits"))
    result = summary(digits, plan, machine("v5e-8"), of="step")

    assert not result["fits"]
    assert result["memory_bytes"] == round(34.2 * 2**30)
    assert "34.20 GiB of 16.00 GiB (213.8 %): DOES NOT FIT" in table(result)
    advice = plan_command._advice({**result, "microbatches_that_fit": 4})
    assert advice.endswith("with --config.microbatches=4 it does")
    advice = plan_command._advice({**result, "of": "evaluate"})
    assert "lower --config.eval_batch_size" in advice
    of_plan = {**result, "date": "today", "versions": {}}
    rows = markdown({"a|b v5e-8": of_plan, "c|d": {"error": "no c|d"}}).splitlines()
    assert rows[-2].startswith(r"| a\|b v5e-8 | ") and "does not fit" in rows[-2]
    assert rows[-1] == r"| c\|d | no c\|d |" + " |" * 7


@pytest.mark.parametrize(
    ("batch_size", "bn_examples", "tried"),
    [
        # 75 images a chip: their divisors, each at least twice the one before.
        (600, None, [3, 15, 75]),
        (64, None, [2, 4, 8]),
        (64, 16, [2, 4]),
        (8, None, []),
    ],
)
def test_microbatches_that_divide_the_batch_are_tried(batch_size, bn_examples, tried):
    digits = settings.from_config(train_configs.get_config("digits"))
    run = dataclasses.replace(digits, batch_size=batch_size, bn_examples=bn_examples)
    asked = []

    def planned(divided):
        asked.append(divided.microbatches)
        return {"fits": False}

    assert _microbatches_that_fit(run, machine("v5e-8"), planned) is None
    assert asked == tried


def test_the_first_microbatches_that_fit_are_named_even_if_fewer_are_refused():
    digits = settings.from_config(train_configs.get_config("digits"))

    def planned(divided):
        if divided.microbatches == 2:
            raise UserError("the compiler for v5e-8 refuses this program: too large")
        return {"fits": True}

    assert _microbatches_that_fit(digits, machine("v5e-8"), planned) == 4


def test_blank_data_has_the_size_of_the_real_one():
    config = train_configs.get_config("d")
    config.dataset.path = "nowhere"
    data = data_for_plan(settings.from_config(config).dataset)

    assert (len(data.train), len(data.test)) == (1_281_167, 50_000)
    assert data.train.image_shape == (224, 224, 3)
    assert data.train.num_classes == SIZES["imagenet2012"].classes == 1000
    pixels, label = data.train.example(1001)
    assert pixels.shape == (224, 224, 3)
    assert label == 1


def test_blank_images_decode():
    reader = BlankReader(count=7, side=32, classes=3)

    assert list(reader.labels()) == [0, 1, 2, 0, 1, 2, 0]
    assert reader.read(5)[1] == 2
