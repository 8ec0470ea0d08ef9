"""Programs compiled before their first call, side by side."""

import concurrent.futures
import gc
from collections.abc import Callable, Iterable
from typing import Any

import jax


class Program:
    """A jitted function that is made for its first arguments: how it is spread over devices depends on where they lie.

    jitted: (arguments) -> (the jitted function, arguments of its own that come first).
    """

    def __init__(self, jitted: Callable[[tuple], tuple[Any, tuple]]):
        self._jitted = jitted
        self._made: dict[Any, tuple[Any, tuple]] = {}

    def lower(self, *arguments) -> jax.stages.Lowered:
        jitted, first = self._for(arguments)
        return jitted.lower(*first, *arguments)

    def __call__(self, *arguments):
        jitted, first = self._for(arguments)
        return jitted(*first, *arguments)

    def _for(self, arguments: tuple) -> tuple[Any, tuple]:
        structure = jax.tree.structure(arguments)
        if structure not in self._made:
            self._made[structure] = self._jitted(arguments)
        return self._made[structure]


# A program and what it will be called with.
Call = tuple[Program, tuple]


def compile_together(calls: Iterable[Call]) -> list[jax.stages.Compiled]:
    """Compiles what these calls need without making them; JAX then has it. Alone, XLA leaves cores idle half of the time."""
    # Tracing makes millions of objects that live; looking for dead ones among them takes a fifth of its time.
    gc.disable()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            compiling = [
                pool.submit(program.lower(*arguments).compile) for program, arguments in calls
            ]
        finally:
            gc.enable()
        return [compiled.result() for compiled in compiling]
