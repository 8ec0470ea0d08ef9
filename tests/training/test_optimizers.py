"""The optimizers, link by link: what happens to latent weights alone, in which order,
against SGD and Adam in NumPy.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from arrays import close

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Genotype
from bnas_jax.core.network import Network
from bnas_jax.core.schemes import Float, Pcnn, Xnor
from bnas_jax.core.schemes.xnor import center_and_clip, gradient_factor
from bnas_jax.core.supernet import Supernet
from bnas_jax.search import Bnas
from bnas_jax.training import (
    alpha_optimizers,
    build_optimizers,
    descent,
    latents,
    optimizers,
)
from bnas_jax.training.latents import on_latent_modules
from bnas_jax.training.optimizers import for_latents, latent_adam, latent_sgd
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.train_step import TrainStep
from configs import search, train

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.3
PAPER = Xnor()
CELL = (("bin_conv_3x3", 0), ("none", 1)) * 4


def params(seed: int = 0) -> dict:
    """Latent weights, projected, beside float ones, as a network has them."""
    draw = np.random.default_rng(seed)
    normal = lambda *shape: draw.normal(size=shape).astype(np.float32)
    tree = {
        "layer": {
            "latent": normal(3, 3, 4, 2),
            "latent_bin_conv_3x3": normal(1, 1, 6, 2),
        },
        "classifier": {"kernel": normal(5, 3), "bias": normal(3)},
    }
    return latents.project_params(jax.tree.map(jnp.asarray, tree), PAPER.latents)


def gradients(seed: int) -> dict:
    return jax.tree.map(lambda x: 5 * x, params(seed))


def optimizer(gradient: str = "bnas", *, depthwise_center: bool = False, **changes):
    options = {"momentum": MOMENTUM, "weight_decay": DECAY, **changes}
    scheme = Xnor(weight_gradient=gradient, depthwise_center=depthwise_center)
    return latent_sgd(RATE, scheme=scheme, **options)


def one_step(chain, tree, grads):
    updates, _ = chain.update(grads, chain.init(tree), tree)
    return optax.apply_updates(tree, updates)


def norm_of(tree) -> float:
    return float(
        np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))
    )


# The rules for latent weights


def test_the_factor_multiplies_the_gradients_of_latent_weights_alone():
    grads = gradients(1)
    scaled, _ = latents.scale_latent_gradients(PAPER.latents.factor).update(
        grads, optax.EmptyState()
    )
    ratios = jax.tree.map(
        lambda a, b: np.unique(np.round(np.asarray(a / b), 4)).tolist(), scaled, grads
    )
    # c = (1 - 1 / inputs) * kernel size * inputs
    assert ratios["layer"] == {
        "latent": [pytest.approx(27.0)],
        "latent_bin_conv_3x3": [pytest.approx(5.0)],
    }
    assert ratios["classifier"] == {"kernel": [1.0], "bias": [1.0]}


@pytest.mark.parametrize(
    ("rule", "scaled"), [("bnas", True), ("allenai", True), ("paper", False)]
)
def test_the_rule_of_the_gradient_decides_about_the_factor(rule, scaled):
    tree, grads = params(), jax.tree.map(lambda x: 1e-3 * x, gradients(1))
    after = one_step(optimizer(rule, momentum=0.0, weight_decay=0.0), tree, grads)
    factor = gradient_factor((3, 3, 4, 2)) if scaled else 1
    expected = center_and_clip(
        tree["layer"]["latent"] - RATE * factor * grads["layer"]["latent"]
    )
    assert np.allclose(after["layer"]["latent"], expected, atol=1e-6)


def test_latent_weights_stay_projected_after_each_of_many_large_updates():
    chain = optimizer()
    tree = params()
    state = chain.init(tree)
    for step in range(5):
        updates, state = chain.update(gradients(step), state, tree)
        tree = optax.apply_updates(tree, updates)
        for latent in tree["layer"].values():
            assert np.abs(latent).max() == pytest.approx(1, abs=1e-6)
    assert np.abs(tree["classifier"]["kernel"]).max() > 1  # and nothing else is clipped


def test_small_updates_leave_the_mean_over_input_channels_at_zero():
    tree = jax.tree.map(lambda x: 0.1 * x, params())
    chain = optimizer()
    state = chain.init(tree)
    for step in range(3):
        updates, state = chain.update(
            jax.tree.map(lambda g: 1e-3 * g, gradients(step)), state, tree
        )
        tree = optax.apply_updates(tree, updates)
    for latent in tree["layer"].values():
        assert np.abs(np.mean(latent, axis=2)).max() < 1e-6 and np.abs(latent).max() < 1


def test_a_state_begins_projected():
    raw = {
        "layer": {
            "latent": jnp.full((1, 1, 2, 1), 3.0),
            "kernel": jnp.full((2, 2), 3.0),
        }
    }
    projected = latents.project_params(raw, PAPER.latents)
    assert np.all(projected["layer"]["latent"] == 0) and np.all(
        projected["layer"]["kernel"] == 3
    )
    assert latents.project_params(raw, Float().latents) is raw


@pytest.mark.parametrize(("depthwise_center", "alive"), [(False, True), (True, False)])
def test_latent_weights_of_one_input_channel_live_and_learn_unless_centred(
    depthwise_center, alive
):
    """Of 1 input channel nothing is left by centring, and c = 1 - 1 / 1 is 0."""
    latent = 0.1 * np.random.default_rng(0).normal(size=(3, 3, 1, 2))
    rule = Xnor(depthwise_center=depthwise_center).latents
    tree = latents.project_params(
        {"layer": {"latent": jnp.asarray(latent, jnp.float32)}}, rule
    )
    grads = jax.tree.map(lambda x: 0.1 * jnp.ones_like(x), tree)
    after = one_step(
        optimizer(momentum=0.0, weight_decay=0.0, depthwise_center=depthwise_center),
        tree,
        grads,
    )
    expected = latent - RATE * 0.1 if alive else np.zeros_like(latent)
    assert np.allclose(after["layer"]["latent"], expected, atol=1e-7)


# The order of the links


def numpy_sgd(
    tree, grads_of, steps: int, *, clip: float | None = None, factor: bool = True
) -> dict:
    """SGD as PyTorch has it: clip, c, weight decay into the gradient, v = m v + g, w -=
    lr v, then the projection.
    """
    leaves = {
        jax.tree_util.keystr(path): np.asarray(x, np.float64)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    velocity = {name: 0.0 for name in leaves}
    for step in range(steps):
        grads = {
            jax.tree_util.keystr(path): np.asarray(g, np.float64)
            for path, g in jax.tree_util.tree_leaves_with_path(grads_of(step))
        }
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        for name, g in grads.items():
            latent = "latent" in name
            g = g * min(1.0, clip / norm) if clip else g
            if latent and factor:
                inputs = g.shape[2]
                g = g * (1 - 1 / inputs) * g.shape[0] * g.shape[1] * inputs
            velocity[name] = MOMENTUM * velocity[name] + g + DECAY * leaves[name]
            w = leaves[name] - RATE * velocity[name]
            leaves[name] = (
                np.clip(w - w.mean(axis=2, keepdims=True), -1, 1) if latent else w
            )
    return leaves


@pytest.mark.parametrize("clip", [None, 2.0])
@pytest.mark.parametrize("rule", ["bnas", "paper"])
def test_three_steps_are_those_of_sgd_in_numpy(clip, rule):
    """Clipping acts on the raw gradient, before the factor; weight decay after it, on
    the projected weights.
    """
    grads_of = lambda step: jax.tree.map(lambda g: 0.05 * g, gradients(step + 1))
    chain = optimizer(rule, clip_norm=clip)
    tree = params()
    state = chain.init(tree)
    for step in range(3):
        updates, state = chain.update(grads_of(step), state, tree)
        tree = optax.apply_updates(tree, updates)
    expected = numpy_sgd(params(), grads_of, 3, clip=clip, factor=rule == "bnas")
    ours = {
        jax.tree_util.keystr(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert ours.keys() == expected.keys()
    assert all(
        np.allclose(ours[name], expected[name], rtol=1e-4, atol=1e-5) for name in ours
    )


def test_infinity_does_not_clip():
    grads = jax.tree.map(lambda g: 1e6 * g, gradients(1))
    free, clipped = (
        one_step(optimizer(clip_norm=clip), params(), grads)
        for clip in (float("inf"), 5.0)
    )
    assert close(free, one_step(optimizer(clip_norm=None), params(), grads))
    assert not close(free, clipped)


def test_rate_and_momentum_follow_their_schedules_from_step_0():
    halving = lambda step: 1.0 / (1 + jnp.asarray(step, jnp.float32))
    growing = lambda step: 0.5 * jnp.asarray(step, jnp.float32)
    chain = descent.sgd(halving, growing)
    tree = {"kernel": jnp.zeros(())}
    state = chain.init(tree)
    weight, velocity = 0.0, 0.0
    for step in range(4):
        updates, state = chain.update({"kernel": jnp.ones(())}, state, tree)
        velocity = 0.5 * step * velocity + 1
        weight -= velocity / (1 + step)
        tree = optax.apply_updates(tree, updates)
        assert float(tree["kernel"]) == pytest.approx(weight)
    assert int(state.step) == 4


def test_updates_keep_the_dtype_of_the_weights():
    with jax.enable_x64(True):
        tree = {
            "latent": jnp.full((1, 1, 2, 1), 0.5, jnp.float64),
            "kernel": jnp.ones((2,), jnp.float64),
        }
        after = one_step(
            optimizer(clip_norm=1.0), tree, jax.tree.map(jnp.ones_like, tree)
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype("float64")}


# Any optimizer


def test_a_number_is_a_schedule_that_stays():
    constant = latent_sgd(
        lambda step: jnp.float32(RATE), momentum=lambda step: jnp.float32(MOMENTUM)
    )
    tree, grads = params(), gradients(1)
    number = latent_sgd(RATE, momentum=MOMENTUM)
    assert close(
        one_step(number, tree, grads), one_step(constant, tree, grads), rtol=0, atol=0
    )


def test_any_optimizer_gets_the_links_of_latent_weights():
    """The factor before it, which Adam's first update would hide but for its epsilon;
    the projection after it.
    """
    tree, grads = params(), gradients(1)
    adam = optax.adam(0.01, eps=100.0)
    after = one_step(for_latents(adam), tree, grads)
    scaled = jax.tree.map(lambda g: g, grads)
    scaled["layer"] = {
        name: g * gradient_factor(g.shape) for name, g in grads["layer"].items()
    }
    expected = one_step(adam, tree, scaled)
    expected["layer"] = jax.tree.map(center_and_clip, expected["layer"])
    assert close(after, expected)
    assert not close(after["layer"], one_step(adam, tree, grads)["layer"])


def test_a_scheme_without_a_rule_leaves_an_optimizer_as_it_is():
    tree, grads = params(), gradients(1)
    adam = optax.adam(0.01)
    assert close(
        one_step(for_latents(adam, Float()), tree, grads),
        one_step(adam, tree, grads),
        rtol=0,
        atol=0,
    )


def steps_with(optimizer, scheme) -> list:
    """Makes a training and a search step with the optimizer."""
    network = Network(
        Genotype(CELL, CELL), num_cells=1, channels=2, num_classes=2, scheme=scheme
    )
    supernet = Supernet(num_cells=1, channels=2, num_classes=2, scheme=scheme)
    return [
        lambda: TrainStep(network, optimizer),
        lambda: SearchStep(
            supernet, Bnas(), weights=optimizer, alphas=optax.adam(3e-4)
        ),
    ]


@pytest.mark.parametrize(
    ("optimizer", "scheme"),
    [
        (optax.sgd(0.1), Xnor()),
        (optax.chain(latent_sgd(0.1), optax.scale(2.0)), Xnor()),
        (latent_sgd(0.1), Xnor(depthwise_center=True)),
        (latent_sgd(0.1), Float()),
    ],
    ids=["none", "none behind", "another one", "one too many"],
)
def test_an_optimizer_that_does_not_project_as_the_scheme_is_refused_with_what_to_write(
    optimizer, scheme
):
    advice = (
        rf"as {type(scheme).__name__} does; write latent_sgd.* or for_latents\(inner, "
        r"scheme\)"
    )
    for make in steps_with(optimizer, scheme):
        with pytest.raises(UserError, match=advice) as caught:
            make()
        assert "\n" not in str(caught.value)
    for advised in (
        for_latents(optax.sgd(0.1), scheme),
        latent_sgd(0.1, scheme=scheme),
    ):
        for make in steps_with(advised, scheme):
            make()


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1),
        latent_sgd(0.1),
        latent_sgd(0.1, scheme=Pcnn(projection_loss=1.0)),
    ],
)
def test_closed_forms_of_gradients_need_an_optimizer_that_has_them_and_its_rate(
    optimizer,
):
    scheme = Pcnn()
    for make in steps_with(optimizer, scheme):
        with pytest.raises(
            UserError,
            match=(
                r"as Pcnn does; write latent_sgd.* or for_latents\(inner, scheme, "
                r"rate=rate\)"
            ),
        ):
            make()
    with pytest.raises(
        UserError,
        match=r"Pcnn depend on the learning rate; write for_latents\(.*, rate=\.\.\.\)",
    ):
        for_latents(optax.sgd(0.1), scheme)
    for advised in (
        for_latents(optax.sgd(0.1), scheme, rate=0.1),
        latent_sgd(0.1, scheme=scheme),
    ):
        for make in steps_with(advised, scheme):
            make()


def test_an_optimizer_of_a_scheme_with_closed_forms_leaves_other_modules_as_they_are():
    """Those without latent weights, and what lies below a module that has them."""
    scheme = Pcnn(plane_rate=0.5)
    rates = on_latent_modules(
        lambda module: {name: "seen" for name in module},
        {"a": {"latent": 1, "prelu": {"slope": 2}}},
    )
    assert rates == {"a": {"latent": "seen", "prelu": "seen"}}
    tree = {"classifier": {"kernel": jnp.ones((2, 3)), "planes": jnp.ones(3)}}
    after = one_step(latent_sgd(0.1, scheme=scheme), tree, tree)
    assert close(after, one_step(optax.sgd(0.1), tree, tree))


def test_a_float_network_takes_any_optimizer():
    optimizer = optax.sgd(0.1)
    for make in steps_with(optimizer, Float()):
        step = make()
        assert optimizer in (
            getattr(step, name, None) for name in ("optimizer", "weights")
        )


# Nesterov, Adam, and what weight decay reaches


def test_nesterov_looks_ahead_as_in_pytorch():
    chain = optimizers.latent_sgd(
        RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY, scheme=Float()
    )
    tree = {"kernel": jnp.array([0.5, -1.0])}
    state, weight, velocity = chain.init(tree), np.array([0.5, -1.0]), 0.0
    for step in range(3):
        given = np.array([0.3, -0.2]) * (step + 1)
        updates, state = chain.update(
            {"kernel": jnp.asarray(given, jnp.float32)}, state, tree
        )
        tree = optax.apply_updates(tree, updates)
        gradient = given + DECAY * weight
        velocity = MOMENTUM * velocity + gradient
        weight = weight - RATE * (gradient + MOMENTUM * velocity)
        assert np.allclose(tree["kernel"], weight, rtol=1e-5)


def flat(tree) -> dict[str, np.ndarray]:
    """The leaves by their names, in float64."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
        for path, leaf in leaves
    }


