"""How far a `PcnnUnit` is from its published numbers.

It is the block of PCNN's and CBCN's codes.
"""

import jax
import numpy as np
from arrays import hwio, nhwc, relative_error
from flax import traverse_util

from bnas_jax.baselines.pcnn_block import PcnnUnit
from bnas_jax.core.arithmetic import Arithmetic

# Our names in the unit, and the published ones.
_PARAMS = {
    "unit/conv/latent": "conv.weight",
    "unit/bn/scale": "bn.weight",
    "unit/bn/bias": "bn.bias",
    "prelu/slope": "prelu.weight",
    "shortcut/conv/kernel": "downsample.0.weight",
    "shortcut/bn/scale": "downsample.1.weight",
    "shortcut/bn/bias": "downsample.1.bias",
}
_STATISTICS = {
    "unit/bn/mean": "bn.running_mean",
    "unit/bn/var": "bn.running_var",
    "shortcut/bn/mean": "downsample.1.running_mean",
    "shortcut/bn/var": "downsample.1.running_var",
}


def relative_errors(
    scheme, theirs: dict, *, stride: int, latent=hwio, further: dict | None = None
) -> dict[str, float]:
    """The relative errors after a step, by name.

    They are those of outputs, gradients and running statistics.

    theirs: the published numbers, as far as there are some.
    latent: from the published kernel, or its gradient, to the scheme's.
    further: parameters that the published layer lacks.
    """
    model = PcnnUnit(
        features=theirs["y_eval"].shape[1],
        stride=stride,
        scheme=scheme,
        arithmetic=Arithmetic(),
    )
    params, statistics = published_trees(theirs, "state", latent)
    params["unit"]["conv"].update(further or {})

    def run(params, x, train):
        y, new = model.apply(
            {"params": params, "batch_stats": statistics},
            x,
            train=train,
            mutable=["batch_stats"],
        )
        return y, new["batch_stats"]

    @jax.jit
    def compute(params, x, grad_y):
        y, vjp, after = jax.vjp(
            lambda params, x: run(params, x, True), params, x, has_aux=True
        )
        return y, *vjp(grad_y), after, run(params, x, False)[0]

    y, to_params, to_x, after, y_eval = compute(
        params, nhwc(theirs["x"]), nhwc(theirs["grad_y"])
    )
    outputs = {
        "y_eval": y_eval,
        "y_train": y,
        "grad_x": to_x,
    }
    errors = {
        name: relative_error(ours, np.asarray(nhwc(theirs[name])))
        for name, ours in outputs.items()
        if name in theirs
    }

    gradients, _ = published_trees(theirs, "grad", latent)
    _, statistics_after = published_trees(theirs, "after", latent)
    for ours, published in ((to_params, gradients), (after, statistics_after)):
        ours = traverse_util.flatten_dict(ours, sep="/")
        for path, array in traverse_util.flatten_dict(published, sep="/").items():
            errors[path] = relative_error(ours[path], np.asarray(array))
    return errors


def published_trees(theirs: dict, prefix: str, latent) -> tuple[dict, dict]:
    """(parameters, running statistics) of a `PcnnUnit` under a prefix.

    As far as the file has them.
    """
    trees = []
    for names in (_PARAMS, _STATISTICS):
        found = {
            ours: theirs[f"{prefix}.{name}"]
            for ours, name in names.items()
            if f"{prefix}.{name}" in theirs
        }
        layouts = {"latent": latent, "kernel": hwio}
        arrays = {
            path: layouts.get(path.split("/")[-1], np.asarray)(array)
            for path, array in found.items()
        }
        trees.append(traverse_util.unflatten_dict(arrays, sep="/"))
    return trees[0], trees[1]
