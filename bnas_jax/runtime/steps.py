"""The compiled steps of a run: one program for each stage, or one for several steps."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bnas_jax.runtime.compiling import Call, Program


class Steps:
    """Compiled steps: (state, [feeds of a step, ...]) -> state.

    The old state's buffers are reused.

    A step's feeds are one for each stage; several steps are made by one call of one
    program. Stages are separate programs: XLA's work grows faster than the program that
    it is given (a search step as two programs loads in 0.4 of the time).
    programs: one for each stage. scanned: see `scanned_steps`, (structure, differing)
    -> the program of several steps.
    """

    def __init__(
        self, programs: list[Program], scanned: Callable[[Any, list[int]], Program]
    ):
        self._programs = programs
        self._scanned = scanned
        # Made at the first call of several steps.
        self._several: Program | None = None

    def calls(self, state, feeds: list[tuple]) -> list[Call]:
        """The programs that a call runs, for `compile_together`."""
        if len(feeds) == 1:
            programs = zip(self._programs, feeds[0], strict=True)
            return [(program, (state, feed)) for program, feed in programs]

        # Arrays that every step shares, such as the whole data set, are passed once.
        leaves = [jax.tree.leaves(feed) for feed in feeds]
        differing = []
        for position, leaf in enumerate(leaves[0]):
            if any(other[position] is not leaf for other in leaves[1:]):
                differing.append(position)
        if self._several is None:
            self._several = self._scanned(jax.tree.structure(feeds[0]), differing)
        of_steps = [[of_step[position] for position in differing] for of_step in leaves]
        return [(self._several, (state, leaves[0], of_steps))]

    def __call__(self, state, feeds: list[tuple]):
        # Stage by stage, each with the state of the one before.
        for program, (_, *feed) in self.calls(state, feeds):
            state = program(state, *feed)
        return state


# On CPU, XLA's new library YNNPACK takes twice as long as Eigen for gradients of
# kernels with few channels (64x32x32x36, 3x3: 62 ms and 23), so that convolutions are
# taken from it: 4.8 s a BNAS-A step with, 3.4 s without. LLVM's level 2 in place of 3
# compiles a search step in four fifths of the processor time, and the step takes as
# long.
LEVEL = "xla_backend_optimization_level"
ON_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    LEVEL: 2,
}


def step_options() -> dict | None:
    """Options of XLA for steps, None for XLA's defaults."""
    if jax.default_backend() != "cpu":
        return None
    options = {
        name: value for name, value in ON_CPU.items() if takes_option(name, value)
    }
    # This option of JAX sets level 0, which a level given here would override.
    if jax.config.values["jax_disable_most_optimizations"]:
        options.pop(LEVEL, None)
    return options


def once_options() -> dict | None:
    """Options of XLA for a program that runs once: compiled as quickly as can be, None
    for XLA's defaults.
    """
    # Drawing many parameters takes longest to compile: 25 s at LLVM's usual level and 7
    # s at this one, for a search on digits.
    if jax.default_backend() == "cpu":
        return {LEVEL: 0}
    return None


@functools.cache
def takes_option(name: str, value: str | int) -> bool:
    """Whether this version of XLA has the option, which one sees by compiling anything."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def scanned_steps(
    stages: Sequence[Callable], structure, differing: list[int]
) -> Callable:
    """Several steps as one function: (state, leaves of the first feeds, leaves of each
    step) -> the state after all steps.

    structure: of a step's feeds. differing: the positions of the leaves that differ
    between steps.
    """

    def steps(state, leaves, of_steps):
        def body(state, values):
            # The feeds of this step: shared leaves, with those that differ in their
            # places.
            mine = dict(zip(differing, values, strict=True))
            of_step = [mine.get(position, leaf) for position, leaf in enumerate(leaves)]
            feeds = jax.tree.unflatten(structure, of_step)
            for stage, feed in zip(stages, feeds, strict=True):
                state = stage(state, feed)
            return state, None

        # [steps, ...] for each leaf that differs.
        stacked = [jnp.stack(values) for values in zip(*of_steps, strict=True)]
        state, _ = jax.lax.scan(body, init=state, xs=stacked)
        return state

    return steps
