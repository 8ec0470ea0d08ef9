"""The final network: its shapes, its parts, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bnas_jax.core import genotype, genotypes
from bnas_jax.core import network as networks
from bnas_jax.core.arithmetic import Arithmetic, plain_form
from bnas_jax.core.cell import FinalCell, num_convs, num_layers
from bnas_jax.core.cell_parts import (
    REDUCTION_SKIPS,
    InterCellSkip,
    Preprocess,
    ReductionSkip,
    drop_path,
)
from bnas_jax.core.conventions import CONVENTIONS, conventions
from bnas_jax.core.cost import cost
from bnas_jax.core.errors import UserError
from bnas_jax.core.forms import FORMS
from bnas_jax.core.network import Network
from bnas_jax.core.networks import Cells
from bnas_jax.core.ops.conv import conv
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Float, Xnor
from bnas_jax.core.schemes.xnor import beta, mean_magnitude
from bnas_jax.core.stack import Place
from bnas_jax.core.supernet import Supernet
from bnas_jax.networks import NETWORKS

ZEROISED = genotypes.load("latest_cell_zeroise")
WITHOUT = genotypes.load("latest_cell")


pytestmark = pytest.mark.usefixtures("quick_compilation")


def network(cell, num_cells, *, channels=4, num_classes=7, **options):
    return Network(
        genotype=cell,
        num_cells=num_cells,
        channels=channels,
        num_classes=num_classes,
        **options,
    )


def shapes_of(model, shape):
    """The shapes of a network's logits for such images, and of its variables."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    logits, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
    )
    return logits, traverse_util.flatten_dict(variables)


def variables_of(model, shape):
    """The shapes of a network's variables."""
    _, variables = shapes_of(plain_form(model), shape)
    return variables


@pytest.mark.parametrize(
    ("form", "shape", "num_cells"),
    [
        pytest.param("cifar", (2, 32, 32, 3), 5, marks=pytest.mark.long),
        pytest.param("cifar", (2, 8, 8, 1), 5, marks=pytest.mark.long),
        pytest.param("cifar", (2, 28, 28, 1), 4, marks=pytest.mark.long),
        pytest.param("cifar", (2, 16, 8, 4), 3, marks=pytest.mark.long),
        pytest.param("cifar", (2, 8, 8, 3), 2, marks=pytest.mark.long),
        ("cifar", (2, 2, 2, 3), 1),
        pytest.param("imagenet", (2, 224, 224, 3), 5, marks=pytest.mark.long),
        pytest.param("imagenet", (2, 64, 96, 1), 4, marks=pytest.mark.long),
        ("imagenet", (2, 30, 30, 3), 3),
    ],
)
def test_any_image_size_and_channel_count_the_strides_allow(form, shape, num_cells):
    logits, variables = shapes_of(network(WITHOUT, num_cells, form=form), shape)
    assert logits.shape == (2, 7)
    assert logits.dtype == jnp.float32
    first = variables[
        "params", "stem", "conv" if form == "cifar" else "conv0", "kernel"
    ]
    assert first.shape == (3, 3, shape[-1], 12 if form == "cifar" else 2)


@pytest.mark.parametrize(
    ("form", "shape", "num_cells", "expected"),
    [
        (
            "cifar", (1, 7, 8, 1), 5,
            "images of 7 pixels at the first cell cannot be halved by 2 reduction "
            "cells",
        ),
        ("cifar", (1, 8, 30, 1), 5, "images of 30 pixels .* for instance 28"),
        ("cifar", (1, 2, 2, 1), 5, "images of 2 pixels .* for instance 4"),
        (
            "cifar", (1, 9, 9, 3), 1,
            "cannot be halved by 1 reduction cells; use a multiple of 2",
        ),
        ("imagenet", (1, 72, 72, 3), 6, "images of 9 pixels .* for instance 64, or"),
    ],
)  # fmt: skip
def test_images_that_the_reductions_cannot_halve_are_refused(
    form, shape, num_cells, expected
):
    with pytest.raises(UserError, match=expected) as caught:
        variables_of(network(WITHOUT, num_cells, form=form), shape)
    assert "\n" not in str(caught.value)


