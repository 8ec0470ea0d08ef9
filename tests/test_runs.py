"""Runs: the loop, stops and resumes, checkpoints whole and damaged, what a work directory holds, evaluation."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from work_directories import CELL, arrays

import bnas_jax
from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3, Genotype
from bnas_jax.core.layers import learnable_share
from bnas_jax.core.network import Network
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.facts import Facts
from bnas_jax.runtime.stops import Stopped
from bnas_jax.search import Bnas
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training import loop
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.derive import rule_of, taken
from bnas_jax.training.evaluate import Evaluator, load_data
from bnas_jax.training.losses import cross_entropy, hits
from bnas_jax.training.state import Sums, TrainState, initial_variables
from bnas_jax.training.workdir import FORMAT, WorkDir
from configs import search as search_configs
from configs import train as train_configs

# ml_collections loads a config's file so.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
)

ROOT = pathlib.Path(__file__).parent.parent
NAN, INF = float("nan"), float("inf")


# A run without a network: its weights count the steps


EPOCHS, STEPS_PER_EPOCH = 2, 5
MOST_EPOCHS = 6


def counting(step: int = 0) -> TrainState:
    """The state at `step` of a run whose weights and loss are functions of the step, all epochs behind it evaluated."""
    value = jnp.float32(step)
    params = {"layer": {"latent": jnp.full((2, 3), value), "bias": jnp.arange(4.0) + value}}
    return TrainState(
        step=jnp.int32(step),
        seed=jnp.uint32(0),
        params=params,
        batch_stats={"layer": {"mean": jnp.full(3, -value)}},
        opt_state=({"trace": jnp.full((2, 3), 2 * value)},),
        sums=Sums(*(value * n for n in (1, 2, 3))),
        test_top1=jnp.where(
            jnp.arange(1, MOST_EPOCHS + 1) * STEPS_PER_EPOCH <= step, jnp.float32(50), jnp.nan
        ),
    )


SHAPES = jax.eval_shape(counting)


def same(one, other) -> bool:
    """Bit for bit, with NaN equal to NaN."""
    equal = lambda a, b: a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(equal, one, other)
    )


class Counting:
    """A loop's work over `counting`, in a work directory of its own, that notes what it is asked to do."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, folder: pathlib.Path, **changes):
        run = settings.from_config(train_configs.get_config("digits"))
        keep = CheckpointSettings(keep_last=100, keep_best=1)
        self.run = dataclasses.replace(run, **{"num_epochs": EPOCHS, "checkpoint": keep, **changes})
        self.workdir = WorkDir(folder)
        self.workdir.open(self.run, Facts(num_classes=10, image_shape=(8, 8, 1)))
        self.made: list[int] = []
        self.finished: list[int] = []
        self.before = lambda step, state: state  # for a test to interfere
        self.evaluating = lambda between_batches: None  # the same

    def start(self, top1=lambda epoch: 50.0):
        self.top1 = top1
        self.checkpoints = Checkpoints(self.workdir.checkpoints, self.run.checkpoint)
        return loop.run(self, self.run, self.workdir, self.checkpoints)

    def begin(self):
        return self.checkpoints.restore_state(SHAPES) or counting()

    def prepare(self, state, calls):
        self.prepared = calls

    def advance(self, state, steps):
        assert int(state.step) == steps.start
        self.made += steps
        return self.before(steps.stop, counting(steps.stop).replace(test_top1=state.test_top1))

    def finish_epoch(self, state, epoch, between_batches):
        self.finished.append(epoch)
        self.evaluating(between_batches)
        state = state.replace(test_top1=state.test_top1.at[epoch].set(50.0))
        return state, {"epoch": epoch, "step": int(state.step)}, self.top1(epoch)

    def saved(self) -> list[int]:
        return sorted(int(p.name) for p in self.workdir.checkpoints.iterdir() if p.name.isdigit())

    def records(self) -> list[dict]:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in self.workdir.read_metrics()]


RECORDS = [{"epoch": 0, "step": 5}, {"epoch": 1, "step": 10}]


def test_the_loop_makes_every_step_once_and_saves_each_epoch_and_where_it_is_told(tmp_path):
    counted = Counting(tmp_path, checkpoint_every_steps=2)
    assert same(counted.start(), counting(10))
    assert counted.made == list(range(10)) and counted.finished == [0, 1]
    assert counted.saved() == [2, 4, 5, 6, 8, 10] and counted.records() == RECORDS
    assert all(record["seconds"] >= 0 for record in counted.workdir.read_metrics())


def test_a_finished_run_makes_no_step_more(tmp_path):
    Counting(tmp_path).start()
    again = Counting(tmp_path)
    assert same(again.start(), counting(10)) and not again.made and not again.finished
    assert again.records() == RECORDS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [3, 5])