def test_adam_adds_l2_to_the_gradient_behind_the_factor_and_projects():
    """PyTorch's Adam by hand, two steps: clip, c, decay into the gradient, moments,
    update; then the projection.
    """
    chain = latent_adam(
        0.01,
        beta1=0.8,
        beta2=0.99,
        eps=1e-3,
        weight_decay=DECAY,
        clip_norm=2.0,
        scheme=PAPER,
    )
    tree = params()
    state = chain.init(tree)
    weights = flat(tree)
    first, second = (
        {name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2)
    )
    for step in (1, 2):
        grads = jax.tree.map(lambda g: 0.05 * g, gradients(step))
        updates, state = chain.update(grads, state, tree)
        tree = optax.apply_updates(tree, updates)
        clip = min(1.0, 2.0 / norm_of(grads))
        for name, g in flat(grads).items():
            factor = gradient_factor(g.shape) if "latent" in name else 1
            g = clip * factor * g + DECAY * weights[name]
            first[name] = 0.8 * first[name] + 0.2 * g
            second[name] = 0.99 * second[name] + 0.01 * g**2
            moved = (first[name] / (1 - 0.8**step)) / (
                np.sqrt(second[name] / (1 - 0.99**step)) + 1e-3
            )
            weights[name] = weights[name] - 0.01 * moved
            if "latent" in name:
                weights[name] = np.asarray(center_and_clip(weights[name]))
    ours = flat(tree)
    assert all(
        np.allclose(ours[name], weights[name], rtol=1e-4, atol=1e-5) for name in weights
    )