def settings(**changes):
    return Cells(**{"genotype": WITHOUT, "num_cells": 5, "channels": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"form": "mnist"},
            "network.form must be one of cifar, imagenet, darts, snas, gdas, got "
            "'mnist'",
        ),
        (
            {"genotype": genotypes.load("gdas_f1"), "channels": 6},
            "8 groups, which do not divide its 12 channels; write a multiple of 4 for "
            "config.network.channels",
        ),
        ({"channels": 0}, "network.channels must be at least 1, got 0"),
        ({"num_cells": 0}, "network.num_cells must be at least 1, got 0"),
        (
            {"form": "imagenet", "channels": 5},
            "config.network.channels must be a multiple of 2 in the form imagenet, got "
            "5",
        ),
        (
            {"reduction_skip": "none"},
            "reduction_skip must be one of float, binary_weight, binary, binary_bn, "
            "got 'none'",
        ),
    ],
)
def test_sizes_that_no_network_has_are_refused(changes, expected):
    with pytest.raises(UserError, match=expected) as caught:
        settings(**changes)
    assert "\n" not in str(caught.value)


def test_the_entry_builds_the_network_of_its_settings():
    assert NETWORKS["cells"] is Cells
    changes = {
        "form": "imagenet",
        "skip": False,
        "reduction_skip": "float",
        "float_head": True,
    }
    built = settings(**changes).build(
        num_classes=7, scheme=Xnor(sign_of_zero=0), arithmetic=Arithmetic(bn_axis="d")
    )
    expected = network(
        WITHOUT,
        5,
        scheme=Xnor(sign_of_zero=0),
        arithmetic=Arithmetic(bn_axis="d"),
        **changes,
    )
    assert built == expected


def test_the_name_of_a_genotype_is_not_taken_for_one():
    with pytest.raises(
        UserError, match=r"got 'latest_cell'; bnas_jax\.load_genotype reads"
    ):
        network("latest_cell", 5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_cells": 0}, "num_cells must be a whole number, at least 1, got 0"),
        ({"channels": 2.5}, "channels must be a whole number, at least 1, got 2.5"),
        ({"num_classes": "7"}, "num_classes must be a whole number, .* got '7'"),
        ({"scheme": "xnor"}, r"scheme must be an object such as Xnor\(\), got 'xnor'"),
        ({"arithmetic": jnp.bfloat16}, r"such as Arithmetic\(.*\), got <class"),
    ],
)
def test_fields_that_no_network_has_are_refused_in_a_sentence(changes, expected):
    sizes = {"num_cells": 3, "channels": 4, "num_classes": 7} | changes
    for make in (functools.partial(Network, WITHOUT), Supernet):
        with pytest.raises(UserError, match=expected) as caught:
            make(**sizes)
        assert "\n" not in str(caught.value)
    assert network(WITHOUT, np.int64(3)).num_cells == 3


def test_types_that_are_not_of_floats_are_no_arithmetic():
    for wrong in (
        {"dtype": jnp.int32},
        {"dtype": None},
        {"conv_dtype": "int8"},
        {"activations": "half a float"},
    ):
        with pytest.raises(UserError, match="must be a type of floats such as"):
            Arithmetic(**wrong)
    with pytest.raises(UserError, match="bn_examples must be a whole number, at least"):
        Arithmetic(bn_examples=0)
    Arithmetic(dtype="float32", conv_dtype=jnp.bfloat16, activations=np.float16)


def test_a_cell_with_a_layer_type_that_is_none_is_refused():
    unknown = genotype.Genotype((("conv_9x9", 0), ("none", 1)) * 4, WITHOUT.reduce)
    with pytest.raises(
        UserError, match="layer type 'conv_9x9' has no layer in this version"
    ) as caught:
        variables_of(network(unknown, 3), (1, 8, 8, 3))
    assert "\n" not in str(caught.value)


