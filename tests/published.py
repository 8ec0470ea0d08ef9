"""Numbers of other systems' published code (tests/reference), and the same
computed here.
"""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import nhwc, relative_error, with_gradients

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.ops.geometry import square
from bnas_jax.interop.published import load_published
from bnas_jax.interop.published.torch_arrays import states


def numbers(reference: pathlib.Path, file: str, prefix: str) -> dict:
    """The arrays `PREFIX.NAME` of a file by NAME, as they lie there."""
    return with_prefix(dict(np.load(reference / "schemes" / f"{file}.npz")), prefix)


@functools.cache
def loaded(reference: pathlib.Path, name: str) -> tuple:
    """(the arrays, model, variables) of the file searchers/NAME.npz."""
    arrays = dict(np.load(reference / "searchers" / f"{name}.npz"))
    return arrays, *load_published(name, arrays)


def through_layer(
    scheme,
    theirs: dict,
    params: dict,
    *,
    kernel: int,
    stride: int = 1,
    plain: bool = False,
):
    """(y, gradient at x, gradients at the parameters) of a convolution in the scheme,
    for the file's `x` and `grad_y`.
    """
    layer = Convolution(
        features=theirs["grad_y"].shape[1],
        kernel=(kernel, kernel),
        geometry=square(kernel, stride=stride),
        scheme=scheme,
        arithmetic=Arithmetic(plain=plain),
    )
    apply = lambda params, x: layer.apply({"params": params}, x)
    y, (to_params, to_x) = with_gradients(
        apply, nhwc(theirs["grad_y"]), params, nhwc(theirs["x"])
    )
    return y, to_x, to_params


def binarized(scheme, latent):
    """The weights that the signs meet: the weights' signs with the scale taken in."""
    signs, operands = scheme.weights(latent)
    return scheme.after(signs, *operands)


class WholeNetwork(NamedTuple):
    """A published network on its batch: what `logits_eval`, `logits_train`,
    `loss_train`, ... are there and here.

    Trees have our layout. A leaf that the file does not have (it keeps some gradients'
    norms alone) is NaN in `theirs`.
    """

    ours: dict
    theirs: dict


def whole_network(reference: pathlib.Path, name: str) -> WholeNetwork:
    """The numbers of the file `NAME.npz`, computed anew from its weights and its batch,
    all in one program.
    """
    arrays = dict(np.load(reference / "schemes" / f"{name}.npz"))
    model, variables = load_published(name, arrays)
    images, labels = nhwc(arrays["x"]), jnp.asarray(arrays["y"])

    def loss_of(params, images):
        given = {**variables, "params": params}
        logits, after = model.apply(given, images, train=True, mutable=["batch_stats"])
        of_labels = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
        return -jnp.mean(of_labels), (logits, after["batch_stats"])

    @jax.jit
    def compute(params, images):
        gradients = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
        (loss, (logits, after)), (to_params, to_images) = gradients(params, images)
        logits_eval = model.apply({**variables, "params": params}, images, train=False)
        return {
            "logits_eval": logits_eval,
            "logits_train": logits,
            "loss_train": loss,
            "after": after,
            "grad": to_params,
            "grad_x": to_images,
        }

    def in_our_layout(kind: str) -> dict:
        """Their arrays `KIND.NAME` where our loader puts those of the weights."""
        missing = {
            key: np.full_like(value, np.nan)
            for key, value in states(arrays).items()
            if value.ndim
        }
        return load_published(name, {**missing, **with_prefix(arrays, kind)})[1]

    theirs = {key: arrays[key] for key in ("logits_eval", "logits_train", "loss_train")}
    theirs["grad_x"] = nhwc(arrays["grad_x"])
    theirs["after"] = in_our_layout("after")["batch_stats"]
    theirs["grad"] = in_our_layout("grad")["params"]
    return WholeNetwork(compute(variables["params"], images), theirs)


def with_prefix(arrays: dict, prefix: str) -> dict:
    """The arrays `PREFIX.NAME` by NAME."""
    return {
        name.removeprefix(f"{prefix}."): array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}.")
    }


def check_network(network: WholeNetwork) -> None:
    """Logits, loss, running statistics after one training pass, and all gradients that
    the file has agree.
    """
    ours, theirs = network
    for name in ("logits_eval", "logits_train"):
        assert np.abs(ours[name] - theirs[name]).max() < 1e-4 * theirs[name].std(), name
    assert float(ours["loss_train"]) == pytest.approx(
        float(theirs["loss_train"]), rel=1e-5
    )
    assert relative_error(ours["grad_x"], np.asarray(theirs["grad_x"])) < 1e-3

    compared = 0
    for kind in ("after", "grad"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(theirs[kind]):
            known = ~np.isnan(leaf)
            mine = functools.reduce(lambda tree, key: tree[key.key], path, ours[kind])
            if known.any():
                compared += 1
                error = np.abs(mine - leaf)[known].max() / np.abs(leaf[known]).max()
                assert error < 1e-3, jax.tree_util.keystr(path)
    assert compared > 20
