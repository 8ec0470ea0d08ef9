"""Signs, weight scales and their gradients: against formulas written out here, and against the released code's numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core import binarize

RULES = ("bnas", "paper", "allenai")


def hwio(array):
    """A kernel of the reference files, which are OIHW."""
    return array.transpose(2, 3, 1, 0)


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope="module")
def activations(reference):
    return dict(np.load(reference / "activation_binarization.npz"))


@pytest.fixture(scope="module", params=["k1", "k3", "k5"])
def weights(reference, request):
    arrays = np.load(reference / "weight_binarization.npz")
    return {name.split(".")[1]: hwio(arrays[name]) for name in arrays.files if name.startswith(request.param)}


@pytest.mark.parametrize(("sign_of_zero", "expected"), [(1, [1, 1, -1, 1, -1]), (0, [0, 0, -1, 1, -1])])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_sign_of_zero_is_a_convention(sign_of_zero, expected, dtype):
    x = jnp.array([0.0, -0.0, -1e-30, 1e-30, -3.0], dtype)
    for function in (binarize.sign, binarize.binarize_activations):
        signs = function(x, sign_of_zero)
        assert signs.dtype == dtype
        assert signs.tolist() == expected
    assert binarize.sign(x).tolist() == [1, 1, -1, 1, -1], "the default fits into one bit"


def test_signs_of_activations_are_those_of_the_released_code(activations):
    signs, vjp = jax.vjp(lambda x: binarize.binarize_activations(x, 0), activations["x"])
    assert np.array_equal(signs, activations["sign"])
    assert np.array_equal(vjp(activations["grad_out"])[0], activations["grad_in"])
    assert {-1, 0, 1} <= set(activations["x"].tolist()), "the borders of the mask are among the numbers"


@pytest.mark.parametrize("sign_of_zero", [0, 1])
def test_the_straight_through_estimator_is_closed_at_one(sign_of_zero):
    inside = np.nextafter(np.float32(1), np.float32(0))
    x = np.array([1, -1, inside, -inside, 0, 1.5, -7, np.inf], np.float32)
    gradient = jax.grad(lambda x: jnp.sum(binarize.binarize_activations(x, sign_of_zero) * jnp.arange(1.0, 9.0)))(x)
    assert gradient.tolist() == [0, 0, 3, 4, 5, 0, 0, 0]


def expected_gradient(rule, latent, gradient):
    """What the optimizer receives, entry by entry: methods A2, rule 4."""
    kh, kw, ci, co = latent.shape
    n = kh * kw * ci
    result = np.empty(latent.shape)
    for out in range(co):
        w, g = latent[..., out].astype(np.float64), gradient[..., out].astype(np.float64)
        beta = np.abs(w).sum() / n
        if rule == "bnas":
            result[..., out] = beta * (np.abs(w) <= 1) * g + np.sign(w) * (np.sign(w) * g).sum() / n
        else:
            result[..., out] = g * (beta * (np.abs(w) < 1) + 1 / n)
    return result if rule == "paper" else result * (1 - 1 / ci) * n


def example(shape=(3, 3, 4, 5)):
    """Latent weights with some at and beyond the borders of the masks, and a gradient at the binary weights."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=shape).astype(np.float32) / 2
    latent[0, 0, :2, :2] = [[1, -1], [-1, 1]]
    latent[1, 1, 0] = 1.25
    return latent, rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sign_of_zero", [0, 1])
def test_gradient_rules_have_their_closed_forms(rule, sign_of_zero):
    latent, gradient = example()
    _, vjp = jax.vjp(lambda w: binarize.binarize_weights(w, rule, sign_of_zero), latent)
    factor = binarize.gradient_factor(latent.shape) if rule in binarize.SCALED_GRADIENTS else 1
    assert relative_error(factor * vjp(gradient)[0], expected_gradient(rule, latent, gradient)) < 1e-6


def test_the_rules_are_those_tested_here():
    assert set(binarize.WEIGHT_GRADIENTS) == set(RULES)
    assert set(binarize.SCALED_GRADIENTS) == {"bnas", "allenai"}


def test_bnas_is_the_chain_rule_of_scale_times_sign():
    """Autodiff of beta * sign with a straight-through sign and the scale differentiated, too."""
    latent, gradient = example()

    def straight_through(w):
        passed = jnp.where(jnp.abs(w) <= 1, w, jax.lax.stop_gradient(w))
        return passed + jax.lax.stop_gradient(jnp.sign(w) - w)

    chain_rule = jax.grad(lambda w: jnp.sum(jnp.mean(jnp.abs(w), axis=(0, 1, 2)) * straight_through(w) * gradient))(latent)
    ours = jax.grad(lambda w: jnp.sum(binarize.binarize_weights(w, "bnas") * gradient))(latent)
    assert relative_error(ours, np.asarray(chain_rule)) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_binary_weights_are_one_magnitude_per_output_channel(rule):
    latent, _ = example()
    binary = np.asarray(binarize.binarize_weights(latent, rule))
    scale = [np.abs(latent[..., out]).mean() for out in range(latent.shape[-1])]
    assert np.allclose(binarize.weight_scale(latent), scale, rtol=1e-6)
    assert np.allclose(np.abs(binary), scale, rtol=1e-6)
    assert np.array_equal(binary > 0, latent > 0)


