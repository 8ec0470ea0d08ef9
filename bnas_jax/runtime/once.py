"""Programs that run only once, such as the one that draws a run's first weights."""

from collections.abc import Callable

import jax

from bnas_jax.runtime.steps import once_options


def called_once(function: Callable, arguments: tuple):
    """The result of a program that runs once, on the default device.

    If the default device is an accelerator, the CPU runs the program, because its
    compiler is the fastest: compiling the program that draws BNAS-A's parameters takes
    5 s of processor time for the CPU, 30 s for an H100, and 25 s for a v5e.
    """
    host = _host()
    if host is None:
        return jax.jit(function, compiler_options=once_options())(*arguments)
    options = once_options(host.platform)
    with jax.default_device(host):
        arguments = jax.device_put(arguments, host)
        made = jax.jit(function, compiler_options=options)(*arguments)
    return jax.device_put(made, jax.local_devices()[0])


def _host() -> jax.Device | None:
    """The CPU device of a machine with an accelerator; None without an accelerator.

    It is also None for several processes, because the CPUs of their hosts may round
    differently.
    """
    if jax.default_backend() == "cpu" or jax.process_count() > 1:
        return None
    # JAX_PLATFORMS may exclude the CPU.
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
