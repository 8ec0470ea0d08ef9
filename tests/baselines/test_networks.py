"""The hand-crafted networks.

What they cost, what is binary in them, and what they refuse.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bnas_jax import settings
from bnas_jax.baselines.block import Projection
from bnas_jax.baselines.nin import NinLayer, keep_factors
from bnas_jax.baselines.preact_block import PreactBlock
from bnas_jax.baselines.resnext import GroupedBlock
from bnas_jax.baselines.units import Normalized
from bnas_jax.baselines.xnor_block import XnorBlock
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cost import cost
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes import SCHEMES, BiReal, Float, ReActNet, Xnor, XnorPlusPlus
from bnas_jax.networks import NETWORKS
from bnas_jax.training.optimizers import latent_sgd
from bnas_jax.training.train_step import TrainStep
from configs import baselines

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLAIN = Arithmetic(plain=True)

# (network, its settings): its name in the counts of the published code, and FLOPs of
# its binary form in 1e8 where the whole is known, with float shortcuts on CIFAR and
# binary ones on ImageNet (docs/networks.md; those of WRN22 are not the paper's).
COUNTED = {
    ("resnet18", ()): ("ResNet18", 0.166),
    ("resnet34", ()): ("ResNet34", 0.261),
    ("senet18", ()): ("SENet18", 0.167),
    ("densenet", ()): ("DenseNet121", 0.156),
    ("nin", ()): ("NiN.jiecaoyu", 0.181),
    ("wrn40", ()): ("WRN40_4.xternalz", 0.259),
    ("wrn40", (("code", "meliketoy"),)): ("WRN40_4.meliketoy", None),
    ("wrn22", ()): ("WRN22_1.xternalz", 0.013),
    ("wrn22", (("width", 64),)): ("WRN22_i64_stem64.xternalz", 0.160),
    ("wrn22", (("width", 64), ("stem", 16))): ("WRN22_4.xternalz", None),
    ("resnext29", ()): ("ResNeXt29_2x64d", 1.05),
    ("imagenet_resnet18", ()): ("BiRealNet18.liuzechun", 1.45),
}


def built(name, scheme, num_classes=10, **changes):
    return NETWORKS[name](**changes).build(
        num_classes=num_classes, scheme=scheme, arithmetic=PLAIN
    )


def counted(name, scheme, **changes):
    size, classes = (224, 1000) if name.startswith("imagenet") else (32, 10)
    return cost(
        built(name, scheme, classes, **changes), image_shape=(size, size, 3)
    ).total


@pytest.fixture(scope="module")
def published(reference):
    return np.load(reference / "schemes" / "param_counts.npz")


@pytest.mark.parametrize(("name", "changes"), COUNTED, ids=str)
def test_the_float_network_has_the_parameters_and_multiplications_of_the_published_one(
    published, name, changes
):
    total = counted(name, Float(), **dict(changes))
    theirs, _ = COUNTED[name, changes]
    assert total.params == published[f"{theirs}.params"]
    assert total.bn_params == published[f"{theirs}.params_bn"]
    assert (
        total.float_macs
        == published[f"{theirs}.macs_conv"] + published[f"{theirs}.macs_linear"]
    )


@pytest.mark.parametrize(
    ("name", "changes"), [key for key, (_, flops) in COUNTED.items() if flops], ids=str
)
def test_the_binary_network_has_the_flops_of_the_table(name, changes):
    flops = COUNTED[name, changes][1]
    digits = len(str(flops).partition(".")[2])
    assert (
        round(
            counted(name, Xnor(activation_scale=False), **dict(changes)).flops / 1e8,
            digits,
        )
        == flops
    )


@pytest.mark.parametrize(
    ("name", "scheme", "flops"),
    [
        ("resnet18", Xnor(), 0.104),
        ("resnet34", Xnor(), 0.199),
        ("imagenet_resnet18", BiReal(), 1.64),
    ],
)
def test_shortcuts_of_the_other_kind(name, scheme, flops):
    changes = {} if name.startswith("imagenet") else {"float_shortcut": False}
    digits = len(str(flops).partition(".")[2])
    assert round(counted(name, scheme, **changes).flops / 1e8, digits) == flops


def test_the_shortcuts_of_imagenet_are_those_of_the_schemes_paper():
    kinds = {
        scheme: built("imagenet_resnet18", scheme).float_shortcut
        for scheme in (Xnor(), BiReal(), XnorPlusPlus())
    }
    assert list(kinds.values()) == [False, True, True]
    assert built("imagenet_resnet18", Xnor(), float_shortcut=True).float_shortcut


# Every network, every scheme, and a scheme that needs widths of its own in all
# families.
PAIRS = sorted(
    {(name, "xnor") for name in baselines.DIGITS}
    | {(name, "cbcn") for name in baselines.DIGITS if name != "small_cnn"}
    | {("resnet18", scheme) for scheme in SCHEMES}
)


def of_preset(name, scheme):
    run = settings.from_config(baselines.get_config(f"digits_{name}"))
    return run.network.build(num_classes=7, scheme=scheme, arithmetic=PLAIN)


# Of those that take longest one scheme, without --long.
DEEP = ("densenet", "resnext29", "senet18", "wrn22", "wrn40", "resnet34")


def pairs() -> list:
    """`PAIRS`, some of them for --long."""
    found = []
    for name, scheme in PAIRS:
        long = name in DEEP and scheme != "xnor"
        found.append(pytest.param(name, scheme, marks=pytest.mark.long if long else ()))
    return found


@pytest.mark.parametrize(("name", "scheme"), pairs())
def test_all_convolutions_but_the_first_the_gates_and_the_shortcuts_are_binary(
    name, scheme
):
    network = of_preset(name, SCHEMES[scheme]())
    images = jnp.zeros((2, 8, 8, 1))

    def trained():
        variables = network.init(jax.random.key(0), images, train=False)
        rngs = {"dropout": jax.random.key(1)}
        logits, _ = network.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return variables["params"], logits

    params, logits = jax.eval_shape(trained)
    assert logits.shape == (2, 7)
    kernels = [
        path for path in traverse_util.flatten_dict(params) if path[-1] == "kernel"
    ]
    floats = ("stem", "classifier", "dense", "gate", "shortcut")
    left = [
        path for path in kernels if not any(part.startswith(floats) for part in path)
    ]
    if scheme == "float":
        assert left
    else:
        assert not left


def test_the_block_of_a_resnet_is_the_schemes_or_the_one_that_is_set():
    def names(scheme, **changes):
        network = built("resnet18", scheme, width=4, blocks=(1, 1), **changes)
        params = jax.eval_shape(
            lambda: network.init(
                jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False
            )
        )["params"]
        return set(params["stage0_block0"]["unit0"])

    assert names(Xnor()) == names(BiReal()) == {"bn", "conv"}
    assert (
        names(ReActNet()) == names(Xnor(), block="reactnet") == {"bn", "conv", "rprelu"}
    )


@pytest.mark.parametrize(
    ("name", "size", "times"),
    [
        ("resnet18", 28, 3),
        ("imagenet_resnet18", 48, 5),
        ("densenet", 12, 3),
        ("nin", 6, 2),
        ("small_cnn", 4, 3),
    ],
)
def test_images_that_cannot_be_halved_are_refused_before_anything_is_computed(
    name, size, times
):
    network = built(name, Xnor())
    with pytest.raises(
        UserError,
        match=(
            f"images of {size} pixels cannot be halved {times} times.*a multiple of "
            f"{2**times}"
        ),
    ):
        cost(network, image_shape=(size, size, 3))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet18", {"width": 0}, "network.width must be at least 1, got 0"),
        (
            "resnet34",
            {"blocks": ()},
            "network.blocks is empty; .* --config.network.blocks=3,4,6,3",
        ),
        (
            "small_cnn",
            {"dense": ()},
            "network.dense is empty; .* --config.network.dense=120,84",
        ),
        (
            "resnet18",
            {"block": "bottleneck"},
            "network.block must be one of xnor, .*, got 'bottleneck'",
        ),
        (
            "senet18",
            {"width": 24},
            "network.width must be a multiple of config.network.gate, for instance 16; "
            "got 24",
        ),
        (
            "wrn22",
            {"code": "other"},
            "network.code must be one of xternalz, meliketoy, got 'other'",
        ),
        ("nin", {"widths": (8, 8)}, "network.widths must be three numbers"),
        (
            "nin",
            {"dropout": 1.0},
            "network.dropout must be from 0 to below 1, got 1.0",
        ),
        ("densenet", {"growth": -1}, "network.growth must be at least 1, got -1"),
        ("resnext29", {"groups": 0}, "network.groups must be at least 1, got 0"),
        (
            "small_cnn",
            {"layer_type": "max_pool_3x3"},
            "network.layer_type must be one of .*, got 'max_pool_3x3'",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(name, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        NETWORKS[name](**changes)
    assert "\n" not in str(caught.value)


def test_signs_with_parameters_do_not_drop_out():
    with pytest.raises(UserError, match=r"write config.network.dropout=0"):
        built("nin", ReActNet())
    assert built("nin", ReActNet(), dropout=0.0).dropout == 0


def test_drop_path_is_refused_where_there_are_no_cells():
    config = baselines.get_config("digits_resnet18")
    config.optimizer.drop_path = 0.1
    with pytest.raises(
        UserError, match=r"config.optimizer.drop_path is of networks of cells; write 0"
    ):
        settings.from_config(config)


def test_what_drops_out_does_not_depend_on_the_number_of_devices():
    key, shape = jax.random.key(0), (8, 3, 3, 16)

    def on_device(_):
        return keep_factors(
            key, 0.25, (2, *shape[1:]), arithmetic=Arithmetic(batch_axis="d")
        )

    one = jax.jit(lambda: keep_factors(key, 0.25, shape, arithmetic=PLAIN))()
    four = jax.jit(jax.vmap(on_device, axis_name="d"))(jnp.arange(4))
    assert np.array_equal(one, four.reshape(shape))
    assert set(np.unique(one)) == {0, np.float32(1 / 0.75)}
    assert np.mean(one > 0) == pytest.approx(0.75, abs=0.05)
    assert not np.array_equal(one[0], one[1])


BINARY = {"stride": 1, "scheme": Xnor(), "arithmetic": PLAIN}


@pytest.mark.parametrize(
    "block",
    [
        XnorBlock(features=4, **BINARY),
        PreactBlock(features=4, **BINARY),
        GroupedBlock(width=2, groups=2, float_shortcut=True, **BINARY),
    ],
    ids=lambda block: type(block).__name__,
)
def test_what_a_binary_block_adds_to_its_shortcut_has_both_signs(block):
    """No ReLU follows the last convolution, and none the sum."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    draw = jax.jit(lambda x: block.init_with_output(jax.random.key(1), x, train=True))
    y, _ = draw(x)
    assert np.min(y - x) < 0 < np.max(y - x) and np.min(y) < 0