@pytest.mark.parametrize("make", [latent_sgd, latent_adam])
def test_decay_of_kernels_alone_leaves_bn_classifier_and_prelu_but_not_shifts(make):
    """Without gradients, what moves is what decays; ReActNet's shifts do, and
    XNOR-Net++'s beta of two axes.
    """
    tree = {
        "bn": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        "conv": {
            "latent": jnp.full((1, 1, 2, 2), 0.5),
            "shift": jnp.ones(2),
            "beta": jnp.ones((2, 2)),
            "prelu": {"slope": jnp.ones(2)},
        },
        "stem": {"kernel": jnp.ones((3, 3, 1, 2))},
        "classifier": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    }
    none = jax.tree.map(jnp.zeros_like, tree)
    moved = {}
    for decayed in ("all", "kernels"):
        after = one_step(
            make(RATE, weight_decay=DECAY, decayed=decayed, scheme=Float()), tree, none
        )
        moved[decayed] = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after, tree)
    assert all(jax.tree.leaves(moved["all"]))
    assert moved["kernels"] == {
        "bn": {"scale": False, "bias": False},
        "conv": {
            "latent": True,
            "shift": True,
            "beta": True,
            "prelu": {"slope": False},
        },
        "stem": {"kernel": True},
        "classifier": {"kernel": False, "bias": False},
    }


