"""Checkpoints, whole and damaged."""

import collections
import os
import pathlib
import resource
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from counted_runs import (
    SHAPES,
    arrays_file,
    counting,
    cut,
    flip,
    restored,
    same,
    tree_of,
    variables_of,
)
from jax.flatten_util import ravel_pytree

from bnas_jax.core.errors import UserError
from bnas_jax.runtime.devices import ONE
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training import checksums
from bnas_jax.training.checkpoint_folder import CheckpointFolder
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.checkpoints import Checkpoints


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


def test_a_state_comes_back_bit_for_bit(saved):
    assert same(restored(saved), counting(3))


@pytest.mark.parametrize("changed", [False, True])
def test_a_vector_that_earlier_optimizers_kept_becomes_a_tree(tmp_path, changed):
    """Its numbers stand in the order of the parameters. One of another length is none
    of these.
    """
    state = counting(3)
    trace = jax.tree.map(lambda leaf: leaf * 2 + 1, state.params)
    now = state.replace(opt_state=({"step": jnp.int32(3), "trace": trace},))
    vector, _ = ravel_pytree(trace)
    earlier = state.replace(opt_state=({"step": jnp.int32(3), "trace": vector},))
    longer = state.replace(
        opt_state=({"step": jnp.int32(3), "trace": jnp.append(vector, 0.0)},)
    )

    def restore(saved, folder):
        checkpoints = Checkpoints(tmp_path / folder, CheckpointSettings())
        checkpoints.save(3, saved)
        checkpoints.close()
        reader = Checkpoints(tmp_path / folder, CheckpointSettings())
        return reader.restore_state(jax.eval_shape(lambda: now), changed=changed)

    assert same(restore(earlier, "earlier"), now)
    with pytest.raises(UserError, match=r"trace/layer/bias is missing there"):
        restore(longer, "longer")


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restored(tmp_path / "checkpoints") is None


def test_what_was_saved_does_not_change_with_the_state_that_goes_on(tmp_path):
    """Saving goes on in the background while the next step writes over the state's
    buffers.
    """
    advance = jax.jit(
        lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0
    )
    checkpoints = Checkpoints(tmp_path, CheckpointSettings())
    state = counting(1)
    checkpoints.save(1, state)
    for _ in range(3):
        state = advance(state)
    checkpoints.close()
    assert same(restored(tmp_path), counting(1))


DAMAGES = {
    "cut": cut,
    "flip": flip,
    "empty": lambda path: os.truncate(path, 0),
    "gone": os.unlink,
}


# The others are seen by the size of a file, too.
@pytest.mark.parametrize(
    "how",
    [
        pytest.param("cut", marks=pytest.mark.long),
        "flip",
        pytest.param("empty", marks=pytest.mark.long),
        pytest.param("gone", marks=pytest.mark.long),
    ],
)
def test_damage_to_any_file_is_harmless_or_noticed_and_the_checkpoint_before_is_taken(
    three_saved, tmp_path, how, capfd
):
    """Never is anything restored that was not saved, and never is anything deleted."""
    taken = set()
    for number, path in enumerate(
        sorted(p for p in (three_saved / "3").rglob("*") if p.is_file())
    ):
        folder = shutil.copytree(three_saved, tmp_path / str(number) / "checkpoints")
        DAMAGES[how](folder / path.relative_to(three_saved))
        before = tree_of(folder)
        state = restored(folder)
        assert same(state, counting(int(state.step))), path
        taken.add(int(state.step))
        error = capfd.readouterr().err
        # Nothing is gone; checksums that are missing are written anew.
        old = collections.Counter(before.values())
        new = collections.Counter(tree_of(folder.parent).values())
        assert not old - new, path
        written = how == "gone" and path.name == checksums.NAME
        assert (new - old).total() == int(written), path
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


def flip_bits_of_arrays(checkpoint: pathlib.Path) -> None:
    """Flips one bit of each file that holds the numbers of arrays."""
    for item in ("variables", "rest"):
        (folder,) = (checkpoint / item).glob("ocdbt.process_*")
        for path in (folder / "d").iterdir():
            data = bytearray(path.read_bytes())
            data[-9] ^= 1
            path.write_bytes(data)


