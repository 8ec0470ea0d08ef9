"""The second run in a work directory, and the second work directory."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counted_runs import SHAPES, Counting, counting, same
from image_files import write_folder
from small_runs import STEPS, arguments, read, records
from test_launch import dry, launch
from work_directories import arrays

from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.core.errors import UserError
from bnas_jax.data.facts import Facts
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training import build, build_optimizers, changes, fine_tune, optimizers
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.fine_tune import Init
from bnas_jax.training.state import SearchState, initial_variables, train_state_of
from bnas_jax.training.workdir import FORMAT, WorkDir
from configs import search as search_configs
from configs import train as train_configs

# ml_collections loads a config's file so.
pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
]

OFTEN = "--config.checkpoint_every_steps=1"


def said(capfd) -> str:
    """The last line of stderr."""
    return capfd.readouterr().err.splitlines()[-1]


@pytest.fixture
def finished(whole) -> pathlib.Path:
    """The work directory of a training of two epochs."""
    return whole("train")[0]


# After a NaN


@pytest.mark.long
def test_what_the_message_after_a_nan_advises_is_possible(cell, tmp_path, capfd):
    """The run continues from its last good checkpoint with a lower learning rate, and
    says so in config.json.
    """
    workdir = tmp_path / "run"
    given = arguments("train", workdir, cell, OFTEN)
    assert command([*given, "--config.optimizer.learning_rate=1e30"]) == 2
    # That of step 2 was saved, too: its weights are finite, but their gradient is not.
    good = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert good == 1 and (workdir / "checkpoints_damaged" / "2").is_dir()
    line = said(capfd)
    assert (
        "with --change and a smaller --config.optimizer.learning_rate or "
        "--config.optimizer.clip_norm" in line
    )
    assert f"continues from step {good}, the last good checkpoint" in line

    assert command(given) == 2
    assert (
        "config.optimizer.learning_rate is 0.05 now and 1e+30 there; add --change to "
        f"continue from step {good}" in said(capfd)
    )

    # A rate so low turns the preset's cycle upside down, which is said.
    assert command([*given, "--change", "--config.optimizer.learning_rate=1e-3"]) == 0
    warning = (
        "warning: config.optimizer.low_learning_rate=0.0025 is above the learning_rate"
    )
    assert warning in capfd.readouterr().err
    assert read(workdir / "config.json")["changed"] == [
        {"step": good, "key": "optimizer.learning_rate", "from": 1e30, "to": 1e-3}
    ]
    assert [record["step"] for record in records(workdir)] == [STEPS, 2 * STEPS]
    assert all(np.isfinite(record["train_loss"]) for record in records(workdir))


def test_after_a_nan_without_a_checkpoint_the_run_begins_anew(tmp_path):
    """The message promises no checkpoint where none was saved."""
    counted = Counting(tmp_path)
    spoil = lambda state: state.replace(
        sums=state.sums.replace(loss=jnp.float32(float("nan")))
    )
    counted.before = lambda step, state: spoil(state)
    with pytest.raises(
        UserError,
        match=r"--change and a smaller .* starts again, as there is no good checkpoint",
    ):
        counted.start()
    changed = again(
        counted,
        optimizer=dataclasses.replace(counted.run.optimizer, learning_rate=0.01),
    )
    assert same(changed.start(), counting(10))
    assert changed.workdir.changed()[0]["step"] == 0


def again(counted: Counting, change: bool = True, **new) -> Counting:
    """The same work directory opened with other settings."""
    opened = object.__new__(Counting)
    opened.__dict__.update(
        counted.__dict__, made=[], finished=[], before=lambda step, state: state
    )
    opened.run = dataclasses.replace(counted.run, **new)
    opened.workdir = WorkDir(counted.workdir.path)
    counted.workdir.close()
    opened.workdir.open(
        opened.run, Facts(num_classes=10, image_shape=(8, 8, 1)), change=change
    )
    return opened


def test_another_kind_of_optimizer_is_no_change_that_a_run_goes_on_with(tmp_path):
    """It would not find what the other one kept."""
    counted = Counting(tmp_path, num_epochs=1)
    counted.start()
    adam = dataclasses.replace(counted.run.optimizer, name="adam")
    with pytest.raises(
        UserError, match=r"config\.optimizer\.name is .*but no optimizer's name"
    ):
        again(counted, optimizer=adam)


def test_old_results_do_not_stand_beside_changed_settings(tmp_path, monkeypatch):
    """Not even if the run is killed while it notes the change."""
    counted = Counting(tmp_path, num_epochs=1)
    counted.start()
    summary = tmp_path / "summary.json"
    summary.write_text("{}")
    longer = again(counted, num_epochs=2)
    seen = []
    monkeypatch.setattr(
        "bnas_jax.training.workdir.write_whole",
        lambda path, value: seen.append((path.name, summary.exists())),
    )
    longer.workdir.note_changes(longer.run, 5)
    assert seen == [("config.json", False)]


def test_changes_gather_in_config_json_and_the_settings_there_are_the_last_ones(
    tmp_path,
):
    """Each change is noted with its step; settings of checkpoints, too."""
    counted = Counting(tmp_path, num_epochs=1)
    counted.start()
    clipped = dataclasses.replace(counted.run.optimizer, clip_norm=1.0)
    keep = CheckpointSettings(keep_last=1, keep_best=0)
    second = again(counted, num_epochs=2, optimizer=clipped)
    second.start()
    third = again(second, num_epochs=3, checkpoint=keep)
    third.start()
    assert third.made == list(range(10, 15))
    assert third.workdir.changed() == [
        {"step": 5, "key": "num_epochs", "from": 1, "to": 2},
        {"step": 5, "key": "optimizer.clip_norm", "from": 5.0, "to": 1.0},
        {"step": 10, "key": "checkpoint.keep_best", "from": 1, "to": 0},
        {"step": 10, "key": "checkpoint.keep_last", "from": 100, "to": 1},
        {"step": 10, "key": "num_epochs", "from": 2, "to": 3},
    ]
    assert settings.from_config(third.workdir.config()) == third.run
    again(third, change=False)  # what was changed is now the run's own
    assert (
        "changed at step 5: config.num_epochs from 1 to 2, config.optimizer"
        in (tmp_path / "log.txt").read_text()
    )


def test_a_change_of_a_run_that_has_ended_promises_no_step(tmp_path, capfd):
    counted = Counting(tmp_path)
    counted.start()
    capfd.readouterr()
    clipped = dataclasses.replace(counted.run.optimizer, clip_norm=1.0)
    ended = again(counted, optimizer=clipped)
    ended.start()
    assert ended.made == []
    assert capfd.readouterr().err == (
        "bnas_jax: changed at step 10: config.optimizer.clip_norm from 5.0 to 1.0; no "
        "step is to come, as the run has ended: a larger config.num_epochs trains it "
        "further\n"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 5},
            (
                r"config\.seed is 5 now and 0 there, which --change cannot change \(it "
                r"can: config\.optimizer, "
            ),
        ),
        (
            {"batch_size": 32},
            r"config\.batch_size is 32 now and 64 there, which --change cannot",
        ),
        ({"seed": 5, "num_epochs": 9}, r"config\.seed is 5 now and 0 there, which"),
        (
            {"dataset": settings.DatasetSettings("cifar10")},
            r"config\.dataset\.name is 'cifar10' now and 'digits' there, which",
        ),
    ],
)
def test_what_may_not_change_is_refused_by_name(tmp_path, changes, message):
    """Network, data, seed and batch size stay; so does config.json."""
    counted = Counting(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=message):
        again(counted, **changes)
    assert (tmp_path / "config.json").read_bytes() == before


def test_without_the_flag_a_setting_that_could_change_names_it(tmp_path):
    """The refusal says what to add, unless another setting would be refused all the
    same.
    """
    counted = Counting(tmp_path)
    counted.start()
    with pytest.raises(
        UserError,
        match=(
            r"config\.num_epochs is 3 now and 2 there; add --change to continue "
            r"from step 10 with it"
        ),
    ):
        again(counted, change=False, num_epochs=3)
    with pytest.raises(
        UserError, match=r"config\.seed is 7 now and 0 there; write --config\.seed=0 to"
    ):
        again(counted, change=False, num_epochs=3, seed=7)


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
    """With the number that would do, which does, and nothing is noted before."""
    counted = Counting(tmp_path, num_epochs=3)
    counted.start()
    with pytest.raises(
        UserError,
        match=(
            r"at step 15 of 5 an epoch, beyond the end of config\.num_epochs=2; write "
            r"at least 3"
        ),
    ):
        again(counted, num_epochs=2).start()
    assert counted.workdir.changed() == []
    again(counted, num_epochs=3).start()


# The state fits


def with_optimizer(clip: float | None):
    """(a state with that of an optimizer that clips, or not; and its shapes)"""
    chain = optimizers.latent_sgd(0.1, weight_decay=3e-6, clip_norm=clip)
    state = counting(3)
    grown = jax.tree.map(lambda x: x + 1, chain.init(state.params))
    state = state.replace(opt_state=grown)
    return state, jax.eval_shape(lambda: state)


def restore(folder: pathlib.Path, state, shapes, changed: bool = True):
    """What comes back of a state, saved, for a run of other shapes."""
    saving = Checkpoints(folder, CheckpointSettings())
    saving.save(int(state.step), state)
    saving.close()
    return Checkpoints(folder, CheckpointSettings()).restore_state(shapes, changed)


@pytest.mark.parametrize(("before", "after"), [(None, 5.0), (5.0, float("inf"))])
def test_the_momentum_outlives_clipping_that_is_turned_on_or_off(
    tmp_path, before, after
):
    """A link of the optimizer that keeps no state may come or go."""
    state, _ = with_optimizer(before)
    expected, shapes = with_optimizer(after)
    assert same(restore(tmp_path, state, shapes), expected)


def test_another_optimizer_is_refused_by_the_first_part_of_its_state_that_is_missing(
    tmp_path,
):
    """What does not fit is not dropped."""
    _, shapes = with_optimizer(5.0)
    adam = optax.adam(0.1).init(counting(3).params)
    with pytest.raises(
        UserError,
        match=r"of another network or optimizer: opt_state/step is missing there",
    ):
        restore(tmp_path, counting(3).replace(opt_state=adam), shapes)


def test_float32_becomes_float64_where_the_precision_was_changed(tmp_path):
    """Every parameter and the optimizer's state in the new type, whole numbers as they
    were.
    """
    double = lambda s: jax.ShapeDtypeStruct(
        s.shape, jnp.float64 if s.dtype == jnp.float32 else s.dtype
    )
    with jax.enable_x64(True):
        found = restore(tmp_path, counting(3), jax.tree.map(double, SHAPES))
        kinds = {leaf.dtype for leaf in jax.tree.leaves(found)}
        assert kinds == {np.dtype("float64"), np.dtype("int32"), np.dtype("uint32")}
        assert jax.tree.all(
            jax.tree.map(
                lambda a, b: np.array_equal(a, b, equal_nan=True), found, counting(3)
            )
        )


@pytest.mark.parametrize("epochs", [2, 5])
def test_the_history_of_a_search_has_rows_for_its_new_number_of_epochs(
    tmp_path, epochs
):
    """What was is kept, NaN stands where epochs are still to come."""

    def searched(epochs: int) -> SearchState:
        top1 = jnp.where(jnp.arange(epochs) < 2, 50.0, jnp.nan)
        history = jnp.where(
            jnp.arange(epochs + 1)[:, None] < 3, jnp.ones((epochs + 1, 4)), jnp.nan
        )
        same_as = {
            name: getattr(counting(10), name)
            for name in ("step", "seed", "params", "batch_stats", "opt_state", "sums")
        }
        alphas = {"alphas": {"normal": jnp.ones(4)}, "alphas_opt_state": ()}
        return SearchState(
            **same_as, **alphas, history={"normal": history}, valid_top1=top1
        )

    shapes = jax.eval_shape(lambda: searched(epochs))
    found = restore(tmp_path, searched(3), shapes)
    assert same(found, searched(epochs))


def test_a_state_of_other_settings_is_still_refused_where_nothing_was_changed(tmp_path):
    """The check of old stays for runs without a change."""
    state, _ = with_optimizer(None)
    _, shapes = with_optimizer(5.0)
    with pytest.raises(UserError, match="of another network or optimizer: opt_state/"):
        restore(tmp_path, state, shapes, changed=False)


# More epochs


def test_a_finished_run_is_trained_on_with_the_schedule_of_the_new_total(
    finished, cell, tmp_path, capfd
):
    """Both learning rates are said, and what was learned and written stays."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    saves = "--config.checkpoint_every_steps=10"
    longer = [*arguments("train", workdir, cell, saves), "--config.num_epochs=3"]
    assert command(longer) == 2
    assert (
        "config.num_epochs is 3 now and 2 there; add --change to continue from step "
        f"{2 * STEPS} with it" in said(capfd)
    )
    assert command([*longer, "--change"]) == 0
    out, err = capfd.readouterr()
    before, after = (
        settings.from_config(WorkDir(path).config()) for path in (finished, workdir)
    )
    rates = (
        float(build_optimizers.learning_rate(before, STEPS)(2 * STEPS - 1)),
        float(build_optimizers.learning_rate(after, STEPS)(2 * STEPS)),
    )
    seam = (
        f"changed at step {2 * STEPS}: config.num_epochs from 2 to 3; "
        f"learning rate {rates[0]:.4g} before, {rates[1]:.4g} from"
    )
    assert (
        seam in err
        and seam in (workdir / "log.txt").read_text()
        and rates[0] < rates[1]
    )
    assert json.loads(out.splitlines()[-1])["steps"] == 3 * STEPS
    assert records(workdir)[:2] == records(finished) and len(records(workdir)) == 3
    saved = arrays(workdir, 3 * STEPS)["rest"]["test_top1"]
    assert np.allclose(saved, [record["test_top1"] for record in records(workdir)])
    (step,) = (
        leaf
        for leaf in jax.tree.leaves(arrays(workdir, 3 * STEPS)["rest"]["opt_state"])
        if leaf.ndim == 0
    )
    assert step == 3 * STEPS  # the schedule's own count goes on
    assert command(["evaluate", f"--workdir={workdir}"]) == 0
    assert command(longer) == 0  # without the flag: it is the run's own setting now