def test_a_signal_stops_after_the_step_with_its_state_saved(tmp_path, number, code, step):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    counted = Counting(tmp_path)

    def interrupt(now, state):
        if now == step:
            os.kill(os.getpid(), number)
        return state

    counted.before = interrupt
    with pytest.raises(
        Stopped, match=f"stopped by {number.name} at step {step}; the same command goes on"
    ) as caught:
        counted.start()
    assert caught.value.exit_code == code and counted.saved() == [step]
    assert counted.records() == RECORDS[: step // STEPS_PER_EPOCH]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    going_on = Counting(tmp_path)
    assert same(going_on.start(), counting(10)) and going_on.made == list(range(step, 10))
    assert going_on.records() == RECORDS


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    counted = Counting(tmp_path)
    counted.before = lambda step, state: (
        os.kill(os.getpid(), signal.SIGTERM) if step == 10 else None,
        state,
    )[1]
    assert same(counted.start(), counting(10)) and counted.saved() == [5, 10]


@pytest.fixture
def ctrl_c():
    """Python's own answer to it, which it has not where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_quits_at_once(tmp_path):
    counted = Counting(tmp_path)
    counted.before = lambda step, state: (
        [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)],
        state,
    )[1]
    with pytest.raises(KeyboardInterrupt):
        counted.start()
    assert counted.saved() == [] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_it_compiles_stops_at_once(tmp_path, number, code):
    counted, given_up = Counting(tmp_path), threading.Event()

    def prepare(state, calls):
        os.kill(os.getpid(), number)
        given_up.wait()

    counted.prepare = prepare
    try:
        with pytest.raises(
            Stopped, match=f"stopped by {number.name} at step 0; the same command goes on"
        ) as caught:
            counted.start()
    finally:
        given_up.set()
    assert caught.value.exit_code == code and not counted.made and counted.saved() == []
    assert same(Counting(tmp_path).start(), counting(10))


def test_what_fails_to_compile_fails_the_run(tmp_path):
    counted = Counting(tmp_path)
    counted.prepare = lambda state, calls: 1 / 0
    with pytest.raises(ZeroDivisionError):
        counted.start()


def test_calls_of_every_length_are_prepared_for(tmp_path):
    counted = Counting(tmp_path, steps_per_call=2, checkpoint_every_steps=3)
    counted.before = lambda step, state: (
        os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None,
        state,
    )[1]
    with pytest.raises(Stopped):
        counted.start()
    assert counted.prepared == [range(0, 2), range(4, 5)]
    going_on = Counting(tmp_path, steps_per_call=2)
    going_on.start()
    assert going_on.prepared == [range(4, 5), range(5, 7)]


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_signal_in_an_evaluation_stops_it_and_the_run_goes_on_with_it(tmp_path, epoch):
    """However often; what was saved without the evaluation is replaced once there is one."""
    step, whole = STEPS_PER_EPOCH * (epoch + 1), Counting(tmp_path / "whole")
    whole.start(top1=lambda epoch: 50.0 + epoch)
    counted = Counting(tmp_path / "run")

    def interrupt(between_batches):
        if counted.finished[-1] == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        between_batches()

    counted.evaluating = interrupt
    for _ in range(2):
        with pytest.raises(
            Stopped, match=f"stopped by SIGTERM at step {step}; the same command goes on"
        ):
            counted.start(top1=lambda epoch: 50.0 + epoch)
        assert counted.saved()[-1] == step and counted.records() == RECORDS[:epoch]
    counted.evaluating = lambda between_batches: None
    assert same(counted.start(top1=lambda epoch: 50.0 + epoch), counting(10))
    assert counted.made == list(range(10)) and counted.finished == sorted([0, 1, epoch, epoch])
    assert counted.records() == RECORDS
    for run in (whole, counted):
        assert run.saved() == [5, 10] and same(restored(run.workdir.checkpoints), counting(10))
        assert (
            Checkpoints(run.workdir.checkpoints).restore_variables(variables_of(SHAPES), "best")[0]
            == 10
        )
    assert sorted(p.name for p in whole.workdir.path.iterdir()) == sorted(
        p.name for p in counted.workdir.path.iterdir()
    )


def with_loss(state, loss: float):
    return state.replace(sums=state.sums.replace(loss=jnp.float32(loss)))


@pytest.mark.parametrize("loss", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("changes", "noticed"),
    [
        ({}, 10),
        ({"log_every_steps": 3}, 9),
        ({"checkpoint_every_steps": 4}, 8),
        ({"checkpoint_every_steps": 1}, 7),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run_and_the_last_good_state_is_kept(
    tmp_path, loss, changes, noticed
):
    counted = Counting(tmp_path, **changes)
    counted.before = lambda step, state: with_loss(state, loss) if step >= 7 else state
    with pytest.raises(
        UserError,
        match=rf"loss became -?(nan|inf) by step {noticed}; lower the learning rate.*last good",
    ):
        counted.start()
    assert max(counted.saved()) < 7 and counted.records() == RECORDS[:1]
    good = Checkpoints(counted.workdir.checkpoints, counted.run.checkpoint).restore_state(SHAPES)
    assert same(good, counting(max(counted.saved())))


def test_a_loss_that_explodes_stops_the_run(tmp_path):
    counted = Counting(tmp_path, checkpoint_every_steps=1)
    counted.before = lambda step, state: (
        with_loss(state, 1e6 * float(state.sums.examples)) if step == 7 else state
    )
    with pytest.raises(UserError, match=r"mean loss of the epoch exploded to 1e\+06 by step 7"):
        counted.start()
    assert max(counted.saved()) == 6


@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_no_numbers_are_not_saved_even_where_the_loss_still_is_one(
    tmp_path, value
):
    counted = Counting(tmp_path, checkpoint_every_steps=1)
    spoil = lambda state: state.replace(
        params=jax.tree.map(lambda w: w.at[-1].set(value), state.params)
    )
    counted.before = lambda step, state: spoil(state) if step == 7 else state
    with pytest.raises(UserError, match="the weights are no longer finite by step 7"):
        counted.start()
    assert max(counted.saved()) == 6


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
    counted = Counting(
        tmp_path, num_epochs=6, checkpoint=CheckpointSettings(keep_last=2, keep_best=1)
    )
    scores = [10.0, 90.0, NAN, 50.0, INF, 20.0]
    counted.start(top1=scores.__getitem__)
    assert counted.saved() == [10, 25, 30]  # a score that is no number is never the best
    which = functools.partial(
        Checkpoints(counted.workdir.checkpoints).restore_variables, variables_of(SHAPES)
    )
    assert which("best")[0] == 10 and which("last")[0] == 30
    again = Counting(
        tmp_path, num_epochs=6, checkpoint=CheckpointSettings(keep_last=2, keep_best=1)
    )
    again.start()
    assert again.saved() == [10, 25, 30]


def test_without_room_for_a_best_one_the_last_are_kept(tmp_path):
    counted = Counting(
        tmp_path, num_epochs=4, checkpoint=CheckpointSettings(keep_last=1, keep_best=0)
    )
    counted.start(top1=[90.0, 10.0, 10.0, 10.0].__getitem__)
    assert counted.saved() == [20]


# metrics.jsonl


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
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n" + lines[0] + b"12\n{}\n" + lines[1][:9])
    assert counted.records() == RECORDS[:1]
    shutil.rmtree(counted.workdir.checkpoints / "10")
    Counting(tmp_path).start()
    assert counted.records() == RECORDS
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


# The work directory


def test_a_work_directory_of_another_run_is_refused_by_the_first_setting_that_differs(tmp_path):
    Counting(tmp_path)
    with pytest.raises(
        UserError, match=r"another run: config\.seed is 5 now and 0 there; choose another --workdir"
    ):
        Counting(tmp_path, seed=5)
    Counting(
        tmp_path, log_every_steps=7, checkpoint_every_steps=3
    )  # nothing that is trained hangs on these


def test_a_work_directory_of_an_older_format_is_refused_by_the_version_that_reads_it(tmp_path):
    Counting(tmp_path)
    noted = read(tmp_path / "run.json")
    assert noted.pop("format") == FORMAT
    (tmp_path / "run.json").write_text(json.dumps(noted))
    older = r"^.* has the format 1 of bnas-jax 0\.1\.0, which reads it; .*use that version for it, or choose another --workdir$"
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
        "import sys; from bnas_jax.training.workdir import WorkDir; WorkDir(sys.argv[1])._lock()"
    )
    lock = lambda: subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert f"is in use by process {os.getpid()} on " in lock().stderr
    counted.workdir.close()
    assert lock().returncode == 0
    Counting(tmp_path)  # the process that had it has ended


def test_the_log_has_clock_host_and_process(tmp_path):
    Counting(tmp_path).start()
    for line in (tmp_path / "log.txt").read_text().splitlines():
        assert re.match(
            rf"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ {platform.node()} {os.getpid()} (starts|code|compiled|epoch)",
            line,
        )


def test_the_clock_saves_too(tmp_path):
    counted = Counting(tmp_path, checkpoint_every_minutes=1e-9)
    counted.start()
    assert counted.saved() == list(range(1, 11))
    rare = Counting(tmp_path / "rare", checkpoint_every_minutes=1e9)
    rare.start()
    assert rare.saved() == [5, 10]


def test_calls_of_several_steps_save_where_they_end(tmp_path):
    counted = Counting(tmp_path, steps_per_call=2, checkpoint_every_steps=3)
    assert same(counted.start(), counting(10))
    assert counted.made == list(range(10)) and counted.saved() == [4, 5, 7, 9, 10]


def test_checkpoints_without_a_config_are_nobodys(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"no config\.json to tell whose"):
        Counting(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoints"]


def test_a_file_in_the_way_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the work directory .*choose another"):
        Counting(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\x00"])
def test_a_damaged_config_is_named(tmp_path, text):
    Counting(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        UserError, match=r"config\.json (cannot be read|holds no JSON object).*restore it"
    ):
        WorkDir(tmp_path).config()


def test_a_folder_without_a_config_is_no_work_directory(tmp_path):
    with pytest.raises(UserError, match=r"is no work directory: it has no config\.json"):
        WorkDir(tmp_path).config()


# Checkpoints


def variables_of(state) -> dict:
    return {"params": state.params, "batch_stats": state.batch_stats}


def tree_of(folder: pathlib.Path) -> dict[str, str]:
    """The files below a folder and what is in them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def three_saved(tmp_path_factory) -> pathlib.Path:
    """A folder of the checkpoints of steps 1, 2 and 3; of these 2 is the best."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, CheckpointSettings(keep_last=3))
    for step, top1 in ((1, 10.0), (2, 30.0), (3, 20.0)):
        checkpoints.save(step, counting(step), top1)
    checkpoints.close()
    return folder


@pytest.fixture
def saved(three_saved, tmp_path) -> pathlib.Path:
    return shutil.copytree(three_saved, tmp_path / "checkpoints")


def restored(folder: pathlib.Path):
    """The state that a run would go on from."""
    checkpoints = Checkpoints(folder, CheckpointSettings(keep_last=3))
    try:
        return checkpoints.restore_state(SHAPES)
    finally:
        checkpoints.close()


def test_a_state_comes_back_bit_for_bit(saved):
    assert same(restored(saved), counting(3))


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restored(tmp_path / "checkpoints") is None


def test_what_was_saved_does_not_change_with_the_state_that_goes_on(tmp_path):
    """Saving goes on in the background while the next step writes over the state's buffers."""
    advance = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, CheckpointSettings())
    state = counting(1)
    checkpoints.save(1, state)
    for _ in range(3):
        state = advance(state)
    checkpoints.close()
    assert same(restored(tmp_path), counting(1))


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def arrays_file(step: pathlib.Path, item: str = "variables") -> pathlib.Path:
    """A file of a checkpoint that holds arrays."""
    return next((step / item / "d").iterdir())