def test_a_binary_shortcut_has_both_signs():
    shortcut = Projection(features=4, float_conv=False, **BINARY)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    y, _ = shortcut.init_with_output(jax.random.key(1), x, train=True)
    assert np.min(y) < 0 < np.max(y)


@pytest.mark.parametrize("scheme", [Xnor(), Float()], ids=["binary", "float"])
def test_a_sign_takes_the_place_of_a_relu(scheme):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    normal = Normalized(scheme=scheme, arithmetic=PLAIN)
    y, _ = normal.init_with_output(jax.random.key(1), x, train=True)
    assert (np.min(y) < 0) == scheme.binary


def test_nin_drops_signs_and_keeps_their_scales():
    """With one 1x1 weight w, K sign(x) is x: outputs are 0 or 2 |w| x, and the bias."""
    scheme = Xnor(activation="none")
    layer = NinLayer(1, kernel=1, scheme=scheme, arithmetic=PLAIN, dropout=0.5)
    x = jnp.array([-1.0, 1, -1, 1, -1, 1, -1, 1] * 4).reshape(2, 4, 4, 1)
    variables = layer.init(jax.random.key(0), x, train=False)
    variables["params"]["conv"]["latent"] = jnp.full((1, 1, 1, 1), 0.25)
    variables["params"]["bn"]["scale"] = jnp.full((1,), 3.0)

    rngs = {"dropout": jax.random.key(1)}
    y, _ = layer.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
    kept = np.asarray(y - variables["params"]["bias"]) / (2 * 0.25 * 3 * x)
    assert np.all(np.isclose(kept, 0, atol=1e-3) | np.isclose(kept, 1, atol=1e-3))
    assert 0 < kept.mean() < 1


