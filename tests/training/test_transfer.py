"""Beginning with the weights of another scheme: a float network's for a binary one, and
back.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from small_runs import arguments
from work_directories import arrays

from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes.xnor import center_and_clip
from bnas_jax.training import build, build_optimizers, fine_tune, transfer
from bnas_jax.training.fine_tune import Init
from bnas_jax.training.state import initial_variables, train_state_of
from bnas_jax.training.workdir import WorkDir

# ml_collections loads a config's file so.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
)

BN = {"bn": {"scale": (4,), "bias": (4,)}}
STATISTICS = {"bn": {"mean": (4,), "var": (4,)}}
TWO_STATISTICS = {"bn": STATISTICS["bn"], "bn2": STATISTICS["bn"]}


def variables(params: dict, statistics: dict | None = None) -> dict:
    """{"params", "batch_stats"} of arrays of those shapes."""
    is_shape = lambda leaf: isinstance(leaf, tuple)
    made = {
        "params": {**BN, **params},
        "batch_stats": STATISTICS if statistics is None else statistics,
    }
    return jax.tree.map(np.zeros, made, is_leaf=is_shape)


FLOAT = {
    "conv": {"kernel": (3, 3, 4, 8)},
    "classifier": {"kernel": (8, 3), "bias": (3,)},
}


def planned(ours: dict, theirs: dict, **options) -> transfer.Transfer:
    return transfer.plan(
        ours, theirs, **{"new_heads": False, "source": "runs/float", **options}
    )


@pytest.mark.parametrize(
    ("mine", "yours"), [("latent", "kernel"), ("kernel", "latent")]
)
def test_kernels_and_latent_weights_are_of_one_another_and_own_parameters_begin_anew(
    mine, yours
):
    conv = {mine: (3, 3, 4, 8), "gamma": (8,), "prelu": {"slope": (8,)}, "bias": (8,)}
    ours = variables({**FLOAT, "conv": conv})
    theirs = variables({**FLOAT, "conv": {yours: (3, 3, 4, 8), "shift": (4,)}})
    found = planned(ours, theirs)
    assert found.taken["params", "conv", mine] == ("params", "conv", yours)
    assert found.summary() == {
        "renamed": {mine: 1},
        "initialised": {
            "gamma": 1,
            "slope": 1,
            "bias": 1,
        },  # that bias is no batch norm's
        "left_out": {"shift": 1},
    }
    kept = [path for path in found.taken if path == found.taken[path]]
    assert len(kept) == 6  # BN, its statistics, the classifier


def test_a_batch_norm_in_another_place_begins_anew():
    """As the float ResNet's, which is behind its convolution: only the weights must be
    there.
    """
    ours = variables({**FLOAT, "bn2": BN["bn"]}, TWO_STATISTICS)
    assert planned(ours, variables(FLOAT)).summary()["initialised"] == {
        "bias": 1,
        "scale": 1,
        "mean": 1,
        "var": 1,
    }


def test_a_head_for_other_classes_stays_out():
    ours = variables({**FLOAT, "classifier": {"kernel": (8, 5), "bias": (5,)}})
    found = planned(ours, variables(FLOAT), new_heads=True)
    assert not found.initialised and not any(
        "classifier" in path for path in found.taken
    )
    with pytest.raises(
        UserError,
        match=r"params/classifier/bias in another shape: \(3,\) there, \(5,\) for",
    ):
        planned(ours, variables(FLOAT))


@pytest.mark.parametrize(
    ("params", "statistics", "message"),
    [
        (
            {"conv": {"latent": (8, 4, 4, 3, 3)}},
            None,
            r"has params/conv/kernel in another shape: \(3, 3, 4, 8\) there, \(8,",
        ),
        (
            {"conv": FLOAT["conv"], "more": {"latent": (1, 1, 2, 2)}},
            None,
            r"lacks params/more/latent, \(1, 1, 2, 2\) here",
        ),
        (
            {"bn": {"scale": (8,), "bias": (8,)}, "conv": FLOAT["conv"]},
            None,
            r"has params/bn/bias in another shape: \(4,\) there",
        ),
    ],
)
def test_what_is_of_the_network_and_not_there_is_refused_by_name(
    params, statistics, message
):
    with pytest.raises(UserError, match=rf"--init=runs/float {message}") as caught:
        planned(variables(params, statistics), variables(FLOAT))
    assert "\n" not in str(caught.value) and "leave --init out" in str(caught.value)


FLOAT_SCHEME = "--config.scheme.name=float"


@pytest.fixture(scope="module")
def float_run(tmp_path_factory, cell) -> pathlib.Path:
    """The work directory of a float network's training."""
    workdir = tmp_path_factory.mktemp("float") / "run"
    assert (
        command(
            [*arguments("train", workdir, cell), FLOAT_SCHEME, "--config.num_epochs=1"]
        )
        == 0
    )
    return workdir


