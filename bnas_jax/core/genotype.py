"""Genotypes: the cell that a search returns, as a validated, frozen value.

A cell has two inputs (0: output of the cell before the previous one, 1: of the previous one) and four nodes
(2 to 5). Each node adds up two edges; an edge is a layer type applied to an input or to an earlier node. The cell's
output is the concatenation of its four nodes (DARTS, arXiv 1806.09055, section 2.1; the BNAS paper, section 4.2).
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from bnas_jax.core import genotype_text, paths
from bnas_jax.core.errors import UserError

NODES = 4
INPUTS = 2
# The edges of the search's cell, in the order of the architecture parameters: node by node, input by input.
EDGES: tuple[tuple[int, int], ...] = tuple((i, INPUTS + n) for n in range(NODES) for i in range(INPUTS + n))

# The final network's two forms, which differ in the stem.
FORMS = ("cifar", "imagenet")

ZEROISE = "none"
# Table 3, in the order of the architecture parameters (that of the released code, so that its alphas can be read).
LAYER_TYPES = (
    ZEROISE,
    "max_pool_3x3",
    "avg_pool_3x3",
    "bin_dil_conv_3x3",
    "bin_dil_conv_5x5",
    "bin_conv_3x3",
    "bin_conv_5x5",
)
LEARNABLE = tuple(t for t in LAYER_TYPES if t.startswith("bin_"))
# Layer types of the cells that the paper only compares with (DARTS, SNAS, GDAS; Table 11).
COMPARED_LAYER_TYPES = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
# GDAS's hand-made reduction cell, which stands in a genotype by its name alone.
FIXED_REDUCTION = "gdas_fixed"

Cell = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell, each of eight (layer type, input) pairs, two for each node in turn.

    `reduce` may be `FIXED_REDUCTION`, the hand-made cell of GDAS. Raises `UserError` when the value is not a cell.
    """

    normal: Cell
    reduce: Cell | str

    def __post_init__(self):
        object.__setattr__(self, "normal", _checked_cell(self.normal, "normal"))
        if self.reduce != FIXED_REDUCTION:
            object.__setattr__(self, "reduce", _checked_cell(self.reduce, "reduce"))

    def cell(self, reduction: bool) -> Cell:
        """The pairs of one cell; `UserError` for GDAS's fixed reduction, which has none."""
        cell = self.reduce if reduction else self.normal
        if isinstance(cell, str):
            raise UserError(f"the reduction cell {cell!r} is hand-made and not built here; name another genotype")
        return cell

    def to_dict(self) -> dict:
        pairs = lambda cell: cell if isinstance(cell, str) else [list(pair) for pair in cell]
        return {"normal": pairs(self.normal), "reduce": pairs(self.reduce)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"


def _checked_cell(cell, name: str) -> Cell:
    known = LAYER_TYPES + COMPARED_LAYER_TYPES
    if isinstance(cell, str) or not isinstance(cell, (list, tuple)) or len(cell) != 2 * NODES:
        size = len(cell) if isinstance(cell, (list, tuple)) else repr(cell)
        raise UserError(f"genotype: the {name} cell needs {2 * NODES} [layer type, input] pairs, two a node; got {size}")
    checked = []
    for position, pair in enumerate(cell):
        node = INPUTS + position // 2
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise UserError(f"genotype: {name} pair {position} must be [layer type, input], got {pair!r}")
        layer, source = pair
        if layer not in known:
            raise UserError(f"genotype: unknown layer type {layer!r} in the {name} cell; known: {', '.join(known)}")
        if isinstance(source, bool) or not isinstance(source, (int, np.integer)) or not 0 <= source < node:
            raise UserError(
                f"genotype: {name} pair {position} feeds node {node}: its input must be 0 to {node - 1}, got {source!r}"
            )
        checked.append((str(layer), int(source)))
    return tuple(checked)


# Beside the cells: which nodes the output joins; how a search took the genotype (its genotype.json); where a named one is from.
_CONCATENATIONS = ("normal_concat", "reduce_concat")
_NOTES = ("select", "alphas_as_of", "epoch", "gamma", "keep_zeroise", "valid_top1", "source", "without_zeroise")


def from_dict(value) -> Genotype:
    """The genotype in a parsed JSON object; `UserError` for what is missing, unknown or not built here."""
    if not isinstance(value, Mapping) or not {"normal", "reduce"} <= set(value):
        raise UserError('genotype: expected a JSON object with the keys "normal" and "reduce"')
    known = ("normal", "reduce", *_CONCATENATIONS, *_NOTES)
    for key in value:
        if key not in known:
            raise UserError(f"genotype: unknown key {key!r}; leave it out; known: {', '.join(known)}")
    for key in _CONCATENATIONS:
        if key in value:
            _check_concatenation(value[key], key)
    return Genotype(normal=value["normal"], reduce=value["reduce"])


def _check_concatenation(nodes, key: str) -> None:
    """The output joins all four nodes, in the order of their numbers, in whatever order they are named."""
    expected = list(range(INPUTS, INPUTS + NODES))
    found = list(nodes[: NODES + 1]) if isinstance(nodes, (list, tuple, range)) else []
    if any(type(node) is not int for node in found) or sorted(found) != expected:
        raise UserError(f"genotype: {key} must be {expected}, all nodes of a cell: no other output is built; got {nodes!r}")


def from_text(text: str) -> Genotype:
    """The genotype in a JSON text, or in Genotype(normal=..., ...) as the DARTS family prints it; `UserError` if it is none."""
    return from_dict(genotype_text.parse(text))


def reductions(num_cells: int) -> tuple[int, ...]:
    """The cells that halve the image and double the width: at one and at two thirds of the depth (DARTS section 2.1)."""
    return tuple(sorted({num_cells // 3, 2 * num_cells // 3}))


_NAMED = pathlib.Path(__file__).parent / "genotypes"


def named() -> tuple[str, ...]:
    """The names of the cells that come with the package."""
    return tuple(sorted(path.stem for path in _NAMED.glob("*.json")))


def load(name_or_path: str) -> Genotype:
    """A named cell, that of a file or of a search's work directory, or the text itself: see `from_text`."""
    if name_or_path in named():
        return from_text((_NAMED / f"{name_or_path}.json").read_text())
    if genotype_text.is_printed(name_or_path):
        return from_text(name_or_path)
    try:
        return from_text(_file(name_or_path).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"genotype: cannot read {name_or_path} ({error})") from None


def _file(name: str) -> pathlib.Path:
    path = paths.local(name, "genotype")
    if path.is_dir():
        path = path / "genotype.json"
        if not path.is_file():
            raise UserError(f"genotype: {name} holds no genotype.json, which a search writes at its end; end it first")
    if not path.is_file():
        raise UserError(f"genotype: {name!r} is neither a file nor a named cell; named: {', '.join(named())}")
    return path


def without_zeroise(name: str) -> str | None:
    """The named cell that stands for `name` with Zeroise left out at derivation (Table 9), if there is one."""
    if name not in named():
        return None
    return json.loads((_NAMED / f"{name}.json").read_text()).get("without_zeroise")


def derive(weights, *, gamma: float = 1.0, keep_zeroise: bool = True, layer_types=LAYER_TYPES) -> Cell:
    """One cell from the relaxed architecture parameters of its edges.

    weights: (14, len(layer_types)) softmax probabilities, rows in the order of `EDGES`.
    gamma: divides the probability of Zeroise (Eq. 4), so larger values pick it less often; must be > 0.
    keep_zeroise: False leaves Zeroise out, as published float searches do.
    Each node keeps its two edges with the largest probability over all candidate layer types (Zeroise among them where it
    is kept), strongest first, and on each the most probable type (methods.md D; DARTS section 2.4).

    The released code divides all layer types of edge 0 by gamma instead. That edge leads into the first node, which keeps both
    of its edges, and its strongest type stays the same: at most the two pairs swap places, so no setting has it.
    """
    if not gamma > 0:
        raise UserError(f"gamma must be greater than 0, got {gamma}; 1 leaves Eq. 4 without effect")
    weights = np.array(weights, copy=True)
    if weights.shape != (len(EDGES), len(layer_types)):
        raise UserError(f"alphas must have the shape {(len(EDGES), len(layer_types))}, got {weights.shape}")
    if ZEROISE in layer_types:
        zeroise = layer_types.index(ZEROISE)
        weights[:, zeroise] = weights[:, zeroise] / gamma if keep_zeroise else -np.inf
    strength = weights.max(axis=1)
    cell = []
    for node in range(INPUTS, INPUTS + NODES):
        edges = [e for e, (_, target) in enumerate(EDGES) if target == node]
        for edge in sorted(edges, key=lambda e: -strength[e])[:2]:
            cell.append((layer_types[int(weights[edge].argmax())], EDGES[edge][0]))
    return tuple(cell)


def derive_genotype(weights: Mapping, **options) -> Genotype:
    """`derive` for both cells of {"normal": (14, types), "reduce": (14, types)}."""
    return Genotype(normal=derive(weights["normal"], **options), reduce=derive(weights["reduce"], **options))


def learnable_share(genotype: Genotype) -> float:
    """Share of the sixteen picked layers that have weights to learn (section 4.3)."""
    layers = [layer for reduction in (False, True) for layer, _ in genotype.cell(reduction)]
    return sum(layer in LEARNABLE for layer in layers) / len(layers)
