"""Where compiled programs are kept for the next run, and other files of this kind."""

import os
import pathlib
import tempfile
import warnings

import jax


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


def user_cache() -> pathlib.Path:
    """The user's directory for files that can be made again.

    Raises `OSError` or `RuntimeError` without a home directory.
    """
    if os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(os.environ["XDG_CACHE_HOME"])
    # Strict, so that a home that is missing is an error and is not made.
    home = pathlib.Path.home().resolve(strict=True)
    return home / ".cache"
