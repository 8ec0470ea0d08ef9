"""`cost`: counts the operations, bits and parameters of each layer."""

from bnas_jax.cli.configs import Loaded, configured
from bnas_jax.cli.flags import number


def cost(arguments: list[str], loaded: Loaded) -> dict:
    """Prints the cost of each layer of a final network or a supernet."""
    from bnas_jax import counting

    del loaded  # the extensions have already added their layer types
    no_defaults = dict.fromkeys(counting.OPTIONS)
    run, values = configured(arguments, "cost", **no_defaults)
    given = {name: values[name].value for name in counting.OPTIONS}

    # Numbers are read here, where an error can name the option.
    for name in counting.SIZES:
        given[name] = number(values, name, kind=int)
    given["budget"] = number(values, "budget", kind=float)
    return counting.count(run, given)
