"""The final network: its shapes, its parts, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bnas_jax.core import binarize, cost, genotype
from bnas_jax.core import network as networks
from bnas_jax.core.cell import InterCellSkip, Preprocess, ReductionSkip, drop_path
from bnas_jax.core.convolution import conv
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import BinaryConv
from bnas_jax.core.network import Network
from bnas_jax.core.rules import MEANT, PAPER, REDUCTION_SKIPS, RELEASE, Rules
from bnas_jax.training.state import initial_variables

ZEROISED = genotype.load("latest_cell_zeroise")
WITHOUT = genotype.load("latest_cell")


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiling takes longer than running here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def variables_of(model, shape):
    """The shapes of a network's variables, and of its logits for images of this shape."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    logits, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), images)
    return logits, traverse_util.flatten_dict(variables)


def counted(variables, kind=""):
    return sum(leaf.size for path, leaf in variables.items() if path[0] == "params" and path[-1].startswith(kind))


@pytest.mark.parametrize(
    ("form", "shape", "num_cells"),
    [
        ("cifar", (2, 32, 32, 3), 5),
        ("cifar", (2, 8, 8, 1), 5),
        ("cifar", (2, 28, 28, 1), 4),
        ("cifar", (2, 16, 8, 4), 3),
        ("cifar", (2, 8, 8, 3), 2),
        ("cifar", (2, 2, 2, 3), 1),
        ("imagenet", (2, 224, 224, 3), 5),
        ("imagenet", (2, 64, 96, 1), 4),
        ("imagenet", (2, 30, 30, 3), 3),
    ],
)
def test_any_image_size_and_channel_count_the_strides_allow(form, shape, num_cells):
    logits, variables = variables_of(Network(WITHOUT, num_cells, 4, 7, form=form), shape)
    assert logits.shape == (2, 7)
    assert logits.dtype == jnp.float32
    first = variables["params", "stem", "conv" if form == "cifar" else "conv0", "kernel"]
    assert first.shape == (3, 3, shape[-1], 12 if form == "cifar" else 2)


@pytest.mark.parametrize(
    ("form", "shape", "num_cells", "expected"),
    [
        ("cifar", (1, 7, 8, 1), 5, "images of 7 pixels at the first cell cannot be halved by 2 reduction cells"),
        ("cifar", (1, 8, 30, 1), 5, "images of 30 pixels .* for instance 28"),
        ("cifar", (1, 2, 2, 1), 5, "images of 2 pixels .* for instance 4"),
        ("cifar", (1, 9, 9, 3), 1, "cannot be halved by 1 reduction cells; use a multiple of 2"),
        ("imagenet", (1, 40, 40, 3), 6, "images of 5 pixels at the first cell"),
    ],
)  # fmt: skip
def test_images_that_the_reductions_cannot_halve_are_refused(form, shape, num_cells, expected):
    with pytest.raises(UserError, match=expected) as caught:
        variables_of(Network(WITHOUT, num_cells, 4, 7, form=form), shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "channels", "num_cells", "expected"),
    [
        ("mnist", 4, 5, "network.form must be one of cifar, imagenet, got 'mnist'"),
        ("cifar", 0, 5, "must be at least 1, got 0 and 5"),
        ("cifar", 4, 0, "must be at least 1, got 4 and 0"),
        ("imagenet", 5, 5, "use an even number, got 5"),
    ],
)
def test_sizes_that_no_network_has_are_refused(form, channels, num_cells, expected):
    with pytest.raises(UserError, match=expected) as caught:
        networks.check(form, channels, num_cells)
    assert "\n" not in str(caught.value)
    networks.check("imagenet", 4, 5)
    networks.check("cifar", 5, 1)


