"""The supernet: edges that share their work against the plain sum over edges; and what
else it must be.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bnas_jax.core.alphas import relax
from bnas_jax.core.arithmetic import Arithmetic, plain_form
from bnas_jax.core.edge_spec import batching
from bnas_jax.core.errors import UserError
from bnas_jax.core.forms import form_of
from bnas_jax.core.genotype import TABLE_3, ZEROISE
from bnas_jax.core.layers import CONVOLUTION
from bnas_jax.core.mixed_edges import MixedEdges
from bnas_jax.core.schemes import Float, Xnor
from bnas_jax.core.stack import Place
from bnas_jax.core.supernet import MixedCell, Supernet, float_edges

pytestmark = pytest.mark.usefixtures("quick_compilation")

DILATED = (ZEROISE, "max_pool_3x3", "bin_dil_conv_3x3", "bin_dil_conv_5x5")
NO_DILATED = tuple(name for name in TABLE_3 if "dil" not in name)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 2))
LABELS = np.array([0, 3, 1])


def supernet(num_cells, channels=4, num_classes=7, **options):
    return Supernet(
        num_cells=num_cells, channels=channels, num_classes=num_classes, **options
    )


FLOAT64 = Arithmetic(dtype=jnp.float64)
NETS = {
    # With K, a normal cell and dilated convolutions of two sizes; the types of Table 3
    # that are left stand below.
    "paper": supernet(3, 2, 5, layer_types=DILATED, arithmetic=FLOAT64),
    # Without K, some convolutions float, statistics of each edge, no dilated
    # convolutions; reduction cells alone.
    "head": supernet(
        2, 3, 5, layer_types=NO_DILATED, shared_statistics=False,
        reduction_skip="float", float_head=True,
        scheme=Xnor(activation_scale=False, sign_of_zero=0), arithmetic=FLOAT64,
    ),
    # No binary convolution at all.
    "float": supernet(
        1, 2, 5, layer_types=(ZEROISE, "avg_pool_3x3", "bin_conv_3x3"),
        scheme=Float(), arithmetic=FLOAT64,
    ),
    # Layer types that run in copies: DARTS's, in its template.
    "darts": supernet(
        1, 2, 5, layer_types=("skip_connect", "sep_conv_3x3", "max_pool_3x3"),
        form="darts", skip=False,
        scheme=Float(order="relu_first"), arithmetic=FLOAT64,
    ),
}  # fmt: skip


def alphas_of(net, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(14, len(net.layer_types)))
        for name in ("normal", "reduce")
    }


def drawn(shapes, rng):
    """Variables away from their start, variances positive."""
    draw = lambda path, leaf: (
        rng.uniform(0.5, 2, leaf.shape)
        if path[-1] == "var"
        else rng.normal(size=leaf.shape) / 3
    )
    flat = traverse_util.flatten_dict(shapes)
    flat = {path: draw(path, leaf).astype(leaf.dtype) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(flat)


def variables_of(net, seed=2):
    """Drawn variables, in the arithmetic of the net."""
    initialise = plain_form(net).init
    shapes = jax.eval_shape(initialise, jax.random.key(0), alphas_of(net), IMAGES)
    return drawn(shapes, np.random.default_rng(seed))


def numbers_of(net, variables, alphas):
    """Logits in evaluation; loss, logits, statistics and gradients in training."""

    def loss_of(params, alphas):
        inputs = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, after = net.apply(
            inputs, alphas, IMAGES, train=True, mutable=["batch_stats"]
        )
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(3), LABELS]), (
            logits,
            after,
        )

    gradients = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (loss, (logits, after)), (to_params, to_alphas) = gradients(
        variables["params"], alphas
    )
    logits_eval = net.apply(variables, alphas, IMAGES, train=False)
    return {
        "eval": logits_eval,
        "loss": loss,
        "logits": logits,
        "after": after,
        "params": to_params,
        "alphas": to_alphas,
    }


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def check_near(ours, theirs):
    """The same leaves, apart by no more than rounding in float64."""
    for part, expected in theirs.items():
        flat, flat_expected = (
            traverse_util.flatten_dict({part: tree}) for tree in (ours[part], expected)
        )
        assert set(flat) == set(flat_expected)
        scale = largest(expected)
        assert scale > 0
        for path, value in flat_expected.items():
            assert np.abs(flat[path] - value).max() < 1e-9 * scale, path


@pytest.mark.parametrize(
    "name",
    [
        "float",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in NETS
            if name != "float"
        ),
    ],
)
def test_shared_edges_are_the_plain_sum_over_edges(name):
    """In float64, as one flipped sign would move everything behind it.

    And without max pooling: pooled states have neighbours that differ by rounding
    alone, and which of them gets the gradient depends on XLA's options.
    """
    types = [kind for kind in NETS[name].layer_types if kind != "max_pool_3x3"]
    shared = NETS[name].clone(layer_types=types)
    plain = shared.clone(
        edges="plain", arithmetic=Arithmetic(dtype=jnp.float64, plain=True)
    )
    with jax.enable_x64(True):
        variables, alphas = variables_of(shared), alphas_of(shared)
        assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
            jnp.shape, variables_of(plain)
        ), "one layout"
        ours, theirs = (
            jax.jit(lambda *inputs, net=net: numbers_of(net, *inputs))(
                variables, alphas
            )
            for net in (shared, plain)
        )
    assert ours["logits"].dtype == jnp.float64
    check_near(ours, theirs)


# What the nets above have at the edges of one state.
STATES = {
    "paper": {"stride": 2},
    "head": {"stride": 1, "float_edges": (1, 2)},
    "darts": {"stride": 1, "bn_of_pools": False},
}


@pytest.mark.parametrize("name", STATES)
def test_shared_edges_of_a_state_are_the_plain_sum_over_its_edges(name):
    """Values, statistics and gradients in float64."""
    net = NETS[name]
    shared = MixedEdges(
        channels=net.channels,
        layer_types=net.layer_types,
        scheme=net.scheme,
        shared_statistics=net.shared_statistics,
        arithmetic=FLOAT64,
        **STATES[name],
    )
    plain = shared.clone(
        edges="plain", arithmetic=Arithmetic(dtype=jnp.float64, plain=True)
    )
    rng = np.random.default_rng(0)
    x, weights = (
        rng.normal(size=(2, 8, 8, net.channels)),
        rng.normal(size=(3, len(net.layer_types))),
    )

    def numbers(module, variables, x, weights):
        def value(params, x, weights):
            inputs = {**variables, "params": params}
            y, after = module.apply(
                inputs, x, weights, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(y)), (y, after)

        gradients = jax.grad(value, argnums=(0, 1, 2), has_aux=True)
        to, (y, after) = gradients(variables["params"], x, weights)
        evaluated = module.apply(variables, x, weights, train=False)
        of = dict(zip(("params", "x", "weights"), to, strict=True))
        return {"eval": evaluated, "y": y, "after": after, **of}

    with jax.enable_x64(True):
        shapes = jax.eval_shape(
            lambda: shared.init(jax.random.key(0), x, weights, train=False)
        )
        variables = drawn(shapes, rng)
        ours, theirs = (
            jax.jit(lambda *inputs, module=module: numbers(module, *inputs))(
                variables, x, weights
            )
            for module in (shared, plain)
        )
    check_near(ours, theirs)


ALL_KINDS = (ZEROISE, "max_pool_3x3", "skip_connect", "dil_conv_3x3", "bin_conv_3x3")
CHOICES = np.array([3, 4, 2, 1])  # one of each kind, for four edges
# Each with layers that run as one, that run in copies and that have a module for each
# edge.
EDGES_OF_A_STATE = {
    "binary": MixedEdges(
        channels=4, stride=2, layer_types=ALL_KINDS,
        scheme=Xnor(), arithmetic=Arithmetic(),
    ),
    "each with statistics": MixedEdges(
        channels=4, stride=1, layer_types=ALL_KINDS,
        scheme=Xnor(), arithmetic=Arithmetic(), shared_statistics=False,
    ),
    "own parameters": MixedEdges(
        channels=4, stride=1, layer_types=ALL_KINDS,
        scheme=Xnor(activation="prelu"), arithmetic=Arithmetic(),
    ),
    "gdas": MixedEdges(
        channels=4, stride=2, layer_types=ALL_KINDS,
        scheme=Float(order="relu_first", bias=True),
        arithmetic=Arithmetic(), bn_of_pools=False,
    ),
}  # fmt: skip


class Turned(Xnor):
    """A user's scheme, which makes its kernels in a way of its own."""

    def kernel(self, module, x):
        signs, operands = super().kernel(module, x)
        return -signs, operands