# From settings


def test_an_optimizer_of_a_recipe_is_built_from_its_settings():
    config = train.get_config("a")
    config.recipe = "nin"
    run = settings.from_config(config)
    tree, grads = params(), gradients(1)
    by_hand = latent_adam(0.01, weight_decay=1e-5, scheme=run.scheme)
    assert close(
        one_step(build_optimizers.training_optimizer(run, 10), tree, grads),
        one_step(by_hand, tree, grads),
        rtol=0,
        atol=0,
    )

    config.recipe = "cbcn"
    run = settings.from_config(config)
    by_hand = latent_sgd(0.1, nesterov=True, weight_decay=5e-4, scheme=run.scheme)
    assert close(
        one_step(build_optimizers.training_optimizer(run, 10), tree, grads),
        one_step(by_hand, tree, grads),
        rtol=0,
        atol=0,
    )


def test_training_and_search_optimizers_are_built_from_their_settings():
    config = train.get_config("d")
    config.conventions = "release"
    run = settings.from_config(config)
    tree, grads = params(), gradients(1)
    rate, momentum = build_optimizers.training_schedules(
        run.optimizer, run.num_epochs, 10
    )
    by_hand = latent_sgd(
        rate, momentum=momentum, weight_decay=3e-5, clip_norm=5.0, scheme=run.scheme
    )
    built = build_optimizers.training_optimizer(run, 10)
    assert close(
        one_step(built, tree, grads), one_step(by_hand, tree, grads), rtol=0, atol=0
    )
    # So that the release's clipping to 5 shows in the classifier, which has no factor.
    norm = norm_of(grads)
    assert norm > 5
    expected = tree["classifier"]["kernel"] - 0.05 * (
        grads["classifier"]["kernel"] * 5 / norm + 3e-5 * tree["classifier"]["kernel"]
    )
    assert np.allclose(
        one_step(by_hand, tree, grads)["classifier"]["kernel"], expected, atol=1e-6
    )


