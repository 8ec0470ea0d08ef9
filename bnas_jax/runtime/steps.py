"""The compiled steps of a run: one program for each stage, or one for several steps."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bnas_jax.runtime.compiling import Call, Program


class Steps:
    """Compiled steps: (state, [feeds of a step, ...]) -> state.

    The buffers of the old state are reused. The feeds of a step are a tuple with the
    feed of each stage (a search has an alpha step and a weight step).

    A single step runs one program for each stage, because XLA's compile time grows
    faster than the size of a program (a search step as two programs loads in 0.4 of the
    time). Several steps are one call of one program.

    programs: the program of each stage.
    scanned: (structure, differing) -> the program of several steps, see
        `scanned_steps`.
    """

    def __init__(
        self, programs: list[Program], scanned: Callable[[Any, list[int]], Program]
    ):
        self._programs = programs
        self._scanned = scanned
        # The program of several steps, which the first such call builds.
        self._several: Program | None = None

    def calls(self, state, feeds: list[tuple]) -> list[Call]:
        """The programs that a call runs, and their arguments, for `compile_together`.

        feeds: the feeds of each step that the call runs.
        """
        # One step: a program for each stage.
        if len(feeds) == 1:
            programs = zip(self._programs, feeds[0], strict=True)
            return [(program, (state, feed)) for program, feed in programs]

        # Several steps. Arrays that all steps share, such as a data set in memory, are
        # passed only once. Find the leaves that differ between steps.
        leaves = [jax.tree.leaves(feed) for feed in feeds]  # [steps][leaves]
        differing = []
        for position, leaf in enumerate(leaves[0]):
            if any(other[position] is not leaf for other in leaves[1:]):
                differing.append(position)
        if self._several is None:
            self._several = self._scanned(jax.tree.structure(feeds[0]), differing)

        # Run one program. For each step it gets the leaves that differ.
        of_steps = []
        for of_step in leaves:
            of_steps.append([of_step[position] for position in differing])
        return [(self._several, (state, leaves[0], of_steps))]

    def __call__(self, state, feeds: list[tuple]):
        # Each stage gets the state of the previous one, not the first state, which is
        # among the arguments of all calls.
        for program, (_, *feed) in self.calls(state, feeds):
            state = program(state, *feed)
        return state


# XLA's options on CPU.
#
# YNNPACK, XLA's new library, takes more than twice as long as Eigen for gradients of
# kernels with few channels (64x32x32x36, 3x3: 62 ms, Eigen 23 ms). Eigen therefore
# computes convolutions: a BNAS-A step takes 3.4 s, with YNNPACK 4.8 s.
#
# LLVM's optimization level 2 instead of 3 compiles a search step in four fifths of the
# processor time, and the step is as fast.
LEVEL = "xla_backend_optimization_level"
ON_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
    LEVEL: 2,
}


def step_options() -> dict | None:
    """XLA's compiler options for steps; None for its defaults."""
    if jax.default_backend() != "cpu":
        return None
    options = {}
    for name, value in ON_CPU.items():
        if takes_option(name, value):
            options[name] = value
    # This setting of JAX means level 0, which `LEVEL` would override.
    if jax.config.values["jax_disable_most_optimizations"]:
        options.pop(LEVEL, None)
    return options


def once_options(platform: str | None = None) -> dict | None:
    """XLA's options to compile a program quickly that runs only once.

    None stands for XLA's defaults.

    platform: the platform that the program runs on; None is JAX's default.
    """
    # The program that draws all parameters compiles slowest. For a search on digits it
    # takes 25 s at LLVM's default level, and 7 s at level 0.
    if (platform or jax.default_backend()) == "cpu":
        return {LEVEL: 0}
    return None


@functools.cache
def takes_option(name: str, value: str | int) -> bool:
    """Whether this version of XLA has the option, tried by compiling a program."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def scanned_steps(
    stages: Sequence[Callable], structure, differing: list[int]
) -> Callable:
    """Several steps as one function: (state, leaves, of_steps) -> the last state.

    leaves: all leaves of the first step's feeds.
    of_steps: for each step, the leaves that differ between steps.

    stages: the functions (state, feed) -> state of a step.
    structure: the tree structure of a step's feeds.
    differing: the positions, among the leaves, of those that differ between steps.
    """

    def steps(state, leaves, of_steps):
        def body(state, values):
            # Put together the feeds of this step. Leaves that do not differ are those
            # of the first step.
            mine = dict(zip(differing, values, strict=True))
            of_step = [mine.get(position, leaf) for position, leaf in enumerate(leaves)]
            feeds = jax.tree.unflatten(structure, of_step)

            for stage, feed in zip(stages, feeds, strict=True):
                state = stage(state, feed)
            return state, None

        # Stack the leaves that differ over the steps.
        by_leaf = zip(*of_steps, strict=True)
        stacked = [jnp.stack(values) for values in by_leaf]  # [steps, ...] each
        state, _ = jax.lax.scan(body, init=state, xs=stacked)
        return state

    return steps