def last(workdir: pathlib.Path) -> dict:
    """The variables of the newest checkpoint."""
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    return arrays(workdir, step)["variables"]


def test_a_binary_network_begins_with_its_float_twin_and_a_float_one_with_it(
    float_run, cell, tmp_path, capfd
):
    """From the command line to the end, and what was done in one line."""
    binary = [*arguments("train", tmp_path / "binary", cell), "--config.num_epochs=1"]
    assert command([*binary, f"--init={float_run}"]) == 0
    out, err = capfd.readouterr()
    origin = json.loads(out.splitlines()[-1])["init"]
    assert origin["scheme"].pop("renamed") == {"latent": 3}
    assert origin["scheme"] == {
        "from": "float",
        "to": "xnor",
        "projected": True,
        "initialised": {},
        "left_out": {},
    }
    words = (
        "trained as float and xnor from here on; 3 kernels are latent weights, "
        "projected; the classifier is kept"
    )
    assert words in err and words in (tmp_path / "binary" / "log.txt").read_text()

    back = [
        *arguments("train", tmp_path / "back", cell),
        "--config.num_epochs=1",
        FLOAT_SCHEME,
    ]
    assert command([*back, f"--init={tmp_path / 'binary'}"]) == 0
    assert (
        "trained as xnor and float from here on; 3 latent weights are kernels; the"
        in capfd.readouterr().err
    )


def test_the_weights_are_those_of_the_twin_projected_and_all_else_down_to_the_bit(
    float_run, cell, tmp_path
):
    theirs = json.loads((float_run / "config.json").read_text())
    run = settings.from_config(
        {**theirs, "scheme": {"name": "xnor", "activation": "prelu"}}
    )
    facts = {"num_classes": 10, "image_shape": [8, 8, 1]}
    origin = fine_tune.origin(WorkDir(tmp_path), Init(str(float_run)), run, facts)
    assert list(origin["scheme"]["initialised"]) == ["slope"]
    network, optimizer = (
        build.network(run, 10),
        build_optimizers.training_optimizer(run, 1),
    )
    create = lambda: train_state_of(
        initial_variables(network, (8, 8, 1), 0), optimizer, run.num_epochs
    )
    state = jax.tree.map(
        lambda s: jnp.full(s.shape, 7, s.dtype), jax.eval_shape(create)
    )
    begun = fine_tune.begin(state, origin, run, (8, 8, 1))
    there = flatten_dict(last(float_run))
    names = []
    for path, leaf in flatten_dict(
        {"params": begun.params, "batch_stats": begun.batch_stats}
    ).items():
        names.append(path[-1])
        if path[-1] == "slope":
            assert np.all(leaf == 7)
        elif path[-1] == "latent":
            assert np.allclose(
                leaf, center_and_clip(there[*path[:-1], "kernel"]), atol=1e-7
            )
        else:
            assert np.array_equal(leaf, there[path])
    assert {"slope", "latent", "kernel", "mean"} <= set(names)
    assert int(begun.step) == 7 and np.all(jax.tree.leaves(begun.opt_state)[-1] == 7)


