"""The steps of a run, one after the other, as in its training loop."""

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

    The constructor compiles the program and makes the first step. tuned: see
    `Devices.compile_steps`.

    compiling: the seconds of the first step and its parts, see `CompileTimes.figures`.
    temp_memory_mib: the temporary memory by XLA's analysis, of the stage that needs
        most; None if the backend does not report it.
    state_leaves: the number of arrays in the state.
    compiled: the compiled programs of a step, in the order of `calls`.
    """

    def __init__(self, program: Program, where: Devices, *, tuned: bool = True):
        # The state that a run begins with.
        self._feeds = program.feeds
        self._done = 0  # steps so far
        state = where.create(program.create, 0)
        self._state = where.settle(state)
        self.state_leaves = len(jax.tree.leaves(self._state))

        # The step, and a step with the same number of programs that compute nothing.
        self._call = where.compile_steps(*program.stages, tuned=tuned)
        idle = [_nothing] * len(program.stages)
        self._nothing = where.compile_steps(*idle)

        # As in a run, compile all stages at the same time, then make the first step.
        def first_step() -> None:
            self.compiled = compile_together(self.calls())
            self.temp_memory_mib = _temp_memory(self.compiled)
            self.step()

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

    def steps(self, number: int) -> None:
        """Dispatches this number of steps, then waits for the last one's results."""
        for _ in range(number):
            self._send(self._call)
        jax.block_until_ready(self._state)

    def calls(self) -> list[Call]:
        """The programs of the next step, each with the arguments of its call."""
        return self._call.calls(self._state, [self._feeds(self._done)])

    def idle_step(self) -> None:
        """Makes a step whose programs compute nothing.

        The calls have the same arguments and results as those of `step`.
        """
        self._advance(self._nothing)

    def _advance(self, call: Callable) -> None:
        """Replaces the state by the result of a call, and waits for it."""
        # A call returns before its step is computed.
        self._send(call)
        jax.block_until_ready(self._state)

    def _send(self, call: Callable) -> None:
        """Replaces the state by the result of a call, without waiting for it."""
        feeds = self._feeds(self._done)
        self._state = call(self._state, [feeds])
        self._done += 1


def _nothing(state, feed):
    """A stage that computes nothing, with the arguments and results of a real one.

    Without the barrier, JAX would leave out the feed, which is not used, and would not
    pass the state through the program.
    """
    state, _ = jax.lax.optimization_barrier((state, feed))
    return state


def _temp_memory(compiled: list[jax.stages.Compiled]) -> float | None:
    """The temporary memory of the program that needs most, in MiB; None if unknown."""
    # Only some backends report it.
    known = []
    for program in compiled:
        size = getattr(program.memory_analysis(), "temp_size_in_bytes", None)
        if size is not None:
            known.append(size)
    if not known:
        return None
    return measure.short(max(known) / 2**20)