def test_a_flipped_bit_in_an_array_is_noticed_by_its_checksum(saved, capfd):
    flip_bits_of_arrays(saved / "3")
    assert same(restored(saved), counting(2))
    error = capfd.readouterr().err
    assert "step 3 is damaged (variables/ocdbt.process_0/d/" in error
    assert "is not as it was saved" in error


def test_checksums_that_are_missing_are_not_checked_and_damaged_ones_are_damage(
    saved, capfd
):
    (saved / "3" / checksums.NAME).unlink()
    assert same(restored(saved), counting(3))
    (saved / "3" / checksums.NAME).write_text("{")
    assert same(restored(saved), counting(2))
    assert f"({checksums.NAME} cannot be read)" in capfd.readouterr().err


def test_an_evaluation_checks_the_variables_alone(saved):
    arrays = next((saved / "3" / "rest").glob("ocdbt.process_*/d/*"))
    flip(arrays)
    shapes = variables_of(SHAPES)
    assert CheckpointReader(saved).restore_variables(shapes, "last")[0] == 3
    assert same(restored(saved), counting(2))


def test_a_whole_folder_that_is_empty_or_gone_is_noticed(three_saved, tmp_path):
    for name in ("3", "3/variables", "3/rest"):
        for keep in (True, False):
            folder = shutil.copytree(
                three_saved, tmp_path / f"{name}{keep}" / "checkpoints"
            )
            shutil.rmtree(folder / name)
            if keep:
                (folder / name).mkdir()
            assert same(restored(folder), counting(2))


def test_what_a_kill_left_half_written_is_passed_over(saved):
    half = saved / "4.orbax-checkpoint-tmp"
    shutil.copytree(saved / "3" / "variables", half / "variables")
    assert same(restored(saved), counting(3))


def test_a_kill_in_a_deletion_leaves_whole_checkpoints_and_the_next_start_ends_it(
    saved, monkeypatch
):
    """Under the number of a step there is a whole checkpoint or none."""
    monkeypatch.setattr(CheckpointFolder, "_delete", lambda self: None)
    killed = Checkpoints(saved, CheckpointSettings(keep_last=1, keep_best=1))
    killed.save(4, counting(4), 20.0)
    killed.close()
    monkeypatch.undo()
    names = lambda: {path.name for path in saved.iterdir()}
    assert names() == {"2", "4", "deleted"}
    (saved / "deleted" / "1" / checksums.NAME).unlink()
    assert same(restored(saved), counting(4)) and names() == {"2", "4"}


def test_checksums_that_a_kill_has_prevented_are_written_at_the_next_start(saved):
    (saved / "3" / checksums.NAME).rename(saved / "3" / f".part.1.{checksums.NAME}")
    assert same(restored(saved), counting(3))
    assert (saved / "3" / checksums.NAME).is_file()
    assert not list((saved / "3").glob("*part.*"))
    flip(arrays_file(saved / "3", "variables"))
    assert same(restored(saved), counting(2))


def test_after_damage_the_run_goes_on_and_saves_over_the_place(saved):
    flip(arrays_file(saved / "3", "rest"))
    checkpoints = Checkpoints(saved, CheckpointSettings(keep_last=3))
    assert same(checkpoints.restore_state(SHAPES), counting(2))
    checkpoints.save(3, counting(3), 70.0)
    checkpoints.close()
    assert same(restored(saved), counting(3))
    flip(arrays_file(saved / "3", "rest"))
    assert same(restored(saved), counting(2))
    assert {path.name for path in saved.with_name("checkpoints_damaged").iterdir()} == {
        "3",
        "3.1",
    }


