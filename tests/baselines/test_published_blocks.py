"""Bi-Real Net's and ReActNet's blocks against numbers of their authors' code.

In both stages of ReActNet's training.
"""

import functools

import jax
import numpy as np
import pytest
from arrays import nhwc, relative_error, with_gradients
from published import numbers, with_prefix

from bnas_jax.baselines.bireal_block import BiRealUnit
from bnas_jax.baselines.reactnet_block import ReActNetUnit, RPRelu
from bnas_jax.baselines.reactnet_mobilenet import MobileBlock
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.schemes import BiReal, ReActNet
from bnas_jax.interop.published.bireal import (
    BIREAL_UNIT,
    MOBILE_BLOCK,
    REACTNET_UNIT,
    in_usual_shapes,
    with_one_pointwise,
)
from bnas_jax.interop.published.torch_arrays import fill

pytestmark = pytest.mark.usefixtures("quick_compilation")

BIREAL = BiReal(weight_gradient="torch", sign_of_zero=0)
STEPS = {
    "step1": ReActNet(sign_of_zero=0, stage="activations"),
    "step2": ReActNet(sign_of_zero=0),
}
# (file, block there): our module, its scheme, our leaves to theirs.
BLOCKS = {
    ("bireal", f"block.{size}"): (BiRealUnit, BIREAL, BIREAL_UNIT)
    for size in ("s1", "s2")
}
for step, scheme in STEPS.items():
    for size in ("s1", "s2"):
        BLOCKS["reactnet", f"resnet.{step}.{size}"] = (
            ReActNetUnit,
            scheme,
            REACTNET_UNIT,
        )
    for size in ("same.s1", "double.s1", "double.s2"):
        BLOCKS["reactnet", f"mobilenet.{step}.{size}"] = (
            MobileBlock,
            scheme,
            MOBILE_BLOCK,
        )


@pytest.mark.parametrize("place", BLOCKS, ids="-".join)
def test_blocks(reference, place):
    theirs = numbers(reference, *place)
    kind, scheme, names = BLOCKS[place]
    stride = 2 if place[1].endswith("s2") else 1
    module = kind(
        features=theirs["y_eval"].shape[1],
        stride=stride,
        scheme=scheme,
        arithmetic=Arithmetic(),
    )
    x, gradient = nhwc(theirs["x"]), nhwc(theirs["grad_y"])
    shapes = jax.eval_shape(
        functools.partial(module.init, train=False), jax.random.key(0), x
    )
    state = with_prefix(theirs, "state")

    def in_our_layout(arrays: dict, of: dict) -> dict:
        named = with_one_pointwise(
            in_usual_shapes(
                {f"here.at.{name}": array for name, array in arrays.items()}
            )
        )
        return fill(of, named, lambda path: "here.at." + names["/".join(path[1:])])

    variables = in_our_layout(state, shapes)
    statistics = {"batch_stats": variables["batch_stats"]}

    def train(params, x):
        y, after = module.apply(
            {"params": params, **statistics}, x, train=True, mutable=["batch_stats"]
        )
        return y, after["batch_stats"]

    @jax.jit
    def compute(params, x):
        y, vjp, after = jax.vjp(train, params, x, has_aux=True)
        y_eval = module.apply({"params": params, **statistics}, x, train=False)
        return y, *vjp(gradient), after, y_eval

    y, to_params, to_x, after, y_eval = compute(variables["params"], x)
    for ours, name in (
        (y_eval, "y_eval"),
        (y, "y_train"),
        (to_x, "grad_x"),
    ):
        assert relative_error(ours, nhwc(theirs[name])) < 1e-5, name
    # What is left out of a file there (a gradient of zero) is taken for the weights,
    # and would not agree.
    expected = in_our_layout(
        {**state, **with_prefix(theirs, "grad")}, {"params": shapes["params"]}
    )["params"]
    statistics_after = in_our_layout(
        {**state, **with_prefix(theirs, "after")},
        {"batch_stats": shapes["batch_stats"]},
    )
    for ours, tree in ((to_params, expected), (after, statistics_after["batch_stats"])):
        for (path, leaf), mine in zip(
            jax.tree_util.tree_leaves_with_path(tree),
            jax.tree.leaves(ours),
            strict=True,
        ):
            assert relative_error(mine, np.asarray(leaf)) < 1e-5, jax.tree_util.keystr(
                path
            )


def test_rprelu(reference):
    theirs = numbers(reference, "reactnet", "rprelu")
    names = {"before": "move1.bias", "slope": "prelu.weight", "after": "move2.bias"}
    in_our_layout = lambda kind: {
        ours: np.ravel(theirs[f"{kind}.{name}"]) for ours, name in names.items()
    }

    def run(values, x):
        params = {
            "before": values["before"],
            "prelu": {"slope": values["slope"]},
            "after": values["after"],
        }
        return RPRelu(Arithmetic()).apply({"params": params}, x)

    y, (to_values, to_x) = with_gradients(
        run, nhwc(theirs["grad_y"]), in_our_layout("state"), nhwc(theirs["x"])
    )
    assert relative_error(y, nhwc(theirs["y_train"])) < 1e-6
    assert relative_error(to_x, nhwc(theirs["grad_x"])) < 1e-6
    for name, gradient in in_our_layout("grad").items():
        assert relative_error(to_values[name], gradient) < 1e-5, name
