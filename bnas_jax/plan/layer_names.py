"""The layer that an instruction belongs to, by the name that JAX gave it."""

import re

# Parts of an instruction's name that are not modules: transformations, jitted functions
# and methods.
_NO_MODULE = re.compile(
    r".*[().].*|.*->.*|branch_\d+_fun|checkpoint|rematted_computation"
    r"|while|body|cond|closed_call"
)
# The network, perhaps with its method and within transformations: "jvp(Network)/",
# "transpose(jvp(Supernet.mixture))/".
_MODEL = re.compile(r"(?:^|[/(])[A-Z][\w.]*\)*/")
# A derivative, which names the network once more.
_AGAIN = re.compile(r"\w+\(.*[A-Z].*\)")

# The layer of instructions between the cells, such as the batch norms that the next two
# cells share.
NETWORK = "the network between its cells"


def layer_of(name: str) -> str:
    """The module of the network in an instruction's name.

    It is `NETWORK` for an instruction of the network outside of its modules, and "" for
    an instruction outside of the network.

    `layer_of("jit(step)/shard_map/transpose(jvp(Network))/cell0/layer1/bn/reduce_sum")`
    is "cell0/layer1/bn".
    """
    # XLA joins the names of instructions that it merges: take the first one.
    name, _, _ = name.partition(";")
    found = _MODEL.search(name)
    if found is None:
        return ""
    # The parts after the network's name; the last one is the operation.
    *within, _ = name[found.end() :].split("/")
    parts = []
    for part in within:
        if _AGAIN.fullmatch(part):
            break
        if not _NO_MODULE.fullmatch(part):
            parts.append(part)
    return "/".join(parts) or NETWORK