NAMED = (*(name for name in genotypes.named() if not name.startswith("latest")),)
# Of each kind one is for every day.
LONG_NAMED = ("gdas_v1", "snas_moderate", "snas_aggressive", "darts_v1")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.long) if n in LONG_NAMED else n for n in NAMED],
)
def test_the_cells_of_other_searches_are_networks(name):
    """Binary, with the skips between cells."""
    net = network(genotypes.load(name), 3, channels=4, form="darts")
    variables = variables_of(net, (1, 8, 8, 3))
    assert conv_leaves(variables) == {"latent", "kernel"}  # the stem's stays
    assert skips(variables)


def test_the_cells_of_other_searches_are_networks_without_skips():
    net = network(
        genotypes.load("snas_moderate"), 3, channels=4, form="darts", skip=False
    )
    variables = variables_of(net, (1, 8, 8, 3))
    assert conv_leaves(variables) == {"latent", "kernel"}
    assert not skips(variables)


@pytest.mark.parametrize(
    ("order", "name", "skip"),
    [
        ("relu_first", "gdas_f1", False),
        ("relu_first", "snas_moderate", True),
        ("bn_first", "gdas_f1", True),
        ("bn_first", "snas_moderate", False),
    ],
)
def test_the_cells_of_other_searches_are_float_networks(order, name, skip):
    """Of two cells that together have pooling, identities, separable and dilated
    convolutions and GDAS's fixed reduction.
    """
    cells = genotypes.load(name)
    net = network(
        cells, 3, channels=4, form="darts", skip=skip, scheme=Float(order=order)
    )
    variables = variables_of(net, (1, 8, 8, 3))
    assert conv_leaves(variables) == {"kernel"}
    assert bool(skips(variables)) == skip


def conv_leaves(variables):
    """The last names of the parameters of convolutions."""
    return {path[-1] for path in variables if path[0] == "params" and "conv" in path}


def test_forms_differ_beside_the_cells():
    mild = genotypes.load("snas_mild")
    of_form = {
        form: variables_of(network(mild, 3, form=form), (1, 8, 8, 3))
        for form in ("cifar", "darts", "snas", "gdas")
    }
    assert {
        form: ("params", "last_bn", "scale") in found for form, found in of_form.items()
    } == {"cifar": False, "darts": False, "snas": False, "gdas": True}
    # Cell 2 follows a reduction, and reduces: its first layer is a pooling.
    resize = {
        form: sorted(
            {
                path[4]
                for path in found
                if path[1:4] == ("cell2", "preprocess", "input0")
            }
        )
        for form, found in of_form.items()
    }
    assert resize["cifar"] == ["bn", "conv"] and resize["darts"] == resize["snas"] == [
        "bn",
        "conv0",
        "conv1",
    ]
    pools = {
        form: ("params", "cell2", "layer0", "bn", "scale") in found
        for form, found in of_form.items()
    }
    assert pools == {"cifar": False, "darts": False, "snas": True, "gdas": False}


@pytest.fixture(scope="module")
def with_auxiliary():
    """A network with an auxiliary head, its variables and images of 32x32."""
    model = network(WITHOUT, 3, channels=2, num_classes=5, auxiliary=True)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    return model, random_like(jax.eval_shape(model.init, jax.random.key(0), x)), x


def test_the_auxiliary_head_is_of_use_in_training_alone(with_auxiliary):
    model, variables, x = with_auxiliary
    assert set(variables) == {"params", "batch_stats"}
    run = lambda train: jax.eval_shape(
        lambda: model.apply(
            variables, x, train=train, mutable=["batch_stats", "auxiliary"]
        )
    )
    _, trained = run(True)
    assert trained["auxiliary"]["logits"][0].shape == (2, 5)
    assert "auxiliary" not in run(False)[1]
    plain = model.clone(auxiliary=False)
    assert (
        cost(model, image_shape=(32, 32, 3)).rows
        == cost(plain, image_shape=(32, 32, 3)).rows
    )


def test_an_auxiliary_head_on_features_of_another_size_is_refused(with_auxiliary):
    with pytest.raises(
        UserError,
        match="takes 8x8 features, which images of 32x32 pixels give; it gets 2x2",
    ) as caught:
        variables_of(with_auxiliary[0], (1, 8, 8, 3))
    assert "\n" not in str(caught.value)