@pytest.mark.parametrize(
    "config", [train_configs.get_config("digits"), search_configs.get_config("digits")]
)
def test_the_rate_before_is_that_of_the_last_step_where_the_old_schedule_has_ended(
    config,
):
    """A cosine would otherwise start anew in what is said."""
    run = settings.from_config(config)
    longer = dataclasses.replace(run, num_epochs=2 * run.num_epochs)
    end = run.num_epochs * 7
    old, new = (
        build_optimizers.learning_rate(run, 7),
        build_optimizers.learning_rate(longer, 7),
    )
    assert changes.rates(run, longer, end, 7) == (float(old(end - 1)), float(new(end)))
    assert changes.rates(run, longer, 3, 7) == (float(old(3)), float(new(3)))


# From another run's weights


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> pathlib.Path:
    """A folder of images of 8x8 in three classes."""
    parts = {
        "train/a": 4,
        "train/b": 4,
        "train/c": 4,
        "test/a": 1,
        "test/b": 1,
        "test/c": 1,
    }
    return write_folder(tmp_path_factory.mktemp("images"), parts, height=8, width=8)


def tuned(
    workdir: pathlib.Path, cell: pathlib.Path, folder: pathlib.Path, *more: str
) -> list[str]:
    data = [
        "--config.dataset.name=folder",
        f"--config.dataset.path={folder}",
        "--config.dataset.channels=1",
    ]
    sizes = [
        "--config.dataset.image_size=8",
        "--config.batch_size=6",
        "--config.num_epochs=1",
    ]
    return [*arguments("train", workdir, cell), *data, *sizes, *more]


