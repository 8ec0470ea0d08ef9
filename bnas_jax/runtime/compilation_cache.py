"""Where compiled programs are kept for the next run, and other files of this kind."""

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
    """Keeps compiled programs in the user's cache directory.

    This makes a second start much faster. A directory that JAX has been set to is kept.
    Where the cache cannot be written to, or there is no home directory, programs are
    compiled anew, with a warning.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return

    # The directory is made, and written to once: JAX would only warn of each program
    # that it cannot write.
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
    """Has several processes compile anew where they do not share one cache.

    JAX lets the first process alone write its cache. Started again, it would find its
    programs there and the others would not. On GPUs these would then wait for it
    without end: XLA divides the trials of libraries' algorithms among all processes
    that compile a program.
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
    # JAX has looked whether there is a cache, and would not look again.
    compilation_cache.reset_cache()


def _shared(directory: str | None) -> bool:
    """Whether all processes see what the first one writes to its cache."""
    # The first writes a file of a new name, which the others look for.
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

    # An address, such as a bucket's, is one place for all.
    addresses = hosts.from_all("address" if "://" in (directory or "") else "")
    return all(seen) or all(addresses)


def user_cache() -> pathlib.Path:
    """The user's directory for files that can be made again.

    Raises `OSError` or `RuntimeError` without a home directory.
    """
    if os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(os.environ["XDG_CACHE_HOME"])
    # Strict, so that a home that is missing is an error and is not made.
    home = pathlib.Path.home().resolve(strict=True)
    return home / ".cache"
