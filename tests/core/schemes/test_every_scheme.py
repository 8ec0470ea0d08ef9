"""What holds for every entry of `SCHEMES`.

In a layer, in a network of cells and in a supernet.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal, relative_error, with_gradients

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cost import cost
from bnas_jax.core.edge_spec import batching
from bnas_jax.core.mixed_edges import MixedEdges
from bnas_jax.core.modules import BinaryConv
from bnas_jax.core.schemes import SCHEMES, BiReal, XnorPlusPlus
from bnas_jax.data.batches import load_data
from bnas_jax.settings import from_config, template
from bnas_jax.training import build, build_optimizers
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.state import Sums
from bnas_jax.training.train_step import TrainStep
from configs import search, train

pytestmark = pytest.mark.usefixtures("quick_compilation")

# With the other forms that a scheme has.
FORMS = {
    **{name: entry() for name, entry in SCHEMES.items()},
    **{f"xnor_pp-{case}": XnorPlusPlus(case=case) for case in (1, 2, 3)},
    "xnor_pp-recipe": XnorPlusPlus(case=1, center=True, analytic_scale=True),
    "bireal-torch": BiReal(weight_gradient="torch"),
}
BINARY = [name for name, entry in SCHEMES.items() if entry.binary]
IMAGES = (8, 8, 1)


def gradients(scheme, *, plain: bool):
    """(y, gradients of all parameters and of x) of a BN and a convolution.

    The convolution is from 8 to 8 features.
    """
    layer = BinaryConv(
        features=8,
        kernel=3,
        stride=2,
        scheme=scheme,
        arithmetic=Arithmetic(plain=plain),
    )
    x, weights = normal(4, 8, 8, 8), normal(4, 4, 4, 8, seed=1)

    @jax.jit
    def compute(x):
        variables = layer.init(jax.random.key(0), x, train=True)

        def run(params, x):
            given = {**variables, "params": params}
            return layer.apply(given, x, train=True, mutable=list(variables))[0]

        y, vjp = jax.vjp(run, variables["params"], x)
        return y, vjp(weights)

    return compute(x)


@pytest.mark.parametrize("name", FORMS)
def test_every_parameter_learns_and_the_fast_form_is_the_plain_composition(name):
    y, fast = gradients(FORMS[name], plain=False)
    expected, plain = gradients(FORMS[name], plain=True)
    assert relative_error(y, np.asarray(expected)) < 1e-5
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(fast), jax.tree.leaves(plain), strict=True
    ):
        assert np.any(other != 0), jax.tree_util.keystr(path)
        assert relative_error(one, np.asarray(other)) < 1e-4, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", BINARY)
def test_the_first_of_two_stages_has_no_latent_weights(name):
    """Its activations are binary; what else a scheme learns is there and learns."""
    _, (params, _) = gradients(SCHEMES[name](stage="activations"), plain=False)
    paths = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
    assert "['conv']['kernel']" in paths and not any("latent" in path for path in paths)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(params))


JOINED = [
    name
    for name, scheme in FORMS.items()
    if scheme.binary and batching("bin_conv_3x3", scheme)
]


@pytest.mark.parametrize("name", JOINED)
def test_edges_side_by_side_are_the_sum_over_edges(name):
    x, weights = normal(2, 6, 6, 4), jnp.abs(normal(3, 2, seed=1))
    edges = MixedEdges(
        channels=4,
        stride=1,
        layer_types=("none", "bin_conv_3x3"),
        scheme=FORMS[name],
        arithmetic=Arithmetic(),
    )
    variables = jax.jit(functools.partial(edges.init, train=True))(
        jax.random.key(0), x, weights
    )

    def numbers_of(form: str):
        layer = edges.clone(edges=form)
        run = lambda params: layer.apply(
            {**variables, "params": params},
            x,
            weights,
            train=True,
            mutable=["batch_stats"],
        )[0]
        return with_gradients(
            run, lambda y: normal(*y.shape, seed=2), variables["params"]
        )

    (y, (to_params,)), (expected, (expected_params,)) = (
        numbers_of("shared"),
        numbers_of("plain"),
    )
    assert relative_error(y, np.asarray(expected)) < 1e-5
    assert (
        relative_error(
            to_params["latent_bin_conv_3x3"],
            np.asarray(expected_params["latent_bin_conv_3x3"]),
        )
        < 1e-4
    )


def settings_of(module, name: str, **network):
    """The settings of a preset for the digits, with the scheme of that name."""
    config = module.get_config("digits")
    template.choose(config, "scheme", name)
    config.batch_size = 4
    config.network.update({"channels": 4, **network})
    return from_config(config)


def batch():
    return {
        "image": jax.ShapeDtypeStruct((4, *IMAGES), jnp.float32),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }


def check_cost(model, params):
    """Each parameter counts as one bit or 32."""
    counted = cost(model, image_shape=IMAGES).total
    assert counted.params == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (counted.binary_macs > 0) == model.scheme.binary


@pytest.mark.parametrize("name", SCHEMES)
def test_a_network_of_cells_is_trained_and_counted(name):
    run = settings_of(train, name, num_cells=2)
    model = build.network(run, num_classes=10)
    step = TrainStep(
        network=model,
        optimizer=build_optimizers.training_optimizer(run, steps_per_epoch=1),
    )
    state = jax.eval_shape(functools.partial(step.init, image_shape=IMAGES))
    after = jax.eval_shape(step, state, batch())
    assert jax.tree.map(lambda leaf: leaf.shape, after.params) == jax.tree.map(
        lambda leaf: leaf.shape, state.params
    )
    check_cost(model, state.params)


# One scheme without parameters of its own, one with, and one without binarization.
SHORT = ("xnor", "float")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SHORT else pytest.mark.long)
        for name in SCHEMES
    ],
)
def test_a_supernet_is_searched_and_counted(name):
    """Edges run side by side where the scheme has no parameters of its own.

    Else each edge has a module.
    """
    run = settings_of(
        search, name, num_cells=1, layer_types=("none", "max_pool_3x3", "bin_conv_3x3")
    )
    model = build.supernet(run, num_classes=10)
    step = SearchStep(
        model,
        run.searcher,
        weights=build_optimizers.supernet_optimizer(run, steps_per_epoch=1),
        alphas=build_optimizers.alphas_optimizer(run),
    )
    state = jax.eval_shape(functools.partial(step.init, image_shape=IMAGES))
    names = set(state.params["cell0"]["state0"])
    together = {"latent_bin_conv_3x3"} if run.scheme.binary else {"kernel_bin_conv_3x3"}
    assert names == together or names == {
        f"edge{edge}_bin_conv_3x3" for edge in range(4)
    }
    after = jax.eval_shape(step, state, {"train": batch(), "valid": batch()})
    assert jax.tree.map(lambda leaf: leaf.shape, after.params) == jax.tree.map(
        lambda leaf: leaf.shape, state.params
    )
    check_cost(model, state.params)


# Small, so that compiling takes seconds.
CELL = [
    ["bin_conv_3x3", 0],
    ["bin_conv_3x3", 1],
    ["bin_conv_3x3", 2],
    ["max_pool_3x3", 0],
    *[["none", 0]] * 4,
]
# Binary weights without a scale learn late: after eight epochs BinaryNet's network knew
# 31 to 85 % of the images, by rounding and seed, and after twelve 90 % or more.
EPOCHS, STEPS = 12, 22


@pytest.mark.long
@pytest.mark.parametrize("name", SCHEMES)
def test_a_network_learns_the_digits(name, tmp_path):
    """Twelve epochs with the preset's optimizer.

    Most training images of the last epoch are known; chance is a tenth.
    """
    cell = tmp_path / "cell.json"
    cell.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    run = settings_of(train, name, num_cells=1, channels=16, genotype=str(cell))
    run = dataclasses.replace(run, num_epochs=EPOCHS)
    model = build.network(run, num_classes=10)
    step = TrainStep(
        network=model,
        optimizer=build_optimizers.training_optimizer(run, STEPS),
        num_epochs=EPOCHS,
        steps_per_epoch=STEPS,
    )
    digits = load_data("digits", batch_size=64)
    state = step.init(image_shape=digits.image_shape)
    run_step = jax.jit(step)
    for number in range(EPOCHS * STEPS):
        if number == (EPOCHS - 1) * STEPS:
            state = state.replace(sums=Sums.zeros(jnp.float32))
        state = run_step(state, digits.train_batch(number))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))
    known = float(state.sums.correct / state.sums.examples)
    assert known > 0.6