def test_a_run_for_other_classes_begins_with_the_backbone_of_another(
    finished, cell, three_classes, tmp_path, capfd
):
    """It is said, in the log and in JSON, that the classifier is new; a run that goes
    on needs no --init.
    """
    workdir = tmp_path / "run"
    assert command(tuned(workdir, cell, three_classes, f"--init={finished}")) == 0
    out, err = capfd.readouterr()
    origin = {
        "workdir": str(finished),
        "which": "last",
        "step": 2 * STEPS,
        "classifier": "new",
    }
    line = (
        f"begins with the weights of {finished} at step {2 * STEPS}; the classifier is "
        "new, for other classes"
    )
    assert line in err and line in (workdir / "log.txt").read_text()
    assert (
        json.loads(out.splitlines()[-1])["init"]
        == read(workdir / "run.json")["init"]
        == origin
    )
    for more in ([], [f"--init={finished}"]):
        assert command(tuned(workdir, cell, three_classes, *more)) == 0
        assert json.loads(capfd.readouterr().out.splitlines()[-1])["init"] == origin
    assert (
        command(
            tuned(
                workdir, cell, three_classes, f"--init={finished}", "--init_step=best"
            )
        )
        == 2
    )
    assert f"began with --init={finished} --init_step=last; leave --init out" in said(
        capfd
    )
    assert command([*arguments("train", finished, cell), f"--init={workdir}"]) == 2
    assert "holds a run that began without --init; leave it out" in said(capfd)


