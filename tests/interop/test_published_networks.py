"""The hand-crafted networks by their published names: `load_published` and the numbers
of the published code.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import nhwc, relative_error
from published import check_network, whole_network, with_prefix

from bnas_jax.baselines import nin
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.core.schemes.xnor import gradient_factor
from bnas_jax.interop.published import load_published
from bnas_jax.interop.published.nin import LAYERS, RULES
from bnas_jax.interop.published.torch_arrays import by_module, fill, from_torch

pytestmark = pytest.mark.usefixtures("quick_compilation")

NIN = "xnor_cifar_nin"


@pytest.mark.parametrize(
    "name",
    [
        "kuangliu_resnet18",
        pytest.param("kuangliu_senet18", marks=pytest.mark.long),
        pytest.param("kuangliu_resnext29_2x4d", marks=pytest.mark.long),
        pytest.param("wrn22_i4_xternalz", marks=pytest.mark.long),
        pytest.param("wrn22_i4_meliketoy", marks=pytest.mark.long),
    ],
)
def test_numbers_of_the_published_code(reference, name):
    check_network(whole_network(reference, name))


@pytest.mark.long
def test_densenet(reference):
    """Without gradients, for which its 58 layers compile for a minute."""
    arrays = dict(np.load(reference / "schemes" / "kuangliu_densenet121_k4.npz"))
    model, variables = load_published("kuangliu_densenet121_k4", arrays)
    images = nhwc(arrays["x"])
    logits = jax.jit(lambda images: model.apply(variables, images, train=False))(images)
    assert (
        np.abs(logits - arrays["logits_eval"]).max()
        < 1e-4 * arrays["logits_eval"].std()
    )


@pytest.fixture(scope="module")
def nin_arrays(reference):
    return dict(np.load(reference / "schemes" / f"{NIN}.npz"))


def test_nin_is_projected_as_before_each_pass_of_its_code(nin_arrays):
    params = load_published(NIN, nin_arrays)[1]["params"]
    for index, place in enumerate(LAYERS):
        layer = params[f"layer{index}"]
        projected = nin_arrays[f"latent_projected.xnor.{place}.conv.weight"]
        assert relative_error(layer["conv"]["latent"], from_torch(projected)) < 1e-6
        assert np.array_equal(
            layer["bn"]["scale"], nin_arrays[f"clamped.xnor.{place}.bn.weight"]
        )


@pytest.mark.parametrize("dropout", [False, pytest.param(True, marks=pytest.mark.long)])
def test_numbers_of_nin(nin_arrays, monkeypatch, dropout):
    """With dropout the draws are the file's."""
    model, variables = load_published(NIN, nin_arrays)
    images, labels = nhwc(nin_arrays["x"]), jnp.asarray(nin_arrays["y"])
    theirs, rngs = nin_arrays, None
    if dropout:
        theirs, rngs = (
            with_prefix(nin_arrays, "dropout"),
            {"dropout": jax.random.key(0)},
        )
        masks = [nhwc(theirs[f"mask.xnor.{place}.dropout"]) for place in (6, 10)]
        monkeypatch.setattr(
            nin,
            "keep_factors",
            lambda key, rate, shape, arithmetic: {m.shape: m for m in masks}[shape],
        )
    else:
        model = model.clone(dropout=0.0)
        logits = jax.jit(lambda images: model.apply(variables, images, train=False))(
            images
        )
        assert (
            np.abs(logits - theirs["logits_eval"]).max()
            < 1e-4 * theirs["logits_eval"].std()
        )

    def loss_of(params, images):
        given = {**variables, "params": params}
        logits, after = model.apply(
            given, images, train=True, mutable=["batch_stats"], rngs=rngs
        )
        of_labels = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
        return -jnp.mean(of_labels), (logits, after["batch_stats"])

    gradients = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True))
    (loss, (logits, after)), (to_params, to_images) = gradients(
        variables["params"], images
    )
    assert (
        np.abs(logits - theirs["logits_train"]).max()
        < 1e-4 * theirs["logits_train"].std()
    )
    assert float(loss) == pytest.approx(float(theirs["loss_train"]), rel=1e-5)
    assert relative_error(to_images, nhwc(theirs["grad_x"])) < 1e-3

    expected = fill(
        {"batch_stats": after}, with_prefix(theirs, "after"), by_module(RULES)
    )["batch_stats"]
    assert (
        max(map(relative_error, jax.tree.leaves(after), jax.tree.leaves(expected)))
        < 1e-5
    )
    # Its gradient of the stem's bias is 0 but for rounding. The code's factor c is the
    # optimizer's here.
    grads = {
        "xnor.0.bias": np.zeros_like(nin_arrays["state.xnor.0.bias"]),
        **with_prefix(theirs, "grad"),
    }
    expected = fill({"params": to_params}, grads, by_module(RULES))["params"]
    del to_params["stem"]["bias"], expected["stem"]["bias"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(to_params):
        factor = gradient_factor(leaf.shape) if is_latent(path[-1].key) else 1.0
        known = expected
        for key in path:
            known = known[key.key]
        assert relative_error(factor * leaf, known) < 1e-3, jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("kuangliu_senet18", "layer1.0.fc1.weight"),
        ("wrn22_i4_xternalz", "bn1.weight"),
        (NIN, "xnor.13.weight"),
    ],
)
def test_a_missing_array_is_named(reference, name, missing):
    arrays = dict(np.load(reference / "schemes" / f"{name}.npz"))
    del arrays[f"state.{missing}"]
    with pytest.raises(UserError, match=f"the published weights lack {missing}"):
        load_published(name, arrays)


def test_weights_of_another_network_are_refused(reference):
    arrays = np.load(reference / "schemes" / f"{NIN}.npz")
    with pytest.raises(
        UserError, match=r"of 'kuangliu_resnet18': .*have no blocks of this network"
    ):
        load_published("kuangliu_resnet18", arrays)