DAMAGES = {"cut": cut, "flip": flip, "empty": lambda path: os.truncate(path, 0), "gone": os.unlink}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_to_any_file_is_harmless_or_noticed_and_the_checkpoint_before_is_taken(
    three_saved, tmp_path, how, capfd
):
    """Never is anything restored that was not saved, and never is anything deleted."""
    taken = set()
    for number, path in enumerate(sorted(p for p in (three_saved / "3").rglob("*") if p.is_file())):
        folder = shutil.copytree(three_saved, tmp_path / str(number) / "checkpoints")
        DAMAGES[how](folder / path.relative_to(three_saved))
        before = tree_of(folder)
        state = restored(folder)
        assert same(state, counting(int(state.step))), path
        taken.add(int(state.step))
        error = capfd.readouterr().err
        assert sorted(tree_of(folder.parent).values()) == sorted(before.values()), path
        if int(state.step) == 2:
            assert (
                "the checkpoint of step 3 is damaged" in error
                and "moved the damaged checkpoint of step 3" in error
            )
            assert (
                not (folder / "3").exists()
                and (folder.with_name("checkpoints_damaged") / "3").is_dir()
            )
    assert taken == {2, 3}  # some files hold the arrays, others nothing that is needed


def test_a_whole_folder_that_is_empty_or_gone_is_noticed(three_saved, tmp_path):
    for name in ("3", "3/variables", "3/rest"):
        for keep in (True, False):
            folder = shutil.copytree(three_saved, tmp_path / f"{name}{keep}" / "checkpoints")
            shutil.rmtree(folder / name)
            if keep:
                (folder / name).mkdir()
            assert same(restored(folder), counting(2))


