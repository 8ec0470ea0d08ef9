"""`FIRST_WEIGHTS`: the rules by which the weights of convolutions are initialised.

A rule is a function (name, parameter, key) -> parameter. It is called for each
parameter of each convolution, whose name is `latent`, `kernel` or `bias`, and returns a
new value or the parameter as it is. Latent weights are projected afterwards, as the
scheme says.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

Rule = Callable[[str, jax.Array, jax.Array], jax.Array]


def pytorch(name: str, parameter: jax.Array, key: jax.Array) -> jax.Array:
    """Uniform between ±1/sqrt(fan-in), PyTorch's default, which the modules draw."""
    del name, key
    return parameter


def nin(name: str, parameter: jax.Array, key: jax.Array) -> jax.Array:
    """Kernels N(0, .05²), biases 0 (jiecaoyu/XNOR-Net-PyTorch, CIFAR_10/main.py)."""
    if name == "bias":
        return jnp.zeros_like(parameter)
    return 0.05 * jax.random.normal(key, parameter.shape, parameter.dtype)


def bireal(name: str, parameter: jax.Array, key: jax.Array) -> jax.Array:
    """Latent weights uniform between 0 and .001 (liuzechun/Bi-Real-net and ReActNet).

    All signs are 1 at first. One step of Adam with the learning rate .001 can flip any
    of them.
    """
    if name != "latent":
        return parameter
    return 0.001 * jax.random.uniform(key, parameter.shape, parameter.dtype)


# The rule of the modules themselves.
PYTORCH = "pytorch"
# The keys are the values of `config.first_weights`. A new rule is a new entry.
FIRST_WEIGHTS: dict[str, Rule] = {PYTORCH: pytorch, "nin": nin, "bireal": bireal}


def redrawn(params: Mapping, rule: Rule, key: jax.Array) -> dict:
    """The parameters of a network, with its convolutions initialised by a rule.

    Batch norms, dense layers, and other parameters of a scheme stay as they are.

    params: the nested dict of Flax.

    >>> from bnas_jax.core.first_weights import nin, redrawn
    >>> conv = {"kernel": jax.numpy.ones((3, 3, 8, 8)), "bias": jax.numpy.ones(8)}
    >>> float(redrawn({"conv": conv}, nin, jax.random.key(0))["conv"]["bias"].sum())
    0.0
    """
    leaves = flatten_dict(params)
    kernels = [path for path, leaf in leaves.items() if _is_kernel(path, leaf)]
    convolutions = {path[:-1] for path in kernels}
    # The module around a convolution `conv` may have its bias, see `baselines.nin`.
    convolutions |= {path[:-1] for path in convolutions if path[-1:] == ("conv",)}

    # Each parameter has a key of its own, by its number in the order of names.
    drawn = {}
    for number, (path, leaf) in enumerate(sorted(leaves.items())):
        module, name = path[:-1], path[-1]
        if module in convolutions and name in ("latent", "kernel", "bias"):
            leaf = rule(name, leaf, jax.random.fold_in(key, number))
        drawn[path] = leaf
    return unflatten_dict(drawn)


def _is_kernel(path: tuple[str, ...], leaf: jax.Array) -> bool:
    """Whether a parameter is a convolution's kernel, latent or float.

    The kernels of dense layers have two axes.
    """
    name = path[-1]
    return name == "latent" or (name == "kernel" and leaf.ndim > 2)
