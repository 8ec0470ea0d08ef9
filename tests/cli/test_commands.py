"""The command line: what it prints and returns, and each mistake answered with one line
that says what to write instead.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from commands import error, printed

from bnas_jax.__main__ import COMMANDS, run
from bnas_jax.core import cost, genotypes
from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.errors import PassingError
from bnas_jax.core.network import Network
from bnas_jax.core.schemes import Xnor
from bnas_jax.search import Bnas
from bnas_jax.training.derive import Rule, taken

# ml_collections loads a config's file so.
pytestmark = [
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("own_compilation_cache", "quick_compilation"),
]

ROOT = pathlib.Path(__file__).parents[2]
CELL = {
    "normal": [["bin_conv_3x3", 0]] * 2 + [["none", 0]] * 6,
    "reduce": [["max_pool_3x3", 0]] * 2 + [["none", 1]] * 6,
}
TRAIN, SEARCH = "--config=configs/train.py:digits", "--config=configs/search.py:digits"


def process(*arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bnas_jax", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


# As a process


def test_a_command_ends_with_one_json_object_on_stdout_and_nothing_on_stderr():
    done = process(
        "cost", "--config=configs/train.py:a", "--config.conventions=release"
    )
    assert (done.returncode, done.stderr) == (0, "")
    *table, last = done.stdout.splitlines()
    assert json.loads(last)["params"] == 5_578_252
    assert (
        table[0].split()[:3] == ["layer", "kind", "output"]
        and "cell19/preprocess/input0/conv" in done.stdout
    )


def test_what_passes_ends_with_the_exit_code_of_a_run_to_start_again(
    monkeypatch, capsys
):
    def fails(words):
        raise PassingError("the files cannot be read")

    monkeypatch.setattr("bnas_jax.__main__._answer", fails)
    assert run(["train"]) == 75
    assert capsys.readouterr().err == "bnas_jax: the files cannot be read\n"


def test_a_mistake_ends_with_exit_code_2_and_one_line_on_stderr(tmp_path):
    done = process(
        "train", TRAIN, "--config.batch_size=5000", f"--workdir={tmp_path / 'run'}"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "bnas_jax: error: config.batch_size=5000 is larger than the data: "
        "digits has 1437 examples here;"
    )
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


# In general


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_its_lines(command, capsys):
    assert run([command, "--help"]) == run([command, "-h"]) == 0

    lines = capsys.readouterr().err.splitlines()
    named = [
        line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "
    ]
    assert set(named) == {command}
    assert lines[0].startswith("usage: ") and any(
        "--config.KEY=VALUE" in line for line in lines
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_names_every_command(capfd, arguments):
    assert run(arguments) == 0
    out, err = capfd.readouterr()
    assert out == "" and all(f"  {name} " in err for name in COMMANDS)


def test_nothing_at_all_shows_the_usage_and_is_a_mistake(capfd):
    assert run([]) == 2
    assert capfd.readouterr().err.startswith("usage: ")


def test_debug_shows_where_a_mistake_was_noticed(capfd):
    assert run(["cost", "--genotype=nowhere", "--debug"]) == 2
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err and err.splitlines()[
        -1
    ].startswith("bnas_jax: error: ")


def test_an_unknown_command_is_answered_with_those_there_are(capfd):
    assert (
        error(capfd, "serach")
        == f"'serach' is not a command; write one of {', '.join(COMMANDS)}"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "search needs a config; write --config=configs/search.py:digits"),
        (["train"], "train needs a config; write --config=configs/train.py:digits"),
        (
            ["train", SEARCH],
            "this config is for search; train takes one such as "
            "--config=configs/train.py:digits",
        ),
        (
            ["search", TRAIN],
            "this config is for train; search takes one such as "
            "--config=configs/search.py:digits",
        ),
        (["train", TRAIN], "--workdir is missing"),
        (["search", SEARCH, "--workdir="], "--workdir is missing"),
        (
            ["train", "--config=configs/none.py:a"],
            "no config file configs/none.py; write --config=configs/search.py:VARIANT",
        ),
        (
            ["train", "--config=configs/train.py:z"],
            "no training preset 'z': write one of digits, mini, a",
        ),
        (
            ["search", "--config=configs/search.py:z"],
            "no search preset 'z': write digits or cifar10",
        ),
        (
            ["train", "--config=configs/ablations.py:train_a"],
            "no ablation 'train_a': write TASK_ABLATION_PRESET",
        ),
        (["train", "--config", "configs/train.py:a"], "--workdir is missing"),
        (
            ["train", TRAIN, "more"],
            "unexpected argument 'more'; options are written --name=value",
        ),
        (["train", TRAIN, "--wrkdir=x"], "Unknown command line flag 'wrkdir'"),
        (
            ["train", TRAIN, "--config.batchsize=8"],
            "unknown setting --config.batchsize; ",
        ),
        (
            ["train", TRAIN, "--config.optimizer.lr=8"],
            "unknown setting --config.optimizer.lr; ",
        ),
        (
            ["train", TRAIN, "--config.batch_size=8", "--config.batch_sizes=8"],
            "unknown setting --config.batch_sizes; ",
        ),
        (
            ["search", SEARCH, "--config.dataset.stratified=True"],
            "config.dataset.stratified is now config.dataset.search_split",
        ),
        (
            ["train", TRAIN, "--config.rules.relu=False"],
            "config.rules.relu is now config.scheme.activation: relu or none",
        ),
        (
            ["train", TRAIN, "--config.rules.more=1"],
            "config.rules is now config.scheme and config.network",
        ),
        (
            ["search", SEARCH, "--config.derive.gamma=3"],
            "config.derive.gamma is now config.searcher.gamma",
        ),
        (
            ["search", SEARCH, "--config.alphas.tau=3"],
            "config.alphas.tau is now config.searcher.tau",
        ),
        (["search", SEARCH, "--config.halves=two"], "config.halves is now gone"),
        (
            ["search", SEARCH, "--config.searcher.name=darts2"],
            "config.searcher.name must be one of bnas",
        ),
        (
            [
                "train",
                TRAIN,
                "--config.scheme.name=float",
                "--config.scheme.activation_scale=1",
            ],
            "not a setting of",
        ),
        (["train", TRAIN, "--config.batch_size=many"], "config.batch_size=many"),
        (["train", TRAIN, "--config.batch_size=1.5"], "config.batch_size=1.5"),
        (
            ["train", TRAIN, "--config.network.skip=perhaps"],
            "config.network.skip=perhaps",
        ),
        (
            ["train", TRAIN, "--config.optimizer.momentum=1"],
            "config.optimizer.momentum must be from 0 to below 1",
        ),
        (
            ["train", TRAIN, "--config.conventions=larq"],
            "config.conventions must be one of paper, release, meant",
        ),
        (
            ["train", "--config=configs/ablations.py:train_no_dilated_a"],
            "config.network.genotype is missing",
        ),
        (["evaluate"], "--workdir is missing; write --workdir=DIR"),
        (["import", "--preset=mini"], "--workdir is missing"),
        (["import", "--preset=mini", "--workdir=w"], "--checkpoint is missing"),
        (
            ["import", "--checkpoint=f.npz", "--workdir=w"],
            "--preset is missing; write --preset=VARIANT",
        ),
        (["import", "--preset=z"], "no training preset 'z'"),
        (["import", "--preset=mini", "--config.lr=1"], "unknown setting --config.lr"),
    ],
)
def test_a_mistake_in_the_arguments_is_answered_with_what_to_write(
    capfd, arguments, message
):
    assert message in error(capfd, *arguments)


def test_what_an_error_quotes_does_nothing_to_the_terminal(capfd, tmp_path):
    """As the names in a directory may be a stranger's."""
    line = error(capfd, "report", f"--workdir={tmp_path}/\x1b[2J\x9b1m\nname")
    assert r"/\x1b[2J\x9b1m name" in line


