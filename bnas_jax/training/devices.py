"""The only file that knows about devices: arithmetic, compilation and its cache, where a step runs."""

import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.settings import RunSettings


def configure(run: RunSettings) -> None:
    """Sets JAX up for a run, before its first array."""
    if run.parallel not in ("auto", "none"):
        raise UserError(f"config.parallel={run.parallel} is not available yet in this version; write auto or none")
    jax.config.update("jax_enable_x64", run.precision == "float64")


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache directory, unless JAX is told of another: a second start is much faster."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "bnas_jax" / "xla"))


def compile_step(step: Callable) -> Callable:
    """The jitted step (state, *inputs) -> state. The old state's buffers are reused."""
    return jax.jit(step, donate_argnums=0)


def compile_evaluation(step: Callable) -> Callable:
    return jax.jit(step)


def create(function: Callable):
    """`function()`, jitted. It runs once, and drawing many parameters takes longest to compile, so that is kept short."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)()


@jax.jit
def copy(tree):
    """A copy that survives the donation of the original, for saving in the background."""
    return jax.tree.map(jnp.copy, tree)


@jax.jit
def all_finite(tree) -> jax.Array:
    """Whether no array of the tree holds a NaN or an infinity."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def restorable(shapes):
    """`ShapeDtypeStruct`s placed on this process's first device, so that a checkpoint of any device count is restored there."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
