"""The sum of |gradient| at each convolution."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnas_jax as bnas
from bnas_jax.training.gradients import gradient_sums, gradients_of_run

pytestmark = pytest.mark.usefixtures("quick_compilation")


class OneConvolution(nn.Module):
    """Logits that are the mean over pixels of a 1x1 convolution."""

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        del train
        y = nn.Conv(3, (1, 1), use_bias=False, name="only")(images)
        return y.mean(axis=(1, 2))


def test_of_one_convolution_it_is_the_closed_form():
    images = jax.random.normal(jax.random.key(0), (4, 2, 2, 5))
    labels = jnp.array([0, 2, 1, 2])
    model = OneConvolution()
    variables = model.init(jax.random.key(1), images)
    sums = gradient_sums(model, variables, {"image": images, "label": labels})

    # dL / dlogits = (softmax - onehot) / N, and the logits are the mean pixels times
    # the kernel.
    pixels = np.asarray(images).mean(axis=(1, 2))
    logits = pixels @ np.asarray(variables["params"]["only"]["kernel"])[0, 0]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = pixels.T @ (shares - np.eye(3)[np.asarray(labels)]) / 4
    assert set(sums) == {"only"}
    assert float(sums["only"]) == pytest.approx(np.abs(gradient).sum(), rel=1e-5)


def test_a_search_has_no_network_to_take_gradients_of(tmp_path):
    with pytest.raises(bnas.UserError, match="is no work directory"):
        gradients_of_run(tmp_path)
