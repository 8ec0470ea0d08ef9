"""Prints how often each operation stands in a step's program, by pmap and by shard_map:
`lowered.py CONFIG SETTING...`
"""

import collections
import json
import re
import sys

import jax

from bnas_jax.cli.configs import configured
from bnas_jax.plan.blank_data import data_for_plan
from bnas_jax.runtime.devices import Devices
from bnas_jax.training import build

run, _ = configured(sys.argv[1:], "train")
data = data_for_plan(run.dataset)
counts = {}
for parallel in ("pmap", "shard_map"):
    where = Devices(parallel, tuple(jax.devices()))
    program = build.training(run, data, where)
    state = where.create(program.create, 0)
    steps = where.compile_steps(*program.stages, tuned=False)
    ((stage, arguments),) = steps.calls(state, [program.feeds(0)])
    operations = re.findall(r"= \"?(stablehlo\.\w+)", stage.lower(*arguments).as_text())
    counts[parallel] = collections.Counter(operations)
print(json.dumps(counts))
