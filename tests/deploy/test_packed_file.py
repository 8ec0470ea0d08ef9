"""The file of a packed network: what is written is read, a bit a weight, and nothing
else is taken for one.
"""

import json
import math

import jax
import numpy as np
import pytest
from arrays import signs
from counted_runs import same
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import pack_signs
from bnas_jax.deploy.packed_file import PackedFile, read, write

HASHES = ("sha256", "header_sha256")
FACTS = {"num_classes": 3, "image_shape": [8, 8, 1], "mean": [0.5], "std": [1]}
SHAPES = {"one": (3, 3, 36, 5), "two": (1, 1, 7, 3)}


@pytest.fixture
def content() -> PackedFile:
    packed = {
        name: {
            "conv": {
                "kernel": pack_signs(signs(*shape)),
                "operands": (np.ones(shape[3], np.float32),),
            }
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
    return PackedFile(settings={"task": "train"}, facts=FACTS, variables=variables)


def test_what_is_written_is_read(content, tmp_path):
    write(tmp_path / "net.bnas", content)
    found = read(tmp_path / "net.bnas")
    assert found.settings == content.settings and found.facts == content.facts
    assert jax.tree.structure(found.variables) == jax.tree.structure(
        dict(content.variables)
    )
    assert same(found.variables, dict(content.variables))
    assert [path.name for path in tmp_path.iterdir()] == ["net.bnas"]


def test_the_order_of_axes_in_memory_makes_no_difference(content, tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(3, 2).T
    content.variables["params"]["stem"]["kernel"] = kernel
    content.variables["packed"]["one"]["conv"]["operands"] = (np.ones((5, 2)).T,)
    write(tmp_path / "net.bnas", content)
    found = read(tmp_path / "net.bnas")
    assert same(found.variables, dict(content.variables))


def test_a_weight_takes_a_bit(content, tmp_path):
    write(tmp_path / "net.bnas", content)
    arrays = load_file(tmp_path / "net.bnas")
    for name, shape in SHAPES.items():
        bits = arrays[f"packed/{name}/conv/bits"]
        assert bits.dtype == np.uint8 and bits.size == math.ceil(math.prod(shape) / 8)
        # In their order, 1 for -1, the first one lowest.
        first = signs(*shape).ravel()[:8] < 0
        assert bits[0] == sum(2**place for place in range(8) if first[place])


def header_of(path, *without: str) -> dict:
    """The header of a file, without some of its entries."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bnas_jax_packed"])
    return {name: value for name, value in header.items() if name not in without}


def save(arrays, header, path) -> None:
    """A file of these arrays, whose hashes are not made anew."""
    save_file(arrays, path, metadata={"bnas_jax_packed": json.dumps(header)})


def test_every_array_is_noticed_that_was_changed(content, tmp_path):
    """One bit turned in the file's bytes, in an array of each kind; or two swapped."""
    path = tmp_path / "net.bnas"
    write(path, content)
    header, arrays, whole = header_of(path), load_file(path), path.read_bytes()
    for array in arrays.values():
        changed = bytearray(whole)
        changed[whole.rindex(array.tobytes())] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match="not those that export wrote"):
            read(path)

    mean, kernel = "batch_stats/stem/mean", "params/stem/kernel"
    swapped = arrays | {mean: arrays[kernel], kernel: arrays[mean]}
    save(swapped, header, path)
    with pytest.raises(UserError, match="are not those that export wrote"):
        read(path)


def test_every_entry_of_the_header_is_noticed_that_was_changed(content, tmp_path):
    """With the arrays as they were, and so with their hash."""
    path = tmp_path / "net.bnas"
    write(path, content)
    header, arrays = header_of(path), load_file(path)
    for name, value in {
        "settings": {"task": "search"},
        "facts": {**FACTS, "mean": [0.4]},
        "extensions": [{"file": "mine.py"}],
        "bnas_jax": "0.2",
        "sha256": None,
        "header_sha256": None,
        "more": 1,
    }.items():
        save(arrays, header | {name: value}, path)
        with pytest.raises(UserError, match="header is not the one that export wrote"):
            read(path)


@pytest.mark.parametrize("lacks", [HASHES, ("header_sha256",)])
def test_a_file_of_before_the_hashes_is_read(lacks, content, tmp_path):
    path = tmp_path / "net.bnas"
    write(path, content)
    save(load_file(path), header_of(path, *lacks), path)
    assert same(read(path).variables, dict(content.variables))


def test_the_same_network_is_written_as_the_same_bytes(content, tmp_path):
    """Often enough that an order by chance is noticed."""
    path, found = tmp_path / "net.bnas", set()
    for _ in range(8):
        write(path, content)
        found.add(path.read_bytes())
    assert len(found) == 1


def damage(path, content):
    """{what is wrong: the file's bytes}"""
    write(path, content)
    whole = path.read_bytes()
    arrays = load_file(path)
    save_file(arrays, path)
    other = path.read_bytes()
    save_file(
        arrays,
        path,
        metadata={"bnas_jax_packed": json.dumps({"format": 9, "bnas_jax": "9.0"})},
    )
    newer = path.read_bytes()
    save_file(arrays, path, metadata={"bnas_jax_packed": "[" * 100_000})
    nested = path.read_bytes()
    write(path, content)
    integers = {"params/stem/kernel": np.ones((2, 3), np.int8)}
    save(arrays | integers, header_of(path, *HASHES), path)
    numbers = path.read_bytes()
    return {
        "nested": nested,
        "whole numbers": numbers,
        "cut": whole[: len(whole) // 2],
        "text": b"no network",
        "empty": b"",
        "other": other,
        "newer": newer,
    }


MESSAGES = {
    "cut": "is not a packed network, or an incomplete one",
    "text": "is not a packed network, or an incomplete one",
    "empty": "is not a packed network, or an incomplete one",
    "other": "is not a packed network of this package",
    "nested": "is damaged .*recursion",
    "whole numbers": "is damaged .the numbers of params/stem/kernel are int8",
    "newer": "has the format 9 of bnas-jax 9.0",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_another_file_is_refused_in_one_line(name, content, tmp_path):
    path = tmp_path / "net.bnas"
    path.write_bytes(damage(path, content)[name])
    with pytest.raises(UserError, match=MESSAGES[name]) as error:
        read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


HEADERS = {
    "list": [],
    "null": None,
    "settings": {"settings": []},
    "facts": {"facts": {}},
    "num_classes": {"facts": {**FACTS, "num_classes": "ten"}},
    "class_names": {"facts": {**FACTS, "class_names": ["a", "b"]}},
    "half a character": {"facts": {**FACTS, "class_names": ["a", "b", "\ud800"]}},
    "image_shape": {"facts": {**FACTS, "image_shape": [8, 8]}},
    "mean": {"facts": {**FACTS, "mean": ["a"]}},
    "std": {"facts": {**FACTS, "std": [1, 1]}},
    "std of zero": {"facts": {**FACTS, "std": [0]}},
    "nan": {"facts": {**FACTS, "mean": [math.nan]}},
    "no float": {"facts": {**FACTS, "std": [10**400]}},
    "infinite in float32": {"facts": {**FACTS, "mean": [1e300]}},
    "zero in float32": {"facts": {**FACTS, "std": [1e-300]}},
    "extensions": {"extensions": [1]},
    "shapes": {"shapes": {}},
    "a shape": {
        "shapes": {"packed/one/conv": [3, 3, 36, 6], "packed/two/conv": [1, 1, 7, 3]}
    },
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_of_other_values_is_damaged(name, content, tmp_path):
    path = tmp_path / "net.bnas"
    write(path, content)
    header = header_of(path, *HASHES)
    changed = HEADERS[name]
    if isinstance(changed, dict):
        changed = header | changed
    save(load_file(path), changed, path)
    with pytest.raises(UserError, match=r"net.bnas is damaged .*; export it again"):
        read(path)


def test_classes_may_have_names_of_folders_that_are_no_utf_8(content, tmp_path):
    name = b"\xff".decode(errors="surrogateescape")
    facts = {**FACTS, "class_names": ["a", "b", name]}
    write(tmp_path / "net.bnas", content._replace(facts=facts))
    assert read(tmp_path / "net.bnas").facts == facts


@pytest.mark.parametrize("bits", [np.zeros(3, np.uint8), np.zeros((203, 1), np.uint8)])
def test_bits_that_are_too_few_are_damaged(bits, content, tmp_path):
    path = tmp_path / "net.bnas"
    write(path, content)
    arrays = load_file(path) | {"packed/one/conv/bits": bits}
    save(arrays, header_of(path, *HASHES), path)
    with pytest.raises(UserError, match="1620 weights of a kernel need 203 bytes"):
        read(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="is a folder; name the file that export wrote"):
        read(tmp_path)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no file .*none.bnas; write one by: .* export"
    ):
        read(tmp_path / "none.bnas")
