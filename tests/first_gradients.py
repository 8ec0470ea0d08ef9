"""The averaged gradients of the first step on several sets of this process's devices:
`first_gradients.py SPEC`.

SPEC: as that of `many_devices.py`, without work directories; the first of a task is
what the others are compared with. Prints a JSON list of {"weights", "alphas"}: the
largest difference from the first, relative to the largest gradient there.
"""

import json
import sys

import jax
import numpy as np
import optax

from bnas_jax.cli.configs import configured
from bnas_jax.runtime import devices
from bnas_jax.training import build
from bnas_jax.training.run_data import dataset_of

PROGRAMS = {"train": build.training, "search": build.search}


def gradients(spec: dict) -> dict[str, list[np.ndarray]]:
    """What momentum holds after a step, having begun at 0: the gradient with its weight
    decay, or with Adam a part of it.
    """
    run, _ = configured(spec["arguments"], spec["task"])
    where = devices.choose(spec["parallel"], jax.devices()[: spec["devices"]])
    program = PROGRAMS[spec["task"]](run, dataset_of(run.dataset), where)
    state = where.compile_steps(*program.stages)(
        where.create(program.create, 0), [program.feeds(0)]
    )
    found = {"weights": optax.tree_utils.tree_get(state.opt_state, "trace")}
    if spec["task"] == "search":
        found["alphas"] = optax.tree_utils.tree_get(state.alphas_opt_state, "mu")
    return {
        name: jax.tree.map(np.asarray, jax.tree.leaves(tree))
        for name, tree in found.items()
    }


def apart(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    largest = max(np.abs(leaf).max() for leaf in ones)
    return float(
        max(np.abs(a - b).max() for a, b in zip(ones, others, strict=True)) / largest
    )


first: dict[str, dict] = {}
differences = []
for spec in json.loads(sys.argv[1]):
    ours = gradients(spec)
    whole = first.setdefault(spec["task"], ours)
    differences.append({name: apart(whole[name], ours[name]) for name in ours})
print(json.dumps(differences))
