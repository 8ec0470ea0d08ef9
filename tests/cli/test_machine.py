"""What the machine lacks, how commands are written, what libraries leave behind."""

import ast
import contextlib
import errno
import json
import multiprocessing
import os
import pathlib
import resource
import shlex
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import error, printed
from image_files import write_folder
from tensorboardX.proto import event_pb2
from tfds_files import write_dataset

from bnas_jax import machine, spelling
from bnas_jax.cli.configs import configured
from bnas_jax.core.errors import UserError
from bnas_jax.data import load as loading
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.data.stream import StreamTrainSource
from bnas_jax.data.tools.convert import convert, read_records
from bnas_jax.runtime.compilation_cache import use_compilation_cache
from bnas_jax.training.log import Log
from bnas_jax.training.workdir import WorkDir, write_json
from bnas_jax.workdir.files import whole

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "bnas_jax"]
TRAIN, SEARCH = "--config=configs/train.py:digits", "--config=configs/search.py:digits"
COST = ["cost", "--config=configs/train.py:a"]


def process(
    words: list[str], redirect: str = "", **environment: str
) -> subprocess.CompletedProcess:
    """A command as a shell runs it. environment: variables beside those that are there,
    or instead; empty ones are not set.
    """
    line = f"{shlex.join([*COMMAND, *words])} {redirect}; exit ${{PIPESTATUS[0]}}"
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}
    variables = {
        name: value for name, value in {**os.environ, **environment}.items() if value
    }
    return subprocess.run(["bash", "-c", line], env=variables, check=False, **options)


# What the environment lacks


@pytest.mark.long
@pytest.mark.parametrize("platform", ["cuda", "tqu"])
def test_an_accelerator_that_is_not_there(tmp_path, platform):
    """JAX_PLATFORMS names what the machine does not have: one line, and nothing is
    written.
    """
    done = process(
        ["train", TRAIN, f"--workdir={tmp_path / 'run'}"], JAX_PLATFORMS=platform
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"bnas_jax: error: JAX_PLATFORMS={platform} is not available here"
    )
    assert (
        line.endswith("unset it, or write JAX_PLATFORMS=cpu")
        and not (tmp_path / "run").exists()
    )


def test_a_variable_of_jaxs_with_a_wrong_value():
    """JAX refuses it while it is imported."""
    done = process(COST, JAX_NUM_CPU_DEVICES="many")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (
        "jax_num_cpu_devices" in done.stderr
        and "unset it or write another value" in done.stderr
    )


@pytest.mark.long
def test_a_reader_who_leaves_and_a_home_directory_that_is_missing():
    """`cost | head -1` has done what it was for; without a home directory nothing is
    kept, and a warning says so.
    """
    variables = {
        "HOME": "/nonexistent",
        "XDG_CACHE_HOME": "",
        "JAX_COMPILATION_CACHE_DIR": "",
    }
    done = process(COST, "| head -1", **variables)
    assert (
        done.returncode == 0
        and done.stdout.startswith("layer")
        and done.stdout.count("\n") == 1
    )
    (line,) = done.stderr.splitlines()
    assert (
        line.startswith("bnas_jax: warning: compiled programs are not kept")
        and "set XDG_CACHE_HOME" in line
    )
    assert not pathlib.Path("/nonexistent").exists()