def test_a_cell_that_is_only_compared_with_is_refused():
    with pytest.raises(UserError, match="layer type 'sep_conv_3x3' has no layer in this version") as caught:
        variables_of(Network(genotype.load("darts_v2"), 3, 4, 7), (1, 8, 8, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", genotype.FORMS)
@pytest.mark.parametrize(
    ("cell", "rules", "skip"),
    [
        (ZEROISED, PAPER, True),
        (ZEROISED, MEANT, False),
        (ZEROISED, RELEASE, True),
        (WITHOUT, PAPER, False),
        (WITHOUT, MEANT, True),
        (WITHOUT, RELEASE, True),
        (WITHOUT, dataclasses.replace(PAPER, reduction_skip="binary_weight"), True),
        (WITHOUT, dataclasses.replace(PAPER, reduction_skip="binary"), True),
    ],
)
def test_parameters_are_those_counted(form, cell, rules, skip):
    size = 64 if form == "imagenet" else 8
    _, variables = variables_of(Network(cell, 6, 4, 7, form=form, skip=skip, rules=rules), (1, size, size, 1))
    totals = cost.total(cost.layers(cost.Architecture(cell, 6, 4, size, 7, form, 1, skip, rules)))
    assert counted(variables) == totals.params
    assert counted(variables, "latent") == totals.binary_params


def test_channels_double_at_reductions():
    _, variables = variables_of(Network(WITHOUT, 6, 4, 7), (1, 8, 8, 3))
    preprocessing = [variables["params", f"cell{i}", "preprocess", "input1", "conv", "latent"] for i in range(6)]
    assert [kernel.shape[-1] for kernel in preprocessing] == [4, 4, 8, 8, 16, 16]
    assert variables["params", "classifier", "kernel"].shape == (4 * 16, 7)


def skips(variables):
    return {path[1] for path in variables if path[2:3] == ("skip",)}


@pytest.mark.parametrize("form", genotype.FORMS)
def test_skips_can_be_left_out(form):
    shape = (1, 64, 64, 3) if form == "imagenet" else (1, 8, 8, 3)
    assert skips(variables_of(Network(WITHOUT, 6, 4, 7, form=form), shape)[1]) == {"cell2", "cell4"}
    assert not skips(variables_of(Network(WITHOUT, 6, 4, 7, form=form, skip=False), shape)[1])


def test_the_first_cell_has_no_skip():
    assert not skips(variables_of(Network(WITHOUT, 1, 4, 7), (1, 8, 8, 3))[1])


def test_a_normal_skip_adds_the_previous_output():
    output, previous = np.ones((1, 2, 2, 3), np.float32), np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    assert np.array_equal(InterCellSkip(False, PAPER).apply({}, output, previous, train=True), output + previous)


def random_like(variables, seed=0):
    """Variables of the same shapes, all different from their start; variances positive."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(variables)
    return jax.tree.unflatten(structure, [rng.uniform(0.2, 0.8, leaf.shape).astype(np.float32) for leaf in leaves])


SKIP_PARAMETERS = {
    "float": {"bn/scale", "bn/bias", "conv/kernel", "conv/bias"},
    "binary_weight": {"bn/scale", "bn/bias", "conv/latent", "conv/bias"},
    "binary": {"op/bn/scale", "op/bn/bias", "op/conv/latent"},
    "binary_bn": {"op/bn/scale", "op/bn/bias", "op/conv/latent", "bn_after/scale", "bn_after/bias"},
}


def normalised(x, params, statistics):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * params["scale"] + params["bias"]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", REDUCTION_SKIPS)
def test_the_skip_across_a_reduction(kind, scaled):
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    skip = ReductionSkip(5, Rules(activation_scale=scaled, reduction_skip=kind))
    variables = random_like(jax.eval_shape(lambda x: skip.init(jax.random.key(0), x, train=False), x))
    assert set(traverse_util.flatten_dict(variables["params"], sep="/")) == SKIP_PARAMETERS[kind]
    params, statistics = variables["params"], variables["batch_stats"]
    y = skip.apply(variables, x, train=False)
    assert y.shape == (2, 2, 2, 5)

    if kind in ("float", "binary_weight"):
        z = normalised(x, params["bn"], statistics["bn"])
        latent = params["conv"].get("latent")
        kernel = params["conv"]["kernel"] if latent is None else binarize.binarize_weights(latent)
        expected = conv(z, kernel, stride=2) + params["conv"]["bias"]
    else:
        z = normalised(x, params["op"]["bn"], statistics["op"]["bn"])
        kernel = binarize.binarize_weights(params["op"]["conv"]["latent"])
        expected = conv(np.where(z >= 0, 1, -1).astype(np.float32), kernel, stride=2)
        if scaled:
            expected = expected * binarize.activation_scale(z, 2, 2, 0, 1)
        if kind == "binary_bn":
            expected = normalised(expected, params["bn_after"], statistics["bn_after"])
    assert np.any(expected < 0) or kind == "binary_weight", "no ReLU behind it"
    assert np.allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("previous_reduction", [False, True])
def test_preprocessing_brings_both_inputs_to_one_size(previous_reduction):
    size = 8 if previous_reduction else 4
    module = Preprocess(3, previous_reduction, PAPER, affine=(False, True))
    initialise = lambda before, previous: module.init_with_output(jax.random.key(0), before, previous, train=False)
    (first, second), variables = jax.eval_shape(initialise, jnp.zeros((1, size, size, 6)), jnp.zeros((1, 4, 4, 5)))
    assert first.shape == second.shape == (1, 4, 4, 3)
    kernels = {name: params["conv"]["latent"].shape for name, params in variables["params"].items()}
    size = 3 if previous_reduction else 1
    assert kernels == {"input0": (size, size, 6, 3), "input1": (1, 1, 5, 3)}
    assert ("bn" in variables["params"]["input0"], "bn" in variables["params"]["input1"]) == (False, True)


@pytest.mark.parametrize(("form", "affine"), [("cifar", False), ("imagenet", True)])
def test_the_bn_before_a_strided_preprocessing_is_affine_in_the_imagenet_form_alone(form, affine):
    _, variables = variables_of(Network(WITHOUT, 6, 4, 7, form=form), (1, 64, 64, 3))
    found = [i for i in range(6) if ("params", f"cell{i}", "preprocess", "input0", "bn", "scale") in variables]
    # Cells 3 and 5 follow a reduction; cell 0 of the ImageNet form has inputs of two sizes, too.
    assert found == (list(range(6)) if affine else [0, 1, 2, 4])
    sizes = [variables["params", f"cell{i}", "preprocess", "input0", "conv", "latent"].shape[0] for i in range(6)]
    assert sizes == [3 if form == "imagenet" else 1, 1, 1, 3, 1, 3]


def test_drop_path_keeps_the_expectation():
    factors = np.asarray(drop_path(jax.random.key(0), 0.3, 5, 4000, np.float32))
    assert factors.shape == (5, 8, 4000)
    assert np.allclose((factors == 0).mean(axis=-1), 0.3, atol=0.05), "in every layer"
    assert np.allclose(factors[factors != 0], 1 / 0.7, rtol=1e-6)
    assert factors.mean() == pytest.approx(1, abs=0.01)
    assert len({f.tobytes() for f in factors.reshape(40, -1)}) == 40, "each layer draws its own"
    assert np.array_equal(drop_path(jax.random.key(0), 0.0, 2, 3, np.float32), np.ones((2, 8, 3)))


@pytest.fixture(scope="module")
def small():
    """A small network, variables away from their start, and images."""
    model = Network(WITHOUT, 3, 2, 5)
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    return model, random_like(jax.eval_shape(model.init, jax.random.key(0), x)), x


def test_drop_path_is_off_in_evaluation(small):
    model, variables, x = small
    plain = jax.jit(lambda x: model.apply(variables, x, train=False))
    logits = plain(x)
    assert np.std(logits) > 0
    assert np.array_equal(logits, jax.jit(lambda x: model.apply(variables, x, train=False, drop_path_rate=0.5))(x))
    assert np.allclose(plain(x[::-1])[::-1], logits, atol=1e-5), "images do not know of each other"


def test_drop_path_drops_layers_in_training(small):
    model, variables, x = small
    plain, _ = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))(x)

    @jax.jit
    def dropping(rate, seed):
        rngs = {"drop_path": jax.random.key(seed)}
        return model.apply(variables, x, train=True, mutable=["batch_stats"], drop_path_rate=rate, rngs=rngs)[0]

    assert np.allclose(dropping(0.0, 0), plain, atol=1e-4)
    assert np.array_equal(dropping(0.5, 1), dropping(0.5, 1))
    assert not np.allclose(dropping(0.5, 1), dropping(0.5, 2), atol=1e-3)


def test_nodes_of_zeroise_alone_are_zero():
    nothing = genotype.Genotype((("none", 0), ("none", 1)) * 4, (("none", 0), ("none", 1)) * 4)
    model = Network(nothing, 1, 2, 5, skip=False)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    assert np.allclose(model.apply(variables, x), variables["params"]["classifier"]["bias"])


@pytest.mark.parametrize("depthwise_center", [False, True])
def test_a_kernel_of_one_input_channel_begins_dead_only_where_asked_for(depthwise_center):
    layer = BinaryConv(3, 3, Rules(depthwise_center=depthwise_center))
    variables = initial_variables(layer, (4, 4, 1), 0)
    y = layer.apply(variables, np.random.default_rng(0).normal(size=(1, 4, 4, 1)), train=False)
    assert np.any(variables["params"]["conv"]["latent"]) == np.any(y) == (not depthwise_center)


@pytest.mark.parametrize("num_cells", [4, 10, 20])
def test_the_released_index_error_leaves_as_many_convolutions_float_as_there_are_skips(num_cells):
    head = Network(WITHOUT, num_cells, 4, 7, rules=RELEASE)
    assert networks.float_head(head) == [0] * (num_cells - 1) + [2]
    assert networks.float_head(head.clone(skip=False)) == [0] * num_cells


def test_an_unknown_skip_across_a_reduction_is_refused():
    rules = dataclasses.replace(PAPER, reduction_skip="none")
    with pytest.raises(UserError, match="reduction_skip must be one of float, binary_weight, binary, binary_bn, got 'none'"):
        jax.eval_shape(ReductionSkip(4, rules).init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)), train=False)
