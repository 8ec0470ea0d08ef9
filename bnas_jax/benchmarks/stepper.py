"""The steps of a run, one after the other, as its loop makes them."""

import sys
from collections.abc import Callable

import jax

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.compile_times import compile_times
from bnas_jax.runtime.compiling import Call, compile_together
from bnas_jax.runtime.devices import Devices
from bnas_jax.training.build import Program


class Stepper:
    """The steps of a program.

    Making one compiles it and makes the first step. tuned: see `Devices.compile_steps`.

    compiling: how long that took, see `CompileTimes.figures`. temp_memory_mib: of the
    temporary arrays by XLA's analysis, for the stage that has most of them; None where
    the backend does not report it. state_leaves: the number of arrays that a call takes
    and returns. compiled: the programs of a step, see `calls`.
    """

    def __init__(self, program: Program, where: Devices, *, tuned: bool = True):
        self._feeds = program.feeds
        self._done = 0  # steps so far
        state = where.create(program.create, 0)
        self._state = where.settle(state)
        self.state_leaves = len(jax.tree.leaves(self._state))

        # The step, and one of as many programs that compute nothing.
        self._call = where.compile_steps(*program.stages, tuned=tuned)
        idle = [_nothing] * len(program.stages)
        self._nothing = where.compile_steps(*idle)

        # Stages are compiled side by side, as a run does it.
        def first_step() -> None:
            self.compiled = compile_together(self.calls())
            self.temp_memory_mib = _temp_memory(self.compiled)
            self.step()

        # As a run's loop begins.
        with compile_times() as times:
            seconds = measure.once(first_step)
        print(
            f"first step, with tracing and compiling: {seconds:.1f} s", file=sys.stderr
        )
        if times.loaded:
            print(
                "compiled before; JAX_ENABLE_COMPILATION_CACHE=0 measures compiling",
                file=sys.stderr,
            )
        self.compiling = {"first_step_seconds": round(seconds, 1), **times.figures()}

    def step(self) -> None:
        """Makes a step and waits for its results."""
        self._advance(self._call)

    def calls(self) -> list[Call]:
        """The programs of the next step, with what it calls them with."""
        return self._call.calls(self._state, [self._feeds(self._done)])

    def idle_step(self) -> None:
        """The same calls, with the same arguments and results, of programs that compute
        nothing.
        """
        self._advance(self._nothing)

    def _advance(self, call: Callable) -> None:
        # Without waiting, a call returns before its step is computed.
        feeds = self._feeds(self._done)
        self._state = jax.block_until_ready(call(self._state, [feeds]))
        self._done += 1


def _nothing(state, feed):
    # JAX would leave out what is not used, and return unchanged what goes through.
    state, _ = jax.lax.optimization_barrier((state, feed))
    return state


def _temp_memory(compiled: list[jax.stages.Compiled]) -> float | None:
    """In MiB, of the program that has most."""
    known = []
    for program in compiled:
        size = getattr(program.memory_analysis(), "temp_size_in_bytes", None)
        if size is not None:
            known.append(size)
    if not known:
        return None
    return measure.short(max(known) / 2**20)
