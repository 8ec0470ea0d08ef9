"""Batch normalization without scale and shift, on one device or over a mapped axis.

A "group" is a set of examples that are normalised together. A "part" is the examples of
a group that lie on one device.

Shapes: x is (N, H, W, C). A device has P parts, a group has Q parts.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError

EPSILON = 1e-5
# The share of the old value that is kept; PyTorch's `momentum` is 1 minus it.
MOMENTUM = 0.9
PIXELS = (0, 1, 2)  # the axes of (N, H, W, C) that statistics are taken over


def initial_statistics(shape: tuple[int, ...], dtype) -> dict[str, jax.Array]:
    """Running statistics before the first batch. shape: (*copies, C)."""
    return {"mean": jnp.zeros(shape, dtype), "var": jnp.ones(shape, dtype)}


def batch_norm(
    x,
    running: dict[str, jax.Array],
    *,
    arithmetic: Arithmetic,
    train: bool,
    epsilon: float = EPSILON,
    momentum: float = MOMENTUM,
    normalized: tuple | None = None,
):
    """(x normalised, the updated running statistics), as in PyTorch.

    In training x is normalised by the statistics of the batch, in evaluation by the
    running statistics. The running variance is unbiased.

    Several edges that read x may each have running statistics of their own: copies with
    the shape (*copies, C). In training all copies are updated alike. In evaluation each
    copy normalises x, and the result is (N, H, W, *copies, C).

    Over several devices, the caller has to average the running statistics, as a step
    does: with `Arithmetic.bn_examples`, devices may belong to different groups.

    x: (N, H, W, C).
    running: {"mean", "var"}, each (C,) or (*copies, C).
    arithmetic: `bn_axis` and `bn_examples` say what is normalised together.
    epsilon: added to the variance.
    momentum: the weight of the old value in the running average.
    normalized: the result of `normalize` for this x and epsilon; None computes it.
    """
    # Evaluation: by the running statistics of each copy, (N, H, W, *copies, C).
    if not train:
        *image, channels = x.shape
        copies = (1,) * (running["mean"].ndim - 1)
        x = x.reshape(*image, *copies, channels)
        centred = x - running["mean"]
        return centred * jax.lax.rsqrt(running["var"] + epsilon), running

    # Training: by the statistics of the batch.
    axis_name, examples = arithmetic.bn_axis, arithmetic.bn_examples
    if normalized is None:
        form: Callable = normalize
        if arithmetic.plain:
            form = plain_normalize
        normalized = form(x, axis_name=axis_name, examples=examples, epsilon=epsilon)
    y, mean, var = normalized

    # The unbiased variance of the `count` values of a channel in a group.
    part, parts_of_group = _division(len(x), axis_name=axis_name, examples=examples)
    _, height, width, _ = x.shape
    count = part * parts_of_group * height * width
    unbiased = var * (count / max(count - 1, 1))

    # The running averages.
    new_mean = momentum * running["mean"] + (1 - momentum) * mean
    new_var = momentum * running["var"] + (1 - momentum) * unbiased
    return y, {"mean": new_mean, "var": new_var}


def plain_normalize(
    x,
    axis_name: str | None = None,
    examples: int | None = None,
    epsilon: float = EPSILON,
):
    """`normalize` by the plain formula, differentiated by JAX.

    Raises `UserError` for groups that are divided over several devices.
    """
    # One group of all examples.
    if examples is None:
        mean = _batch_mean(x, axis_name)
        var = _batch_mean(jnp.square(x - mean), axis_name)
        return (x - mean) * jax.lax.rsqrt(var + epsilon), mean, var

    # Groups that lie on this device, one after the other.
    if len(x) % examples:
        raise UserError(
            "the plain form normalises groups that lie in one device: write a "
            f"config.bn_examples that divides its {len(x)} examples of a microbatch, "
            f"got {examples}"
        )
    groups = x.reshape(-1, examples, *x.shape[1:])  # (groups, examples, H, W, C)
    normalize_groups = jax.vmap(lambda group: plain_normalize(group, epsilon=epsilon))
    y, mean, var = normalize_groups(groups)  # mean, var: (groups, C)
    return y.reshape(x.shape), jnp.mean(mean, axis=0), jnp.mean(var, axis=0)


def _batch_mean(x, axis_name: str | None):
    """The mean of each channel, (C,), over the devices of the axis if one is given."""
    mean = jnp.mean(x, axis=PIXELS)
    if axis_name is None:
        return mean
    return jax.lax.pmean(mean, axis_name)


def normalize(
    x,
    axis_name: str | None = None,
    examples: int | None = None,
    epsilon: float = EPSILON,
):
    """(x normalised, mean, var): (x - mean) / sqrt(var + epsilon) in each group.

    Groups are consecutive in the batch over all devices of `axis_name`, so that they
    contain the same examples on any number of devices. mean and var, (C,), are averages
    over the groups that this device has examples of.

    The gradient with respect to x is the closed form. It stores only the result and
    takes two sums; JAX's gradient of the formula stores more and takes four sums. mean
    and var are for the running statistics and have no gradient.

    x: (N, H, W, C), of any floating-point type. The result has the same type; mean and
        var have at least float32.
    axis_name: the mapped axis of the devices; None for one device.
    examples: the number of examples in a group; None is one group of all examples.

    Raises `UserError` unless `examples` divides the batch.
    """
    return normalize_all((x,), axis_name, examples, epsilon)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def normalize_all(
    xs: tuple,
    axis_name: str | None = None,
    examples: int | None = None,
    epsilon: float = EPSILON,
) -> tuple:
    """`normalize` of several arrays, with one collective forward and one backward.

    xs: arrays (N, H, W, C) of one type, with the same N; H, W and C may differ.
    """
    return _normalize_forward(xs, axis_name, examples, epsilon)[0]


def _normalize_forward(xs, axis_name, examples, epsilon):
    # The moments of each of this device's parts: (P, C) each.
    part, parts_of_group = _division(len(xs[0]), axis_name=axis_name, examples=examples)
    moments = [_per_part(_moments, part=part, arrays=(x,)) for x in xs]

    # Then the moments of the groups that the parts belong to: (P, C) each.
    if parts_of_group > 1:
        stacked = [jnp.stack(three, axis=1) for three in moments]  # (P, 3, C)
        of_groups = _of_group(stacked, parts_of_group, axis_name=axis_name)
        combined = []
        for (origin, _, _), of_group in zip(moments, of_groups, strict=True):
            mean, var = _combined(origin, of_group)
            combined.append((origin, mean, var))
        moments = combined

    # y = (x - mean) / sqrt(var + epsilon).
    results, residuals = [], []
    for x, (origin, mean, var) in zip(xs, moments, strict=True):
        factor = jax.lax.rsqrt(var + epsilon)  # (P, C)
        y = _per_part(
            _standardize,
            part=part,
            arrays=(x,),
            values=(origin, mean, factor),
        )
        y = y.reshape(x.shape)
        results.append((y, jnp.mean(origin + mean, axis=0), jnp.mean(var, axis=0)))
        residuals.append((y, factor))
    return tuple(results), tuple(residuals)


def _moments(x):
    """(origin, mean, var) of x (N, H, W, C), (C,) each; x has the mean origin + mean.

    origin is the rounded mean of x, and mean is its rounding error, the mean of
    x - origin. They are kept apart, because float32 could not represent a small error
    next to a large mean.
    """
    x = _wide(x)
    origin = jnp.mean(x, axis=PIXELS)
    shifted = x - origin
    mean = jnp.mean(shifted, axis=PIXELS)
    # E[s^2] - E[s]^2 loses no digits here: E[s] is nearly 0.
    var = jnp.mean(jnp.square(shifted), axis=PIXELS) - jnp.square(mean)
    return origin, mean, var


def _standardize(x, origin, mean, factor):
    # Two subtractions: in origin + mean the error would be rounded away again.
    y = ((_wide(x) - origin) - mean) * factor
    return y.astype(x.dtype)


def _normalize_backward(axis_name, examples, epsilon, residuals, gradients):
    del epsilon
    # Only the gradients at y: mean and var have none.
    gradients = [of_result[0] for of_result in gradients]

    # The means of g and of g * y over each part, with g the gradient at y.
    part, parts_of_group = _division(
        len(gradients[0]), axis_name=axis_name, examples=examples
    )
    means = []
    for gradient, (y, _) in zip(gradients, residuals, strict=True):
        means.append(_per_part(_gradient_means, part=part, arrays=(gradient, y)))

    # Then over each group: parts of a group are equally large.
    if parts_of_group > 1:
        stacked = [jnp.stack(two, axis=1) for two in means]  # (P, 2, C)
        of_groups = _of_group(stacked, parts_of_group, axis_name=axis_name)
        means = []
        for of_group in of_groups:
            averaged = jnp.mean(of_group, axis=1)  # (P, 2, C)
            means.append(jnp.unstack(averaged, axis=1))

    # The gradient at each x, by the closed form.
    to_xs = []
    for gradient, (y, factor), (mean, along) in zip(
        gradients, residuals, means, strict=True
    ):
        to_x = _per_part(
            _gradient_at_x,
            part=part,
            arrays=(gradient, y),
            values=(mean, along, factor),
        )
        to_xs.append(to_x.reshape(gradient.shape))
    return (tuple(to_xs),)


def _gradient_means(gradient, y):
    """The means of g and g * y over the pixels, (C,) each, with g the gradient at y."""
    gradient, y = _wide(gradient), _wide(y)
    mean = jnp.mean(gradient, axis=PIXELS)
    along = jnp.mean(gradient * y, axis=PIXELS)
    return mean, along


def _gradient_at_x(gradient, y, mean, along, factor):
    """factor * (g - mean - y * along), with g the gradient at y.

    factor is 1 / sqrt(var + epsilon), mean the mean of g, along the mean of g * y. The
    two terms that are subtracted are the parts of g along the mean and the variance of
    x, on which y does not depend.
    """
    to_x = factor * (_wide(gradient) - mean - _wide(y) * along)
    return to_x.astype(gradient.dtype)


def _wide(x):
    """x in float32, or in float64 if that is its type."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _per_part(function, *, part: int, arrays: tuple, values: tuple = ()):
    """The function applied to each part of a device's examples: results (P, ...).

    part: the number of examples in a part.
    arrays: (N, H, W, C), which are divided into parts.
    values: (P, C), one row for each part.
    """
    # A single part is computed without `vmap`: the axis of length 1 would make a search
    # step twice as slow on CPU.
    if part == len(arrays[0]):
        single = [value[0] for value in values]
        result = function(*arrays, *single)
        return jax.tree.map(lambda leaf: leaf[None], result)

    divided = [array.reshape(-1, part, *array.shape[1:]) for array in arrays]
    return jax.vmap(function)(*divided, *values)