def test_a_checkpoint_is_replaced_by_another_of_its_step_and_lost_at_no_moment(saved):
    checkpoints = Checkpoints(saved, CheckpointSettings(keep_last=3))
    changed = counting(3).replace(batch_stats=counting(9).batch_stats)
    before = saved.with_name("checkpoints_replaced")
    checkpoints.save(3, changed, 70.0)
    checkpoints.close()
    assert same(restored(saved), changed) and not before.exists()
    assert (
        CheckpointReader(saved).restore_variables(variables_of(SHAPES), "best")[0] == 3
    )
    before.mkdir()
    (saved / "3").rename(
        before / "3"
    )  # as a kill leaves it before the new one is on disk
    assert same(restored(saved), changed) and not before.exists()
    shutil.copytree(saved / "2", before / "3")  # and after it
    assert same(restored(saved), changed) and not before.exists()


def test_a_run_that_has_diverged_goes_on_before_the_step_of_the_first_bad_gradient(
    saved,
):
    """From the weights of that step the same gradient would come again."""
    checkpoints = Checkpoints(saved, CheckpointSettings(keep_last=3))
    assert checkpoints.last_before(2) == 1
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_where_all_are_damaged_it_is_an_error_and_nothing_is_touched(saved):
    for step in (1, 2, 3):
        flip(arrays_file(saved / str(step)))
    before = tree_of(saved.parent)
    with pytest.raises(
        UserError,
        match=(
            r"no whole checkpoint in .*damaged are steps 1, 2, 3; nothing was deleted"
        ),
    ):
        restored(saved)
    with pytest.raises(UserError, match="no whole checkpoint"):
        CheckpointReader(saved).restore_variables(variables_of(SHAPES), "last")
    assert tree_of(saved.parent) == before


def test_a_checkpoint_is_not_called_damaged_for_want_of_memory(saved, monkeypatch):
    def read(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(Checkpoints, "_read", read)
    before = tree_of(saved.parent)
    with pytest.raises(jax.errors.JaxRuntimeError):
        restored(saved)
    assert tree_of(saved.parent) == before


def test_a_damaged_score_costs_the_score_alone(saved, capfd):
    flip(saved / "2" / "metrics" / "metrics")
    assert (
        CheckpointReader(saved).restore_variables(variables_of(SHAPES), "best")[0] == 3
    )
    assert same(restored(saved), counting(3))
    assert (
        "accuracy noted with the checkpoint of step 2 cannot be read"
        in capfd.readouterr().err
    )
    assert (saved / "2" / "variables").is_dir()


@pytest.mark.parametrize(
    ("which", "step"), [("last", 3), ("best", 2), ("1", 1), ("2", 2)]
)
def test_variables_are_restored_alone_from_the_checkpoint_asked_for(saved, which, step):
    shutil.rmtree(saved / str(step) / "rest")
    before = tree_of(saved)
    found, variables = CheckpointReader(saved).restore_variables(
        variables_of(SHAPES), which
    )
    assert found == step and same(variables, variables_of(counting(step)))
    assert tree_of(saved) == before


@pytest.mark.parametrize("which", ["4", "-1", "newest", "", "1.0"])
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(saved, which):
    with pytest.raises(
        UserError, match=r"no checkpoint of step .*write best, last or one of 1, 2, 3"
    ):
        CheckpointReader(saved).restore_variables(variables_of(SHAPES), which)


def test_a_score_that_is_nested_too_deeply_is_none(tmp_path):
    (tmp_path / "7" / "metrics").mkdir(parents=True)
    (tmp_path / "7" / "metrics" / "metrics").write_text("[" * 100_000)
    with pytest.raises(UserError, match="has an accuracy yet; write last"):
        CheckpointReader(tmp_path).find("best")


def test_without_an_accuracy_none_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointSettings())
    checkpoints.save(1, counting(1))
    checkpoints.close()
    with pytest.raises(
        UserError, match="has an accuracy yet; write last instead of best"
    ):
        CheckpointReader(tmp_path).restore_variables(variables_of(SHAPES), "best")


def test_the_checkpoint_asked_for_is_not_replaced_by_another_where_it_is_damaged(saved):
    flip(arrays_file(saved / "2"))
    with pytest.raises(
        UserError,
        match=(
            r"step 2 in .* is damaged; take another step, `last` is the newest whole "
            r"one"
        ),
    ):
        CheckpointReader(saved).restore_variables(variables_of(SHAPES), "2")


