"""Jitted functions that depend on their arguments' placement, and their compilation."""

import concurrent.futures
import gc
from collections.abc import Callable, Iterable
from typing import Any

import jax

from bnas_jax.runtime import hosts


class Program:
    """A jitted function that is built when its first arguments are known.

    The sharding of the arguments decides how the function is mapped over devices.

    jitted: (arguments) -> (the jitted function, extra arguments that precede those of a
        call).
    """

    def __init__(self, jitted: Callable[[tuple], tuple[Any, tuple]]):
        self._jitted = jitted
        # {tree structure of the arguments: the result of `jitted`}.
        self._made: dict[Any, tuple[Any, tuple]] = {}

    def trace(self, *arguments) -> jax.stages.Traced:
        """The program traced for these arguments, or for their shapes.

        It does not work for `pmap`, which cannot be traced without being lowered.
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
        """(the jitted function, extra arguments) for these arguments."""
        # Arguments with another tree structure need another mapping.
        structure = jax.tree.structure(arguments)
        if structure not in self._made:
            self._made[structure] = self._jitted(arguments)
        return self._made[structure]


# A program and the arguments that it will be called with.
Call = tuple[Program, tuple]


def compile_together(calls: Iterable[Call]) -> list[jax.stages.Compiled]:
    """Compiles the programs of these calls without running them.

    The calls later find the compiled programs. Each program is compiled in a thread,
    because one compilation leaves cores idle half of the time. Each process of a run
    waits until all have compiled.
    """
    # Tracing makes millions of objects that stay alive; without this, the garbage
    # collector takes a fifth of its time.
    gc.disable()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiling = []
        try:
            # This thread traces one program after the other, while XLA compiles in the
            # others.
            for program, arguments in calls:
                lowered = program.lower(*arguments)
                compiling.append(pool.submit(lowered.compile))
        finally:
            gc.enable()
        programs = [compiled.result() for compiled in compiling]
    hosts.meet()
    return programs