def test_what_a_kill_left_half_written_is_passed_over(saved):
    half = saved / "4.orbax-checkpoint-tmp"
    shutil.copytree(saved / "3" / "variables", half / "variables")
    assert same(restored(saved), counting(3))


def test_after_damage_the_run_goes_on_and_saves_over_the_place(saved):
    flip(arrays_file(saved / "3", "rest"))
    checkpoints = Checkpoints(saved, CheckpointSettings(keep_last=3))
    assert same(checkpoints.restore_state(SHAPES), counting(2))
    checkpoints.save(3, counting(3), 70.0)
    checkpoints.close()
    assert same(restored(saved), counting(3))
    flip(arrays_file(saved / "3", "rest"))
    assert same(restored(saved), counting(2))
    assert {path.name for path in saved.with_name("checkpoints_damaged").iterdir()} == {"3", "3.1"}


def test_a_checkpoint_is_replaced_by_another_of_its_step_and_lost_at_no_moment(saved):
    checkpoints = Checkpoints(saved, CheckpointSettings(keep_last=3))
    changed = counting(3).replace(batch_stats=counting(9).batch_stats)
    before = saved.with_name("checkpoints_replaced")
    checkpoints.save(3, changed, 70.0)
    checkpoints.close()
    assert same(restored(saved), changed) and not before.exists()
    assert Checkpoints(saved).restore_variables(variables_of(SHAPES), "best")[0] == 3
    before.mkdir()
    (saved / "3").rename(before / "3")  # as a kill leaves it before the new one is on disk
    assert same(restored(saved), changed) and not before.exists()
    shutil.copytree(saved / "2", before / "3")  # and after it
    assert same(restored(saved), changed) and not before.exists()


def test_where_all_are_damaged_it_is_an_error_and_nothing_is_touched(saved):
    for step in (1, 2, 3):
        flip(arrays_file(saved / str(step)))
    before = tree_of(saved.parent)
    with pytest.raises(
        UserError, match=r"no whole checkpoint in .*damaged are steps 1, 2, 3; nothing was deleted"
    ):
        restored(saved)
    with pytest.raises(UserError, match="no whole checkpoint"):
        Checkpoints(saved).restore_variables(variables_of(SHAPES), "last")
    assert tree_of(saved.parent) == before


def test_a_damaged_score_costs_the_score_alone(saved, capfd):
    flip(saved / "2" / "metrics" / "metrics")
    assert Checkpoints(saved).restore_variables(variables_of(SHAPES), "best")[0] == 3
    assert same(restored(saved), counting(3))
    assert "accuracy noted with the checkpoint of step 2 cannot be read" in capfd.readouterr().err
    assert (saved / "2" / "variables").is_dir()


@pytest.mark.parametrize(("which", "step"), [("last", 3), ("best", 2), ("1", 1), ("2", 2)])
def test_variables_are_restored_alone_from_the_checkpoint_asked_for(saved, which, step):
    shutil.rmtree(saved / str(step) / "rest")
    before = tree_of(saved)
    found, variables = Checkpoints(saved).restore_variables(variables_of(SHAPES), which)
    assert found == step and same(variables, variables_of(counting(step)))
    assert tree_of(saved) == before


@pytest.mark.parametrize("which", ["4", "-1", "newest", "", "1.0"])
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(saved, which):
    with pytest.raises(
        UserError, match=r"no checkpoint of step .*write best, last or one of 1, 2, 3"
    ):
        Checkpoints(saved).restore_variables(variables_of(SHAPES), which)


def test_without_an_accuracy_none_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointSettings())
    checkpoints.save(1, counting(1))
    checkpoints.close()
    with pytest.raises(UserError, match="has an accuracy yet; write last instead of best"):
        Checkpoints(tmp_path).restore_variables(variables_of(SHAPES), "best")


def test_the_checkpoint_asked_for_is_not_replaced_by_another_where_it_is_damaged(saved):
    flip(arrays_file(saved / "2"))
    with pytest.raises(UserError, match="damaged are steps 2"):
        Checkpoints(saved).restore_variables(variables_of(SHAPES), "2")


def test_a_checkpoint_of_another_network_is_refused_by_its_first_leaf_that_differs(saved):
    before = tree_of(saved)
    checkpoints = Checkpoints(saved)
    wide = SHAPES.replace(
        params={
            "layer": {**SHAPES.params["layer"], "latent": jax.ShapeDtypeStruct((2, 5), jnp.float32)}
        }
    )
    more = SHAPES.replace(params={**SHAPES.params, "second": SHAPES.params["layer"]})
    other = SHAPES.replace(opt_state=({"trace": jax.ShapeDtypeStruct((2,), jnp.float32)},))
    half = SHAPES.replace(
        params=jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.bfloat16), SHAPES.params)
    )
    for shapes, message in (
        (wide, r"params/layer/latent is float32 \(2, 3\) there and float32 \(2, 5\) here"),
        (more, r"params/second/bias is missing there and float32 \(4,\) here"),
        (other, r"opt_state/0/trace is float32 \(2, 3\) there and float32 \(2,\) here"),
        (
            half,
            r"params/layer/bias is float32 \(4,\) there and bfloat16 \(4,\) here",
        ),  # nothing is rounded unasked
    ):
        with pytest.raises(
            UserError,
            match=rf"the checkpoint of step 3 in .* of another network or optimizer: {message}",
        ):
            checkpoints.restore_state(shapes)
    with pytest.raises(UserError, match=r"params/layer/latent is an array \(2, 3\) there"):
        checkpoints.restore_variables(variables_of(wide), "last")
    _, variables = checkpoints.restore_variables(
        variables_of(half), "last"
    )  # evaluation may ask for it
    assert variables["params"]["layer"]["bias"].dtype == jnp.bfloat16
    assert tree_of(saved) == before


