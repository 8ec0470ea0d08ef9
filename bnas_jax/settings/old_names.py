"""Settings that had another name in an earlier version, and their new names."""

from collections.abc import Mapping

from bnas_jax.core.checks import require

# Old name -> the new one, or why there is none.
OLD_NAMES = {
    "config.dataset.stratified": (
        "config.dataset.search_split of a search: random, stratified or in_order"
    ),
    "config.rules.activation_scale": "config.scheme.activation_scale",
    "config.rules.sign_of_zero": "config.scheme.sign_of_zero",
    "config.rules.weight_gradient": "config.scheme.weight_gradient",
    "config.rules.depthwise_center": "config.scheme.depthwise_center",
    "config.rules.relu": "config.scheme.activation: relu or none",
    "config.rules.reduction_skip": "config.network.reduction_skip",
    "config.rules.float_head": "config.network.float_head",
    "config.rules.binary_search_preprocess": (
        "config.network.binary_preprocess of a search"
    ),
    "config.rules": "config.scheme and config.network",
    "config.derive.gamma": "config.searcher.gamma",
    "config.derive.keep_zeroise": "config.searcher.keep_zeroise",
    "config.derive": "config.searcher",
    "config.alphas.diversity": "config.searcher.diversity",
    "config.alphas.tau": "config.searcher.tau",
    "config.alphas.entropy": "config.searcher.entropy",
    "config.halves": (
        "gone: the alpha step and the weight step are two programs; leave it out"
    ),
}


def refuse_old_name(name: str) -> None:
    """Raises `UserError`, with the new name, for an old one: "config.rules.relu"."""
    new = OLD_NAMES.get(name)
    require(new is None, f"{name} is now {new}")


def refuse_old_names(values: Mapping, prefix: str = "config.") -> None:
    """Calls `refuse_old_name` for all names of nested settings."""
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, Mapping):
            refuse_old_names(value, name + ".")
        refuse_old_name(name)
