"""The supernet, which shares work between edges, against the plain sum over edges; and what else it must be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bnas_jax.benchmarks.plain_supernet import call, plain_supernet, plain_variables
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import LAYER_TYPES, ZEROISE
from bnas_jax.core.rules import MEANT, RELEASE, Rules
from bnas_jax.core.supernet import MixedEdges, Supernet, supernet_float_edges

NO_DILATED = tuple(name for name in LAYER_TYPES if "dil" not in name)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 2))
LABELS = np.array([0, 3, 1])
# Equal modules of equal shapes are compiled once.
JITTED = jax.jit(call, static_argnames=("module", "train"))
NETS = {
    # With K, and all types.
    "paper": Supernet(3, 2, 5, rules=Rules(dtype=jnp.float64)),
    # Without K, some convolutions float, statistics of each edge, no dilated convolutions; reduction cells alone.
    "head": Supernet(
        2, 3, 5, NO_DILATED, rules=dataclasses.replace(RELEASE, dtype=jnp.float64), shared_statistics=False
    ),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiling takes longer than running here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def alphas_of(net, seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(14, len(net.layer_types))) for name in ("normal", "reduce")}


def variables_of(net, seed=2):
    """Variables away from their start, variances positive, in the arithmetic of the net."""
    rng = np.random.default_rng(seed)
    shapes = traverse_util.flatten_dict(jax.eval_shape(net.init, jax.random.key(0), alphas_of(net), IMAGES))
    draw = lambda path, leaf: rng.uniform(0.5, 2, leaf.shape) if path[-1] == "var" else rng.normal(size=leaf.shape) / 3
    flat = {path: draw(path, leaf).astype(leaf.dtype) for path, leaf in shapes.items()}
    return traverse_util.unflatten_dict(flat)


def loss_of(run, statistics, params, alphas):
    logits, after = run({"params": params, "batch_stats": statistics}, alphas)
    return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(3), LABELS]), (logits, after)


def shared_and_plain(net):
    """Logits in evaluation, then loss, logits, statistics and gradients in training, both ways; by the plain form's names."""
    variables, alphas = variables_of(net), alphas_of(net)

    def shared(variables, alphas):
        logits, new = net.apply(variables, alphas, IMAGES, train=True, mutable=["batch_stats"])
        return logits, new["batch_stats"]

    def plain(variables, alphas):
        return plain_supernet(net, variables, alphas, IMAGES, train=True, call=JITTED)

    def gradients(run, variables):
        function = lambda params, alphas: loss_of(run, variables["batch_stats"], params, alphas)
        return jax.value_and_grad(function, argnums=(0, 1), has_aux=True)

    evaluate = lambda variables: net.apply(variables, alphas, IMAGES, train=False)
    both = lambda params, alphas: (evaluate(variables | {"params": params}), gradients(shared, variables)(params, alphas))
    compiled = jax.jit(both, compiler_options={"xla_cpu_use_fusion_emitters": False})  # a third less time to compile
    eval_logits, ((loss, (logits, after)), (to_params, to_alphas)) = compiled(variables["params"], alphas)
    split = plain_variables(net, {"params": to_params, "batch_stats": after})
    ours = {"eval": eval_logits, "loss": loss, "logits": logits, "alphas": to_alphas, **split}

    own = plain_variables(net, variables)
    (loss, (logits, after)), (to_params, to_alphas) = gradients(plain, own)(own["params"], alphas)
    eval_logits, _ = plain_supernet(net, own, alphas, IMAGES, train=False, call=JITTED)
    theirs = {
        "eval": eval_logits,
        "loss": loss,
        "logits": logits,
        "alphas": to_alphas,
        "params": to_params,
        "batch_stats": after,
    }
    return ours, theirs


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", NETS)
def test_the_supernet_is_the_plain_sum_over_edges(name):
    """In float64, as one flipped sign would move everything behind it."""
    with jax.enable_x64(True):
        ours, theirs = shared_and_plain(NETS[name])
    assert ours["logits"].dtype == jnp.float64
    for part, expected in theirs.items():
        flat, flat_expected = (traverse_util.flatten_dict({part: tree}) for tree in (ours[part], expected))
        assert set(flat) == set(flat_expected)
        scale = largest(expected)
        assert scale > 0
        for path, value in flat_expected.items():
            assert np.abs(flat[path] - value).max() < 1e-9 * scale, path


MIXED = MixedEdges(4, 2, ("max_pool_3x3", ZEROISE, "bin_conv_3x3"), Rules(), (0,))


