"""A process of two that opens its work directory: `sharing.py COORDINATOR NUMBER
WORKDIR DIGEST` prints what came of it. Its data has that digest.
"""

import sys

import jax

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.data.facts import Facts
from bnas_jax.training import shared_directory
from bnas_jax.training.workdir import WorkDir
from configs import train as train_configs

coordinator, number, path, digest = sys.argv[1:]
jax.distributed.initialize(coordinator, num_processes=2, process_id=int(number))
shared_directory._SEEN = 1
run = settings.from_config(train_configs.get_config("digits"))
facts = Facts(num_classes=10, image_shape=(8, 8, 1), digest=digest)
try:
    WorkDir(path).open(run, facts)
    print("opened")
except UserError as error:
    print(error)
