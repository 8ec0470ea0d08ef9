"""Bi-Real Net's and ReActNet's networks as entries of `NETWORKS`.

What they count, and that all of them learns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal

from bnas_jax import NETWORKS
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cost import cost
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes import BiReal, Float, ReActNet, Xnor

pytestmark = pytest.mark.usefixtures("quick_compilation")

BIREAL, REACTNET = BiReal(), ReActNet()
# Of the authors' code for images of 224 pixels: parameters, multiply-adds of the
# convolutions and of the classifier.
COUNTS = {
    "bireal18": ("imagenet_resnet18", {}, BIREAL, (11_689_512, 1_813_561_344, 512_000)),
    "bireal34": (
        "imagenet_resnet18",
        {"blocks": (3, 4, 6, 3)},
        BIREAL,
        (21_797_672, 3_663_249_408, 512_000),
    ),
    "reactnet18": (
        "imagenet_resnet18",
        {},
        REACTNET,
        (11_704_424, 1_813_561_344, 512_000),
    ),
    "reactnet_a": (
        "reactnet_mobilenet",
        {},
        REACTNET,
        (29_343_592, 4_827_734_016, 1_024_000),
    ),
}


def network(name: str, scheme, num_classes: int = 10, **settings):
    return NETWORKS[name](**settings).build(
        num_classes=num_classes, scheme=scheme, arithmetic=Arithmetic()
    )


@functools.cache
def counted(name: str):
    entry, settings, scheme, _ = COUNTS[name]
    return cost(
        network(entry, scheme, 1000, **settings), image_shape=(224, 224, 3)
    ).total


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds_are_those_of_the_authors_code(name):
    params, of_convolutions, of_classifier = COUNTS[name][-1]
    assert counted(name).params == params
    assert (
        counted(name).binary_macs + counted(name).float_macs
        == of_convolutions + of_classifier
    )


def test_what_is_float_are_the_stem_the_shortcuts_and_the_classifier():
    """Which gives Bi-Real's 1.64e8 FLOPs (docs/networks.md)."""
    assert counted("bireal18").flops == pytest.approx(1.64e8, rel=0.01)
    shortcuts = sum(
        28 * 28 // 4**stage * 2 ** (2 * stage) * 64 * 128 for stage in range(3)
    )
    stem, classifier = 112 * 112 * 49 * 3 * 64, 512 * 1000
    assert counted("bireal18").float_macs == stem + shortcuts + classifier
    assert counted("reactnet_a").float_macs == 112 * 112 * 9 * 3 * 32 + 1024 * 1000


SMALL = {"width": 4, "blocks": (1, 1)}
NETS = {
    "bireal": network("resnet18", BIREAL, **SMALL),
    "reactnet": network("resnet18", REACTNET, **SMALL),
    "binary shortcuts": network("resnet18", BIREAL, float_shortcut=False, **SMALL),
    "xnor in the block of bireal": network("resnet18", Xnor(), block="bireal", **SMALL),
    "float": network("resnet18", Float(), block="bireal", **SMALL),
    "mobilenet": network("reactnet_mobilenet", REACTNET, widths=(4, 8, 8, 16)),
}


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_gets_a_gradient(name):
    model, images = NETS[name], normal(4, 16, 16, 3)

    @jax.jit
    def gradient(images):
        variables = model.init(jax.random.key(0), images)

        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return -jnp.sum(jax.nn.log_softmax(logits)[:, 0] * jnp.arange(1.0, 5))

        return jax.grad(loss)(variables["params"])

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(images)):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), jax.tree_util.keystr(
            path
        )


def test_widths_of_the_mobilenet_stay_or_double():
    with pytest.raises(
        UserError,
        match=(
            r"config\.network\.widths: .* as shortcuts repeat their input; got 24 "
            r"behind 8"
        ),
    ):
        NETWORKS["reactnet_mobilenet"](widths=(8, 8, 24))
    with pytest.raises(UserError, match=r"config\.network\.widths is empty; write for"):
        NETWORKS["reactnet_mobilenet"](widths=())
    with pytest.raises(UserError, match="images of 18 pixels cannot be halved 2 times"):
        jax.eval_shape(
            NETS["mobilenet"].init, jax.random.key(0), jnp.zeros((1, 18, 18, 3))
        )