def of_zeros(run, num_classes: int, image_shape: tuple[int, ...]):
    """A state whose leaves are zeros."""
    network, optimizer = (
        build.network(run, num_classes),
        build_optimizers.training_optimizer(run, 1),
    )
    create = lambda: train_state_of(
        initial_variables(network, image_shape, 0), optimizer, run.num_epochs
    )
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(create))


@pytest.mark.parametrize(("num_classes", "classifier"), [(3, "new"), (10, "kept")])
def test_parameters_and_statistics_come_from_there_and_the_classifier_where_it_fits(
    finished, tmp_path, num_classes, classifier
):
    """Down to the bit; the optimizer begins anew."""
    run = settings.from_config(WorkDir(finished).config())
    facts = {"num_classes": num_classes, "image_shape": [8, 8, 1]}
    origin = fine_tune.origin(
        WorkDir(tmp_path), Init(str(finished), "last"), run, facts
    )
    assert origin["classifier"] == classifier
    state = of_zeros(run, num_classes, (8, 8, 1))
    begun = fine_tune.begin(state, origin, run, (8, 8, 1))
    there = arrays(finished, 2 * STEPS)["variables"]
    for collection in ("params", "batch_stats"):
        found = dict(getattr(begun, collection))
        if classifier == "new" and collection == "params":
            assert same(found.pop("classifier"), state.params["classifier"])
            there["params"].pop("classifier")
        assert same(jax.tree.map(np.asarray, found), there[collection])
    assert same(begun.opt_state, state.opt_state) and int(begun.step) == 0


