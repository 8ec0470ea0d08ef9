"""The options that steps are compiled with."""

import jax

from bnas_jax.runtime import steps


def test_the_installed_version_of_xla_knows_all_options():
    assert steps.step_options() == steps.ON_CPU


def test_without_optimizations_the_level_is_that_of_jax():
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        options = steps.step_options()
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert options == {
        name: value for name, value in steps.ON_CPU.items() if name != steps.LEVEL
    }
