"""Programs that are compiled before their first call, side by side."""

import concurrent.futures
import gc
from collections.abc import Callable, Iterable
from typing import Any

import jax

from bnas_jax.runtime import hosts


class Program:
    """A jitted function that is made when its first arguments are known.

    How they are spread over devices decides how the function is mapped.

    jitted: (arguments) -> (the jitted function, further arguments that come before
        those of a call).
    """

    def __init__(self, jitted: Callable[[tuple], tuple[Any, tuple]]):
        self._jitted = jitted
        # {structure of the arguments: what `jitted` has returned}.
        self._made: dict[Any, tuple[Any, tuple]] = {}

    def trace(self, *arguments) -> jax.stages.Traced:
        """The program traced for these arguments, or for their shapes.

        Not for `pmap`, which has no such form.
        """
        jitted, first = self._for(arguments)
        return jitted.trace(*first, *arguments)

    def lower(self, *arguments) -> jax.stages.Lowered:
        """The program traced for these arguments, or for their shapes, and lowered."""
        jitted, first = self._for(arguments)
        return jitted.lower(*first, *arguments)

    def __call__(self, *arguments):
        jitted, first = self._for(arguments)
        return jitted(*first, *arguments)

    def _for(self, arguments: tuple) -> tuple[Any, tuple]:
        """(the jitted function, further arguments) for these arguments."""
        # Arguments of another structure are mapped in another way.
        structure = jax.tree.structure(arguments)
        if structure not in self._made:
            self._made[structure] = self._jitted(arguments)
        return self._made[structure]


# A program and the arguments that it will be called with.
Call = tuple[Program, tuple]


def compile_together(calls: Iterable[Call]) -> list[jax.stages.Compiled]:
    """Compiles the programs of these calls without running them.

    The calls then find them compiled. Programs are compiled in threads, as one
    compilation leaves cores idle half of the time. Of several processes, each waits for
    all.
    """
    # Tracing makes millions of objects that stay alive. To look for dead ones among
    # them takes a fifth of its time.
    gc.disable()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiling = []
        try:
            # Tracing is done here, one program after the other. Meanwhile XLA compiles
            # in the threads.
            for program, arguments in calls:
                lowered = program.lower(*arguments)
                compiling.append(pool.submit(lowered.compile))
        finally:
            gc.enable()
        programs = [compiled.result() for compiled in compiling]
    hosts.meet()
    return programs
