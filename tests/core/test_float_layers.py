"""DARTS's operations: in float against the numbers of its code, and under a binary
scheme.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import nhwc, normal, relative_error
from published import with_prefix

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.cost import cost
from bnas_jax.core.cost.counts import add
from bnas_jax.core.edge_spec import batching
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import ZEROISE, Genotype
from bnas_jax.core.layers import CONVOLUTION, COPIES, LAYERS, MobiNetType, layer_type
from bnas_jax.core.modules import BinaryConv
from bnas_jax.core.network import Network
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Float, Xnor
from bnas_jax.interop.published.torch_arrays import BATCH_NORM, fill

pytestmark = pytest.mark.usefixtures("quick_compilation")

DARTS = Float(order="relu_first")
CROSSED = "conv_7x1_1x7"
SEPARABLE = (
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
POOLS = ("max_pool_3x3", "avg_pool_3x3")
# name in the reference -> ours, and whether it is one of the search
OPERATIONS = {
    **{
        name: (name, False)
        for name in (ZEROISE, "skip_connect", *POOLS, *SEPARABLE, CROSSED)
    },
    **{f"search_{name}": (name, True) for name in POOLS},
}


def module_of(name, *, stride, scheme=DARTS, search=False, features=4, **options):
    return layer_type(name).module(
        features=features,
        stride=stride,
        scheme=scheme,
        arithmetic=Arithmetic(),
        search=search,
        binary_weights=True,
        name=None,
        **options,
    )


def counterpart(path):
    """The reference's name of a variable: its operations are lists of ReLU,
    convolutions and BN in turn.
    """
    _, *modules, leaf = path
    name = BATCH_NORM.get(leaf, "weight")
    reduce = {"conv0": "conv_1", "conv1": "conv_2", "bn": "bn"}
    crossed = {("across", "conv"): 1, ("down", "conv"): 2, ("down", "bn"): 3}
    if modules[0] in reduce:
        return f"{reduce[modules[0]]}.{name}"
    if tuple(modules) in crossed:
        return f"{crossed[tuple(modules)]}.{name}"
    part, inner = modules
    index = 4 * int(part[-1]) + 1
    if part.startswith("pointwise"):
        index += 1
    if inner == "bn":
        index += 1
    return f"op.{index}.{name}"


def of_pooling(path):
    return f"1.{BATCH_NORM[path[-1]]}"


def as_ours(name, array):
    return (
        nhwc(array) if name in ("x", "y_eval", "y_train", "grad_x", "grad_y") else array
    )


@pytest.fixture(scope="module")
def arrays(reference):
    return dict(np.load(reference / "searchers" / "darts_operations.npz"))


def near(ours, theirs, *, scale=None):
    """To 1e-5 of the largest entry, of another array where one is named."""
    largest = np.abs(theirs if scale is None else scale).max()
    return np.abs(ours - theirs).max() <= 1e-5 * largest


def check(module, counterpart, found, sizes=(8, 7)):
    """A module against the numbers of one operation: outputs, gradients and running
    statistics.
    """
    states = with_prefix(found, "state")
    x = nhwc(found["h8.x"])
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
    variables = fill(shapes, states, counterpart)
    params, statistics = variables.get("params", {}), variables.get("batch_stats", {})

    @jax.jit
    def run(x, grad_y):
        def trained(params, x):
            given = {"params": params, "batch_stats": statistics}
            return module.apply(given, x, train=True, mutable=["batch_stats"])

        y, vjp, after = jax.vjp(trained, params, x, has_aux=True)
        return y, *vjp(grad_y), after, module.apply(variables, x, train=False)

    for size in sizes:
        numbers = {
            name: as_ours(name, array)
            for name, array in with_prefix(found, f"h{size}").items()
        }
        if not numbers:
            continue
        y, to_params, to_x, after, evaluated = run(numbers["x"], numbers["grad_y"])
        assert near(y, numbers["y_train"]) and near(
            to_x, numbers["grad_x"], scale=numbers["grad_y"]
        )
        if "y_eval" not in numbers:
            continue
        assert near(evaluated, numbers["y_eval"])
        gradients = with_prefix(numbers, "grad")
        expected = (
            fill({"params": shapes.get("params", {})}, gradients, counterpart)["params"]
            if gradients
            else {}
        )
        largest = max((np.abs(value).max() for value in gradients.values()), default=1)
        for ours, theirs in zip(
            jax.tree.leaves(to_params), jax.tree.leaves(expected), strict=True
        ):
            assert near(ours, theirs, scale=largest)
        statistics_after = with_prefix(numbers, "after")
        if statistics_after:
            moved = fill(
                {"batch_stats": shapes["batch_stats"]}, statistics_after, counterpart
            )["batch_stats"]
            for ours, theirs in zip(
                jax.tree.leaves(after["batch_stats"]),
                jax.tree.leaves(moved),
                strict=True,
            ):
                assert near(ours, theirs)


# Which differ from those of 3x3 by the kernel alone.
LARGE = ("sep_conv_5x5", "sep_conv_7x7", "dil_conv_5x5")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name in LARGE else ())
        for name in OPERATIONS
    ],
)
def test_operations_of_darts(arrays, name, stride):
    found = with_prefix(arrays, f"{name}.s{stride}")
    if not found:
        assert stride == 1 and name in (
            *SEPARABLE,
            CROSSED,
        )  # left out of the file, to keep it small
        return
    ours, search = OPERATIONS[name]
    check(
        module_of(ours, stride=stride, search=search),
        of_pooling if search else counterpart,
        found,
    )


def test_the_preprocessing_of_darts(arrays):
    conv = BinaryConv(features=6, kernel=1, scheme=DARTS, arithmetic=Arithmetic())
    names = {"conv": "op.1", "bn": "op.2"}
    check(
        conv,
        lambda path: f"{names[path[1]]}.{BATCH_NORM.get(path[-1], 'weight')}",
        with_prefix(arrays, "preprocess.s1"),
    )


@pytest.mark.parametrize(("stride", "convs"), [(1, 0), (2, 2)])
def test_the_number_of_convolutions(stride, convs):
    """By the table of seams: two for each pair of a depthwise and a pointwise one."""
    assert layer_type("skip_connect").num_convs(stride) == convs
    counts = {
        name: layer_type(name).num_convs(stride) for name in (*SEPARABLE, "mobinet_3x3")
    }
    assert counts == {
        **dict.fromkeys(SEPARABLE[:3], 4),
        **dict.fromkeys(SEPARABLE[3:], 2),
        "mobinet_3x3": 2,
    }


def latents_of(module, x):
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False)).get(
        "params", {}
    )
    return [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "latent"
    ]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "name", [name for name, kind in LAYERS.items() if kind.batching == COPIES]
)
def test_under_a_binary_scheme_each_of_them_has_as_many_latent_kernels(name, stride):
    x = jnp.zeros((1, 8, 8, 4))
    module = module_of(name, stride=stride, scheme=Xnor())
    assert len(latents_of(module, x)) == layer_type(name).num_convs(stride)
    y, _ = jax.eval_shape(
        lambda: module.init_with_output(jax.random.key(0), x, train=False)
    )
    assert y.shape == (1, 8 // stride, 8 // stride, 4)


@pytest.mark.parametrize(
    "scheme", [Xnor(), DARTS, Float()], ids=["binary", "relu first", "bn first"]
)
@pytest.mark.parametrize("name", ["sep_conv_3x3", "mobinet_k4_3x3", "skip_connect"])
def test_copies_side_by_side_are_as_many_single_ones(name, scheme):
    """What the supernet runs for all edges that leave a state."""
    x = normal(2, 8, 8, 8)
    wide = module_of(name, stride=2, scheme=scheme, search=True, copies=3)
    single = module_of(name, stride=2, scheme=scheme, search=True)

    @jax.jit
    def wide_and_single(x):
        tiled = jnp.tile(x, (1, 1, 1, 3))
        variables = wide.init(jax.random.key(0), tiled, train=True)
        expected, _ = wide.apply(variables, tiled, train=True, mutable=["batch_stats"])
        split = jax.tree.map(
            lambda leaf: jnp.stack(jnp.split(leaf, 3, axis=-1)), variables
        )
        apply = functools.partial(single.apply, train=True, mutable=["batch_stats"])
        ys, _ = jax.lax.map(lambda own: apply(own, x), split)
        return expected, ys

    expected, ys = wide_and_single(x)
    for copy in range(3):
        assert relative_error(expected[..., 4 * copy : 4 * copy + 4], ys[copy]) < 1e-5


def test_groups_have_the_activation_scale_of_their_inputs():
    """K of a grouped convolution is what each group alone would have."""
    x, latent = normal(2, 6, 6, 4), normal(3, 3, 2, 6, seed=1)
    grouped = Convolution(
        features=6,
        kernel=(3, 3),
        geometry=square(3, groups=2),
        scheme=Xnor(),
        arithmetic=Arithmetic(),
    )
    alone = grouped.clone(features=3, geometry=square(3))

    def apply(conv, latent, x):
        return jax.jit(conv.apply)({"params": {"latent": latent}}, x)

    y = apply(grouped, latent, x)
    for group in range(2):
        inputs, outputs = (
            slice(2 * group, 2 * group + 2),
            slice(3 * group, 3 * group + 3),
        )
        expected = apply(alone, latent[..., outputs], x[..., inputs])
        assert relative_error(y[..., outputs], expected) < 1e-6


def test_groups_that_do_not_divide_the_channels_are_refused():
    conv = BinaryConv(
        features=6, kernel=3, groups=4, scheme=Xnor(), arithmetic=Arithmetic()
    )
    with pytest.raises(
        UserError,
        match=(
            "4 groups of a convolution do not divide its 6 input and 6 output channels"
        ),
    ):
        jax.eval_shape(
            lambda: conv.init(jax.random.key(0), jnp.zeros((1, 8, 8, 6)), train=False)
        )


@pytest.mark.parametrize("stride", [1, 2])
def test_where_the_kernels_of_mobinet_are_zero_its_shortcuts_remain(stride):
    block = module_of("mobinet_3x3", stride=stride, scheme=Xnor(), features=8)
    x = normal(2, 4, 4, 4)
    variables = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape),
        jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False)),
    )
    kept = x.reshape(2, 4 // stride, stride, 4 // stride, stride, 4).mean((2, 4))
    y = block.apply(variables, x, train=False)
    np.testing.assert_allclose(y, np.concatenate([kept, kept], axis=-1), rtol=1e-6)


@pytest.mark.parametrize(("channels", "seen"), [(8, 4), (6, 3), (3, 3), (5, 1), (1, 1)])
def test_outputs_of_mobinet_see_as_many_channels_as_divide_them(channels, seen):
    block = MobiNetType(kernel=3, inputs=4).module(
        features=channels,
        stride=1,
        scheme=Xnor(),
        arithmetic=Arithmetic(),
        search=False,
        binary_weights=True,
        name=None,
    )
    images = jnp.zeros((1, 8, 8, channels))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), images, train=False))
    assert shapes["params"]["spatial"]["conv"]["latent"].shape == (3, 3, seen, channels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"order": "conv_first"},
            "config.scheme.order must be one of bn_first, relu_first, got 'conv_first'",
        ),
        (
            {"order": "relu_first", "activation": "none"},
            "leave config.scheme.activation=none out",
        ),
    ],
)
def test_orders_that_are_none_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Float(**options)


def test_a_bias_stands_where_the_bn_has_no_scale_and_shift():
    """As in GDAS's search: on the last convolution of a separable one, and in a
    factorized reduce on both.
    """
    scheme = Float(order="relu_first", bias=True)
    x = jnp.zeros((1, 8, 8, 4))

    def biased(name, search):
        module = module_of(name, stride=2, scheme=scheme, search=search)
        params = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))[
            "params"
        ]
        paths = [
            [key.key for key in path]
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        return [
            "/".join(path[:-2]) or path[0]
            for path in paths
            if path[-1] == "bias" and path[-2] != "bn"
        ]

    assert biased("sep_conv_3x3", True) == ["pointwise0", "pointwise1"]
    assert biased("skip_connect", True) == ["conv0", "conv1"]
    assert biased("sep_conv_3x3", False) == biased("skip_connect", False) == []


def test_edges_with_biases_run_by_themselves():
    """Side by side, where BN comes first, they would lack theirs."""
    assert batching("bin_conv_3x3", Float()) == CONVOLUTION
    assert batching("bin_conv_3x3", Float(bias=True)) is None


# The trap of depthwise kernels (docs/schemes.md)
def network_of(name, scheme, **options):
    """A network of one cell, a reduction cell, whose layers are all of one type."""
    cell = tuple((name, source) for source in (0, 1)) * 4
    return Network(
        Genotype(cell, cell),
        num_cells=1,
        channels=4,
        num_classes=10,
        scheme=scheme,
        **options,
    )


@pytest.mark.parametrize("center", [True, pytest.param(False, marks=pytest.mark.long)])
def test_centring_makes_depthwise_kernels_zero_and_the_network_blind(center):
    """With it the latent weights are projected to exactly 0, and every image has the
    same logits: 10 % of ten classes.
    """
    scheme = Xnor(depthwise_center=center)
    net = network_of("dil_conv_3x3", scheme, skip=False)
    latent = lambda path, leaf: (
        scheme.latents.project(leaf) if path[-1].key == "latent" else leaf
    )

    @jax.jit
    def projected(images):
        variables = net.init(jax.random.key(0), images)
        params = jax.tree_util.tree_map_with_path(latent, variables["params"])
        depthwise = params["cell0"]["layer0"]["depthwise0"]["conv"]["latent"]
        return depthwise, net.apply({**variables, "params": params}, images)

    depthwise, logits = projected(normal(4, 8, 8, 3))
    assert np.all(depthwise == 0) == center
    assert (np.ptp(logits, axis=0).max() == 0) == center


@pytest.mark.parametrize(
    ("name", "macs", "latents"),
    [
        # C = 8 channels at 4x4 from 8x8: of each convolution its pixels, outputs and
        # inputs
        ("sep_conv_3x3", 16 * (2 * 9 * 8 + 2 * 8 * 8), 2 * 9 * 8 + 2 * 8 * 8),
        ("dil_conv_5x5", 16 * (25 * 8 + 8 * 8), 25 * 8 + 8 * 8),
        ("skip_connect", 16 * 8 * 8, 8 * 8),
        ("conv_7x1_1x7", 8 * 4 * 7 * 64 + 16 * 7 * 64, 2 * 7 * 64),
        ("mobinet_k4_3x3", 16 * (9 * 4 * 8 + 8 * 8), 9 * 4 * 8 + 8 * 8),
    ],
)
@pytest.mark.parametrize("scheme", [Xnor(), DARTS], ids=["binary", "float"])
def test_what_a_layer_costs(scheme, name, macs, latents):
    """The first layer of a reduction cell, whose edges from the inputs are strided."""
    counted = cost(network_of(name, scheme), image_shape=(8, 8, 3))
    total = add(row for row in counted.rows if row.name.startswith("cell0/layer0/"))
    kernels = total.float_params - total.bn_params
    if scheme.binary:
        assert (total.binary_macs, total.float_macs, total.binary_params, kernels) == (
            macs,
            0,
            latents,
            0,
        )
    else:
        assert (total.binary_macs, total.float_macs, total.binary_params, kernels) == (
            0,
            macs,
            0,
            latents,
        )