def test_too_little_room_for_the_checkpoints_to_come_is_noticed_at_the_start(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointSettings(keep_last=10**15))
    with pytest.raises(
        UserError,
        match=r"no room for checkpoints in .*; make room or lower config\.checkpoint\.keep_last",
    ):
        checkpoints.restore_state(SHAPES)


@pytest.mark.parametrize("noticed", ["at the end", "by the next save"])
def test_a_save_that_finds_no_room_is_one_line_and_the_last_good_one_stays(saved, noticed):
    """The size of files is limited, as a full disk would. Saving goes on in the background, and so may the steps."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(saved, CheckpointSettings(keep_last=3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        checkpoints.save(4, counting(4))
        with pytest.raises(
            UserError, match=r"cannot save a checkpoint in .*the same command goes on from step 3"
        ):
            checkpoints.close() if noticed == "at the end" else checkpoints.save(5, counting(5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(restored(saved), counting(3))


# The genotype taken


def ended_search(valid_top1) -> dict:
    """The history of a search of three epochs whose alphas tell the epochs apart."""
    epochs = len(valid_top1)
    history = {name: np.zeros((epochs + 1, 14, 7), np.float32) for name in ("normal", "reduce")}
    for row in range(epochs + 1):
        history["normal"][row, :, row + 1] = 5.0
    return {**history, "valid_top1": np.array(valid_top1, np.float32)}


@pytest.mark.parametrize(
    ("rule", "alphas_as_of", "valid_top1", "epoch", "row"),
    [
        ("best", "after", (10, 30, 20), 1, 2),
        ("best", "before", (10, 30, 20), 1, 1),
        ("last", "after", (10, 30, 20), 2, 3),
        ("last", "before", (10, 30, 20), 2, 2),
        ("best", "after", (30, 10, 30), 0, 1),
        ("best", "before", (NAN, 10, 5), 1, 1),
    ],
)
def test_the_genotype_is_that_of_the_epoch_and_side_of_it_that_the_rule_names(
    rule, alphas_as_of, valid_top1, epoch, row
):
    run = settings.from_config(search_configs.get_config("digits"))
    run = dataclasses.replace(run, num_epochs=3, select=rule, alphas_as_of=alphas_as_of)
    record = taken(Bnas(), rule_of(run), ended_search(valid_top1))
    assert record["epoch"] == epoch and {layer for layer, _ in record["normal"]} == {
        TABLE_3[row + 1]
    }
    assert (record["select"], record["alphas_as_of"]) == (rule, alphas_as_of)


# Real runs, small ones

TASKS = {"train": train_configs, "search": search_configs}
SIZES = ["--config.network.num_cells=1", "--config.network.channels=2", "--config.num_epochs=2"]
# What a search draws by the number of its step or epoch: alpha's batches, and shifts of the validation images.
DRAWN = [
    "--config.alpha_batches=fresh",
    "--config.dataset.augment_validation=True",
    "--config.dataset.pad=1",
]
STEPS = (
    14  # an epoch: 1,437 examples in batches of 100; in the search half of them in batches of 50
)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """One compilation cache for all runs, those of other processes too, and not the user's own."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    names["jax_compilation_cache_dir"] = (
        before["jax_compilation_cache_dir"] or names["jax_compilation_cache_dir"]
    )
    environment = pytest.MonkeyPatch()
    for name, value in names.items():
        jax.config.update(name, value)
        environment.setenv(name.upper(), str(value))
    compilation_cache.reset_cache()
    yield
    environment.undo()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("cell") / "genotype.json"
    path.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    return path


def arguments(task: str, workdir: pathlib.Path, cell: pathlib.Path, *more: str) -> list[str]:
    own = {
        "train": ["--config.batch_size=100", f"--config.network.genotype={cell}"],
        "search": [
            "--config.batch_size=50",
            "--config.network.layer_types=('none','bin_conv_3x3')",
            *DRAWN,
        ],
    }
    own["search"].append("--config.network.num_cells=3")  # the fewest that have a normal cell
    return [
        task,
        f"--config=configs/{task}.py:digits",
        f"--workdir={workdir}",
        *SIZES,
        *own[task],
        *more,
    ]


def traces() -> list[str]:
    """What JAX traces and compiles from now on, by name."""
    names: list[str] = []
    events = (
        "/jax/core/compile/jaxpr_trace_duration",
        "/jax/core/compile/backend_compile_duration",
    )
    listener = lambda event, _, fun_name="", **__: (
        names.append(fun_name) if event in events else None
    )
    jax.monitoring.register_event_duration_secs_listener(listener)
    return names


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cell):
    """Gives the undisturbed run of a task: its work directory, and what JAX traced."""

    @functools.cache
    def run(task: str):
        workdir = tmp_path_factory.mktemp(task) / "run"
        seen = traces()
        assert command(arguments(task, workdir, cell, "--config.checkpoint_every_steps=10")) == 0
        return workdir, list(seen)

    return run