def test_a_step_draws_what_drops_out():
    scheme = Xnor()
    step = TrainStep(of_preset("nin", scheme), latent_sgd(0.1, scheme=scheme))
    batch = {
        "image": jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    state = jax.eval_shape(lambda: step.init(image_shape=(8, 8, 1)))
    assert jax.tree.structure(jax.eval_shape(step, state, batch)) == jax.tree.structure(
        state
    )


@pytest.mark.parametrize("variant", baselines.VARIANTS)
def test_every_preset_is_what_its_name_says(variant):
    run = settings.from_config(baselines.get_config(variant))
    assert type(run.network) is NETWORKS[variant.removeprefix("digits_")]
    if variant.startswith("digits_"):
        assert run.dataset.name == "digits"
    else:
        assert run.dataset.name == (
            "imagenet2012" if variant in baselines.IMAGENET else "cifar10"
        )
        assert run.network == NETWORKS[variant]()
    assert settings.from_config(settings.to_dict(run)) == run


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(
        ValueError, match="no baseline 'resnet19': write one of resnet18, "
    ):
        baselines.get_config("resnet19")


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "small_cnn",
        pytest.param("nin", marks=pytest.mark.long),
        pytest.param("resnext29", marks=pytest.mark.long),
    ],
)
def test_with_short_activations_logits_and_gradients_stay_float32(name):
    """config.activations=bfloat16 is of what layers hand on alone."""
    run = settings.from_config(baselines.get_config(f"digits_{name}"))
    short = Arithmetic(activations=jnp.bfloat16)
    model = run.network.build(num_classes=10, scheme=run.scheme, arithmetic=short)
    images = jnp.zeros((2, 8, 8, 1))

    def results(images):
        key = jax.random.key(0)
        variables = model.init(key, images)

        def loss(params):
            logits, new = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return jnp.sum(logits), (logits, new)

        return jax.grad(loss, has_aux=True)(variables["params"])

    for leaf in jax.tree.leaves(jax.eval_shape(results, images)):
        assert leaf.dtype == jnp.float32