def test_the_fixed_reduction_keeps_its_convolutions_binary_and_is_dropped_in_parts():
    net = network(genotypes.load("gdas_f1"), 3, channels=4, form="darts")
    variables = variables_of(net, (1, 8, 8, 3))
    kernels = [
        path[-1]
        for path in variables
        if path[:2] == ("params", "cell1") and path[2][:7] in ("crossed", "pointwi")
    ]
    assert kernels.count("latent") == 6 and "kernel" not in kernels
    with pytest.raises(UserError, match=r"write config\.network\.float_head=False"):
        networks.float_convs(net.clone(float_head=True))
    assert num_layers("gdas_fixed") == 4


@pytest.mark.long
def test_an_identity_is_not_dropped():
    """As in DARTS's code; a factorized reduce is."""
    skip = ("skip_connect", 0)
    net = network(
        genotype.Genotype((skip,) * 8, (skip,) * 8),
        3,
        channels=2,
        num_classes=5,
        form="darts",
        skip=False,
    )
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    cell = FinalCell(
        cell=net.genotype.normal,
        place=net.places[0],
        form=FORMS["darts"],
        scheme=Xnor(),
        arithmetic=Arithmetic(),
    )
    reduction = cell.clone(place=net.places[1], skip=False)
    for module, dropped in ((cell, False), (reduction, True)):
        variables = random_like(
            jax.eval_shape(
                lambda m=module: m.init(jax.random.key(0), x, x, train=False)
            )
        )
        whole, without = (
            jax.jit(functools.partial(module.apply, train=False))(
                variables, x, x, factors=factors
            )
            for factors in (None, jnp.zeros((8, 2)))
        )
        assert (
            np.std(whole) > 0
            and (not np.any(without)) == dropped
            and np.array_equal(whole, without) != dropped
        )


def test_channels_double_at_reductions():
    variables = variables_of(network(WITHOUT, 6), (1, 8, 8, 3))
    preprocessing = [
        variables["params", f"cell{i}", "preprocess", "input1", "conv", "latent"]
        for i in range(6)
    ]
    assert [kernel.shape[-1] for kernel in preprocessing] == [4, 4, 8, 8, 16, 16]
    assert variables["params", "classifier", "kernel"].shape == (4 * 16, 7)


def skips(variables):
    return {path[1] for path in variables if path[2:3] == ("skip",)}


@pytest.mark.parametrize(
    "form", [pytest.param("cifar", marks=pytest.mark.long), "imagenet"]
)
def test_skips_can_be_left_out(form):
    shape = (1, 64, 64, 3) if form == "imagenet" else (1, 8, 8, 3)
    assert skips(variables_of(network(WITHOUT, 6, form=form), shape)) == {
        "cell2",
        "cell4",
    }
    assert not skips(variables_of(network(WITHOUT, 6, form=form, skip=False), shape))


def test_the_first_cell_has_no_skip():
    assert not skips(variables_of(network(WITHOUT, 1), (1, 8, 8, 3)))


def skip_of(*, reduction: bool):
    return InterCellSkip(
        reduction=reduction, kind="binary_bn", scheme=Xnor(), arithmetic=Arithmetic()
    )


def test_a_normal_skip_adds_the_previous_output():
    output, previous = (
        np.ones((1, 2, 2, 3), np.float32),
        np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3),
    )
    assert np.array_equal(
        skip_of(reduction=False).apply({}, output, previous, train=True),
        output + previous,
    )


