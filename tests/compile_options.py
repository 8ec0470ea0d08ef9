"""Options of XLA for what is compiled in a test and runs once."""

from bnas_jax.runtime.steps import takes_option

# Take a third off the time to compile; not every version has them.
SHORT = {"xla_cpu_use_fusion_emitters": False}


def short() -> dict:
    """Those that this version of XLA has."""
    return {name: value for name, value in SHORT.items() if takes_option(name, value)}