def test_classes_of_other_names_have_a_new_classifier_even_where_they_are_as_many(
    finished, tmp_path
):
    """As far as both runs know the names."""
    run = settings.from_config(WorkDir(finished).config())
    source = shutil.copytree(
        finished, tmp_path / "source", ignore=shutil.ignore_patterns("tensorboard")
    )
    facts = {
        "format": FORMAT,
        "num_classes": 10,
        "image_shape": [8, 8, 1],
        "class_names": [*"abcdefghij"],
    }
    for names, classifier in (
        ([*"abcdefghij"], "kept"),
        ([*"bacdefghij"], "new"),
        (None, "kept"),
    ):
        (source / "run.json").write_text(json.dumps({**facts, "class_names": names}))
        assert (
            fine_tune.origin(WorkDir(tmp_path / "new"), Init(str(source)), run, facts)[
                "classifier"
            ]
            == classifier
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--config.network.channels=4"],
            "another network: config.network.channels is 4 now and 2 there",
        ),
        (
            ["--config.network.num_cells=2"],
            "another network: config.network.num_cells is 2 now and 1 there",
        ),
        (["--config.conventions=release"], "another network: config.network."),
        (["--init_step=77"], "no checkpoint of step 77 in"),
        (
            ["--init=", "--init_step=best"],
            "--init_step says which checkpoint of --init=DIR to take",
        ),
        (["--init=NOWHERE"], "NOWHERE is not a work directory"),
    ],
)
def test_what_cannot_begin_a_run_is_refused_and_leaves_no_work_directory(
    finished, cell, tmp_path, capfd, options, message
):
    """The first setting in which the networks differ is named."""
    workdir = tmp_path / "run"
    assert (
        command([*arguments("train", workdir, cell), f"--init={finished}", *options])
        == 2
    )
    assert message in said(capfd) and not workdir.exists()


