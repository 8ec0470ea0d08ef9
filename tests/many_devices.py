"""Runs of one task on several sets of this process's devices, all in one process:
`many_devices.py SPEC`.

SPEC: JSON list of {"task", "workdir", "arguments", "parallel", "devices"}: how many of
the devices, and settings as on the command line.
"""

import json
import sys

import jax

from bnas_jax.cli.configs import configured
from bnas_jax.runtime import devices
from bnas_jax.training.search import SearchTask
from bnas_jax.training.task import run_task
from bnas_jax.training.train import train
from bnas_jax.training.workdir import WorkDir

for spec in json.loads(sys.argv[1]):
    run, _ = configured(spec["arguments"], spec["task"])
    jax.config.update("jax_enable_x64", run.precision == "float64")
    where = devices.choose(spec["parallel"], jax.devices()[: spec["devices"]])
    workdir = WorkDir(spec["workdir"])
    if spec["task"] == "train":
        train(run, workdir, where)
    else:
        # What `search` does, without its check of the number of cells: one is enough
        # here.
        run_task(SearchTask(run, workdir, where=where))