@pytest.mark.long
def test_a_full_disk_behind_stdout():
    """A result that cannot be written is an error."""
    done = process(COST, "> /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "bnas_jax: error: cannot use stdout (No space left on device)"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "redirect", ["2>&-", "2>/dev/full", "2> >(true)", "<&- >&- 2>&-"]
)
def test_nobody_hears_the_messages(redirect):
    """Messages go nowhere then: not to stdout, nor into a file, and end nothing."""
    done = process(["--help"], redirect)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = process(["serach"], redirect)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    """What a library writes to stderr would go into that file."""
    code = (
        "from bnas_jax import machine; machine.open_streams(); "
        f"print(open({str(tmp_path / 'f')!r}, 'w').fileno())"
    )
    line = f"{shlex.join([sys.executable, '-c', code])} 2>&-"
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 2


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("place", ["nowhere/home", "file", "file/below"])
def test_a_compilation_cache_that_cannot_be_written(
    tmp_path, monkeypatch, variable, place
):
    """The run goes on without."""
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if variable == "XDG_CACHE_HOME" and place == "nowhere/home":
        place = "file/nowhere"  # one that is missing is made
    monkeypatch.setenv(variable, str(tmp_path / place))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with pytest.warns(
            UserWarning, match="compiled programs are not kept .*; set XDG_CACHE_HOME"
        ):
            use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@contextlib.contextmanager
def no_room(size: int):
    """Files may not grow beyond `size` bytes, as on a full disk.

    Only within `with`, as the limit holds for pytest's own report, too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_becomes_full_under_the_records(tmp_path):
    """`metrics.jsonl` keeps whole lines and the error names it; TensorBoard and
    `log.txt` are done without.
    """
    log = Log(WorkDir(tmp_path), 0)
    log.write({"step": 1, "loss": 0.5})
    with (
        pytest.warns(
            UserWarning,
            match=r"log\.txt cannot be written \(File too large\); the run continues",
        ),
        no_room(400),
    ):
        log.note("n" * 500)
    with (
        pytest.warns(UserWarning, match="TensorBoard events cannot be written"),
        no_room(400),
    ):
        for step in range(2, 9):
            log.write({"step": step, "loss": 0.25})
    with (
        pytest.raises(
            UserError,
            match=(
                r"cannot write .*metrics\.jsonl \(File too large\); make room there "
                r".*continues"
            ),
        ),
        no_room(400),
    ):
        log.write({"step": 9, "text": "t" * 500})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))
    log.close()


def test_a_disk_that_is_full_for_a_file(tmp_path):
    """It is written whole or stays as it was, and nothing of it is left."""
    write_json(tmp_path / "summary.json", {"top1": 1})
    with (
        pytest.raises(UserError, match=r"cannot write .*summary\.json"),
        no_room(10),
    ):
        write_json(tmp_path / "summary.json", {"top1": 2, "more": list(range(100))})
    with (
        pytest.raises(UserError, match=r"cannot write .*alphas\.npz"),
        no_room(10),
        whole(tmp_path / "alphas.npz") as part,
    ):
        np.savez(part, normal=np.zeros(100))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"top1": 1}


def test_a_disk_that_is_full_under_a_conversion(tmp_path):
    """ArrayRecord says so in its own way, and leaves a part of a file."""
    images = Arrays(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4), 10, "x")
    source = write_dataset(
        tmp_path / "cifar10" / "3.0.2",
        {"train": images, "test": images},
        file_format="tfrecord",
    )
    with (
        pytest.raises(
            UserError, match=r"File too large.*free space or choose another --out"
        ),
        no_room(50),
    ):
        convert(str(source), str(tmp_path / "new"))
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


def test_tensorboard_finds_what_is_written(tmp_path):
    """The events are those of tensorboardX's own writer, written without its thread."""
    log = Log(WorkDir(tmp_path), 6)
    log.write({"step": 7, "loss": 0.5, "name": "x"})
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    version, start, scalar = (
        event_pb2.Event.FromString(record) for record in read_records(file)
    )
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, event_pb2.SessionLog.START)
    assert (
        scalar.step,
        scalar.summary.value[0].tag,
        scalar.summary.value[0].simple_value,
    ) == (
        7,
        "loss",
        0.5,
    )