@pytest.mark.parametrize("clip_norm", [None, 5.0])
def test_the_search_starts_at_its_rate_with_its_decay_and_clips_where_told(clip_norm):
    config = search.get_config("cifar10")
    config.weights.clip_norm = clip_norm
    run = settings.from_config(config)
    tree, grads = params(), gradients(1)
    kernel, gradient = tree["classifier"]["kernel"], grads["classifier"]["kernel"]
    if clip_norm is not None:
        gradient = gradient * clip_norm / norm_of(grads)
    after = one_step(build_optimizers.supernet_optimizer(run, 10), tree, grads)[
        "classifier"
    ]["kernel"]
    assert np.allclose(after, kernel - 0.025 * (gradient + 3e-4 * kernel), atol=1e-6)


def test_alphas_follow_gradient_descent_with_clipping_and_l2():
    run = settings.from_config(search.get_config("cifar10"))
    chosen = dataclasses.replace(
        run.alphas, optimizer="sgd", learning_rate=0.5, weight_decay=0.1, clip_norm=2.0
    )
    chain = build_optimizers.alphas_optimizer(dataclasses.replace(run, alphas=chosen))
    alphas, gradient = {"normal": jnp.ones(4)}, {"normal": jnp.full(4, 3.0)}
    updates, state = chain.update(gradient, chain.init(alphas), alphas)
    # A gradient of norm 6 is divided by 3.
    assert np.allclose(updates["normal"], -0.5 * (1.0 + 0.1))
    assert not jax.tree.leaves(state), "nothing is kept from step to step"