def records(workdir: pathlib.Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in WorkDir(workdir).read_metrics()]


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def check_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same losses, the same final parameters and everything else, bit for bit."""
    assert same(arrays(one, 2 * STEPS), arrays(other, 2 * STEPS))
    assert records(one) == records(other) and len(records(one)) == 2
    assert read(one / "summary.json") == read(other / "summary.json")


def test_training_leaves_everything_in_its_work_directory(whole):
    workdir, _ = whole("train")
    names = {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "log.txt",
        "summary.json",
        "checkpoints",
        "tensorboard",
        "lock",
    }
    assert {path.name for path in workdir.iterdir()} == names
    assert settings.from_config(read(workdir / "config.json")).network.channels == 2
    facts = read(workdir / "run.json")
    assert (facts["num_classes"], facts["image_shape"]) == (10, [8, 8, 1])
    assert (
        facts["environment"]["jax"] == jax.__version__ and "cpu" in facts["environment"]["device"]
    )
    losses = [record["train_loss"] for record in records(workdir)]
    assert [record["step"] for record in records(workdir)] == [STEPS, 2 * STEPS] and losses[
        1
    ] < losses[0] < 4
    assert all(
        f"test_{name}" in record for record in records(workdir) for name in ("top1", "top5", "loss")
    )
    assert next((workdir / "tensorboard").iterdir()).stat().st_size > 0
    summary = read(workdir / "summary.json")
    last = records(workdir)[-1]
    assert (summary["top1"], summary["loss"]) == (last["test_top1"], last["test_loss"])
    assert summary["num_examples"] == 360 and summary["steps"] == 2 * STEPS
    assert summary["best_top1"] == pytest.approx(
        max(record["test_top1"] for record in records(workdir))
    )


def test_a_search_leaves_its_genotype_and_the_history_of_alpha(whole):
    workdir, _ = whole("search")
    names = {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "summary.json",
        "genotype.json",
        "alphas.npz",
        "checkpoints",
    }
    assert {path.name for path in workdir.iterdir()} == names | {
        "cell.svg",
        "tensorboard",
        "log.txt",
        "lock",
    }
    assert "run: normal cell</text>" in (workdir / "cell.svg").read_text()
    with np.load(workdir / "alphas.npz") as stored:
        history = {name: stored[name] for name in ("normal", "reduce")}
        valid_top1 = stored["valid_top1"]
    assert all(value.shape == (3, 14, 2) for value in history.values())
    assert np.abs(history["normal"][0]).max() < 0.01 and not np.array_equal(
        history["normal"][0], history["normal"][1]
    )
    written = records(workdir)
    assert np.allclose(valid_top1, [record["valid_top1"] for record in written])
    for epoch, record in enumerate(written):
        alphas = {name: jnp.asarray(value[epoch + 1]) for name, value in history.items()}
        derived = genotype_lib.derive_genotype(
            alphas_lib.relax(alphas), layer_types=("none", "bin_conv_3x3")
        )
        assert record["genotype"] == derived.to_dict()
        assert record["alpha_entropy"] == pytest.approx(float(alphas_lib.entropy(alphas)))
        assert record["learnable_share"] == learnable_share(derived)
    best = int(np.argmax(valid_top1))
    genotype = read(workdir / "genotype.json")
    assert genotype["epoch"] == best and genotype["select"] == "best" and genotype["gamma"] == 1
    assert {name: genotype[name] for name in ("normal", "reduce")} == written[best]["genotype"]
    assert genotype_lib.load(str(workdir / "genotype.json")) == genotype_lib.from_dict(
        written[best]["genotype"]
    )
    summary = read(workdir / "summary.json")
    assert summary["genotype"] == written[best]["genotype"] and summary["steps"] == 2 * STEPS
    assert summary["valid_top1"] == pytest.approx(float(valid_top1[best]))


def test_a_search_that_has_ended_takes_another_genotype_by_other_rules(whole, tmp_path, cell):
    workdir = shutil.copytree(whole("search")[0], tmp_path / "run")
    before = {
        name: (workdir / name).read_bytes()
        for name in ("config.json", "metrics.jsonl", "alphas.npz")
    }
    rules = [
        "--config.searcher.keep_zeroise=False",
        "--config.searcher.gamma=2.0",
        "--config.select=last",
    ]
    assert command(arguments("search", workdir, cell, *rules, "--config.alphas_as_of=before")) == 0
    with np.load(workdir / "alphas.npz") as stored:
        weights = alphas_lib.relax(
            {name: jnp.asarray(stored[name][1]) for name in ("normal", "reduce")}
        )
    options = {"layer_types": ("none", "bin_conv_3x3"), "keep_zeroise": False}
    expected = genotype_lib.derive_genotype(weights, **options).to_dict()
    genotype = read(workdir / "genotype.json")
    assert {name: genotype[name] for name in ("normal", "reduce")} == expected
    rule = {
        name: genotype[name]
        for name in ("select", "alphas_as_of", "epoch", "gamma", "keep_zeroise")
    }
    assert rule == {
        "select": "last",
        "alphas_as_of": "before",
        "epoch": 1,
        "gamma": 2.0,
        "keep_zeroise": False,
    }
    summary = read(workdir / "summary.json")
    assert (summary["genotype"], summary["epoch"]) == (expected, 1)
    assert before == {name: (workdir / name).read_bytes() for name in before}


def test_a_search_whose_cell_cannot_be_drawn_ends_all_the_same(whole, tmp_path, cell, capfd):
    workdir = shutil.copytree(whole("search")[0], tmp_path / "run")
    (workdir / "cell.svg").unlink()
    (workdir / "cell.svg").mkdir()
    capfd.readouterr()
    assert command(arguments("search", workdir, cell)) == 0
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[-1]) == read(workdir / "summary.json")
    (line,) = (line for line in err.splitlines() if "cell.svg" in line)
    assert f"draw --genotype={workdir} --out=FILE.svg" in line
    assert line.removeprefix("bnas_jax: ") in (workdir / "log.txt").read_text()


def test_derive_takes_what_the_search_took(whole, tmp_path, capfd):
    workdir, _ = whole("search")
    out = tmp_path / "new" / "cell.json"
    capfd.readouterr()
    assert command(["derive", f"--workdir={workdir}", f"--out={out}"]) == 0
    summary = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert read(out) == read(workdir / "genotype.json") and summary["out"] == str(out)


def check_compiled_once(seen: list[str], task: str) -> None:
    """One program for the step, of a search for each of its two stages, and one for the evaluation."""
    times = {f"{task}_stage": {"train": 1, "search": 2}[task], "evaluation": 1}
    for name, expected in times.items():
        assert seen.count(name) == seen.count(f"jit({name})") == expected, name


@pytest.mark.parametrize("task", TASKS)
def test_each_step_is_traced_and_compiled_once(whole, task):
    """The step of the run and that of the evaluation: over two epochs with checkpoints between."""
    _, seen = whole(task)
    check_compiled_once(seen, task)


class Process:
    """The command line in a process of its own."""

    def __init__(self, *command: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bnas_jax", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def signal_after(self, checkpoint: pathlib.Path, number: int) -> tuple[int, str, str]:
        """Sends the signal once there is that checkpoint; returns exit code, stdout and stderr."""
        while not checkpoint.is_dir() and self.process.poll() is None:
            time.sleep(0.005)
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate()
        return self.process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("task", "number", "code"), [("train", signal.SIGTERM, 143), ("search", signal.SIGINT, 130)]
)
def test_a_run_that_was_stopped_and_then_killed_goes_on_bit_for_bit(
    whole, cell, tmp_path, task, number, code
):
    workdir = tmp_path / "run"
    checkpoints = workdir / "checkpoints"
    same_command = arguments(task, workdir, cell, "--config.checkpoint_every_steps=1")

    exit_code, stdout, stderr = Process(*same_command).signal_after(checkpoints / "3", number)
    assert exit_code == code and stdout == "", stderr
    stopped = stderr.splitlines()[-1]
    assert stopped.startswith(f"bnas_jax: stopped by {signal.Signals(number).name} at step ")
    step = int(stopped.split("at step ")[1].split(";")[0])
    assert 3 <= step < 2 * STEPS and (checkpoints / str(step)).is_dir()

    exit_code, stdout, stderr = Process(*same_command).signal_after(
        checkpoints / str(STEPS + 3), signal.SIGKILL
    )
    assert exit_code == -signal.SIGKILL and stdout == "", stderr
    assert not (workdir / "summary.json").exists()

    seen = traces()
    assert command(same_command) == 0
    check_compiled_once(seen, task)
    check_same_run(workdir, whole(task)[0])


def test_a_signal_ends_a_process_that_compiles(whole, cell, tmp_path, monkeypatch):
    same_command = arguments("train", tmp_path / "run", cell, "--config.checkpoint_every_steps=10")
    with monkeypatch.context() as anew:
        anew.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "nothing_compiled"))
        process = Process(*same_command)
    assert process.process.stderr.readline() == "compiling\n"
    process.process.send_signal(signal.SIGTERM)
    exit_code, stdout, stderr = process.wait()
    assert exit_code == 143 and stdout == ""
    assert stderr == "bnas_jax: stopped by SIGTERM at step 0; the same command goes on from there\n"
    assert "compiled" not in (tmp_path / "run" / "log.txt").read_text()
    assert command(same_command) == 0
    check_same_run(tmp_path / "run", whole("train")[0])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_stopped_in_an_evaluation_goes_on_bit_for_bit(
    whole, cell, tmp_path, monkeypatch, capfd, task, epoch
):
    workdir = tmp_path / "run"
    same_command = arguments(task, workdir, cell, "--config.checkpoint_every_steps=10")
    call, begun = Evaluator.call, list[int]()

    def interrupting(self, *variables, batch=0, **options):
        begun.append(batch)
        if batch == 0 and begun.count(0) == epoch + 2:  # the first is compiled for
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, *variables, batch=batch, **options)

    with monkeypatch.context() as first:
        first.setattr(Evaluator, "call", interrupting)
        assert command(same_command) == 143
    step = STEPS * (epoch + 1)
    assert f"stopped by SIGTERM at step {step};" in capfd.readouterr().err
    assert len(records(workdir)) == epoch and (workdir / "checkpoints" / str(step)).is_dir()
    assert command(same_command) == 0
    check_same_run(workdir, whole(task)[0])


def test_a_finished_run_with_a_damaged_checkpoint_goes_back_and_ends_the_same(
    whole, cell, tmp_path, capfd
):
    workdir = shutil.copytree(whole("train")[0], tmp_path / "run")
    same_command = arguments("train", workdir, cell, "--config.checkpoint_every_steps=10")
    newest = workdir / "checkpoints" / str(2 * STEPS)
    cut(arrays_file(newest))

    assert command(["evaluate", f"--workdir={workdir}"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[-1])["step"] == 20 and f"step {2 * STEPS} is damaged" in err
    assert newest.is_dir()  # evaluate moves nothing

    assert command(same_command) == 0
    out, err = capfd.readouterr()
    assert (
        f"the checkpoint of step {2 * STEPS} is damaged" in err
        and "moved the damaged checkpoint" in err
    )
    check_same_run(workdir, whole("train")[0])
    assert (workdir / "checkpoints_damaged" / str(2 * STEPS)).is_dir()

    for step in (workdir / "checkpoints").iterdir():
        cut(arrays_file(step))
    before = tree_of(workdir)
    for damaged in (same_command, ["evaluate", f"--workdir={workdir}"]):
        assert command(damaged) == 2
        assert (
            capfd.readouterr()
            .err.splitlines()[-1]
            .startswith("bnas_jax: error: no whole checkpoint in ")
        )
    assert tree_of(workdir) == before


def test_another_config_in_the_work_directory_is_refused(whole, cell, capfd):
    workdir, _ = whole("train")
    before = tree_of(workdir)
    assert command(arguments("train", workdir, cell, "--config.optimizer.learning_rate=0.5")) == 2
    assert "config.optimizer.learning_rate is 0.5 now and 0.05 there" in capfd.readouterr().err
    assert command(arguments("search", workdir, cell)) == 2
    assert "holds a training; choose another --workdir" in capfd.readouterr().err
    assert tree_of(workdir) == before


def test_a_run_that_diverges_ends_with_2_and_keeps_what_was_good(cell, tmp_path, capfd):
    options = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.low_learning_rate=0.0")
    assert (
        command(
            arguments(
                "train", tmp_path / "run", cell, "--config.checkpoint_every_steps=1", *options
            )
        )
        == 2
    )
    out, err = capfd.readouterr()
    assert out == "" and "lower the learning rate" in err.splitlines()[-1]
    assert re.search(
        r"; the gradient of (stem|cell0|classifier)/\S+ was the first to go, at step \d+;",
        err.splitlines()[-1],
    )
    steps_left = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps_left
    assert all(
        np.all(np.isfinite(leaf))
        for leaf in jax.tree.leaves(arrays(tmp_path / "run", steps_left[-1])["variables"])
    )


def test_a_run_in_float64_is_so_throughout_and_near_that_in_float32(whole, cell, tmp_path):
    """In a process of its own, as JAX's 64-bit mode is for a whole process."""
    workdir = tmp_path / "run"
    options = ("--config.precision=float64", "--config.num_epochs=1")
    exit_code, stdout, stderr = Process(*arguments("train", workdir, cell, *options)).wait()
    assert exit_code == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["steps"] == STEPS
    floats = [leaf for leaf in jax.tree.leaves(arrays(workdir, STEPS)["variables"])]
    assert {leaf.dtype for leaf in floats} == {np.dtype("float64")}
    assert any(np.any(leaf != leaf.astype(np.float32)) for leaf in floats)
    (record,) = records(workdir)
    assert record["train_loss"] == pytest.approx(
        records(whole("train")[0])[0]["train_loss"], abs=0.1
    )


