"""The loop, of a run without a network: its steps, saves, signals, and losses that are
no number.
"""

import functools
import os
import resource
import signal
import threading

import jax
import jax.numpy as jnp
import pytest
from counted_runs import (
    RECORDS,
    SHAPES,
    STEPS_PER_EPOCH,
    Counting,
    counting,
    restored,
    same,
    variables_of,
)

from bnas_jax.core.errors import UserError
from bnas_jax.runtime.stops import Stopped
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.checkpoints import Checkpoints

NAN, INF = float("nan"), float("inf")


def test_the_loop_makes_every_step_once_and_saves_each_epoch_and_where_it_is_told(
    tmp_path,
):
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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
@pytest.mark.parametrize("step", [3, 5])
def test_a_signal_stops_after_the_step_with_its_state_saved(
    tmp_path, number, code, step
):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    counted = Counting(tmp_path)

    def interrupt(now, state):
        if now == step:
            os.kill(os.getpid(), number)
        return state

    counted.before = interrupt
    with pytest.raises(
        Stopped,
        match=f"stopped by {number.name} at step {step}; the same command continues",
    ) as caught:
        counted.start()
    assert caught.value.exit_code == code and counted.saved() == [step]
    assert counted.records() == RECORDS[: step // STEPS_PER_EPOCH]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    going_on = Counting(tmp_path)
    assert same(going_on.start(), counting(10)) and going_on.made == list(
        range(step, 10)
    )
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
    """Python's own answer to it, which it has not where a shell started the tests in
    the background.
    """
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
    assert (
        counted.saved() == []
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_while_it_compiles_stops_at_once(tmp_path, number, code):
    counted, given_up = Counting(tmp_path), threading.Event()

    def prepare(state, calls):
        os.kill(os.getpid(), number)
        given_up.wait()

    counted.prepare = prepare
    try:
        with pytest.raises(
            Stopped,
            match=f"stopped by {number.name} at step 0; the same command continues",
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
def test_a_signal_in_an_evaluation_stops_it_and_the_run_goes_on_with_it(
    tmp_path, epoch
):
    """However often; what was saved without the evaluation is replaced once there is
    one.
    """
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
            Stopped,
            match=f"stopped by SIGTERM at step {step}; the same command continues",
        ):
            counted.start(top1=lambda epoch: 50.0 + epoch)
        assert counted.saved()[-1] == step and counted.records() == RECORDS[:epoch]
    counted.evaluating = lambda between_batches: None
    assert same(counted.start(top1=lambda epoch: 50.0 + epoch), counting(10))
    assert counted.made == list(range(10)) and counted.finished == sorted(
        [0, 1, epoch, epoch]
    )
    assert counted.records() == RECORDS
    for run in (whole, counted):
        assert run.saved() == [5, 10] and same(
            restored(run.workdir.checkpoints), counting(10)
        )
        assert (
            CheckpointReader(run.workdir.checkpoints).restore_variables(
                variables_of(SHAPES), "best"
            )[0]
            == 10
        )
    assert sorted(p.name for p in whole.workdir.path.iterdir()) == sorted(
        p.name for p in counted.workdir.path.iterdir()
    )


def test_a_signal_while_the_run_concludes_stops_it_and_the_next_start_concludes(
    tmp_path,
):
    counted = Counting(tmp_path)

    def interrupt(between_batches):
        os.kill(os.getpid(), signal.SIGTERM)
        between_batches()
        pytest.fail("the signal was not noticed")

    counted.concluding = interrupt
    for _ in range(2):
        with pytest.raises(
            Stopped, match="stopped by SIGTERM at step 10; the same command continues"
        ):
            counted.start()
    concluded = []
    counted.concluding = concluded.append
    assert same(counted.start(), counting(10)) and len(concluded) == 1
    assert counted.made == list(range(10)) and counted.records() == RECORDS


def test_a_stop_whose_state_cannot_be_saved_is_an_error(tmp_path):
    """The size of files is limited, as by a full disk: what a stop promises is not on
    disk.
    """
    counted = Counting(tmp_path, checkpoint_every_steps=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def stop(step, state):
        if step == 3:
            counted.checkpoints.finish()
            os.kill(os.getpid(), signal.SIGTERM)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        return state

    counted.before = stop
    try:
        with pytest.raises(
            UserError, match=r"cannot save a checkpoint in .* continues from step 2"
        ):
            counted.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert counted.saved() == [2]


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
        match=(
            rf"loss became -?(nan|inf) by step {noticed}; lower the learning "
            r"rate.*last good"
        ),
    ):
        counted.start()
    assert max(counted.saved()) < 7 and counted.records() == RECORDS[:1]
    good = Checkpoints(
        counted.workdir.checkpoints, counted.run.checkpoint
    ).restore_state(SHAPES)
    assert same(good, counting(max(counted.saved())))


def test_a_loss_that_explodes_stops_the_run(tmp_path):
    counted = Counting(tmp_path, checkpoint_every_steps=1)
    counted.before = lambda step, state: (
        with_loss(state, 1e6 * float(state.sums.examples)) if step == 7 else state
    )
    with pytest.raises(
        UserError, match=r"mean loss of the epoch exploded to 1e\+06 by step 7"
    ):
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
    assert counted.saved() == [
        10,
        25,
        30,
    ]  # a score that is no number is never the best
    which = functools.partial(
        CheckpointReader(counted.workdir.checkpoints).restore_variables,
        variables_of(SHAPES),
    )
    assert which("best")[0] == 10 and which("last")[0] == 30
    again = Counting(
        tmp_path, num_epochs=6, checkpoint=CheckpointSettings(keep_last=2, keep_best=1)
    )
    again.start()
    assert again.saved() == [10, 25, 30]


def test_checkpoints_within_an_epoch_are_kept_while_they_are_among_the_last(tmp_path):
    keep = CheckpointSettings(keep_last=2, keep_best=1)
    counted = Counting(
        tmp_path, num_epochs=3, checkpoint_every_steps=3, checkpoint=keep
    )
    counted.start(top1=[90.0, 10.0, 50.0].__getitem__)
    assert counted.saved() == [5, 12, 15]


def test_without_room_for_a_best_one_the_last_are_kept(tmp_path):
    counted = Counting(
        tmp_path, num_epochs=4, checkpoint=CheckpointSettings(keep_last=1, keep_best=0)
    )
    counted.start(top1=[90.0, 10.0, 10.0, 10.0].__getitem__)
    assert counted.saved() == [20]


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