@pytest.mark.parametrize(
    ("scheme", "how"), [(Xnor(), CONVOLUTION), (Turned(), None)], ids=["xnor", "own"]
)
def test_edges_run_together_only_where_weights_alone_makes_their_kernels(scheme, how):
    """Otherwise a search would silently run under another scheme than a training."""
    assert batching("bin_conv_3x3", scheme) == how


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "binary" else pytest.mark.long)
        for name in EDGES_OF_A_STATE
    ],
)
def test_only_the_chosen_layer_of_an_edge_runs_and_gives_what_the_sum_gives(name):
    """Values, gradients at the state, the parameters and the weights, and which running
    statistics move.
    """
    module = EDGES_OF_A_STATE[name]
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    weights = 0.7 * np.eye(len(ALL_KINDS), dtype=np.float32)[CHOICES]
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x, weights, train=False)
    )
    variables = drawn(shapes, np.random.default_rng(3))

    def run(edges):
        def value(params, x, weights):
            collections = {**variables, "params": params}
            y, after = module.clone(edges=edges).apply(
                collections, x, weights, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(y)), (y, after["batch_stats"])

        gradients = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)
        (_, (y, after)), (to_params, to_x, to_weights) = jax.jit(gradients)(
            variables["params"], x, weights
        )
        return y, to_params, to_x, to_weights[np.arange(4), CHOICES], after

    sums, chosen = run("plain"), run("chosen")
    for ours, theirs in zip(
        jax.tree.leaves(chosen[:4]), jax.tree.leaves(sums[:4]), strict=True
    ):
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-5 * max(
            np.abs(theirs).max(), 1
        )

    before, after = (
        traverse_util.flatten_dict(tree)
        for tree in (variables["batch_stats"], chosen[4])
    )
    of_sum = traverse_util.flatten_dict(sums[4])
    assert set(before) == set(after)
    moved = 0
    for path, value in after.items():
        stayed = np.isclose(value, before[path], rtol=1e-6, atol=1e-6)
        assert np.all(stayed | np.isclose(value, of_sum[path], rtol=1e-4, atol=1e-5)), (
            path
        )
        moved += np.sum(~stayed)
    assert 0 < moved < sum(value.size for value in after.values())

    shared, _ = jax.jit(
        lambda: module.apply(variables, x, weights, train=True, mutable=["batch_stats"])
    )()
    assert np.abs(sums[0] - shared).max() < 1e-4