def test_alphas_follow_adam_with_l2():
    run = settings.from_config(search.get_config("cifar10"))
    chain = build_optimizers.alphas_optimizer(run)
    alphas = {"normal": jnp.linspace(-1, 1, 6), "reduce": jnp.ones(3)}
    state = chain.init(alphas)
    draw = np.random.default_rng(0)
    weights = {name: np.asarray(value, np.float64) for name, value in alphas.items()}
    first, second = (
        {name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2)
    )
    for step in range(1, 6):
        grads = {
            name: 1e-3 * draw.normal(size=w.shape) for name, w in weights.items()
        }  # as small as the decay
        updates, state = chain.update(jax.tree.map(jnp.float32, grads), state, alphas)
        alphas = optax.apply_updates(alphas, updates)
        for name, w in weights.items():
            g = grads[name] + 1e-3 * w
            first[name] = 0.5 * first[name] + 0.5 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            w -= (
                3e-4
                * (first[name] / (1 - 0.5**step))
                / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            )
            assert np.allclose(alphas[name], w, rtol=1e-5, atol=1e-6)


# For searches


def test_weights_that_never_had_a_gradient_do_not_decay():
    """Those that had one decay from then on, and keep their momentum."""
    scheme = Float()
    chain = latent_sgd(
        RATE, momentum=MOMENTUM, weight_decay=DECAY, decayed="moved", scheme=scheme
    )
    tree = {"kernel": jnp.array([[1.0, 2.0, 3.0]])}
    state, velocity, weights = chain.init(tree), np.zeros(3), np.array([1.0, 2.0, 3.0])
    for gradient, moved in (
        ([0.5, 0, 0], [1, 0, 0]),
        ([0, 0.5, 0], [1, 1, 0]),
        ([0, 0, 0], [1, 1, 0]),
    ):
        updates, state = chain.update({"kernel": jnp.array([gradient])}, state, tree)
        tree = optax.apply_updates(tree, updates)
        velocity = MOMENTUM * velocity + np.array(gradient) + DECAY * weights * moved
        weights = weights - RATE * velocity
        assert np.allclose(tree["kernel"][0], weights, rtol=1e-6)
    assert float(tree["kernel"][0, 2]) == 3


