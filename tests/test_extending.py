"""A user's own layer type, scheme, searcher and network, from one file.

The package is not touched.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documents import ROOT, blocks
from work_directories import arrays

import bnas_jax as bnas
from bnas_jax import extensions
from bnas_jax.__main__ import run
from bnas_jax.baselines.blocks import BLOCKS
from bnas_jax.cli.configs import configured, workdir_of
from bnas_jax.core.errors import UserError
from bnas_jax.core.first_weights import FIRST_WEIGHTS
from bnas_jax.core.losses import LOSSES, cross_entropy
from bnas_jax.core.modules import BinaryConv
from bnas_jax.search import Progress
from bnas_jax.search.searcher import Tried
from bnas_jax.settings import entries
from bnas_jax.settings.recipes import RECIPES
from bnas_jax.training.search import SearchTask
from bnas_jax.training.task import run_task

pytestmark = [
    # ml_collections loads a config's file so.
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("quick_compilation"),
]

EXAMPLE = pathlib.Path(__file__).parent / "extension_example.py"
EXTENSION = f"--extensions={EXAMPLE}"
SCHEME = [
    "--config.scheme.name=gain",
    "--config.scheme.gain=0.5",
    "--config.scheme.activation_scale=False",
]
SHORT = ["--config.num_epochs=1", "--config.batch_size=256"]
SEARCH = [
    *("--config=configs/search.py:digits", *SHORT, *SCHEME),
    *("--config.network.num_cells=1", "--config.network.channels=2"),
    "--config.network.layer_types=shifted_conv_1x1,none",
    *("--config.searcher.name=sharpen", "--config.searcher.start=4"),
]
CHAIN = [
    "--config=configs/train.py:digits",
    "--config.network.name=chain",
    "--config.network.widths=2,4",
    *SCHEME,
]


@pytest.fixture(scope="module", autouse=True)
def tables():
    """The package's tables as they were, after these tests."""
    entries = (bnas.LAYERS, bnas.SCHEMES, bnas.SEARCHERS, bnas.NETWORKS)
    rules = (BLOCKS, RECIPES, FIRST_WEIGHTS, LOSSES)
    before = [(table, dict(table)) for table in (*entries, *rules)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def summary(capfd, command: str, *options: str) -> dict:
    """The JSON object that a command with the extension ends with."""
    capfd.readouterr()
    assert run([command, EXTENSION, *options]) == 0, capfd.readouterr().err
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def error(capfd, *arguments: str) -> str:
    """The one line that a command fails with."""
    capfd.readouterr()
    assert run(list(arguments)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def number_of(params) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> pathlib.Path:
    """The work directory of a search by the extension's searcher.

    It searches among the extension's layer type and Zeroise, in its scheme.
    """
    workdir = tmp_path_factory.mktemp("extending") / "search"
    # What `search` does, without its check of the number of cells: one is compiled in a
    # third of the time.
    _, loaded = extensions.take([EXTENSION])
    settings, _ = configured(SEARCH, "search")
    with contextlib.closing(workdir_of(str(workdir), loaded)) as directory:
        run_task(SearchTask(settings, directory))
    return workdir


def test_a_search_takes_them_and_its_cost_counts_the_parameters_that_there_are(
    searched, capfd
):
    config = json.loads((searched / "config.json").read_text())
    assert config["searcher"] == {"name": "sharpen", "start": 4.0}
    assert config["scheme"]["name"] == "gain" and config["scheme"]["gain"] == 0.5
    (step,) = (int(path.name) for path in (searched / "checkpoints").iterdir())
    params = arrays(searched, step)["variables"]["params"]
    assert summary(capfd, "cost", *SEARCH)["params"] == number_of(params)

    edges = params["cell0"]["state0"]
    gains = [
        edges[f"edge{edge}_shifted_conv_1x1"]["conv"]["conv"]["gain"]
        for edge in range(4)
    ]
    assert np.any(np.stack(gains) != 0.5)  # they learn


def test_its_cell_is_derived_trained_evaluated_and_counted(searched, tmp_path, capfd):
    cell = tmp_path / "cell.json"
    derived = summary(capfd, "derive", f"--workdir={searched}", f"--out={cell}")
    assert {name for pairs in derived["genotype"].values() for name, _ in pairs} <= {
        "shifted_conv_1x1",
        "none",
    }
    message = error(
        capfd,
        "derive",
        EXTENSION,
        f"--workdir={searched}",
        f"--out={cell}",
        "--gamma=3",
    )
    assert (
        "the searcher sharpen of" in message
        and "has no gamma; leave --gamma out" in message
    )

    # A cell in which the layer type stands for certain, whatever the search has found.
    pairs = [
        ["shifted_conv_1x1", 0],
        ["shifted_conv_1x1", 1],
        *derived["genotype"]["normal"][2:],
    ]
    cell.write_text(json.dumps({"normal": pairs, "reduce": pairs}))
    sizes = ["--config.network.num_cells=1", "--config.network.channels=2"]
    train = [
        "--config=configs/train.py:digits",
        *SHORT,
        *SCHEME,
        *sizes,
        f"--config.network.genotype={cell}",
    ]
    check_training(
        capfd, tmp_path / "run", train, gain=("cell0", "layer0", "conv", "conv", "gain")
    )


def test_a_network_of_ones_own_is_trained_evaluated_and_counted(tmp_path, capfd):
    """The preset's settings of its own network are left behind.

    They are no settings of this one.
    """
    check_training(
        capfd, tmp_path / "run", [*CHAIN, *SHORT], gain=("conv0", "conv", "gain")
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["network"] == {"name": "chain", "widths": [2, 4]}
    reported = summary(capfd, "cost", *CHAIN)
    assert (
        "num_cells" not in reported
        and reported["compared_with"] == "float network of the same size, counted"
    )
    assert "has no channels; leave --channels out" in error(
        capfd, "cost", EXTENSION, *CHAIN, "--channels=4"
    )
    assert "--budget chooses num_cells and channels" in error(
        capfd, "cost", EXTENSION, *CHAIN, "--budget=1e6"
    )


def check_training(
    capfd, workdir: pathlib.Path, train: list[str], *, gain: tuple[str, ...]
) -> None:
    """A training is saved and evaluated, and its gains learn.

    Its counted parameters are those that are restored.
    """
    trained = summary(capfd, "train", *train, f"--workdir={workdir}")
    evaluated = summary(capfd, "evaluate", f"--workdir={workdir}")
    assert evaluated["top1"] == trained["top1"] and evaluated["num_examples"] == 360

    # It is packed as any other, and its file asks for the extension.
    packed = workdir.with_name("net.bnas")
    summary(capfd, "export", f"--workdir={workdir}", f"--out={packed}")
    of_file = summary(capfd, "evaluate", f"--model={packed}")
    assert of_file["top1"] == evaluated["top1"]
    asked = f"{packed} was made with --extensions={EXAMPLE.name}; give it again"
    assert asked in error(capfd, "evaluate", f"--model={packed}")

    _, variables = bnas.load(workdir)
    counted = summary(capfd, "cost", *train)
    assert (
        counted["params"] == number_of(variables["params"])
        and counted["binary_macs"] > 0
    )
    found = variables["params"]
    for name in gain:
        found = found[name]
    assert np.all(np.isfinite(found)) and np.any(found != 0.5)

    scheme = bnas.SCHEMES.pop("gain")
    with pytest.raises(
        UserError, match=f"with the extension {EXAMPLE}: import that first"
    ):
        bnas.load(workdir)
    bnas.SCHEMES["gain"] = scheme


def test_a_command_without_the_extension_of_a_run_asks_for_it(
    searched, tmp_path, capfd
):
    noted = json.loads((searched / "run.json").read_text())["extensions"]
    assert [set(extension) for extension in noted] == [{"file", "sha256"}] and noted[0][
        "file"
    ] == str(EXAMPLE)
    again = f"was made with --extensions={EXAMPLE}; give it again"
    assert again in error(
        capfd, "derive", f"--workdir={searched}", f"--out={tmp_path / 'cell.json'}"
    )
    assert again in error(capfd, "evaluate", f"--workdir={searched}")
    assert again in error(
        capfd,
        "draw",
        f"--genotype={searched}",
        "--strip=2",
        f"--out={tmp_path / 'strip.svg'}",
    )
    assert again in error(capfd, "search", *SEARCH, f"--workdir={searched}")
    train = [
        "train",
        "--config=configs/train.py:digits",
        f"--workdir={tmp_path / 'run'}",
        f"--init={searched}",
    ]
    assert again in error(capfd, *train)


def test_an_extension_that_has_moved_or_changed_is_taken(searched, tmp_path, capfd):
    other = shutil.copy(EXAMPLE, tmp_path)
    with open(other, "a") as file:
        file.write("# changed\n")
    capfd.readouterr()
    arguments = [
        "derive",
        f"--workdir={searched}",
        f"--out={tmp_path / 'cell.json'}",
        f"--extensions={other}",
    ]
    assert run(arguments) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert (
        line
        == f"bnas_jax: warning: {other} has changed since {searched} was made with it"
    )


def test_several_extensions_are_loaded_in_their_order(tmp_path, capfd):
    """Between commas or in options of their own.

    A later one may build on an earlier one.
    """
    (tmp_path / "one.py").write_text(
        "import bnas_jax\nbnas_jax.SCHEMES['one'] = bnas_jax.Xnor\n"
    )
    (tmp_path / "two.py").write_text(
        "import bnas_jax\nbnas_jax.SCHEMES['two'] = bnas_jax.SCHEMES['one']\n"
    )
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    sizes = ["--config.network.num_cells=1", "--config.network.channels=2"]
    cost = [
        "cost",
        "--config=configs/train.py:digits",
        *sizes,
        "--config.scheme.name=two",
    ]
    for options in (
        [f"--extensions={one},{two}"],
        [f"--extensions={one}", "--extensions", str(two)],
    ):
        bnas.SCHEMES.pop("one", None)
        assert run([*cost, *options]) == 0
    bnas.SCHEMES.pop("one")
    assert "KeyError: 'one'" in error(capfd, *cost, f"--extensions={two}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            "mine.py cannot be read (No such file or directory); write "
            "--extensions=FILE.py",
        ),
        (
            "import bnas_jax\n\nbnas.LAYERS\n",
            "mine.py, line 3: NameError: name 'bnas' is not defined",
        ),
        ("def broken(:\n", "mine.py, line 1: SyntaxError: invalid syntax"),
        (
            "import no_such_library\n",
            "mine.py, line 1: ModuleNotFoundError: No module named 'no_such_library'",
        ),
        (
            "import bnas_jax as bnas\nclass Mine(bnas.Scheme):\n    gain: float = 1.0\n"
            "bnas.SCHEMES['mine'] = Mine\n",
            "Mine lacks @dataclasses.dataclass(frozen=True) above it, which makes "
            "settings of gain",
        ),
        # Another default of a setting of the base, which would be ignored.
        (
            "import bnas_jax as bnas\nclass Mine(bnas.Xnor):\n"
            "    sign_of_zero: int = 0\nbnas.SCHEMES['mine'] = Mine\n",
            "Mine lacks @dataclasses.dataclass(frozen=True) above it, which makes "
            "settings of sign_of_zero",
        ),
        (
            "import bnas_jax as bnas\nbnas.SEARCHERS['mine'] = bnas.Bnas()\n",
            "the entry 'mine' must be a subclass of bnas_jax.Searcher, got Bnas(",
        ),
        # Names of an earlier version: that of a scheme was ignored in silence.
        (
            "import bnas_jax as bnas\nclass Mine(bnas.Xnor):\n    joins = False\n"
            "bnas.SCHEMES['mine'] = Mine\n",
            "Mine.joins is now batches_edges; rename it",
        ),
        (
            "import bnas_jax as bnas\nclass Mine:\n    joins = None\n"
            "bnas.LAYERS['mine'] = Mine()\n",
            "Mine.joins is now batching; rename it",
        ),
        # Methods that are called with other arguments.
        (
            "import bnas_jax as bnas\nclass Mine(bnas.Xnor):\n"
            "    def cost(self, row): return row\nbnas.SCHEMES['mine'] = Mine\n",
            "Mine.cost takes other arguments than a scheme's; write cost(self, row, "
            "module)",
        ),
        (
            "import bnas_jax as bnas\nclass Base(bnas.Xnor):\n"
            "    def input_scale(self, x, size, geometry): return None\n"
            "class Mine(Base): pass\nbnas.SCHEMES['mine'] = Mine\n",
            "Base.input_scale takes other arguments than a scheme's; write "
            "input_scale(self, x, kernel, geometry)",
        ),
    ],
)
def test_an_extension_that_cannot_be_loaded_is_named_with_its_line(
    tmp_path, capfd, text, message
):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    cost = [
        "cost",
        "--config=configs/train.py:digits",
        f"--extensions={tmp_path / 'mine.py'}",
    ]
    said = error(capfd, *cost)
    for table in (bnas.SCHEMES, bnas.SEARCHERS, bnas.LAYERS):
        table.pop("mine", None)
    assert message in said


def test_an_entry_may_have_the_names_of_two_versions(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Mine(bnas.Xnor):
        joins = batches_edges = False

    monkeypatch.setitem(bnas.SCHEMES, "mine", Mine)
    entries.check()


def test_methods_of_a_scheme_may_name_and_add_arguments(monkeypatch):
    class Mine(bnas.Xnor):
        cost = staticmethod(lambda row, module: row)

        def signs(self, values, *, window=1.0):
            return super().signs(values)

        def input_scale(self, *_, **sizes):
            return None

        def after(self, sums, gain):
            return sums * gain

    monkeypatch.setitem(bnas.SCHEMES, "mine", Mine)
    entries.check()


def test_a_scheme_is_checked_also_where_no_table_has_it():
    class Mine(bnas.Xnor):
        def cost(self, row):
            return row

    with pytest.raises(UserError, match=r"^Mine\.cost takes other arguments"):
        bnas.Supernet(num_cells=3, channels=2, num_classes=2, scheme=Mine())


def test_an_entry_may_annotate_what_is_no_setting(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Mine(bnas.Xnor):
        _: dataclasses.KW_ONLY
        gain: float = 1.0

    monkeypatch.setitem(bnas.SCHEMES, "mine", Mine)
    entries.check()
    assert "gain" in entries.settings_of(Mine)


def test_what_a_network_of_ones_own_lacks_is_said(capfd):
    said = error(capfd, "cost", EXTENSION, *CHAIN, "--config.optimizer.drop_path=0.2")
    assert "config.optimizer.drop_path is of networks of cells; write 0" in said
    with pytest.raises(
        UserError, match=r"^NetworkSettings lacks a method: write build"
    ):
        bnas.NetworkSettings().build(
            num_classes=10, scheme=bnas.Xnor(), arithmetic=bnas.Arithmetic()
        )


# docs/extending.md


@pytest.fixture(scope="module")
def page() -> dict:
    """What the blocks of the page define, by name."""
    names = {"__name__": "extending"}
    for block in blocks(ROOT / "docs" / "extending.md"):
        if block.language == "python":
            exec(compile(block.text, "extending.md", "exec"), names)
    return names


def test_the_estimator_of_the_page_becomes_sharper_from_step_to_step(page):
    """Its count is kept beside the running statistics."""
    conv = BinaryConv(
        features=2,
        kernel=1,
        scheme=page["IrNet"](steps=2),
        arithmetic=bnas.Arithmetic(),
    )
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))

    @jax.jit
    def step(params, stats):
        """(the sum of |gradient| of the latent weights, the next statistics)."""

        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            y, new = conv.apply(variables, x, train=True, mutable=["batch_stats"])
            return jnp.sum(y), new["batch_stats"]

        gradient, stats = jax.grad(loss, has_aux=True)(params)
        return jnp.abs(gradient["conv"]["latent"]).sum(), stats

    first = jax.jit(lambda key: conv.init(key, x, train=False))(jax.random.key(1))
    params, stats = first["params"], first["batch_stats"]
    assert stats["conv"]["steps"] == 0
    soft, stats = step(params, stats)  # t = 0.3
    sharp, stats = step(params, stats)  # t = 10
    assert stats["conv"]["steps"] == 2 and sharp > 2 * soft

    # The slope at 0 and at 1, in the end.
    at = jnp.array([0.0, 1.0])
    _, slope = jax.vjp(page["estimator"], at, jnp.float32(10))
    assert np.allclose(slope(jnp.ones(2))[0], [10, 0], atol=1e-3)


def test_the_sigmoids_of_the_page_are_driven_apart_and_derived_from(page):
    searcher = page["Sigmoids"]()
    alphas = {name: jnp.zeros((14, 7)) for name in ("normal", "reduce")}
    # In a softmax over its row the first would be the stronger one.
    alphas["normal"] = alphas["normal"].at[-1].set(3.0).at[-2, 1].set(2.0)
    last = searcher.derive(alphas).normal[-1]
    assert [source for _, source in last] == [4, 3]
    terms = [searcher.regularizer(alphas, Progress(epoch, 2)) for epoch in (0, 1)]
    assert terms[1] == pytest.approx(2 * terms[0]) and terms[0] < 0


def test_the_evolution_of_the_page_changes_one_layer_of_the_best_of_its_sample(page):
    searcher = page["Evolution"](population=3, sample=3)
    key = jax.random.key(0)
    cells = [searcher.init(jax.random.fold_in(key, number)) for number in range(4)]
    tried = [
        Tried(jax.tree.map(np.asarray, cell), top1)
        for cell, top1 in zip(cells, (90.0, 20.0, 40.0, 30.0), strict=True)
    ]

    drawn = searcher.restart(key, tried[:2])
    assert searcher.derive(drawn) == searcher.derive(searcher.init(key))

    # The best of all has died.
    child, again = (searcher.restart(key, tried) for _ in range(2))
    parent = tried[2].alphas
    changed = [np.any(child[name] != parent[name], axis=1) for name in parent]
    assert sum(rows.sum() for rows in changed) == 1
    assert all(np.array_equal(child[name], again[name]) for name in child)
    searcher.derive(child)


def test_the_losses_of_the_page_are_those_of_their_papers(page):
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    labels = jnp.array([0, 1, 2, 1])
    plain = cross_entropy(logits, labels)
    step = bnas.TrainStep(
        page["Chain"](
            widths=(2,),
            num_classes=3,
            scheme=bnas.Xnor(),
            arithmetic=bnas.Arithmetic(),
        ),
        bnas.latent_sgd(0.1),
        loss=LOSSES["focal"],
    )
    batch = {"image": jnp.arange(4.0).reshape(4, 1, 1, 1), "label": labels}
    expected = (1 - jnp.exp(-plain)) ** 2 * plain
    assert np.allclose(step._losses(logits, batch), expected, rtol=1e-5)

    mixed = page["mixed"](batch, jax.random.key(0), 3)
    share = float(mixed["targets"][0, 0])
    assert mixed["targets"][0].tolist() == pytest.approx([share, 1 - share, 0])
    assert float(mixed["image"][0].sum()) == pytest.approx((1 - share) * 3)
    targets = mixed["targets"] * jax.nn.log_softmax(logits)
    assert np.allclose(step._losses(logits, mixed), -targets.sum(-1), rtol=1e-5)
