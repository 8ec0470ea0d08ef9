"""Learning from a trained network: the loss with its probabilities, and runs with a
teacher.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import STEPS, arguments
from work_directories import arrays, largest_difference

from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.benchmarks.programs import noise, plain_program_of, program_of
from bnas_jax.cli.configs import configured
from bnas_jax.core.errors import UserError
from bnas_jax.core.losses import cross_entropy, soft_cross_entropy
from bnas_jax.plan import compile as plan_compile
from bnas_jax.plan import request
from bnas_jax.plan.absent import AbsentDevices
from bnas_jax.plan.request import Request
from bnas_jax.runtime import devices
from bnas_jax.settings import TeacherSettings, TrainSettings
from bnas_jax.training import build, teacher
from bnas_jax.training.load import load
from bnas_jax.training.optimizers import latent_sgd
from bnas_jax.training.run_data import dataset_of
from bnas_jax.training.train_step import TrainStep
from bnas_jax.training.workdir import WorkDir

pytestmark = [
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
]
ROOT = pathlib.Path(__file__).parents[2]
LOGITS = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
OTHERS = jnp.array([[0.3, 0.2, -1.0], [2.0, -1.0, 0.5]])


# The loss


def test_with_one_class_for_certain_it_is_the_cross_entropy_of_labels():
    labels = jnp.array([2, 1])
    soft = soft_cross_entropy(LOGITS, jax.nn.one_hot(labels, 3))
    np.testing.assert_allclose(soft, cross_entropy(LOGITS, labels), rtol=1e-6)


def test_its_gradient_is_the_difference_of_the_probabilities():
    targets = jax.nn.softmax(OTHERS)
    gradient = jax.grad(lambda z: jnp.sum(soft_cross_entropy(z, targets)))(LOGITS)
    np.testing.assert_allclose(
        gradient, jax.nn.softmax(LOGITS) - targets, rtol=1e-5, atol=1e-7
    )


def test_at_a_high_temperature_it_matches_logits():
    """arXiv 1503.02531, Eq. 4: of logits with mean 0, the gradient times T^2 becomes (z
    - v) / classes.
    """
    z = LOGITS - LOGITS.mean(axis=1, keepdims=True)
    v = OTHERS - OTHERS.mean(axis=1, keepdims=True)
    temperature = 300.0

    def loss(z):
        soft = soft_cross_entropy(z / temperature, jax.nn.softmax(v / temperature))
        return temperature**2 * jnp.sum(soft)

    np.testing.assert_allclose(jax.grad(loss)(z), (z - v) / 3, atol=0.01)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_with_the_share_1_the_labels_change_nothing(cell, share):
    """`settings.unread` names the settings of the loss with the labels, then."""
    given = TeacherSettings(workdir="runs/teacher", share=share)
    run = dataclasses.replace(run_of(cell), teacher=given)
    network, optimizer = build.network(run, num_classes=3), latent_sgd(0.1)
    batch = {"label": jnp.array([2, 1]), "targets": jax.nn.softmax(OTHERS)}

    def losses(**changes):
        step = TrainStep(network, optimizer, soft_share=share, **changes)
        return step._losses(LOGITS, batch)

    unread = settings.unread(run)
    for name, value in (("label_smoothing", 0.3), ("loss", lambda z, *_: z[:, 0])):
        same = np.array_equal(losses(), losses(**{name: value}))
        assert same == (f"optimizer.{name}" in unread), name


# A step


def load_teacher(run: TrainSettings) -> teacher.Teacher:
    """The teacher of a run that has no work directory yet."""
    nowhere = WorkDir("/nowhere")
    began = teacher.origin(run, nowhere)
    assert began is not None
    return teacher.load(
        began, run, dataset_of(run.dataset), devices.ONE, workdir=nowhere
    )


@pytest.fixture(scope="module")
def trained(whole) -> pathlib.Path:
    """The work directory of a training of two epochs: the teacher."""
    return whole("train")[0]


def run_of(cell: pathlib.Path, *more: str) -> TrainSettings:
    words = arguments("train", pathlib.Path("unused"), cell, "--config.seed=1", *more)
    run, _ = configured(
        [w for w in words[1:] if not w.startswith("--workdir=")], "train"
    )
    assert isinstance(run, TrainSettings)
    return run


def test_the_loss_of_a_step_is_of_the_teacher_s_probabilities_of_the_same_images(
    cell, trained
):
    share, temperature, parts = 0.25, 2.0, 2
    given = TeacherSettings(workdir=str(trained), share=share, temperature=temperature)
    run = dataclasses.replace(run_of(cell), teacher=given, microbatches=parts)
    data = dataset_of(run.dataset)
    taught = load_teacher(run)
    program = build.training(run, data, devices.ONE, teacher=taught)
    state = program.create(run.seed)
    ((feed,), (stage,)) = program.feeds(0), program.stages
    after = jax.jit(stage)(state, feed)

    # By hand: the same batch through both networks, the student's batch norm part by
    # part.
    source = build.train_source(
        data.train,
        batch_size=run.batch_size,
        seed=build.image_seed(run, build.TRAINING),
        augmentation=data.augmentation,
    )
    model, variables = load(trained)

    @jax.jit
    def by_hand(ours, theirs):
        batch = source.prepare(feed)
        students = []
        for images in jnp.split(batch["image"], parts):
            logits, _ = program.model.apply(
                ours, images, train=True, mutable=["batch_stats"]
            )
            students.append(logits)
        logits = jnp.concatenate(students)
        given = model.apply(theirs, batch["image"], train=False)
        soft = soft_cross_entropy(
            logits / temperature, jax.nn.softmax(given / temperature)
        )
        hard = cross_entropy(logits, batch["label"])
        return jnp.mean((1 - share) * hard + share * temperature**2 * soft)

    expected = float(by_hand(state.variables, variables))
    assert float(after.sums.loss) / run.batch_size == pytest.approx(expected, rel=1e-4)


def test_microbatches_save_the_teacher_s_memory_too(cell, trained):
    """Its largest activations are of a part of the batch, which the jaxpr shows."""
    run = run_of(cell, f"--config.teacher.workdir={trained}")

    def largest(parts: int) -> int:
        part = dataclasses.replace(run, microbatches=parts)
        taught = load_teacher(part)
        batch = {"image": jnp.zeros((run.batch_size, 8, 8, 1))}
        traced = jax.make_jaxpr(
            lambda b, v: taught.add_targets(b, v, parts=parts)["targets"]
        )
        text = str(traced(batch, taught.variables))
        shapes = re.findall(r"f32\[([\d,]+)\]", text)
        convolved = [np.prod([int(n) for n in shape.split(",")]) for shape in shapes]
        return max(convolved)

    assert largest(1) >= 4 * largest(10)


def test_a_teacher_computes_in_the_student_s_types(cell, trained, tmp_path):
    run = run_of(
        cell, f"--config.teacher.workdir={trained}", "--config.precision=bfloat16"
    )
    taught = load_teacher(run)
    assert taught.model.arithmetic == build.network(run, 10).arithmetic
    # With float64 there is no `activations`, whatever the teacher had.
    other = shutil.copytree(trained, tmp_path / "teacher")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "activations": "bfloat16"})
    )
    wide = dataclasses.replace(run, precision="float64")
    assert teacher._settings_of(WorkDir(other), wide).activations is None


@pytest.mark.parametrize("plainly", [False, True])
def test_a_benchmark_s_step_has_a_teacher_with_weights_that_are_drawn(
    cell, trained, plainly
):
    run = run_of(cell, f"--config.teacher.workdir={trained}")
    make = plain_program_of if plainly else program_of
    program = make(run, noise(200, image_size=8, num_classes=4), devices.ONE)
    state = jax.eval_shape(program.create, 0)
    (feed,) = program.feeds(0)
    (of_stage,) = feed if plainly else (feed,)
    assert of_stage["teacher"]["params"]["classifier"]["kernel"].shape[-1] == 4
    # Both networks in the same form: written plainly, none has the primitive of signs.
    text = str(jax.make_jaxpr(program.stages[0])(state, feed))
    assert ("sign_conv" in text) != plainly


def test_a_plan_counts_the_teacher(cell, trained):
    run = run_of(cell)
    of_step = {}
    for name, given in (
        ("alone", TeacherSettings()),
        ("taught", TeacherSettings(str(trained))),
    ):
        asked = dataclasses.replace(run, teacher=given)
        where = AbsentDevices("none", tuple(jax.devices()))
        calls = plan_compile._step(asked, dataset_of(run.dataset), where)
        of_step[name] = len(
            jax.tree.leaves([arguments for _, arguments in calls.calls])
        )
    assert of_step["taught"] > of_step["alone"]
    # Its files may change, so that no plan of it is kept.
    taught = dataclasses.replace(run, teacher=TeacherSettings(str(trained)))
    assert request._kept(Request(run=taught, machine="v5e-1", of="step")) is None


# Runs


@pytest.fixture(scope="module")
def student(cell, trained, tmp_path_factory) -> tuple[pathlib.Path, list[str]]:
    """(the work directory of a student of two epochs whose teacher is gone, its
    command).
    """
    folder = tmp_path_factory.mktemp("student")
    moved = shutil.copytree(trained, folder / "teacher")
    words = arguments(
        "train", folder / "run", cell, f"--config.teacher.workdir={moved}"
    )
    assert command(words) == 0
    shutil.rmtree(moved)
    return folder / "run", words


def test_a_run_keeps_its_teacher_and_goes_on_without_the_original(student, tmp_path):
    finished, words = student
    noted = json.loads((finished / "run.json").read_text())["teacher"]
    assert noted["step"] == 2 * STEPS
    copied = finished / "teacher/checkpoints" / str(2 * STEPS)
    assert copied.is_dir() and not (copied / "rest").exists()

    # As it was after its first epoch.
    stopped = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(stopped / "checkpoints" / str(2 * STEPS))
    (stopped / "summary.json").unlink()
    here = [f"--workdir={stopped}" if "--workdir=" in word else word for word in words]
    assert command(here) == 0
    assert (
        largest_difference(arrays(finished, 2 * STEPS), arrays(stopped, 2 * STEPS)) == 0
    )


def test_what_a_student_ships_and_shows(student, tmp_path, capfd):
    finished, _ = student
    out = tmp_path / "student.bnas"
    assert command(["export", f"--workdir={finished}", f"--out={out}"]) == 0
    assert b"teacher/" not in out.read_bytes()
    assert (
        command(["report", f"--workdir={finished}", f"--out={tmp_path / 'page.html'}"])
        == 0
    )
    assert "<th>teacher</th>" in (tmp_path / "page.html").read_text()


def test_the_step_is_the_one_that_the_run_began_with(cell, trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "teacher")
    run = run_of(cell, f"--config.teacher.workdir={moved}")
    first = teacher.origin(run, WorkDir(tmp_path / "new"))
    assert first == {"workdir": str(moved), "step": 2 * STEPS}
    # Trained on, before the student has copied it: a directory of a run that notes the
    # step.
    shutil.copytree(moved / "checkpoints" / str(2 * STEPS), moved / "checkpoints/900")
    began = tmp_path / "began"
    began.mkdir()
    for name in ("config.json", "run.json"):
        shutil.copy(trained / name, began / name)
    facts = json.loads((began / "run.json").read_text())
    (began / "run.json").write_text(json.dumps({**facts, "teacher": first}))
    teacher.keep(first, WorkDir(began))
    assert [path.name for path in (began / "teacher/checkpoints").iterdir()] == [
        str(2 * STEPS)
    ]
    assert teacher.origin(run, WorkDir(tmp_path / "new")) == {**first, "step": 900}


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (
            {"mean": [0.5]},
            r"has mean \(0.5,\), .*; write --config.dataset.mean=0.5 --config",
        ),
        (
            {"num_classes": 4, "class_names": list("abcd")},
            "has num_classes 4, this data has 10; choose a teacher that",
        ),
        (
            {"image_shape": [9, 9, 1]},
            r"has image_shape \(9, 9, 1\), this data has \(8, 8, 1\)",
        ),
    ],
)
def test_a_teacher_of_other_data_is_refused(cell, trained, tmp_path, fact, message):
    other = shutil.copytree(trained, tmp_path / "teacher")
    facts = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**facts, **fact}))
    run = run_of(cell, f"--config.teacher.workdir={other}")
    with pytest.raises(UserError, match=message):
        load_teacher(run)


@pytest.mark.long
def test_any_number_of_devices_gives_the_same_student(cell, trained, tmp_path):
    places = [("none", 1), ("shard_map", 5), ("pmap", 2)]
    more = [f"--config.teacher.workdir={trained}", "--config.precision=float64"]
    specs = []
    for how, count in places:
        workdir = tmp_path / f"{how}{count}"
        words = [
            w for w in arguments("train", workdir, cell, *more) if "--workdir=" not in w
        ]
        spec = {"task": "train", "workdir": str(workdir), "arguments": words[1:]}
        specs.append({**spec, "parallel": how, "devices": count})
    script = [
        sys.executable,
        str(ROOT / "tests" / "many_devices.py"),
        json.dumps(specs),
    ]
    here = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "5"}
    done = subprocess.run(
        script,
        cwd=ROOT,
        env=here | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, *others = (arrays(pathlib.Path(spec["workdir"]), STEPS) for spec in specs)
    for other in others:
        assert largest_difference(one, other) < 1e-9