def test_statistics_move_of_chosen_layers_alone():
    """All edges choose the pooling: neither the convolutions' nor the separable ones'
    move.
    """
    module = EDGES_OF_A_STATE["binary"].clone(edges="chosen")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    weights = np.eye(len(ALL_KINDS), dtype=np.float32)[[1, 1, 0, 1]]
    variables = jax.jit(
        lambda: module.init(jax.random.key(0), x, weights, train=False)
    )()
    apply = jax.jit(
        lambda v: module.apply(v, x, weights, train=True, mutable=["batch_stats"])
    )
    _, after = apply(variables)
    same = jax.tree.map(np.array_equal, variables["batch_stats"], after["batch_stats"])
    assert not any(jax.tree.leaves(same.pop("pool_bn"))) and all(jax.tree.leaves(same))


def test_one_layer_an_edge_beside_edges_left_float_is_refused():
    module = MixedEdges(
        channels=4,
        stride=1,
        layer_types=("bin_conv_3x3",),
        scheme=Xnor(),
        arithmetic=Arithmetic(),
        float_edges=(1,),
    )
    x, weights = jnp.zeros((1, 8, 8, 4)), jnp.ones((3, 1))
    variables = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x, weights, train=False)
    )
    with pytest.raises(UserError, match=r"write config\.network\.float_head=False"):
        jax.eval_shape(
            lambda v: module.clone(edges="chosen").apply(v, x, weights, train=False),
            variables,
        )


def test_an_edge_that_chose_zeroise_gives_its_weight_no_gradient():
    module = EDGES_OF_A_STATE["gdas"].clone(edges="chosen")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    weights = np.eye(len(ALL_KINDS), dtype=np.float32)[[0, 1, 0, 3]]
    variables = jax.jit(
        lambda: module.init(jax.random.key(0), x, weights, train=False)
    )()
    value = lambda weights: jnp.sum(
        jnp.sin(module.apply(variables, x, weights, train=False))
    )
    to_weights = jax.jit(jax.grad(value))(weights)
    assert [bool(np.any(row)) for row in np.asarray(to_weights)] == [
        False,
        True,
        False,
        True,
    ]