@pytest.mark.parametrize(
    ("preset", "decays"), [("digits_gdas", False), ("digits", True)]
)
def test_in_a_search_of_gdas_what_never_had_a_gradient_does_not_decay(preset, decays):
    run = settings.from_config(search.get_config(preset))
    chain = build_optimizers.supernet_optimizer(run, 10)
    tree = {"kernel": jnp.ones((1, 2))}
    after = one_step(chain, tree, {"kernel": jnp.array([[1.0, 0.0]])})
    assert (float(after["kernel"][0, 1]) < 1) == decays


def test_a_virtual_step_clips_nothing_and_takes_the_state_of_the_one_that_clips():
    tree, grads = params(), gradients(1)
    clipping = optimizer(clip_norm=1e-3)
    state = clipping.init(tree)
    updates, after = clipping.unclipped.update(grads, state, tree)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert close(optax.apply_updates(tree, updates), one_step(optimizer(), tree, grads))
    assert not close(
        one_step(clipping, tree, grads), one_step(optimizer(), tree, grads)
    )


def test_the_gradient_of_alpha_is_clipped_before_its_decay():
    alphas, grads = (
        {"normal": jnp.array([[3.0, 4.0]])},
        {"normal": jnp.array([[30.0, 40.0]])},
    )
    clipped, whole = (
        alpha_optimizers.alphas_adam(1e-3, weight_decay=0.1, clip_norm=clip)
        for clip in (10.0, None)
    )
    updates, _ = clipped.update(grads, clipped.init(alphas), alphas)
    expected, _ = whole.update(
        jax.tree.map(lambda g: g / 5, grads), whole.init(alphas), alphas
    )
    assert close(updates, expected)


def test_what_is_no_optimizer_or_scheme_is_refused_in_a_sentence():
    for wrong in (0.1, "adam", optax.adam):
        with pytest.raises(UserError, match=r"optimizer must be an optax optimizer"):
            for_latents(wrong)
    for wrong in (Xnor, "xnor"):
        for make in (for_latents, lambda adam, scheme: latent_sgd(RATE, scheme=scheme)):
            with pytest.raises(UserError, match=r"an object such as Xnor\(\), got"):
                make(optax.adam(1e-3), wrong)


def test_what_an_optimizer_cannot_take_is_refused_in_a_sentence():
    for wrong in ({"learning_rate": "0.1"}, {"momentum": None}, {"momentum": [0.9]}):
        with pytest.raises(UserError, match="a number or a function of the step, got "):
            latent_sgd(**{"learning_rate": 0.1} | wrong)
    for clip in (0, -1.0, float("nan")):
        with pytest.raises(UserError, match="clip_norm must be greater than 0 or None"):
            latent_adam(0.1, clip_norm=clip)
    with pytest.raises(UserError, match="decayed must be one of all, kernels, moved"):
        latent_sgd(0.1, weight_decay=1e-4, decayed="kernel")
    for rate in (np.float32(0.1), jnp.float32(0.1), lambda step: 0.1):
        latent_sgd(rate)


def test_an_optimizer_is_told_the_loss():
    """As `optax.contrib.reduce_on_plateau` needs it: here the update is the loss."""

    def update(updates, state, params=None, *, value):
        return jax.tree.map(lambda u: jnp.full_like(u, value), updates), state

    told = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    optimizer = for_latents(told, Float())
    tree = params()
    updates, _ = optimizer.update(tree, optimizer.init(tree), tree, value=2.5)
    assert all(np.all(leaf == 2.5) for leaf in jax.tree.leaves(updates))


def test_gradients_are_not_accumulated_where_each_step_projects():
    for wrapped in (
        optax.MultiSteps(optax.sgd(RATE), 4),
        optax.MultiSteps(optax.sgd(RATE), 4).gradient_transformation(),
    ):
        with pytest.raises(UserError, match="microbatches=K"):
            for_latents(wrapped)
        assert for_latents(wrapped, Float()).scheme == Float()


def test_an_update_without_the_weights_to_project_is_refused_in_a_sentence():
    optimizer = for_latents(optax.sgd(RATE))
    with pytest.raises(UserError, match=r"update\(gradients, state, params\)"):
        optimizer.update(params(), optimizer.init(params()))