def random_like(variables, seed=0):
    """Variables of the same shapes, none as at the start; variances are positive."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(variables)
    return jax.tree.unflatten(
        structure,
        [rng.uniform(0.2, 0.8, leaf.shape).astype(np.float32) for leaf in leaves],
    )


SKIP_PARAMETERS = {
    "float": {"bn/scale", "bn/bias", "conv/kernel", "conv/bias"},
    "binary_weight": {"bn/scale", "bn/bias", "conv/latent", "conv/bias"},
    "binary": {"bn/scale", "bn/bias", "conv/latent"},
    "binary_bn": {
        "bn/scale",
        "bn/bias",
        "conv/latent",
        "bn_after/scale",
        "bn_after/bias",
    },
}


def normalised(x, params, statistics):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * params[
        "scale"
    ] + params["bias"]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", REDUCTION_SKIPS)
def test_the_skip_across_a_reduction(kind, scaled):
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    scheme = Xnor(activation_scale=scaled)
    skip = ReductionSkip(kind=kind, features=5, scheme=scheme, arithmetic=Arithmetic())
    variables = random_like(
        jax.eval_shape(lambda x: skip.init(jax.random.key(0), x, train=False), x)
    )
    assert (
        set(traverse_util.flatten_dict(variables["params"], sep="/"))
        == SKIP_PARAMETERS[kind]
    )
    params, statistics = variables["params"], variables["batch_stats"]
    if "latent" in params["conv"]:
        params["conv"]["latent"] -= 0.5
    y = jax.jit(functools.partial(skip.apply, train=False))(variables, x)
    assert y.shape == (2, 2, 2, 5)

    z, geometry = (
        normalised(x, params["bn"], statistics["bn"]),
        square(2, stride=2, padding=0),
    )
    kernel = params["conv"].get("kernel")
    if kernel is None:
        kernel = np.sign(params["conv"]["latent"]) * np.asarray(
            beta(params["conv"]["latent"])
        )
    if kind in ("float", "binary_weight"):
        expected = conv(z, kernel, geometry) + params["conv"]["bias"]
    else:
        expected = conv(np.where(z >= 0, 1, -1).astype(np.float32), kernel, geometry)
        if scaled:
            expected = expected * mean_magnitude(z, (2, 2), geometry)
        if kind == "binary_bn":
            expected = normalised(expected, params["bn_after"], statistics["bn_after"])
    assert np.any(expected < 0), "no ReLU behind it"
    assert np.allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("halved", [False, True])
def test_preprocessing_brings_both_inputs_to_one_size(halved):
    size = 8 if halved else 4
    place = Place(index=1, channels=3, reduction=False, halved=halved)
    module = Preprocess(
        place=place, scheme=Xnor(), arithmetic=Arithmetic(), affine=(False, True)
    )
    initialise = lambda before, previous: module.init_with_output(
        jax.random.key(0), before, previous, train=False
    )
    (first, second), variables = jax.eval_shape(
        initialise, jnp.zeros((1, size, size, 6)), jnp.zeros((1, 4, 4, 5))
    )
    assert first.shape == second.shape == (1, 4, 4, 3)
    kernels = {
        name: params["conv"]["latent"].shape
        for name, params in variables["params"].items()
    }
    size = 3 if halved else 1
    assert kernels == {"input0": (size, size, 6, 3), "input1": (1, 1, 5, 3)}
    assert (
        "bn" in variables["params"]["input0"],
        "bn" in variables["params"]["input1"],
    ) == (
        False,
        True,
    )


@pytest.mark.parametrize(("form", "affine"), [("cifar", False), ("imagenet", True)])
def test_the_bn_before_a_strided_preprocessing_is_affine_in_the_imagenet_form_alone(
    form, affine
):
    variables = variables_of(network(WITHOUT, 6, form=form), (1, 64, 64, 3))
    found = [
        i
        for i in range(6)
        if ("params", f"cell{i}", "preprocess", "input0", "bn", "scale") in variables
    ]
    # Cells 3 and 5 follow a reduction; cell 0 of the ImageNet form has inputs of two
    # sizes, too.
    assert found == (list(range(6)) if affine else [0, 1, 2, 4])
    sizes = [
        variables["params", f"cell{i}", "preprocess", "input0", "conv", "latent"].shape[
            0
        ]
        for i in range(6)
    ]
    assert sizes == [3 if form == "imagenet" else 1, 1, 1, 3, 1, 3]


def test_drop_path_keeps_the_expectation():
    factors = np.asarray(
        drop_path(
            jax.random.key(0),
            0.3,
            cells=5,
            layers=8,
            batch=4000,
            arithmetic=Arithmetic(),
        )
    )
    assert factors.shape == (5, 8, 4000)
    assert np.allclose((factors == 0).mean(axis=-1), 0.3, atol=0.05), "in every layer"
    assert np.allclose(factors[factors != 0], 1 / 0.7, rtol=1e-6)
    assert factors.mean() == pytest.approx(1, abs=0.01)
    assert len({f.tobytes() for f in factors.reshape(40, -1)}) == 40, (
        "each layer draws its own"
    )
    none = drop_path(
        jax.random.key(0), 0.0, cells=2, layers=8, batch=3, arithmetic=Arithmetic()
    )
    assert np.array_equal(none, np.ones((2, 8, 3)))


def test_drop_path_draws_the_same_for_an_example_on_any_number_of_devices():
    draw = lambda **options: drop_path(
        jax.random.key(0),
        0.5,
        cells=2,
        layers=8,
        arithmetic=Arithmetic(**options),
        batch=6 // devices,
    )
    devices = 1
    whole = draw()
    devices = 3
    parts = jax.vmap(
        lambda _: draw(batch_axis="device"), axis_name="device", out_axes=2
    )(jnp.arange(3))
    assert np.array_equal(parts.reshape(whole.shape), whole)


@pytest.fixture(scope="module")
def small():
    """A small network, variables away from their start, and images."""
    model = network(WITHOUT, 3, channels=2, num_classes=5)
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    return model, random_like(jax.eval_shape(model.init, jax.random.key(0), x)), x


def test_cells_of_any_number_of_edges_are_built_and_their_layers_dropped():
    """A node of one edge, one that takes an input twice, and one with all edges."""
    conv = "bin_conv_3x3"
    nodes = [
        [[conv, 0]],
        [[conv, 1], ["max_pool_3x3", 1]],
        [["none", 0]],
        [[conv, source] for source in range(5)],
    ]
    model = network(
        genotype.Genotype(normal=nodes, reduce=nodes), 1, channels=2, num_classes=5
    )
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    layers = [name for name in variables["params"]["cell0"] if name.startswith("layer")]
    assert sorted(layers) == [
        "layer0",
        "layer1",
        *(f"layer{number}" for number in range(4, 9)),
    ]  # pools have none
    assert num_convs(model.genotype.reduce, model.places[0]) == 2 + 7

    @jax.jit
    def logits(rate):
        options = {"mutable": ["batch_stats"], "rngs": {"drop_path": jax.random.key(0)}}
        return model.apply(variables, x, train=True, drop_path_rate=rate, **options)[0]

    kept, dropped = logits(0.0), logits(0.5)
    assert np.std(kept) > 0 and not np.allclose(kept, dropped, atol=1e-3)


def test_drop_path_is_off_in_evaluation(small):
    model, variables, x = small
    plain = jax.jit(lambda x: model.apply(variables, x, train=False))
    logits = plain(x)
    assert np.std(logits) > 0
    assert np.array_equal(
        logits,
        jax.jit(lambda x: model.apply(variables, x, train=False, drop_path_rate=0.5))(
            x
        ),
    )
    assert np.allclose(plain(x[::-1])[::-1], logits, atol=1e-5), (
        "images do not know of each other"
    )


def test_drop_path_drops_layers_in_training(small):
    model, variables, x = small
    plain, _ = jax.jit(
        lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"])
    )(x)

    @jax.jit
    def dropping(rate, seed):
        rngs = {"drop_path": jax.random.key(seed)}
        return model.apply(
            variables,
            x,
            train=True,
            mutable=["batch_stats"],
            drop_path_rate=rate,
            rngs=rngs,
        )[0]

    assert np.allclose(dropping(0.0, 0), plain, atol=1e-4)
    assert np.array_equal(dropping(0.5, 1), dropping(0.5, 1))
    assert not np.allclose(dropping(0.5, 1), dropping(0.5, 2), atol=1e-3)


def test_nodes_of_zeroise_alone_are_zero():
    cell = (("none", 0), ("none", 1)) * 4
    model = network(
        genotype.Genotype(normal=cell, reduce=cell),
        1,
        channels=2,
        num_classes=5,
        skip=False,
    )
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    logits = jax.jit(model.apply)(variables, x)
    assert np.allclose(logits, variables["params"]["classifier"]["bias"])


@pytest.mark.parametrize("num_cells", [4, 10, 20])
def test_the_released_index_error_leaves_as_many_convolutions_float_as_there_are_skips(
    num_cells,
):
    head = network(WITHOUT, num_cells, float_head=True)
    assert networks.float_convs(head) == [0] * (num_cells - 1) + [2]
    assert networks.float_convs(head.clone(skip=False)) == [0] * num_cells
    assert networks.float_convs(head.clone(float_head=False)) == [0] * num_cells


@pytest.mark.parametrize("form", genotype.FORMS)
def test_the_index_error_walks_over_skips_and_leaves_them_and_the_stem_as_they_are(
    form,
):
    """Of 3 cells the last reduces, and picks no convolution: its last two are its
    preprocessing and its skip.
    """
    model = network(ZEROISED, 3, form=form, float_head=True)
    size = 64 if form == "imagenet" else 8
    kernels, without = (
        {
            path[1:-1]
            for path in variables_of(net, (1, size, size, 3))
            if path[-1] == "kernel"
        }
        for net in (model, model.clone(float_head=False))
    )
    assert kernels - without == {("cell2", "preprocess", "input1", "conv")}


def test_an_unknown_skip_across_a_reduction_is_refused():
    skip = ReductionSkip(
        kind="none", features=4, scheme=Xnor(), arithmetic=Arithmetic()
    )
    with pytest.raises(
        UserError,
        match=(
            "reduction_skip must be one of float, binary_weight, binary, binary_bn, "
            "got 'none'"
        ),
    ):
        jax.eval_shape(
            lambda x: skip.init(jax.random.key(0), x, train=False),
            jnp.zeros((1, 4, 4, 2)),
        )


def test_conventions_are_fields_of_the_scheme_and_the_network():
    built = {name: Xnor(**found.scheme) for name, found in CONVENTIONS.items()}
    assert built["paper"] == Xnor(), "the defaults are the paper's"
    assert (
        built["release"]
        == built["meant"]
        == Xnor(activation_scale=False, sign_of_zero=0)
    )
    nets = {
        name: network(WITHOUT, 3, **found.network)
        for name, found in CONVENTIONS.items()
    }
    assert nets["paper"] == network(WITHOUT, 3)
    assert nets["release"] == nets["meant"].clone(float_head=True)
    assert nets["meant"].reduction_skip == "float"
    with pytest.raises(
        UserError, match="conventions must be one of paper, release, meant, got 'head'"
    ):
        conventions("head")


def test_over_devices_a_state_is_normalized_once_for_all_who_read_it():
    """One message forward and one backward for each state, however many layers read it,
    and for the first two of a cell.
    """
    arithmetic = Arithmetic(bn_axis="devices")
    model = network(WITHOUT, 4, arithmetic=arithmetic)
    alone = network(WITHOUT, 4)
    variables = jax.eval_shape(
        lambda: alone.init(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))
    )

    def loss(params, images):
        at = {**variables, "params": params}
        logits, _ = model.apply(at, images, train=True, mutable=["batch_stats"])
        return jnp.sum(logits)

    # The image, the stem's output, and each cell's but the last, which the classifier
    # reads.
    states = 1 + 1 + (model.num_cells - 1)
    for place in model.places:
        read = {
            edge.source
            for edge in genotype.edges(model.genotype.cell(place.reduction))
            if "conv" in edge.layer_type
        }
        states += len(read)
        # They are there at once.
        states -= {0, 1} <= read
        # The skip across a reduction has a second BN.
        states += place.reduction and place.follows_a_cell
    gradient = jax.make_jaxpr(jax.grad(loss), axis_env=[("devices", 2)])
    variables = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), variables)
    text = str(gradient(variables["params"], jnp.zeros((2, 32, 32, 3))))

    # All but the images' have a gradient.
    assert text.count("= all_gather[") == 2 * states - 1