def test_alpha_chooses_the_largest_where_one_layer_runs():
    net = supernet(
        1,
        2,
        layer_types=("skip_connect", "max_pool_3x3", "bin_conv_3x3"),
        edges="chosen",
        form="darts",
    )
    alphas = alphas_of(net)
    variables = variables_of(net)
    one_hot = {
        name: np.eye(3, dtype=np.float32)[value.argmax(axis=-1)]
        for name, value in alphas.items()
    }
    plain = net.clone(edges="plain")
    expected = jax.jit(
        lambda weights: plain.apply(variables, weights, IMAGES, method="mixture")
    )(one_hot)
    logits = jax.jit(lambda alphas: net.apply(variables, alphas, IMAGES))(alphas)
    assert np.abs(logits - expected).max() < 1e-5


def test_the_fixed_reduction_needs_no_weights_and_batch_statistics_evaluate():
    net = supernet(
        3,
        4,
        layer_types=("skip_connect", "bin_conv_3x3"),
        form="gdas",
        fixed_reduction=True,
        batch_statistics=True,
        skip=False,
    )
    weights = {"normal": jnp.eye(2)[jnp.arange(14) % 2]}
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    init = jax.jit(
        lambda: net.init(jax.random.key(0), weights, images, method="mixture")
    )
    variables = init()
    assert {name for name in variables["params"]["cell1"]} == {
        "preprocess",
        "crossed0",
        "crossed1",
        "pointwise0",
        "pointwise1",
    }
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[0].key in ("stem", "last_bn") else leaf + 7,
        variables["batch_stats"],
    )
    run = jax.jit(
        lambda statistics: net.apply(
            {**variables, "batch_stats": statistics}, weights, images, method="mixture"
        )
    )
    assert np.array_equal(run(variables["batch_stats"]), run(moved))
    with pytest.raises(
        UserError, match="8 groups, which do not divide its 12 channels"
    ):
        jax.eval_shape(
            lambda: net.clone(channels=6).init(
                jax.random.key(0), weights, images, method="mixture"
            )
        )


TYPES = ("max_pool_3x3", ZEROISE, "bin_conv_3x3")
MIXED = MixedEdges(
    channels=4, stride=2, layer_types=TYPES, scheme=Xnor(), arithmetic=Arithmetic()
)