normalize_all.defvjp(_normalize_forward, _normalize_backward)


def _division(
    size: int, *, axis_name: str | None, examples: int | None
) -> tuple[int, int]:
    """(examples of a part, parts of a group) for the `size` examples of a device.

    Each part lies in a single group.
    """
    devices = jax.lax.axis_size(axis_name) if axis_name else 1
    total = devices * size
    group = examples or total
    if total % group:
        raise UserError(
            f"batch norm over {group} examples: a batch of {total} cannot be divided "
            "into such groups"
        )
    # The largest part that fits both into a device and into a group.
    part = math.gcd(size, group)
    return part, group // part


def _of_group(values: list, parts_of_group: int, *, axis_name: str) -> list:
    """For each of the device's parts, the values of all parts of its group.

    Each of the values is (P, n, C), and becomes (P, Q, n, C). All are sent in a single
    collective, because small collectives cost mostly latency.
    """
    channels = [value.shape[-1] for value in values]
    together = jnp.concatenate(values, axis=-1)  # (P, n, sum of C)
    devices = jax.lax.axis_size(axis_name)

    # A group consists of several whole devices, which send only to each other.
    if len(together) == 1 and parts_of_group < devices:
        neighbours = np.arange(devices).reshape(-1, parts_of_group).tolist()
        group = jax.lax.all_gather(
            together, axis_name, axis_index_groups=neighbours, tiled=True
        )
        groups = group[None]  # (1, Q, n, sum of C)
    # Otherwise gather all parts of all devices, group by group.
    else:
        everything = jax.lax.all_gather(together, axis_name, tiled=True)
        # (groups, Q, n, sum of C)
        groups = everything.reshape(-1, parts_of_group, *together.shape[1:])

    # Pick the group of each of this device's parts.
    if len(together) > 1:
        first = jax.lax.axis_index(axis_name) * len(together)
        parts = first + jnp.arange(len(together))
        groups = groups[parts // parts_of_group]  # (P, Q, n, sum of C)
    ends = np.cumsum(channels)[:-1]
    return jnp.split(groups, ends, axis=-1)


def _combined(origin, moments):
    """(mean, var) of groups, (P, C) each, from the moments of their parts.

    The mean that is returned is relative to `origin`, that of this device's part; the
    mean of each part is relative to the part's own origin. The variance is computed
    from squared differences, not as a difference of squares, which would cancel.

    origin: (P, C).
    moments: (P, Q, 3, C), the (origin, mean, var) of `_moments` of each part.
    """
    origins, means, variances = jnp.unstack(moments, axis=2)  # (P, Q, C) each
    means = origins - origin[:, None] + means
    mean = jnp.mean(means, axis=1)
    # var = the mean of the variances + the variance of the means.
    between = jnp.square(means - mean[:, None])
    return mean, jnp.mean(variances + between, axis=1)