def test_a_zero_weight_has_the_sign_of_the_convention():
    latent = np.array([0.5, 0, -1], np.float32).reshape(1, 1, 3, 1)
    assert binarize.binarize_weights(latent, "bnas", 1).ravel().tolist() == [0.5, 0.5, -0.5]
    assert binarize.binarize_weights(latent, "bnas", 0).ravel().tolist() == [0.5, 0, -0.5]


def test_weights_are_binarized_as_in_the_released_code(weights):
    projected = binarize.project(weights["latent"])
    assert relative_error(projected, weights["latent_projected"]) < 1e-5
    binary, vjp = jax.vjp(lambda w: binarize.binarize_weights(w, "bnas", 0), projected)
    assert relative_error(binary, weights["binarized"]) < 1e-5
    gradient = binarize.gradient_factor(projected.shape) * vjp(weights["grad_binarized"])[0]
    assert relative_error(gradient, weights["grad_latent"]) < 1e-5


def test_projection_centres_over_input_channels_and_clips():
    latent = np.random.default_rng(1).normal(size=(3, 2, 5, 4)).astype(np.float32)
    small, large = binarize.project(0.1 * latent), np.asarray(binarize.project(10 * latent))
    assert np.allclose(small, 0.1 * latent - 0.1 * latent.mean(2, keepdims=True), atol=1e-7)
    assert np.allclose(np.mean(small, axis=2), 0, atol=1e-7)
    assert np.allclose(binarize.project(small), small, atol=1e-7), "what is projected stays"
    centred = 10 * (latent - latent.mean(2, keepdims=True))
    assert np.allclose(large, np.where(np.abs(centred) < 1, centred, np.sign(centred)), atol=1e-5)
    assert np.abs(large).max() == 1


def test_a_single_input_channel_is_projected_to_zero_where_it_is_centred():
    """The trap of depthwise kernels: centred over one channel nothing is left, and the factor stops all learning."""
    latent = np.full((3, 3, 1, 4), 0.3, np.float32)
    assert not np.any(binarize.project(latent, depthwise_center=True))
    assert binarize.gradient_factor((3, 3, 1, 4), depthwise_center=True) == 0
    assert np.array_equal(binarize.project(latent), latent) and np.all(binarize.project(10 * latent) == 1)
    assert binarize.gradient_factor((3, 3, 1, 4)) == 1
    more = example()[0]
    assert np.array_equal(binarize.project(more), binarize.project(more, depthwise_center=True))


@pytest.mark.parametrize(("shape", "expected"), [((3, 3, 4, 8), 27), ((1, 1, 12, 4), 11), ((5, 5, 8, 3), 175)])
def test_gradient_factor(shape, expected):
    assert binarize.gradient_factor(shape) == pytest.approx(expected)


def activation_scale_by_loops(x, kernel, stride, padding, dilation):
    """D = mean over channels of |x|; K = D convolved with 1 / kernel^2."""
    n, height, width, _ = x.shape
    reach = dilation * (kernel - 1)
    result = np.zeros((n, (height + 2 * padding - reach - 1) // stride + 1, (width + 2 * padding - reach - 1) // stride + 1, 1))
    for image, row, column in np.ndindex(*result.shape[:3]):
        for i, j in itertools.product(range(kernel), repeat=2):
            y, x_ = row * stride - padding + i * dilation, column * stride - padding + j * dilation
            if 0 <= y < height and 0 <= x_ < width:
                result[image, row, column] += np.abs(x[image, y, x_]).mean() / kernel**2
    return result


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_activation_scale_is_the_mean_magnitude_under_the_kernel(kernel, stride, dilation):
    x = np.random.default_rng(2).normal(size=(2, 7, 8, 3)).astype(np.float32)
    geometry = (kernel, stride, dilation * (kernel - 1) // 2, dilation)
    scale, expected = binarize.activation_scale(x, *geometry), activation_scale_by_loops(x, *geometry)
    assert scale.shape == expected.shape
    assert np.allclose(scale, expected, rtol=1e-5)


def test_activation_scale_of_the_skip_has_no_border():
    x = np.random.default_rng(3).normal(size=(1, 6, 6, 4)).astype(np.float32)
    assert np.allclose(binarize.activation_scale(x, 2, 2, 0, 1), activation_scale_by_loops(x, 2, 2, 0, 1), rtol=1e-5)


def test_activation_scale_keeps_further_axes_apart():
    x = np.random.default_rng(4).normal(size=(2, 5, 5, 3, 4)).astype(np.float32)
    together = binarize.activation_scale(x, 3, 1, 1, 1)
    assert together.shape == (2, 5, 5, 3, 1)
    for index in range(3):
        assert np.allclose(together[:, :, :, index], binarize.activation_scale(x[:, :, :, index], 3, 1, 1, 1), rtol=1e-6)


def test_no_gradient_flows_through_the_activation_scale():
    x = np.random.default_rng(5).normal(size=(1, 4, 4, 2)).astype(np.float32)
    assert not np.any(jax.grad(lambda x: jnp.sum(binarize.activation_scale(x, 3, 1, 1, 1)))(x))


@pytest.mark.parametrize(("sign_of_zero", "expected"), [(1, (5 / 6, 1 / 2, 1 / 6)), (0, (1 / 2, 1 / 2, 1 / 2))])
def test_the_gradient_through_the_scale_takes_the_sign_of_zero_of_the_forward_pass(sign_of_zero, expected):
    latent = jnp.array([0.5, 0, -1]).reshape(1, 1, 3, 1)
    total = lambda latent: binarize.binarize_weights(latent, "bnas", sign_of_zero).sum()
    assert np.allclose(jax.grad(total)(latent).ravel(), expected)