def mixed(weights, edges="shared"):
    """Three edges that leave one state."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    latent = np.random.default_rng(1).normal(size=(3, 3, 4, 12)).astype(np.float32)
    variables = {"params": {"latent_bin_conv_3x3": latent}, "batch_stats": RUNNING}
    apply = jax.jit(
        lambda weights: MIXED.clone(edges=edges).apply(
            variables, x, weights, train=False
        )
    )
    return apply(weights)


RUNNING = {
    name: {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}
    for name in ("bn", "pool_bn")
}


@pytest.mark.parametrize("edges", ["shared", "plain"])
def test_zeroise_contributes_nothing(edges):
    assert not np.any(mixed(np.eye(3, dtype=np.float32)[[1, 1, 1]], edges))
    weights = np.full((3, 3), 0.2, np.float32)
    more = weights.copy()
    more[:, 1] = 0.6
    assert np.array_equal(mixed(weights, edges), mixed(more, edges))


def test_weights_belong_to_their_edges():
    weights = np.array([[0.5, 0, 0], [0.25, 0, 0], [0, 0, 1]], np.float32)
    y = mixed(weights)
    assert y.shape == (2, 4, 4, 3, 4)
    assert np.array_equal(y[:, :, :, 0], 2 * y[:, :, :, 1])
    assert np.array_equal(y[:, :, :, 2], mixed(np.tile(weights[2], (3, 1)))[:, :, :, 2])
    assert not np.allclose(
        y[:, :, :, 2], mixed(np.tile(weights[2], (3, 1)))[:, :, :, 1]
    ), "each edge has its own kernel"


def shapes_of(net, images=IMAGES):
    initialise = lambda alphas, x: net.init_with_output(jax.random.key(0), alphas, x)
    logits, variables = jax.eval_shape(initialise, alphas_of(net), images)
    return logits, traverse_util.flatten_dict(variables)


@pytest.mark.parametrize(
    ("num_cells", "shape", "layer_types"),
    [
        (5, (2, 8, 8, 1), NO_DILATED),
        pytest.param(4, (2, 12, 16, 3), NO_DILATED, marks=pytest.mark.long),
        (1, (2, 2, 2, 3), TABLE_3),
        pytest.param(8, (2, 32, 32, 3), TABLE_3, marks=pytest.mark.long),
    ],
)
def test_any_image_size_and_set_of_layer_types(num_cells, shape, layer_types):
    logits, variables = shapes_of(
        supernet(num_cells, layer_types=layer_types), np.zeros(shape, np.float32)
    )
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    latents = {path[-1] for path in variables if path[-1].startswith("latent_")}
    assert latents == {
        f"latent_{name}" for name in layer_types if name.startswith("bin_")
    }


def test_images_that_the_reductions_cannot_halve_are_refused():
    with pytest.raises(
        UserError,
        match=(
            "images of 6 pixels at the first cell cannot be halved by 2 reduction cells"
        ),
    ) as caught:
        shapes_of(supernet(5), np.zeros((1, 6, 8, 3), np.float32))
    assert "\n" not in str(caught.value)


def test_states_of_fewer_bits_are_refused():
    """Their signs would meet kernels of another type in the gradient."""
    narrow = supernet(1, arithmetic=Arithmetic(activations=jnp.bfloat16))
    with pytest.raises(UserError, match=r"write Arithmetic.*without activations"):
        shapes_of(narrow)
    shapes_of(supernet(1, arithmetic=Arithmetic(conv_dtype=jnp.bfloat16)))


@pytest.mark.long
def test_skips_can_be_left_out():
    of_skips = lambda net: {
        path[1] for path in shapes_of(net)[1] if path[2:3] == ("skip",)
    }
    assert of_skips(supernet(5)) == {"cell1", "cell3"}
    assert not of_skips(supernet(5, skip=False))


@pytest.mark.parametrize("binary", [False, True])
def test_preprocessing_is_float_in_the_search_unless_asked_for(binary):
    _, variables = shapes_of(supernet(3, binary_preprocess=binary))
    leaves = {
        path[-1] for path in variables if path[0] == "params" and "preprocess" in path
    }
    assert leaves == {"latent" if binary else "kernel"}, "and its BN has no parameters"


def test_each_edge_has_statistics_of_its_own_where_asked_for():
    own, shared = (
        shapes_of(supernet(3, 2, shared_statistics=flag))[1] for flag in (False, True)
    )
    path = ("batch_stats", "cell0", "state0", "bn", "mean")
    assert (own[path].shape, shared[path].shape) == ((4, 4, 2), (2,)), (
        "types, edges, channels"
    )
    path = ("batch_stats", "cell0", "state0", "pool_bn", "var")
    assert (own[path].shape, shared[path].shape) == ((4, 4), (4,)), (
        "edges, poolings side by side"
    )
    assert {path for path in own if path[0] == "params"} == {
        path for path in shared if path[0] == "params"
    }


def test_float_edges_are_the_last_ones():
    """Of 5 cells 2 skips and 10 preprocessing convolutions shift the released count by
    12 convolutions: three edges.
    """
    net = supernet(5, float_head=True, reduction_skip="float")
    found = float_edges(net)
    assert found[:4] == [((0,) * 4,) * 5] * 4
    # The last three edges leave states 2, 3 and 4.
    assert found[4] == ((0,) * 4, (0,) * 4, (1,) * 4, (1,) * 4, (1,) * 4)
    assert float_edges(net.clone(float_head=False))[4] == ((0,) * 4,) * 5


def test_over_devices_the_edges_of_a_state_have_one_message_each_way():
    """For the batch norm of the convolutions' input and that of the poolings."""
    own = Arithmetic(bn_axis="device")
    edges = MixedEdges(
        channels=4, stride=2, layer_types=TABLE_3, scheme=Xnor(), arithmetic=own
    )
    images, weights = jnp.ones((2, 8, 8, 4)), jnp.full((3, len(TABLE_3)), 0.2)
    variables = edges.clone(arithmetic=Arithmetic()).init(
        jax.random.key(0), images, weights, train=False
    )

    def total(images):
        y, _ = edges.apply(
            variables, images, weights, train=True, mutable=["batch_stats"]
        )
        return y.sum()

    for function, messages in ((total, 1), (jax.grad(total), 2)):
        jaxpr = jax.make_jaxpr(function, axis_env=[("device", 2)])(images)
        assert str(jaxpr).count("= all_gather[") == messages


