"""JAX's persistent compilation cache, in the user's cache directory."""

import contextlib
import os
import pathlib
import tempfile
import uuid
import warnings

import jax
from jax.experimental.compilation_cache import compilation_cache

from bnas_jax.runtime import hosts


def use_compilation_cache() -> None:
    """Turns on JAX's compilation cache, which makes a second start much faster.

    A directory that is already set in JAX stays. If the cache cannot be written, or
    there is no home directory, the cache stays off, with a warning.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return

    # Write to the directory once, for a single warning: JAX would warn for each
    # program.
    try:
        cache = user_cache() / "bnas_jax" / "xla"
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"compiled programs are not kept ({error}); set XDG_CACHE_HOME to a "
            "directory for them",
            stacklevel=2,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))


def leave_unless_shared() -> None:
    """Turns the cache off for several processes that do not share one.

    In JAX only the first process writes the cache. After a restart it would find its
    programs there, and the others would not. On GPUs these would wait for it forever:
    XLA divides its autotuning of a program among all processes that compile it.
    """
    directory = jax.config.values["jax_compilation_cache_dir"]
    if hosts.count() == 1 or _shared(directory):
        return
    if hosts.is_first():
        warnings.warn(
            "compiled programs are not kept, as each process has a cache of its own; "
            "set JAX_COMPILATION_CACHE_DIR to a directory that all of them share",
            stacklevel=2,
        )
    jax.config.update("jax_enable_compilation_cache", False)
    # JAX has already decided whether to use the cache; let it decide again.
    compilation_cache.reset_cache()


def _shared(directory: str | None) -> bool:
    """Whether all processes see the files that the first one writes to its cache."""
    # The first process writes a file with a new name, and the others look for it.
    name = hosts.from_first(f"shared-{uuid.uuid4().hex}")
    file = pathlib.Path(directory or os.devnull, name)
    with contextlib.suppress(OSError):
        if hosts.is_first():
            file.touch()
    hosts.meet()
    seen = hosts.from_all("seen" if os.path.exists(file) else "")
    if hosts.is_first():
        with contextlib.suppress(OSError):
            file.unlink()

    # A URL, such as that of a bucket, is shared by all processes.
    addresses = hosts.from_all("address" if "://" in (directory or "") else "")
    return all(seen) or all(addresses)


def user_cache() -> pathlib.Path:
    """The user's cache directory.

    Raises `OSError` or `RuntimeError` without a home directory.
    """
    if os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(os.environ["XDG_CACHE_HOME"])
    # With `strict`, a missing home directory is an error, and is not created.
    home = pathlib.Path.home().resolve(strict=True)
    return home / ".cache"
