"""The options that steps are compiled with."""

import jax

from bnas_jax.runtime import steps

LEVEL = "xla_backend_optimization_level"


def test_the_installed_version_of_xla_knows_all_options():
    assert steps.step_options() == steps._ON_CPU


def test_who_turns_optimizations_off_keeps_the_level_of_that():
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        options = steps.step_options()
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert options == {name: value for name, value in steps._ON_CPU.items() if name != LEVEL}
