"""Runs that are killed at random moments, with saves in flight, end bit for bit where
an undisturbed run ends.

For `--long`: fifteen kills of a training and five of a search. `test_runs` kills a
training once.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from work_directories import CELL, arrays, largest_difference

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 28  # two epochs of 14
KILLS_OF_A_RUN = 5


def command(task: str, workdir: pathlib.Path) -> list[str]:
    cell = workdir.parent / "cell.json"
    cell.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    own = {
        "train": ["--config.batch_size=100", f"--config.network.genotype={cell}"],
        "search": [
            "--config.batch_size=50",
            "--config.network.layer_types=('none','bin_conv_3x3')",
        ],
    }
    own["search"].append(
        "--config.network.num_cells=3"
    )  # the fewest that have a normal cell
    sizes = [
        "--config.network.num_cells=1",
        "--config.network.channels=2",
        "--config.num_epochs=2",
    ]
    saves = ["--config.checkpoint_every_steps=1", "--config.checkpoint.keep_last=3"]
    return [
        task,
        f"--config=configs/{task}.py:digits",
        f"--workdir={workdir}",
        *sizes,
        *saves,
        *own[task],
    ]


def start(task: str, workdir: pathlib.Path) -> subprocess.Popen:
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {**environment, **os.environ}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    words = [sys.executable, "-m", "bnas_jax", *command(task, workdir)]
    return subprocess.Popen(words, cwd=ROOT, env=environment, **streams)


def finish(process: subprocess.Popen) -> None:
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr


def saves(workdir: pathlib.Path) -> set[str]:
    """What is in the folder of checkpoints: the saved and the half-saved."""
    folder = workdir / "checkpoints"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def kill_at_random(
    process: subprocess.Popen, workdir: pathlib.Path, draw: random.Random
) -> bool:
    """Kills after the first new save has begun, at once or up to a second later; False
    if the run ended before.
    """
    before = saves(workdir)
    while saves(workdir) <= before and process.poll() is None:
        time.sleep(0.001)
    time.sleep(draw.choice((0.0, draw.uniform(0, 0.02), draw.uniform(0, 1))))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.long
def test_however_often_it_is_killed_a_run_ends_bit_for_bit_as_if_it_were_not(tmp_path):
    # A search takes longer to begin again.
    for task, kills in (("train", 15), ("search", 5)):
        assert disturb(task, tmp_path / task, wanted=kills) > 0


def disturb(task: str, folder: pathlib.Path, wanted: int) -> int:
    """Kills `wanted` times, in runs of a few kills each; returns how many of them left
    a half-written save.
    """
    folder.mkdir(exist_ok=True)
    draw = random.Random(task)
    finish(start(task, folder / "whole"))
    whole = arrays(folder / "whole", STEPS)
    kills = runs = in_flight = 0
    while kills < wanted:
        workdir = folder / f"run{runs}"
        runs += 1
        for _ in range(min(KILLS_OF_A_RUN, wanted - kills)):
            if not kill_at_random(start(task, workdir), workdir, draw):
                break
            kills += 1
            in_flight += any("tmp" in name for name in saves(workdir))
        finish(start(task, workdir))
        assert largest_difference(whole, arrays(workdir, STEPS)) == 0, (
            f"run {runs} after {kills} kills"
        )
        records = [
            (at / "metrics.jsonl").read_text().splitlines()
            for at in (folder / "whole", workdir)
        ]
        assert [json.loads(r) | {"seconds": 0} for r in records[0]] == [
            json.loads(r) | {"seconds": 0} for r in records[1]
        ]
    print(
        f"{task}: {kills} kills in {runs} runs, {in_flight} with a save in flight; all "
        "ended bit for bit the same"
    )
    return in_flight