# Evaluation


def evaluated(capfd, *options: str) -> dict:
    assert command(["evaluate", *options]) == 0
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def test_evaluate_gives_what_training_ended_with_from_the_checkpoint_asked_for(whole, capfd):
    workdir, _ = whole("train")
    capfd.readouterr()
    summary = read(workdir / "summary.json")
    expected = {name: summary[name] for name in ("top1", "top5", "loss", "num_examples")} | {
        "step": 2 * STEPS
    }
    assert evaluated(capfd, f"--workdir={workdir}") == expected
    assert evaluated(capfd, f"--workdir={workdir}", f"--step={2 * STEPS}") == expected
    best = evaluated(capfd, f"--workdir={workdir}", "--step=best")
    assert best["top1"] == pytest.approx(summary["best_top1"])
    assert evaluated(capfd, f"--workdir={workdir}", "--step=20")["step"] == 20
    odd = evaluated(capfd, f"--workdir={workdir}", "--config.eval_batch_size=7")
    assert odd == pytest.approx(expected)


def test_load_gives_the_network_that_evaluate_evaluates(whole):
    """Its logits of the test images, normalised as run.json says."""
    workdir, _ = whole("train")
    summary, noted = read(workdir / "summary.json"), read(workdir / "run.json")
    model, variables = bnas_jax.load(workdir)
    assert set(variables) == {"params", "batch_stats"} and model.channels == 2

    test = load_data(settings.from_config(read(workdir / "config.json")).dataset).test
    images = (test.images / 16 - np.array(noted["mean"])) / np.array(noted["std"])
    logits = model.apply(variables, jnp.asarray(images, jnp.float32), train=False)
    assert float(jnp.mean(cross_entropy(logits, test.labels))) == pytest.approx(
        summary["loss"], rel=1e-4
    )
    for name, k in (("top1", 1), ("top5", 5)):
        assert 100 * float(jnp.mean(hits(logits, test.labels, k))) == pytest.approx(summary[name])
    earlier = bnas_jax.load(workdir, step=20)[1]
    assert not same(earlier, variables)


