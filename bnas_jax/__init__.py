"""BNAS in JAX: search, train and ship 1-bit convolutional networks.

Examples begin with `import jax, optax` and `import bnas_jax as bnas`.
"""

import importlib

__version__ = "0.3.0"

# Public names and their modules. A module is imported when its name is first used:
# `import bnas_jax` itself loads no JAX. `__init__.pyi` has the same names for editors.
_MODULES = {
    "Arithmetic": "core.arithmetic",
    "Bnas": "search.bnas",
    "Genotype": "core.genotype",
    "LAYERS": "core.layers",
    "LatentRule": "core.schemes",
    "LayerType": "core.layers",
    "NETWORKS": "networks",
    "Network": "core.network",
    "NetworkSettings": "core.networks",
    "SCHEMES": "core.schemes",
    "SEARCHERS": "search",
    "Scheme": "core.schemes",
    "SearchStep": "training.search_step",
    "Searcher": "search",
    "Supernet": "core.supernet",
    "TrainStep": "training.train_step",
    "UserError": "core.errors",
    "Xnor": "core.schemes",
    "cost": "core.cost",
    "fit_budget": "core.cost",
    "for_latents": "training.optimizers",
    "latent_adam": "training.optimizers",
    "latent_sgd": "training.optimizers",
    "load": "training.load",
    "load_data": "data.batches",
    "load_genotype": "core.genotypes",
    "load_packed": "deploy.load",
    "pack": "deploy.pack",
    "packed_facts": "deploy.load",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    # `core.genotypes.load` is the one function with another name in its module.
    if name == "load_genotype":
        return module.load
    return getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
