"""`cost`: counts the operations, bits and parameters of each layer."""

from bnas_jax.cli.configs import Loaded, configured
from bnas_jax.cli.flags import number


def cost(arguments: list[str], loaded: Loaded) -> dict:
    """Prints the cost of each layer of a final network, or of a search's network."""
    from bnas_jax import counting

    del loaded
    run, values = configured(arguments, "cost", **dict.fromkeys(counting.OPTIONS))
    numbers = {name: number(values, name, int) for name in counting.SIZES}
    numbers["budget"] = number(values, "budget", float)
    texts = {name: values[name].value for name in counting.OPTIONS if name not in numbers}
    return counting.count(run, {**numbers, **texts})