def test_a_scheme_of_the_same_name_has_the_same_settings(
    float_run, cell, tmp_path, capfd
):
    given = [
        *arguments("train", tmp_path / "run", cell),
        FLOAT_SCHEME,
        "--config.scheme.sign_of_zero=0",
    ]
    assert command([*given, f"--init={float_run}"]) == 2
    assert (
        "another network: config.scheme.sign_of_zero is 0 now and 1 there"
        in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            {"name": "float"},
            {"name": "float", "activation": "clip"},
            "as float (activation relu) and float (activation clip) ",
        ),
        (
            {"name": "reactnet", "stage": "activations"},
            {"name": "reactnet"},
            "trained as reactnet (stage activations) and reactnet (stage all) from "
            "here on; 3 kernels are latent weights;",
        ),
        (
            {"name": "float"},
            {"name": "pcnn"},
            "3 kernels are latent weights; as initialised: planes (3); the classifier",
        ),
        ({"name": "float"}, {"name": "abc_net"}, "as initialised: "),
        (
            {"name": "xnor_pp"},
            {"name": "xnor"},
            "; left out: alpha (3), beta (3), gamma (3); the classifier is kept",
        ),
    ],
)
def test_stages_of_one_scheme_and_other_schemes_follow_each_other_and_it_is_said_how(
    float_run, tmp_path, before, after, line
):
    """Whatever its config says, a work directory is asked for shapes alone here."""
    config = json.loads((float_run / "config.json").read_text())
    source = shutil.copytree(
        float_run, tmp_path / "source", ignore=shutil.ignore_patterns("tensorboard")
    )
    (source / "config.json").write_text(json.dumps({**config, "scheme": before}))
    facts = {"num_classes": 10, "image_shape": [8, 8, 1]}
    run = settings.from_config({**config, "scheme": after})
    origin = fine_tune.origin(WorkDir(tmp_path / "new"), Init(str(source)), run, facts)
    assert line in fine_tune.describe(origin)
    assert json.loads(json.dumps(origin)) == origin


RESNET = {"name": "resnet18", "width": 4, "blocks": (1, 1)}


@pytest.mark.parametrize(
    ("network", "scheme", "line"),
    [
        (
            RESNET,
            "xnor",
            "; 4 kernels are latent weights, projected; as initialised: bias (4), "
            "scale (4), mean (4), var (4);",
        ),
        (
            {**RESNET, "block": "bireal"},
            "bireal",
            "; 4 kernels are latent weights; the classifier is kept",
        ),
        (
            {**RESNET, "name": "senet18", "gate": 2},
            "xnor",
            "; 4 kernels are latent weights, projected; the classifier is kept",
        ),
    ],
    ids=["resnet18", "bireal", "senet18"],
)
def test_a_hand_crafted_network_begins_with_its_float_twin(
    float_run, tmp_path, network, scheme, line
):
    """The float ResNet has its batch norms behind its convolutions, XNOR-Net's in
    front: they begin anew.
    """
    config = {**json.loads((float_run / "config.json").read_text()), "network": network}
    source = shutil.copytree(
        float_run, tmp_path / "source", ignore=shutil.ignore_patterns("tensorboard")
    )
    (source / "config.json").write_text(json.dumps(config))
    run = settings.from_config({**config, "scheme": {"name": scheme}})
    facts = {"num_classes": 10, "image_shape": [8, 8, 1]}
    described = fine_tune.describe(
        fine_tune.origin(WorkDir(tmp_path / "new"), Init(str(source)), run, facts)
    )
    if network == RESNET:
        described = described.partition("; left out")[0] + ";"
    assert line in described


def test_weights_of_another_form_are_refused_by_name(float_run, tmp_path):
    """CBCN keeps a quarter of a kernel."""
    config = json.loads((float_run / "config.json").read_text())
    run = settings.from_config(
        {
            **config,
            "scheme": {"name": "cbcn"},
            "network": {**config["network"], "channels": 4},
        }
    )
    source = shutil.copytree(
        float_run, tmp_path / "source", ignore=shutil.ignore_patterns("tensorboard")
    )
    written = {**config, "network": {**config["network"], "channels": 4}}
    (source / "config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="/conv/kernel in another shape: "):
        fine_tune.origin(
            WorkDir(tmp_path / "new"),
            Init(str(source)),
            run,
            {"num_classes": 10, "image_shape": [8, 8, 1]},
        )


def test_a_checkpoint_without_the_parameters_of_its_scheme_is_refused_by_name(
    float_run, tmp_path, capfd
):
    """Before anything is compiled: evaluation reads what the files say is there."""
    other = shutil.copytree(
        float_run, tmp_path / "other", ignore=shutil.ignore_patterns("tensorboard")
    )
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "scheme": {"name": "xnor"}})
    )
    assert command(["evaluate", f"--workdir={other}"]) == 2
    (line,) = capfd.readouterr().err.splitlines()[-1:]
    assert "is of another network or optimizer: params/cell0/" in line
    assert (
        "/latent is missing there and an array (" in line
        and "take the settings it was saved with" in line
    )
