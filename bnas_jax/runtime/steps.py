"""The compiled steps of a run: one program for each stage, or one for several steps."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bnas_jax.runtime.compiling import Call, Program


class Steps:
    """Compiled steps: (state, [feeds of a step, ...]) -> state.

    The old state's buffers are reused. The feeds of a step are a tuple with one for
    each stage.

    A single step runs one program for each stage: XLA's work grows faster than the
    program that it is given (a search step as two programs loads in 0.4 of the time).
    Several steps are made by one call of one program.

    programs: one for each stage.
    scanned: (structure, differing) -> the program of several steps, see
        `scanned_steps`.
    """

    def __init__(
        self, programs: list[Program], scanned: Callable[[Any, list[int]], Program]
    ):
        self._programs = programs
        self._scanned = scanned
        # The program of several steps, made at their first call.
        self._several: Program | None = None

    def calls(self, state, feeds: list[tuple]) -> list[Call]:
        """The programs that a call runs, with their arguments.

        `compile_together` takes them.

        feeds: those of each step that the call makes.
        """
        # One step: a program for each stage.
        if len(feeds) == 1:
            programs = zip(self._programs, feeds[0], strict=True)
            return [(program, (state, feed)) for program, feed in programs]

        # Several steps. Arrays that all of them share, such as the whole data set, are
        # passed once: which leaves differ between steps?
        leaves = [jax.tree.leaves(feed) for feed in feeds]  # [steps][leaves]
        differing = []
        for position, leaf in enumerate(leaves[0]):
            if any(other[position] is not leaf for other in leaves[1:]):
                differing.append(position)
        if self._several is None:
            self._several = self._scanned(jax.tree.structure(feeds[0]), differing)

        # One program, with the leaves that differ for each step.
        of_steps = []
        for of_step in leaves:
            of_steps.append([of_step[position] for position in differing])
        return [(self._several, (state, leaves[0], of_steps))]

    def __call__(self, state, feeds: list[tuple]):
        # Stage by stage, each with the state after the one before. The state among the
        # arguments is that of the first stage.
        for program, (_, *feed) in self.calls(state, feeds):
            state = program(state, *feed)
        return state


# XLA's options on CPU.
#
# YNNPACK, XLA's new library, takes twice as long as Eigen for gradients of kernels with
# few channels (64x32x32x36, 3x3: 62 ms and 23 ms). Convolutions are therefore left to
# Eigen: a BNAS-A step takes 4.8 s with YNNPACK for them, 3.4 s without.
#
# LLVM's level 2 in place of 3 compiles a search step in four fifths of the processor
# time, and the step takes as long.
LEVEL = "xla_backend_optimization_level"
ON_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
    LEVEL: 2,
}


def step_options() -> dict | None:
    """Options of XLA for steps, None for XLA's defaults."""
    if jax.default_backend() != "cpu":
        return None
    options = {}
    for name, value in ON_CPU.items():
        if takes_option(name, value):
            options[name] = value
    # This option of JAX sets level 0, which a level given here would override.
    if jax.config.values["jax_disable_most_optimizations"]:
        options.pop(LEVEL, None)
    return options


def once_options(platform: str | None = None) -> dict | None:
    """Options of XLA for a program that runs once, None for XLA's defaults.

    It is compiled as quickly as can be.

    platform: where it runs, None is JAX's default.
    """
    # The drawing of many parameters takes longest to compile. For a search on digits it
    # is 25 s at LLVM's usual level, and 7 s at level 0.
    if (platform or jax.default_backend()) == "cpu":
        return {LEVEL: 0}
    return None


@functools.cache
def takes_option(name: str, value: str | int) -> bool:
    """Whether this version of XLA has the option: a program is compiled with it."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def scanned_steps(
    stages: Sequence[Callable], structure, differing: list[int]
) -> Callable:
    """Several steps as one function: (state, leaves, of_steps) -> the state after all.

    The function's arguments are the leaves of the first step's feeds, and for each step
    the leaves that differ between steps.

    stages: (state, feed) -> state each.
    structure: of a step's feeds.
    differing: the positions of the leaves that differ between steps.
    """

    def steps(state, leaves, of_steps):
        def body(state, values):
            # The feeds of this step: the leaves of the first step, but for those that
            # differ.
            mine = dict(zip(differing, values, strict=True))
            of_step = [mine.get(position, leaf) for position, leaf in enumerate(leaves)]
            feeds = jax.tree.unflatten(structure, of_step)

            # The stages, one after the other.
            for stage, feed in zip(stages, feeds, strict=True):
                state = stage(state, feed)
            return state, None

        # The leaves that differ, stacked over the steps.
        by_leaf = zip(*of_steps, strict=True)
        stacked = [jnp.stack(values) for values in by_leaf]  # [steps, ...] each
        state, _ = jax.lax.scan(body, init=state, xs=stacked)
        return state

    return steps
