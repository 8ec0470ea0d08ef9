"""Packed files by docs/packed.md alone: its lines and tables give the network's logits.

`test_predict` has the same for a trained network.
"""

import hashlib
import json
import pathlib

import jax
import numpy as np
import pytest
from arrays import normal
from numpy_networks import logits_of_document

import bnas_jax as bnas
from bnas_jax.baselines.resnet import ResNet18
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.deploy import packed_file
from bnas_jax.deploy.packed_file import PackedFile

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Each kind of layer that the document has, and a node without any.
ZEROS = (("none", 3), ("none", 2))
NORMAL = (
    (("bin_conv_5x5", 0), ("max_pool_3x3", 1)),
    (("none", 1), ("bin_conv_3x3", 2)),
    ZEROS,
    ZEROS,
)
REDUCE = (
    (("bin_dil_conv_3x3", 0), ("avg_pool_3x3", 1)),
    (("max_pool_3x3", 0), ("bin_conv_3x3", 2)),
    ZEROS,
    ZEROS,
)
# A normal cell, two reductions, and a normal one that follows them.
CELLS = {"name": "cells", "num_cells": 4, "channels": 2, "skip": True}
CELLS["genotype"] = {"normal": NORMAL, "reduce": REDUCE}
RESNET = {"name": "resnet18", "width": 4, "blocks": (1, 2)}
IMAGE = (8, 8, 2)
FACTS = {"num_classes": 5, "image_shape": IMAGE, "mean": [0.3, 0.4], "std": [0.4, 0.2]}
PIXELS = np.random.default_rng(0).integers(256, size=(8, *IMAGE), dtype=np.uint8)


def model_of(network: dict):
    if network is RESNET:
        settings = ResNet18(width=RESNET["width"], blocks=RESNET["blocks"])
        return settings.build(
            num_classes=5, scheme=bnas.Xnor(), arithmetic=Arithmetic()
        )
    genotype = bnas.Genotype(normal=NORMAL, reduce=REDUCE)
    return bnas.Network(genotype, num_cells=4, channels=2, num_classes=5)


def variables_of(model) -> dict:
    """Random ones, without a compiled initialisation; variances are positive."""
    images = np.zeros((1, *IMAGE), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    leaves, structure = jax.tree.flatten(shapes)
    drawn = []
    for seed, leaf in enumerate(leaves):
        values = normal(*leaf.shape, seed=seed)
        is_kernel = leaf.ndim == 4
        drawn.append(values if is_kernel else abs(values) + 0.1)
    return jax.tree.unflatten(structure, drawn)


def written(network: dict, folder: pathlib.Path) -> tuple:
    """(model, variables) of a network, which folder/digits.bnas has then."""
    model = model_of(network)
    variables = bnas.pack(model, variables_of(model), image_shape=IMAGE)
    settings = {"network": network, "dataset": {"name": "mine"}}
    content = PackedFile(settings=settings, facts=FACTS, variables=variables)
    packed_file.write(folder / "digits.bnas", content)
    return model, variables


@pytest.mark.parametrize("network", [CELLS, RESNET], ids=["cells", "resnet18"])
def test_the_document_s_lines_and_tables_give_the_logits(network, tmp_path):
    model, variables = written(network, tmp_path)
    np.save(tmp_path / "images.npy", PIXELS)
    images, ours = logits_of_document(tmp_path)
    theirs = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * abs(ours).max())


def piece(kind: str, shape: tuple, data: bytes) -> bytes:
    """What the document says of each piece of a hash."""
    return f"{kind}{shape}".encode() + data


def test_the_hashes_are_those_that_the_document_describes(tmp_path):
    written(RESNET, tmp_path)
    data = (tmp_path / "digits.bnas").read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    text = entries.pop("__metadata__")["bnas_jax_packed"]
    header = json.loads(text)

    # The header: its text without the last entry.
    rest = text.replace(f', "header_sha256": "{header["header_sha256"]}"', "").encode()
    of_header = hashlib.sha256(piece("|u1", (len(rest),), rest)).hexdigest()
    assert of_header == header["header_sha256"]

    # The arrays: each name, then the array.
    hashed = hashlib.sha256()
    for name, entry in sorted(entries.items()):
        start, end = entry["data_offsets"]
        kind = {"F32": "<f4", "U8": "|u1"}[entry["dtype"]]
        array = data[8 + length :][start:end]
        hashed.update(piece("|u1", (len(name),), name.encode()))
        hashed.update(piece(kind, tuple(entry["shape"]), array))
    assert hashed.hexdigest() == header["sha256"]
