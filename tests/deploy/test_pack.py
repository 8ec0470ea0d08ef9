"""Packed variables: the same logits of the same model, for every scheme."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import PACKED
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import BinaryConv
from bnas_jax.core.ops.packed import Kernel
from bnas_jax.core.schemes import (
    SCHEMES,
    AbcNet,
    BinaryNet,
    Cbcn,
    Float,
    Pcnn,
    Scheme,
    Xnor,
)
from bnas_jax.core.schemes.binary_conv import binary_conv
from bnas_jax.deploy.export import count_stored
from bnas_jax.deploy.pack import pack
from bnas_jax.training.optimizers import latent_sgd
from bnas_jax.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (6, 6, 8)
FORMS = {
    **{name: entry() for name, entry in SCHEMES.items() if entry.binary},
    "release": Xnor(sign_of_zero=0, activation_scale=False),
    "abc_net-bases": AbcNet(weight_bases=3, activation_bases=2, per_channel=True),
    "cbcn-simple": Cbcn(orientations=False),
    "pcnn-planes": Pcnn(planes=2),
}


class Layers(nn.Module):
    """Three convolutions: with signs of x, with x as it is, and one that stays float;
    and a depthwise one.
    """

    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        def conv(name, **options):
            return BinaryConv(
                **{"features": 8, "kernel": 3, **options},
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name=name,
            )

        y = conv("binary", stride=2)(images, train=train)
        y = y + conv("weights", kernel=1, binary_input=False)(y, train=train)
        y = y + conv("depthwise", groups=8)(y, train=train)
        return conv("float", kernel=1, binary_weights=False)(y, train=train).mean(
            (1, 2)
        )


def variables_of(model):
    """Its first variables, with running statistics of their own."""
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    moved = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
    return {"params": variables["params"], "batch_stats": moved}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if "-" in name else ())
        for name in FORMS
    ],
)
def test_a_packed_network_gives_the_same_logits_without_latent_weights(name):
    model = Layers(FORMS[name])
    variables = variables_of(model)
    packed = pack(model, variables, image_shape=SHAPE)
    images = normal(4, *SHAPE, seed=1)
    apply = jax.jit(lambda variables: model.apply(variables, images))
    np.testing.assert_allclose(apply(packed), apply(variables), rtol=1e-6, atol=1e-6)

    # What one bit holds is not there in floating point, too.
    for layer in ("binary", "weights", "depthwise"):
        assert "latent" not in packed["params"][layer].get("conv", {})
        assert isinstance(packed[PACKED][layer]["conv"]["kernel"], Kernel)
    assert set(packed[PACKED]) == {"binary", "weights", "depthwise"}
    assert "kernel" in packed["params"]["float"]["conv"]


def test_weights_and_numbers_are_counted():
    model = Layers(Xnor())
    packed = pack(model, variables_of(model), image_shape=SHAPE)
    binary = 3 * 3 * 8 * 8 + 8 * 8 + 3 * 3 * 8
    # The float kernel, four numbers a channel for each of four BN, and beta of three
    # layers.
    floats = 8 * 8 + 4 * 4 * 8 + 3 * 8
    assert count_stored(packed) == (binary, floats)


def test_the_bits_decide():
    """Turned bits turn the sums, so that they are what is multiplied."""
    model = Layers(BinaryNet())
    packed = pack(model, variables_of(model), image_shape=SHAPE)
    images = normal(4, *SHAPE, seed=1)
    before = model.apply(packed, images)
    conv = packed[PACKED]["binary"]["conv"]
    conv["kernel"] = conv["kernel"].replace(words=~conv["kernel"].words)
    assert not np.allclose(model.apply(packed, images), before)


def test_weights_of_zero_are_no_bits():
    model = Layers(FORMS["release"])
    variables = variables_of(model)
    latent = variables["params"]["binary"]["conv"]["latent"]
    variables["params"]["binary"]["conv"]["latent"] = latent.at[0, 0, 0, :3].set(0)
    with pytest.raises(
        UserError, match=r"3 weights of binary/conv are exactly 0.*sign_of_zero=1"
    ):
        pack(model, variables, image_shape=SHAPE)


def test_a_float_network_is_refused():
    model = Layers(Float())
    with pytest.raises(UserError, match="no binary weights that could be packed"):
        pack(model, variables_of(model), image_shape=SHAPE)


def test_what_are_no_variables_is_refused_in_a_sentence():
    model = Layers(Xnor())
    state = TrainStep(model, latent_sgd(0.1)).init(image_shape=SHAPE)
    for wrong in (state, state.params, None):
        with pytest.raises(
            UserError, match=r"such as state.variables, got a "
        ) as error:
            pack(model, wrong, image_shape=SHAPE)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="image_shape must be"):
        pack(model, state.variables, image_shape=6)


def test_a_network_inside_a_module_of_a_user_is_packed():
    """The module around it needs no arithmetic."""

    class Around(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, images, *, train: bool = False):
            return nn.Dense(3)(self.inner(images, train=train))

    model = Around(Layers(Xnor()))
    packed = pack(model, variables_of(model), image_shape=SHAPE)
    assert set(packed[PACKED]) == {"inner"}
    assert set(packed[PACKED]["inner"]) == {"binary", "weights", "depthwise"}


def test_a_scheme_that_hides_its_signs_is_named():
    class Hiding(Xnor):
        def convolve(self, module, x):
            return binary_conv(
                x,
                module.latent(x),
                scheme=self,
                geometry=module.geometry,
                arithmetic=module.arithmetic,
            )

    class Both(nn.Module):
        arithmetic: Arithmetic = Arithmetic()

        @nn.compact
        def __call__(self, images, *, train: bool = False):
            y = images
            for name, scheme in (("open", Xnor()), ("hiding", Hiding())):
                conv = BinaryConv(
                    features=8,
                    kernel=1,
                    scheme=scheme,
                    arithmetic=self.arithmetic,
                    name=name,
                )
                y = conv(y, train=train)
            return y

    model = Both()
    with pytest.raises(
        UserError, match=r"hiding/conv/latent cannot be packed.*module.binarized"
    ):
        pack(model, variables_of(model), image_shape=SHAPE)