def mixed(weights):
    """Three edges that leave one state."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    latent = np.random.default_rng(1).normal(size=(3, 3, 4, 12)).astype(np.float32)
    return MIXED.apply({"params": {"latent_bin_conv_3x3": latent}, "batch_stats": RUNNING}, x, weights, train=False)


RUNNING = {name: {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)} for name in ("bn", "pool_bn")}


def test_zeroise_contributes_nothing():
    assert not np.any(mixed(np.eye(3, dtype=np.float32)[[1, 1, 1]]))
    weights = np.full((3, 3), 0.2, np.float32)
    more = weights.copy()
    more[:, 1] = 0.6
    assert np.array_equal(mixed(weights), mixed(more))


def test_weights_belong_to_their_edges():
    weights = np.array([[0.5, 0, 0], [0.25, 0, 0], [0, 0, 1]], np.float32)
    y = mixed(weights)
    assert y.shape == (2, 4, 4, 3, 4)
    assert np.array_equal(y[:, :, :, 0], 2 * y[:, :, :, 1])
    assert np.array_equal(y[:, :, :, 2], mixed(np.tile(weights[2], (3, 1)))[:, :, :, 2])
    assert not np.allclose(y[:, :, :, 2], mixed(np.tile(weights[2], (3, 1)))[:, :, :, 1]), "each edge has its own kernel"


def shapes_of(net, images=IMAGES):
    initialise = lambda alphas, x: net.init_with_output(jax.random.key(0), alphas, x)
    logits, variables = jax.eval_shape(initialise, alphas_of(net), images)
    return logits, traverse_util.flatten_dict(variables)


@pytest.mark.parametrize(
    ("num_cells", "shape"), [(5, (2, 8, 8, 1)), (4, (2, 12, 16, 3)), (1, (2, 2, 2, 3)), (8, (2, 32, 32, 3))]
)
@pytest.mark.parametrize("layer_types", [LAYER_TYPES, NO_DILATED], ids=["all types", "no dilated"])
def test_any_image_size_and_set_of_layer_types(num_cells, shape, layer_types):
    logits, variables = shapes_of(Supernet(num_cells, 4, 7, layer_types), np.zeros(shape, np.float32))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    latents = {path[-1] for path in variables if path[-1].startswith("latent_")}
    assert latents == {f"latent_{name}" for name in layer_types if name.startswith("bin_")}


def test_images_that_the_reductions_cannot_halve_are_refused():
    with pytest.raises(UserError, match="images of 6 pixels at the first cell cannot be halved by 2 reduction cells") as caught:
        shapes_of(Supernet(5, 4, 7), np.zeros((1, 6, 8, 3), np.float32))
    assert "\n" not in str(caught.value)


def test_skips_can_be_left_out():
    of_skips = lambda net: {path[1] for path in shapes_of(net)[1] if path[2:3] == ("skip",)}
    assert of_skips(Supernet(5, 2, 7)) == {"cell1", "cell3"}
    assert not of_skips(Supernet(5, 2, 7, skip=False))


@pytest.mark.parametrize("binary", [False, True])
def test_preprocessing_is_float_in_the_search_unless_asked_for(binary):
    _, variables = shapes_of(Supernet(3, 2, 5, rules=Rules(binary_search_preprocess=binary)))
    leaves = {path[-1] for path in variables if path[0] == "params" and "preprocess" in path}
    assert leaves == {"latent" if binary else "kernel"}, "and its BN has no parameters"


def test_each_edge_has_statistics_of_its_own_where_asked_for():
    own, shared = (shapes_of(Supernet(3, 2, 5, shared_statistics=flag))[1] for flag in (False, True))
    path = ("batch_stats", "cell0", "state0", "bn", "mean")
    assert (own[path].shape, shared[path].shape) == ((4, 4, 2), (2,)), "types, edges, channels"
    path = ("batch_stats", "cell0", "state0", "pool_bn", "var")
    assert (own[path].shape, shared[path].shape) == ((4, 4), (4,)), "edges, poolings side by side"
    assert {path for path in own if path[0] == "params"} == {path for path in shared if path[0] == "params"}


def test_float_edges_are_the_last_ones():
    """Of 5 cells 2 skips and 10 preprocessing convolutions shift the released count by 12 convolutions: three edges."""
    float_edges = supernet_float_edges(Supernet(5, 4, 10, rules=RELEASE))
    assert float_edges[:4] == [((0,) * 4,) * 5] * 4
    # The last three edges leave states 2, 3 and 4.
    assert float_edges[4] == ((0,) * 4, (0,) * 4, (1,) * 4, (1,) * 4, (1,) * 4)
    assert supernet_float_edges(Supernet(5, 4, 10, rules=MEANT))[4] == ((0,) * 4,) * 5
