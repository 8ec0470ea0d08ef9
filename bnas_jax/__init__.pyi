"""The types of the public names, for editors and type checkers.

`__init__.py` imports each name when it is first used, which they cannot follow.
"""

from bnas_jax.core import genotypes as _genotypes
from bnas_jax.core.arithmetic import Arithmetic as Arithmetic
from bnas_jax.core.cost import cost as cost
from bnas_jax.core.cost import fit_budget as fit_budget
from bnas_jax.core.errors import UserError as UserError
from bnas_jax.core.genotype import Genotype as Genotype
from bnas_jax.core.layers import LAYERS as LAYERS
from bnas_jax.core.layers import LayerType as LayerType
from bnas_jax.core.network import Network as Network
from bnas_jax.core.networks import NetworkSettings as NetworkSettings
from bnas_jax.core.schemes import SCHEMES as SCHEMES
from bnas_jax.core.schemes import LatentRule as LatentRule
from bnas_jax.core.schemes import Scheme as Scheme
from bnas_jax.core.schemes import Xnor as Xnor
from bnas_jax.core.supernet import Supernet as Supernet
from bnas_jax.data.batches import load_data as load_data
from bnas_jax.deploy.load import load_packed as load_packed
from bnas_jax.deploy.load import packed_facts as packed_facts
from bnas_jax.deploy.pack import pack as pack
from bnas_jax.networks import NETWORKS as NETWORKS
from bnas_jax.search import SEARCHERS as SEARCHERS
from bnas_jax.search import Searcher as Searcher
from bnas_jax.search.bnas import Bnas as Bnas
from bnas_jax.training.load import load as load
from bnas_jax.training.optimizers import for_latents as for_latents
from bnas_jax.training.optimizers import latent_adam as latent_adam
from bnas_jax.training.optimizers import latent_sgd as latent_sgd
from bnas_jax.training.search_step import SearchStep as SearchStep
from bnas_jax.training.train_step import TrainStep as TrainStep

__version__: str
load_genotype = _genotypes.load