def test_images_of_another_number_of_channels_are_refused(finished, tmp_path):
    """A stem for grey images takes no others."""
    run = settings.from_config(WorkDir(finished).config())
    with pytest.raises(UserError, match="is a network for 1 channels, the data has 3"):
        fine_tune.origin(
            WorkDir(tmp_path),
            Init(str(finished)),
            run,
            {"num_classes": 10, "image_shape": [8, 8, 3]},
        )


@pytest.mark.long
def test_an_imported_network_can_be_fine_tuned(reference, tmp_path):
    """The authors' weights, for three classes."""
    with np.load(reference / "cifar_net_c4_l5_latest_cell_zeroise.npz") as stored:
        state = {
            name: value for name, value in stored.items() if name.startswith("state.")
        }
    np.savez(tmp_path / "net.npz", **state)
    sizes = [
        "--preset=mini",
        "--config.network.channels=4",
        "--config.network.num_cells=5",
    ]
    imported = tmp_path / "imported"
    assert (
        command(
            [
                "import",
                f"--checkpoint={tmp_path / 'net.npz'}",
                *sizes,
                f"--workdir={imported}",
            ]
        )
        == 0
    )
    config = train_configs.get_config("mini")
    config.conventions = "release"
    config.network.update({"channels": 4, "num_cells": 5})
    run = settings.from_config(config)
    facts = {"num_classes": 3, "image_shape": [16, 16, 3]}
    origin = fine_tune.origin(
        WorkDir(tmp_path / "new"), Init(str(imported)), run, facts
    )
    assert (origin["step"], origin["classifier"]) == (0, "new")
    begun = fine_tune.begin(of_zeros(run, 3, (16, 16, 3)), origin, run, (16, 16, 3))
    assert same(
        begun.params["stem"]["bn"]["scale"], jnp.asarray(state["state.stem.bn.weight"])
    )
    assert not jnp.any(begun.params["classifier"]["kernel"])


# Values that hold spaces


def test_a_line_of_a_sweep_is_divided_as_a_shell_would_and_nothing_in_it_is_run(
    tmp_path,
):
    """Quotes and backslashes; variables and commands are plain text."""
    runs = tmp_path / "runs.txt"
    bad = f"$(touch {tmp_path}/run) `id` $HOME"
    lines = [
        "one --config.dataset.path='/data/my images' --config.seed=1",
        f'two "--config.dataset.path={bad}"',
        "three --config.dataset.path=/data/my\\ images",
    ]
    runs.write_text("\n".join(lines) + "\n")
    found = [
        words[4:-1]
        for words in dry("sweep.sh", str(runs), str(tmp_path / "out"), "train")
    ]
    assert found == [
        ["--config.dataset.path=/data/my images", "--config.seed=1"],
        [f"--config.dataset.path={bad}"],
        ["--config.dataset.path=/data/my images"],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["runs.txt"]


def test_a_quote_that_is_not_closed_is_refused_before_anything_runs(tmp_path):
    """The line is named."""
    (tmp_path / "runs.txt").write_text(
        "one --config.seed=1\ntwo --config.dataset.path='/data\n"
    )
    done = launch(
        "sweep.sh", str(tmp_path / "runs.txt"), str(tmp_path / "out"), "train"
    )
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "runs.txt: a quote in the line of two is not closed" in done.stderr


def test_a_sweep_with_change_takes_up_what_is_done(tmp_path):
    """Finished runs can be trained on together."""
    (tmp_path / "runs.txt").write_text("one\n")
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "summary.json").write_text("{}")
    longer = ["train", "--change", "--config.num_epochs=9"]
    assert (
        dry("sweep.sh", str(tmp_path / "runs.txt"), str(tmp_path / "out"), *longer[:1])
        == []
    )
    (words,) = dry(
        "sweep.sh", str(tmp_path / "runs.txt"), str(tmp_path / "out"), *longer
    )
    assert words[3:-1] == longer