def test_load_takes_no_search_and_nothing_that_is_no_work_directory(whole, tmp_path):
    with pytest.raises(
        UserError, match="holds a search; load takes the work directory of a training"
    ):
        bnas_jax.load(whole("search")[0])
    with pytest.raises(UserError, match="is no work directory"):
        bnas_jax.load(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        bnas_jax.load(whole("train")[0], step="3")


def test_evaluate_takes_no_search_and_nothing_that_is_no_work_directory(whole, tmp_path, capfd):
    for workdir, message in (
        (whole("search")[0], "holds a search"),
        (tmp_path, "is no work directory"),
        (tmp_path / "nowhere", "is no work directory"),
    ):
        capfd.readouterr()
        assert command(["evaluate", f"--workdir={workdir}"]) == 2
        assert message in capfd.readouterr().err
    for name in ("config.json", "run.json"):
        shutil.copy(whole("train")[0] / name, tmp_path)
    assert command(["evaluate", f"--workdir={tmp_path}"]) == 2
    assert "no checkpoint in" in capfd.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_example_is_counted_once_whatever_the_batch(batch_size):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 17, (5, 4, 4, 1), dtype=np.uint8)
    data = Arrays(images, draw.integers(0, 10, 5), num_classes=10, name="five")
    model = Network(Genotype(CELL, CELL), num_cells=1, channels=1, num_classes=10)
    variables = jax.jit(lambda: initial_variables(model, (4, 4, 1), 0))()
    run = settings.from_config(train_configs.get_config("digits"))
    evaluator = Evaluator(
        model,
        data,
        Augmentation((0.5,), (0.3,), 1 / 16),
        dataclasses.replace(run, eval_batch_size=batch_size),
    )
    result = evaluator(variables)
    logits = jax.jit(model.apply)(variables, jnp.asarray((images / 16 - 0.5) / 0.3, jnp.float32))
    assert result["num_examples"] == 5
    assert result["top1"] == pytest.approx(100 * float(jnp.mean(logits.argmax(-1) == data.labels)))
    assert result["top5"] == pytest.approx(100 * float(jnp.mean(hits(logits, data.labels, 5))))
    assert result["loss"] == pytest.approx(
        float(jnp.mean(cross_entropy(logits, data.labels))), rel=1e-4
    )