def test_a_checkpoint_of_another_network_is_refused_by_its_first_leaf_that_differs(
    saved,
):
    before = tree_of(saved)
    checkpoints = Checkpoints(saved, CheckpointSettings())
    wide = SHAPES.replace(
        params={
            "layer": {
                **SHAPES.params["layer"],
                "latent": jax.ShapeDtypeStruct((2, 5), jnp.float32),
            }
        }
    )
    more = SHAPES.replace(params={**SHAPES.params, "second": SHAPES.params["layer"]})
    other = SHAPES.replace(
        opt_state=({"trace": jax.ShapeDtypeStruct((2,), jnp.float32)},)
    )
    half = SHAPES.replace(
        params=jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, jnp.bfloat16), SHAPES.params
        )
    )
    for shapes, message in (
        (
            wide,
            r"params/layer/latent is float32 \(2, 3\) there and float32 \(2, 5\) here",
        ),
        (more, r"params/second/bias is missing there and float32 \(4,\) here"),
        (other, r"opt_state/0/trace is float32 \(2, 3\) there and float32 \(2,\) here"),
        (
            half,
            r"params/layer/bias is float32 \(4,\) there and bfloat16 \(4,\) here",
        ),  # nothing is rounded unasked
    ):
        with pytest.raises(
            UserError,
            match=(
                r"the checkpoint of step 3 in .* of another network or optimizer: "
                rf"{message}"
            ),
        ):
            checkpoints.restore_state(shapes)
    with pytest.raises(
        UserError, match=r"params/layer/latent is an array \(2, 3\) there"
    ):
        checkpoints.restore_variables(variables_of(wide), "last")
    _, variables = checkpoints.restore_variables(
        variables_of(half), "last"
    )  # evaluation may ask for it
    assert variables["params"]["layer"]["bias"].dtype == jnp.bfloat16
    assert tree_of(saved) == before


def test_too_little_room_for_the_checkpoints_to_come_is_noticed_at_the_start(tmp_path):
    checkpoints = Checkpoints(
        tmp_path / "checkpoints", CheckpointSettings(keep_last=10**15)
    )
    with pytest.raises(
        UserError,
        match=(
            r"no room for checkpoints in .*; make room or lower "
            r"config\.checkpoint\.keep_last"
        ),
    ):
        checkpoints.restore_state(SHAPES)


def test_there_is_room_for_those_that_are_kept_and_the_one_being_written(
    tmp_path, monkeypatch
):
    keep = CheckpointSettings(keep_last=2, keep_best=1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(SHAPES))
    free = lambda count: lambda path: SimpleNamespace(free=count)
    monkeypatch.setattr(shutil, "disk_usage", free(4 * size))
    assert checkpoints.restore_state(SHAPES) is None
    monkeypatch.setattr(shutil, "disk_usage", free(4 * size - 1))
    with pytest.raises(UserError, match=r"4 of .* are to come"):
        checkpoints.restore_state(SHAPES)


@pytest.mark.parametrize("noticed", ["at the end", "by the next save"])
def test_a_save_that_finds_no_room_is_one_line_and_the_last_good_one_stays(
    saved, noticed, caplog
):
    """The size of files is limited, as a full disk would.

    Saving goes on in the background, and so may the steps.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(saved, CheckpointSettings(keep_last=3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        checkpoints.save(4, counting(4))
        with pytest.raises(
            UserError,
            match=r"cannot save a checkpoint in .* command continues from step 3",
        ):
            checkpoints.close() if noticed == "at the end" else checkpoints.save(
                5, counting(5)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [record for record in caplog.records if record.exc_info]
    assert same(restored(saved), counting(3))


def test_a_new_state_and_a_restored_one_have_the_same_programs(saved):
    """JAX keeps programs by whether their arguments are bound to a device: a run that
    is resumed would compile all of them again.
    """
    new = ONE.settle(ONE.create(lambda: counting(3)))
    bound = lambda state: {leaf.committed for leaf in jax.tree.leaves(state)}
    assert bound(new) == bound(restored(saved)) == {True}