BELOW_A_FILE = [
    ["train", TRAIN, "--workdir=BAD"],
    ["search", SEARCH, "--workdir=BAD"],
    ["evaluate", "--workdir=BAD"],
    ["train", TRAIN, "--workdir=GOOD", "--config.network.genotype=BAD"],
    ["cost", "--genotype=BAD", "--config=configs/train.py:a"],
    ["cost", "--config=BAD"],
    ["import", "--preset=mini", "--checkpoint=BAD", "--workdir=GOOD"],
    ["data", "convert", "--source=BAD", "--out=GOOD"],
    ["data", "check", "folder", "--path=BAD"],
    ["data", "check", "cifar10", "--path=BAD"],
]


@pytest.mark.parametrize("words", BELOW_A_FILE, ids=lambda words: " ".join(words[:2]))
def test_a_path_that_the_system_refuses(capfd, tmp_path, words):
    """Below a file nothing can be made or found, and names have a greatest length."""
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file" / "run", tmp_path / ("n" * 300)):
        error(
            capfd,
            *(
                w.replace("BAD", str(bad)).replace("GOOD", str(tmp_path / "good"))
                for w in words
            ),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def raised(action) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_errors_of_the_machine_and_of_the_program_are_told_apart(tmp_path):
    """The first are one line; the second keep their traceback."""
    explained = lambda action: machine.explain(raised(action))
    assert "out of memory; lower config.batch_size" in explained(
        lambda: jnp.zeros((2**45,)).block_until_ready()
    )
    assert "No module named 'no_such_library'); install it" in explained(
        lambda: __import__("no_such_library")
    )
    assert f"cannot use {tmp_path} (Is a directory)" in explained(
        lambda: tmp_path.read_text()
    )
    assert "(No space left on device)" in machine.explain(
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    )
    assert "cannot import broken" in machine.explain(
        ImportError("libGL.so.1: cannot open", name="broken")
    )
    assert explained(lambda: 1 / 0) is None
    assert explained(lambda: [][0]) is None
    assert explained(lambda: __import__("bnas_jax.no_such_part")) is None
    assert explained(lambda: jnp.zeros(3) + jnp.zeros(4)) is None


def test_a_config_of_ones_own_that_raises(capfd, tmp_path):
    """What it lacks is said in one line, too."""
    for name, text, message in [
        ("library", "import no_such_library\n", "No module named 'no_such_library'"),
        (
            "name",
            "def get_config():\n    return cofnig\n",
            "name 'cofnig' is not defined",
        ),
        (
            "typo",
            "from configs import train\n\ndef get_config():\n    return "
            "train.get('a')\n",
            "no attribute 'get'",
        ),
        ("syntax", "def get_config(:\n", "invalid syntax"),
    ]:
        (tmp_path / f"{name}.py").write_text(text)
        assert message in error(capfd, "cost", f"--config={tmp_path / name}.py")


# One table of spellings


def table(width: int) -> list[list[str]]:
    """The rows of that many cells in docs/usage.md, their heads left out, without the
    marks of code.
    """
    lines = (ROOT / "docs" / "usage.md").read_text().splitlines()
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    rows = [row for row in rows if len(row) == width and set(row[0]) != {"-"}]
    return rows[1:]


def config_for(words: str) -> str:
    if "layer_types" in words or "searcher" in words:
        return SEARCH
    if "dataset.path" in words:  # which the digits have none of
        return "--config=configs/train.py:mini"
    return TRAIN


@pytest.mark.parametrize("row", table(4), ids=lambda row: row[1])
def test_every_spelling_of_the_documentation(row):
    """A row of the first table."""
    _, written, name, expected = row
    words = spelling.options([config_for(written), *shlex.split(written)])
    settings, flags = configured(words, "train", workdir=None)
    value = flags[name[2:]].value if name.startswith("--") else settings
    if not name.startswith("--"):
        for part in name.split("."):
            value = getattr(value, part)
    if isinstance(value, str):
        assert value == expected
        return
    if expected == "inf":
        expected = "1e999"
    assert value == ast.literal_eval(expected) and type(value) is type(
        ast.literal_eval(expected)
    )


@pytest.mark.parametrize("row", table(2), ids=lambda row: row[0])
def test_every_spelling_that_is_refused_shows_the_right_one(capfd, row):
    """A row of the second table."""
    written, says = row
    assert says in error(capfd, "train", config_for(written), *shlex.split(written))


def test_the_same_spellings_in_every_command(capfd, tmp_path):
    """Those that have settings of their own, and options alone."""
    sizes = [
        "--genotype",
        "latest_cell",
        "--num_cells",
        "1e1",
        "-channels=24.0",
        "--image_size=32",
        "--num_classes=10",
    ]
    assert printed(capfd, "cost", *sizes)["num_cells"] == 10
    assert "is not a work directory" in error(
        capfd, "evaluate", "--workdir", str(tmp_path)
    )
    config = {
        "task": "train",
        "eval_batch_size": 8,
        "precision": "float32",
        "parallel": "auto",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    evaluate = ["evaluate", f"--workdir={tmp_path}"]
    assert "--config.eval_batch_size=many: write a whole number" in error(
        capfd, *evaluate, "--config.eval_batch_size=many"
    )
    assert "unknown setting --config.dataset.pat; did you mean" in error(
        capfd, *evaluate, "--config.dataset.pat=x"
    )
    assert "evaluate takes no --config=FILE" in error(capfd, *evaluate, TRAIN)
    assert "no checkpoint f.npz" in error(
        capfd, "import", "--preset", "mini", "--checkpoint", "f.npz", "--workdir", "w"
    )
    assert "there is no directory" in error(
        capfd, "data", "check", "folder", "--path", str(tmp_path / "none")
    )
    assert "is a setting of a config; write --config=FILE.py:VARIANT, too" in error(
        capfd, *COST[:1], "--config.seed=1"
    )


# What libraries leave behind

PLAIN = Augmentation((0.0,) * 3, (1.0,) * 3)
READS = """
if __name__ == "__main__":
    from bnas_jax.data import load
    from bnas_jax.data.augment import Augmentation
    from bnas_jax.data.readers.encoded import ReadOptions
    from bnas_jax.data.stream import StreamTrainSource

    options = ReadOptions(image_size=16, in_memory_mib=0, workers=1)
    images = load.load("folder", "images", options).train
    source = StreamTrainSource(images, 4, 0, Augmentation((0.0,) * 3, (1.0,) * 3))
    feeds = [source.feed(step) for step in range(3)]
"""


@pytest.mark.long
@pytest.mark.parametrize("code", [0, 130])
def test_a_program_that_streams_with_workers_ends_without_warnings(tmp_path, code):
    """Grain frees shared memory with the arrays in it; the last batch lives until the
    program ends.

    After Ctrl-C (130) the program does not wait for Python's clearing up. A whole run:
    test_streams.py.
    """
    write_folder(
        tmp_path / "images", {"train/a": 8, "train/b": 8, "test/a": 1, "test/b": 1}
    )
    quits = "    from bnas_jax.__main__ import _quit\n\n    _quit(130)\n"
    (tmp_path / "reads.py").write_text(READS + quits * bool(code))
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "capture_output": True,
        "text": True,
    }
    done = subprocess.run(
        [sys.executable, "reads.py"], timeout=300, check=False, **options
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_shared_memory_that_is_full(tmp_path):
    """The system ends the worker then; the error says what to enlarge."""
    folder = write_folder(
        tmp_path, {"train/a": 4, "train/b": 4, "test/a": 1, "test/b": 1}
    )
    options = ReadOptions(image_size=8, in_memory_mib=0, workers=1)
    source = StreamTrainSource(
        loading.load("folder", folder, options).train, 4, 0, PLAIN
    )
    source.feed(0)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGBUS)
    with pytest.raises(
        UserError,
        match=r"shared memory \(/dev/shm\) is full; .*--config\.dataset\.workers=0",
    ):
        for step in range(1, 100):
            source.feed(step)