def test_a_mixture_takes_the_weights_themselves():
    net = supernet(2, 2, layer_types=NO_DILATED)
    alphas, images = alphas_of(net), IMAGES.astype(np.float32)
    variables = variables_of(net)
    by_alphas = jax.jit(lambda alphas: net.apply(variables, alphas, images))(alphas)
    mixture = jax.jit(
        lambda weights: net.apply(variables, weights, images, method="mixture")
    )
    assert np.array_equal(mixture(relax(alphas)), by_alphas)
    zeroise = {name: np.eye(5, dtype=np.float32)[np.zeros(14, int)] for name in alphas}
    nothing, chosen = (
        mixture(zeroise),
        mixture({name: np.roll(value, 1, axis=1) for name, value in zeroise.items()}),
    )
    assert np.std(nothing - by_alphas) > 0 and np.std(chosen - nothing) > 0
    even = net.even_mixture()
    assert all(
        np.allclose(value, 1 / 5) and value.shape == (14, 5) for value in even.values()
    )


def test_an_edge_has_its_factor_of_drop_path_and_its_scalar():
    """A factor multiplies an edge's output of an example, as its weights would."""
    cell = MixedCell(
        place=Place(index=0, channels=2, reduction=False, halved=False),
        form=form_of("cifar"),
        layer_types=("max_pool_3x3",),
        scheme=Xnor(),
        arithmetic=Arithmetic(),
        skip=False,
        reduction_skip="float",
        binary_preprocess=False,
        float_edges=((),) * 5,
        edges="shared",
        shared_statistics=True,
    )
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 2, 4, 4, 6)).astype(np.float32)
    weights = rng.uniform(size=(14, 1)).astype(np.float32)
    factors = rng.uniform(size=(14, 2)).astype(np.float32)
    variables = cell.init(jax.random.key(0), *states, weights, train=False)
    run = jax.jit(
        lambda weights, **options: cell.apply(
            variables, *states, weights, train=False, **options
        )
    )

    dropped = run(weights, factors=factors)
    for example in range(2):
        expected = run(weights * factors[:, example, None])[example]
        assert np.allclose(dropped[example], expected, atol=1e-5)

    # Without weights a node is the sum of the scalars of its 2, 3, 4 or 5 edges.
    scalars = np.arange(14, dtype=np.float32)
    nodes = [part.sum() for part in np.split(scalars, [2, 5, 9])]
    output = run(0 * weights, scalars=scalars)
    assert np.allclose(output, np.repeat(nodes, 2))


def test_weights_of_another_shape_are_refused():
    net = supernet(2, 2)
    alphas = alphas_of(net.clone(layer_types=NO_DILATED))
    for wrong in (
        alphas,
        alphas_of(net)["normal"],
        {"normal": alphas_of(net)["normal"]},
    ):
        with pytest.raises(UserError, match=r'"normal": \(14, 7\), .*, got '):
            jax.eval_shape(net.init, jax.random.key(0), wrong, IMAGES)
    lists = {name: np.zeros((14, 7)).tolist() for name in ("normal", "reduce")}
    with pytest.raises(UserError, match=r"got {'normal': 'a list', 'reduce': 'a list'"):
        net.apply({}, lists, IMAGES)
    with pytest.raises(UserError, match="mixture weights must be"):
        net.apply({}, lists, IMAGES, method="mixture")


def test_a_list_of_layer_types_is_as_good_as_a_tuple_but_a_name_is_none():
    net = supernet(2, 2)
    assert hash(net.clone(layer_types=list(net.layer_types))) == hash(net)
    for wrong in ("none", (), 3, ("none", "none"), (1, 2)):
        with pytest.raises(UserError, match="layer_types must be different names"):
            net.clone(layer_types=wrong)


def test_one_image_without_a_batch_is_refused_in_a_sentence():
    net = supernet(2, 2)
    with pytest.raises(UserError, match=r"\(N, H, W, C\), got \(8, 8, 3\); one image"):
        jax.eval_shape(
            net.init, jax.random.key(0), alphas_of(net), jnp.zeros((8, 8, 3))
        )
