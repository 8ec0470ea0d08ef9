"""`normalize` and its gradient on devices of this process.

Called as `normalize_on_devices.py CASES.npz RESULTS.npz`. A case NAME has the arrays
NAME.x and NAME.gradient, (N, H, W, C), and NAME.sizes, (devices, examples of a group or
0). Its results are y, mean, var and the gradient at x.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.ops.batch_norm import normalize

jax.config.update("jax_enable_x64", True)


def on_devices(x, gradient, *, devices: int, examples: int | None) -> list[np.ndarray]:
    """The results where each device has its part of x."""

    def one(x, gradient):
        results, pull = jax.vjp(lambda x: normalize(x, "device", examples), x)
        statistics = [jax.lax.pmean(result, "device") for result in results[1:]]
        zeros = jax.tree.map(jnp.zeros_like, results[1:])
        return (results[0], *statistics, *pull((gradient, *zeros)))

    shards = [array.reshape(devices, -1, *array.shape[1:]) for array in (x, gradient)]
    mapped = jax.pmap(one, axis_name="device", devices=jax.devices()[:devices])
    y, mean, var, pulled = map(np.asarray, mapped(*shards))
    return [y.reshape(x.shape), mean[-1], var[-1], pulled.reshape(x.shape)]


cases = np.load(sys.argv[1])
results = {}
for name in {key.rpartition(".")[0] for key in cases}:
    count, group = (int(size) for size in cases[f"{name}.sizes"])
    found = on_devices(
        cases[f"{name}.x"],
        cases[f"{name}.gradient"],
        devices=count,
        examples=group or None,
    )
    for part, array in zip(("y", "mean", "var", "pulled"), found, strict=True):
        results[f"{name}.{part}"] = array
np.savez(sys.argv[2], **results)