def test_settings_come_from_the_arguments_given_and_no_other_place(capfd, monkeypatch):
    """Not from the arguments of the program that calls."""
    monkeypatch.setattr(
        sys, "argv", ["prog", "--config.network.channels=99", "--config.unknown=1"]
    )
    assert printed(capfd, "cost", TRAIN, "--config.network.channels=6")["channels"] == 6
    assert "no checkpoint f.npz" in error(
        capfd, "import", "--preset=mini", "--checkpoint=f.npz", "--workdir=w"
    )


def test_a_config_of_ones_own_is_found_where_it_stands(capfd, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from configs import train\n\ndef get_config():\n"
        "    config = train.get_config('digits')\n    config.network.channels = 6\n    "
        "return config\n"
    )
    monkeypatch.chdir(tmp_path)
    assert printed(capfd, "cost", "--config=mine.py")["channels"] == 6
    assert (
        printed(capfd, "cost", TRAIN)["channels"] == 8
    )  # and the project's own from anywhere


# What cannot be run, noticed before anything is written


REST = CELL["normal"][1:]


def cell_file(folder: pathlib.Path, **changes) -> str:
    path = folder / "cell.json"
    path.write_text(json.dumps({**CELL, **changes}))
    return f"--config.network.genotype={path}"


@pytest.mark.parametrize(
    ("normal", "message"),
    [
        (
            [["conv_9x9", 0], *REST],
            "layer type 'conv_9x9' has no layer in this version; use a genotype of "
            "none",
        ),
        (
            [["none", 2], *REST],
            "cell.json: normal pair 0 feeds node 2: its input must be 0 to 1, got 2",
        ),
        ([["none", -1], *REST], "its input must be 0 to 1, got -1"),
        (
            REST,
            "cell.json: the normal cell needs 8 [layer type, input] pairs, two a node, "
            "14 for all edges, or a list",
        ),
        (
            [["none"], *REST],
            "cell.json: normal pair 0 must be [layer type, input], got ['none']",
        ),
        (5, "cell.json: the normal cell needs 8 [layer type, input] pairs"),
    ],
)
def test_a_cell_that_is_none_is_refused(capfd, tmp_path, normal, message):
    arguments = [
        "train",
        TRAIN,
        f"--workdir={tmp_path / 'run'}",
        cell_file(tmp_path, normal=normal),
    ]
    assert message in error(capfd, *arguments)
    assert not (tmp_path / "run").exists()


