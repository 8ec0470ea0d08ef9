"""With --long: the commands of README and docs/*.md run, in the order of each document.

Their networks are small, they train for an epoch, and the data is what the test writes.
Commands of the tutorials run in test_tutorials.py. Commands in `ELSEWHERE` are only
parsed (test_documentation.py); what is behind them is tested in the folders named
there.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
from documents import DOCUMENTS, README, commands
from image_files import write_folder
from tfds_files import write_dataset

from bnas_jax.__main__ import run
from bnas_jax.data.arrays import Arrays

pytestmark = [
    # ml_collections loads a config's file so.
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("quick_compilation"),
]

# What is left out, and where what is behind it is tested.
ELSEWHERE = {
    "import": "reads a file of PyTorch's (tests/interop)",
    "study": "takes hours at any size of its networks (tests/study)",
    "reproduce": "makes a table's networks, each compiled by itself (tests/reproduce)",
    "predict": "needs a file of the documents' reader (tests/deploy)",
    "benchmark": "measures, and compiles everything anew (tests/benchmarks)",
    "plan": "compiles for other machines (tests/plan)",
    "data prepare": "downloads (tests/data)",
}
# Networks of cells, as small as they can be; the paper's searches have three kinds of
# cells.
CELLS = {"search": 3, "train": 2, "cost": 2}
# What makes training on a baseline small.
NARROW = ["--config.network.width=2", "--config.network.blocks=1,1"]
FEW_TYPES = "--config.network.layer_types=none,bin_conv_3x3"


# What the object of a command tells, among other things.
PROMISED = {
    "search": "genotype",
    "derive": "genotype",
    "draw": "out",
    "train": "top1",
    "evaluate": "top1",
    "cost": "flops",
    "export": "bytes",
    "report": "out",
    "gradients": "layers",
    "data": "num_examples",
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> pathlib.Path:
    """The work directory of a search."""
    folder = tmp_path_factory.mktemp("searched") / "search"
    words = ["search", "--config=configs/search.py:digits", f"--workdir={folder}"]
    assert run([*words, *additions(words)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, searched) -> pathlib.Path:
    """The work directory of a training."""
    folder = tmp_path_factory.mktemp("trained") / "train"
    words = ["train", "--config=configs/train.py:digits", f"--workdir={folder}"]
    genotype = f"--config.network.genotype={searched}"
    assert run([*words, genotype, *additions(words)]) == 0
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """A current folder with the data that the documents name."""
    monkeypatch.chdir(tmp_path)
    write_folder(
        tmp_path / "photos",
        {f"{part}/{name}": 4 for part in ("train", "test") for name in "ab"},
    )
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    arrays = Arrays(images=pixels, labels=np.arange(4), num_classes=10, name="cifar10")
    old = tmp_path / "OLD" / "cifar10" / "3.0.2"
    write_dataset(old, {"train": arrays, "test": arrays}, file_format="tfrecord")
    return tmp_path


def additions(words: list[str]) -> list[str]:
    """What makes a command take seconds."""
    command = words[0]
    if command not in CELLS or "--config" not in " ".join(words):
        return []
    added = []
    # launch/sweep.sh gives each line one.
    if command == "train" and "--workdir" not in " ".join(words):
        added.append("--workdir=runs/sweep")
    if "baselines" in " ".join(words):
        added += NARROW
    else:
        added += [
            "--config.network.channels=2",
            f"--config.network.num_cells={CELLS[command]}",
        ]
    if command == "cost":
        return added
    if command == "search":
        added.append(FEW_TYPES)
    # Digits are too small for ImageNet's first convolutions.
    if "--config=configs/train.py:d" in words:
        added.append("--config.network.form=cifar")
    # A run that goes on with other settings goes on for longer.
    epochs = 1
    if "--change" in words:
        epochs = 2
    return [
        *added,
        f"--config.num_epochs={epochs}",
        "--config.batch_size=240",
        "--config.dataset.name=digits",
    ]


def is_elsewhere(words: list[str]) -> bool:
    """Whether another test runs it."""
    # What begins with the weights of an import goes with it.
    return (
        words[0] in ELSEWHERE
        or " ".join(words[:2]) in ELSEWHERE
        or "--init=runs/d" in words
    )


def commands_here(document: pathlib.Path) -> list[list[str]]:
    """The commands of a document that run here."""
    return [words for words in commands(document) if not is_elsewhere(words)]


def follow(document: pathlib.Path, capfd) -> list[tuple[str, dict]]:
    """Runs the commands of a document.

    Returns (command, the JSON object that it ends with) of each.
    """
    ended = []
    for words in commands_here(document):
        # A folder that hosts share is one of the test's.
        here = [word.replace("=/shared/", "=shared/") for word in words]
        added = additions(words)
        if "--config.dataset.name=digits" in added:
            # The digits lie nowhere.
            here = [
                word for word in here if not word.startswith("--config.dataset.path=")
            ]
        code, printed = run([*here, *added]), capfd.readouterr()
        assert code == 0, f"{words}: {printed.err}"
        ended.append((words[0], json.loads(printed.out.splitlines()[-1])))
    return ended


@pytest.mark.long
def test_the_commands_of_the_readme(folder, capfd):
    ended = follow(README, capfd)
    assert [command for command, _ in ended] == [
        *(
            "search",
            "draw",
            "train",
            "evaluate",
            "cost",
            "report",
            "export",
            "evaluate",
        ),
    ]
    results = dict(ended)
    assert results["evaluate"]["top1"] == results["train"]["top1"]
    assert (folder / "runs" / "cell.svg").is_file()


# What stands in errors.md as a command is part of a message (tests/cli/test_errors.py).
FOLLOWED = [
    document
    for document in DOCUMENTS
    if document.parent.name == "docs"
    and document.stem != "errors"
    and commands_here(document)
]


@pytest.mark.long
@pytest.mark.parametrize("document", FOLLOWED, ids=lambda document: document.stem)
def test_the_commands_of_the_documents(document, folder, searched, trained, capfd):
    # Runs that the document takes for granted.
    made = {(words[0], word) for words in commands(document) for word in words}
    for command, finished in (("search", searched), ("train", trained)):
        if (command, f"--workdir=runs/{command}") not in made:
            shutil.copytree(finished, folder / "runs" / command)
    for command, result in follow(document, capfd):
        assert PROMISED[command] in result, (command, result)
