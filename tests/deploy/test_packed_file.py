"""The file of a packed network: what is written is read, a bit a weight, and nothing else is taken for one."""

import json
import math

import jax
import numpy as np
import pytest
from arrays import signs
from counted_runs import same
from safetensors.numpy import load_file, save_file

from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import pack
from bnas_jax.deploy.packed_file import PackedFile, read, write

SHAPES = {"one": (3, 3, 36, 5), "two": (1, 1, 7, 3)}


@pytest.fixture
def content() -> PackedFile:
    packed = {
        name: {
            "conv": {"kernel": pack(signs(*shape)), "operands": (np.ones(shape[3], np.float32),)}
        }
        for name, shape in SHAPES.items()
    }
    # Of a scheme without factors.
    packed["two"]["conv"]["operands"] = ()
    variables = {
        "params": {"stem": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}},
        "batch_stats": {"stem": {"mean": np.zeros(3, np.float32)}},
        "packed": packed,
    }
    return PackedFile(settings={"task": "train"}, facts={"num_classes": 3}, variables=variables)


def test_what_is_written_is_read(content, tmp_path):
    write(tmp_path / "net.bnas", content)
    found = read(tmp_path / "net.bnas")
    assert found.settings == content.settings and found.facts == content.facts
    assert jax.tree.structure(found.variables) == jax.tree.structure(dict(content.variables))
    assert same(found.variables, dict(content.variables))
    assert [path.name for path in tmp_path.iterdir()] == ["net.bnas"]


def test_a_weight_takes_a_bit(content, tmp_path):
    size = write(tmp_path / "net.bnas", content)
    arrays = load_file(tmp_path / "net.bnas")
    for name, shape in SHAPES.items():
        bits = arrays[f"packed/{name}/conv/bits"]
        assert bits.dtype == np.uint8 and bits.size == math.ceil(math.prod(shape) / 8)
        # In their order, 1 for -1, the first one lowest.
        first = signs(*shape).ravel()[:8] < 0
        assert bits[0] == sum(2**place for place in range(8) if first[place])
    assert size == (tmp_path / "net.bnas").stat().st_size


def damage(path, content):
    """{what is wrong: the file's bytes}"""
    write(path, content)
    whole = path.read_bytes()
    arrays = load_file(path)
    save_file(arrays, path)
    other = path.read_bytes()
    save_file(
        arrays, path, metadata={"bnas_jax_packed": json.dumps({"format": 9, "bnas_jax": "9.0"})}
    )
    newer = path.read_bytes()
    del arrays["packed/one/conv/bits"]
    header = {"format": 1, "settings": {}, "facts": {}, "extensions": [], "shapes": {}}
    save_file(arrays, path, metadata={"bnas_jax_packed": json.dumps(header)})
    return {
        "cut": whole[: len(whole) // 2],
        "text": b"no network",
        "empty": b"",
        "other": other,
        "newer": newer,
        "without shapes": path.read_bytes(),
    }


MESSAGES = {
    "cut": "is no whole file of a packed network",
    "text": "is no whole file of a packed network",
    "empty": "is no whole file of a packed network",
    "other": "is no packed network of this package",
    "newer": "has the format 9 of bnas-jax 9.0",
    "without shapes": "is damaged",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_another_file_is_refused_in_one_line(name, content, tmp_path):
    path = tmp_path / "net.bnas"
    path.write_bytes(damage(path, content)[name])
    with pytest.raises(UserError, match=MESSAGES[name]) as error:
        read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none.bnas; write one by: .* export"):
        read(tmp_path / "none.bnas")