def test_a_cell_file_that_is_no_json_or_is_not_there_is_refused(capfd, tmp_path):
    (tmp_path / "cell.json").write_text("{")
    train = ["train", TRAIN, f"--workdir={tmp_path / 'run'}"]
    assert "cell.json: not valid JSON" in error(
        capfd, *train, f"--config.network.genotype={tmp_path / 'cell.json'}"
    )
    (tmp_path / "cell.json").write_text("[]")
    assert 'keys "normal" and "reduce"' in error(
        capfd, *train, f"--config.network.genotype={tmp_path / 'cell.json'}"
    )
    (tmp_path / "cell.json").write_bytes(b"\xff\xfe")
    assert "genotype: cannot read" in error(
        capfd, *train, f"--config.network.genotype={tmp_path / 'cell.json'}"
    )
    message = error(capfd, *train, "--config.network.genotype=latest_cel")
    assert (
        "neither a file nor a named cell; named: " in message
        and "latest_cell_zeroise" in message
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", TRAIN, "--config.batch_size=1438"],
            "config.batch_size=1438 is larger than the data: digits has 1437 examples",
        ),
        (
            ["search", SEARCH, "--config.batch_size=719"],
            "config.batch_size=719 is larger than the data: digits has 718 examples",
        ),
        (
            ["search", SEARCH, "--config.searcher.gamma=0.0"],
            "config.searcher.gamma must be a finite number greater than 0, got 0; 1 "
            "leaves",
        ),
        (
            ["search", SEARCH, "--config.searcher.gamma=-3.0"],
            "config.searcher.gamma must be a finite number greater than 0, got -3",
        ),
        (
            ["train", TRAIN, "--config.network.form=imagenet"],
            "images of 1 pixels at the first cell cannot be halved by 2",
        ),
        (
            ["train", TRAIN, "--config.dataset.name=mnist"],
            "there is no data set 'mnist': set config.dataset.name to one of",
        ),
        (
            ["train", "--config=configs/train.py:d"],
            "imagenet2012: there is no directory",
        ),
        (
            ["train", "--config=configs/train.py:d", "--config.dataset.resize=100"],
            "config.dataset.resize must be at least 224, its centre, got 100",
        ),
        (
            ["train", TRAIN, "--config.dataset.path=/data"],
            "leave config.dataset.path out",
        ),
        (
            ["train", "--config=configs/train.py:a", "--config.dataset.path=/nowhere"],
            "there is no directory /nowhere",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    capfd, tmp_path, arguments, message
):
    assert message in error(capfd, *arguments, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


# Cost


def network(conventions: str = "paper", **fields) -> Network:
    chosen = CONVENTIONS[conventions]
    return Network(
        num_classes=10, scheme=Xnor(**chosen.scheme), **chosen.network, **fields
    )


@pytest.mark.parametrize(
    "conventions",
    [pytest.param(name, marks=pytest.mark.long) for name in ("release", "meant")],
)
def test_cost_counts_a_preset_in_its_convention(capfd, conventions):
    ours = network(
        conventions,
        genotype=genotypes.load("latest_cell_zeroise"),
        num_cells=10,
        channels=24,
    )
    counted = cost.cost(ours, image_shape=(32, 32, 3))
    result = printed(
        capfd,
        "cost",
        "--config=configs/train.py:mini",
        f"--config.conventions={conventions}",
    )
    assert (result["num_cells"], result["channels"], result["params"]) == (
        10,
        24,
        1_473_784,
    )
    names = ("flops", "binary_macs", "float_macs", "memory_bits", "params")
    assert {name: result[name] for name in names} == {
        name: getattr(counted.total, name) for name in names
    }
    reference = cost.float_twin(ours.clone(genotype=genotypes.load("latest_cell")))
    ratios = cost.ratios(counted, cost.cost(reference, image_shape=(32, 32, 3)))
    assert (result["speedup"], result["memory_saving"]) == (
        ratios.speedup,
        ratios.memory_saving,
    )
    assert result["compared_with"] == "float network of latest_cell, counted"
    paper = printed(capfd, "cost", "--config=configs/train.py:mini")
    assert paper["flops"] < result["flops"]  # the skips are binary there


def test_cost_takes_a_network_without_a_config(capfd, tmp_path):
    sizes = ["--num_cells=4", "--channels=24", "--image_size=32", "--num_classes=10"]
    named = printed(
        capfd, "cost", "--genotype=latest_cell_zeroise", *sizes, "--conventions=release"
    )
    mini = ["--config=configs/train.py:mini", "--config.network.num_cells=4"]
    assert named == printed(capfd, "cost", *mini, "--config.conventions=release")
    (tmp_path / "cell.json").write_text(json.dumps(CELL))
    own = printed(capfd, "cost", f"--genotype={tmp_path / 'cell.json'}", *sizes)
    assert (
        own["compared_with"] == "float network of the same cell, counted"
        and own["speedup"] > 1
    )
    digits = printed(
        capfd,
        "cost",
        TRAIN,
        f"--genotype={tmp_path / 'cell.json'}",
        "--num_cells=3",
        "--channels=2",
    )
    ours = network(genotype=genotypes.from_dict(CELL), num_cells=3, channels=2)
    assert digits["flops"] == cost.cost(ours, image_shape=(8, 8, 1)).total.flops


def test_a_genotype_is_taken_as_a_search_writes_it(capfd, tmp_path):
    """With all that it notes there."""
    history = {
        "normal": np.zeros((2, 14, 7)),
        "reduce": np.zeros((2, 14, 7)),
        "valid_top1": np.array([10.0]),
    }
    (tmp_path / "genotype.json").write_text(
        json.dumps(taken(Bnas(), Rule("best", "after"), history))
    )
    sizes = ["--config.network.num_cells=1", "--config.network.channels=2"]
    assert (
        printed(capfd, "cost", TRAIN, f"--config.network.genotype={tmp_path}", *sizes)[
            "num_cells"
        ]
        == 1
    )


@pytest.mark.long
def test_cost_takes_a_search(capfd):
    """Its network beside the same one in floats."""
    result = printed(capfd, "cost", SEARCH)
    assert (result["num_cells"], result["channels"], result["params"]) == (
        4,
        4,
        583_640,
    )
    assert result["compared_with"] == "float network of the same size, counted"
    wider = printed(capfd, "cost", SEARCH, "--channels=8")
    assert wider["channels"] == 8 and wider["flops"] > result["flops"]


@pytest.mark.long
def test_a_budget_is_met_with_the_widest_network_that_keeps_to_it(capfd):
    cell = ["--genotype=latest_cell_zeroise", "--image_size=32", "--num_classes=10"]
    four = [*cell, "--num_cells=4", "--channels=1"]
    fitted = printed(capfd, "cost", *four, "--budget=1e7")
    assert fitted["num_cells"] == 4 and fitted["flops"] <= 1e7

    # One channel more is too much.
    wider = [*cell, "--num_cells=4", f"--channels={fitted['channels'] + 1}"]
    assert printed(capfd, "cost", *wider)["flops"] > 1e7

    # Over several numbers of cells.
    free = printed(capfd, "cost", *four, "--budget=1e7", "--cells=3-4")
    assert 3 <= free["num_cells"] <= 4 and fitted["flops"] <= free["flops"] <= 1e7
    one = printed(capfd, "cost", *four, "--budget=1e7", "--cells=3")
    assert one["num_cells"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "cost needs --config=configs/train.py:VARIANT, or else also --genotype, "
            "--num_cells, --channels",
        ),
        (
            ["--genotype=latest_cell", "--num_cells=5"],
            "or else also --channels, --image_size, --num_classes",
        ),
        (
            [SEARCH, "--genotype=latest_cell"],
            "the network of this config has no genotype; leave --genotype out",
        ),
        (
            [SEARCH, "--reference=latest_cell"],
            "compared with the same one in floats; leave --reference out",
        ),
        (
            ["--config=configs/train.py:a", "--channels=many"],
            "--channels=many: write a whole number: 64 or 1e2",
        ),
        (
            ["--config=configs/train.py:a", "--num_cells=1.5"],
            "--num_cells=1.5: write a whole number",
        ),
        (
            ["--config=configs/train.py:a", "--channels=0"],
            "channels must be at least 1, got 0",
        ),
        (
            ["--config=configs/train.py:a", "--image_size=7"],
            "images of 7 pixels at the first cell cannot be halved",
        ),
        (
            ["--config=configs/train.py:d", "--channels=7"],
            "config.network.channels must be a multiple of 2 in the form imagenet",
        ),
        (
            ["--config=configs/train.py:a", "--budget=little"],
            "--budget=little: write a number: 0.1 or 1e-3",
        ),
        (
            ["--config=configs/train.py:a", "--budget=-1"],
            "budget must be a positive number of FLOPs",
        ),
        (
            ["--config=configs/train.py:a", "--budget=nan"],
            "budget must be a positive number of FLOPs",
        ),
        (
            ["--config=configs/train.py:a", "--budget=10"],
            "budget of 10 FLOPs is too small; write at least",
        ),
        (
            ["--config=configs/train.py:a", "--budget=1e7", "--cells=9-5"],
            "--cells takes LOW-HIGH, for instance 5-20",
        ),
        (
            ["--config=configs/train.py:a", "--budget=1e7", "--cells=x"],
            "--cells takes LOW-HIGH",
        ),
        (
            ["--config=configs/train.py:a", "--budget=1e7", "--cells=0-2"],
            "--cells takes LOW-HIGH",
        ),
        (
            ["--config=configs/train.py:a", "--reference=none_such"],
            "neither a file nor a named cell",
        ),
        (
            ["--config=configs/train.py:a", "--config.dataset.name=tfds:x"],
            "add --image_size=... and --num_classes=...",
        ),
    ],
)
def test_a_cost_that_cannot_be_counted_is_refused(capfd, arguments, message):
    assert message in error(capfd, "cost", *arguments)
