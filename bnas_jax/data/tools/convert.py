"""Converts a prepared TFDS data set from TFRecord to ArrayRecord, without TensorFlow.

Records are copied, and the checksum of each is verified.
"""

import contextlib
import json
import os
import pathlib
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data.readers import tfds_directory, tfds_examples

# TFDS's names for the formats, which are also in the names of files.
_SUFFIX, _NEW_SUFFIX = "tfrecord", "array_record"


def convert(source: str, out: str) -> dict:
    """Writes the TFDS set at `source` in ArrayRecord format into `out`.

    Shards are written into VERSION.incomplete, each under another name until it is
    complete; at the end this directory is renamed to VERSION. After a crash, the same
    command continues with the missing shards. The source is only read. Raises
    `UserError` for a shard that is missing, truncated or damaged, and removes what was
    written of it.

    source: the directory of one version, with dataset_info.json.
    out: a TFDS data directory.
    """
    directory = paths.local(source, "--source")
    if not (directory / tfds_directory.INFO).is_file():
        raise UserError(
            f"{directory} contains no {tfds_directory.INFO}; --source is the directory "
            "NAME/VERSION of a TFDS set"
        )

    # In `out` TFDS expects NAME/VERSION, or NAME/CONFIG/VERSION.
    info = _read_info(directory)
    data_directory = paths.local(out, "--out")
    configuration = info.get("configName", "")
    target = data_directory / info["name"] / configuration / info["version"]
    if os.path.realpath(target) == os.path.realpath(directory):
        raise UserError(
            f"--out={out} is where the source is; write into another data directory"
        )
    if target.exists():
        raise UserError(
            f"{target} exists already; move it away, or choose another --out"
        )

    shards = _shards(directory)
    try:
        return _convert(directory, info, shards, target)
    # ArrayRecord raises RuntimeError where it cannot write.
    except (OSError, RuntimeError) as error:
        reason = str(error).partition(";")[0]
        raise UserError(
            f"cannot write {target} ({reason}); free space or choose another --out"
        ) from error


def _convert(
    directory: pathlib.Path,
    info: dict,
    shards: list[tuple[pathlib.Path, int]],
    target: pathlib.Path,
) -> dict:
    """`convert` for directories that were checked.

    shards: (file, number of its records) of each shard.
    """
    part = target.with_name(target.name + ".incomplete")
    part.mkdir(parents=True, exist_ok=True)

    # The shards.
    for shard, length in shards:
        name = shard.name.replace(f".{_SUFFIX}-", f".{_NEW_SUFFIX}-")
        _convert_shard(shard, length, target=part / name)

    # All other files, such as the names of the classes.
    records = {shard.name for shard, _ in shards}
    for file in directory.iterdir():
        is_record = file.name in records or f".{_SUFFIX}" in file.name
        if file.is_file() and not is_record:
            with _reading(file):
                data = file.read_bytes()
            (part / file.name).write_bytes(data)

    # Write the description of the set; the directory is then complete, and is renamed.
    converted = json.dumps(_converted(info), indent=2)
    (part / tfds_directory.INFO).write_text(converted)
    os.replace(part, target)
    return {
        "num_examples": sum(length for _, length in shards),
        "num_shards": len(shards),
        "out": str(target),
    }


def read_records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Raises `UserError` where the file cannot be read or is truncated, or a checksum does
    not match.
    """
    with _reading(path), path.open("rb") as file:
        number = 0
        # A record is: the length of the data (8 bytes), the checksum of the length (4),
        # the data, and the checksum of the data (4).
        while header := file.read(12):
            where = f"{path}, record {number}"
            length, checksum = header[:8], header[8:]
            length = _checked(length, checksum=checksum, what=f"the length of {where}")
            (size,) = struct.unpack("<Q", length)
            data = _exactly(file, size, where)
            checksum = _exactly(file, 4, where)
            yield _checked(data, checksum=checksum, what=where)
            number += 1


@contextlib.contextmanager
def _reading(path: pathlib.Path):
    """Turns an error of reading a file of the source into a `UserError`.

    `convert` handles errors of writing.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror or error}); correct that or copy the "
            "file again, then the same command continues"
        ) from error


def masked_crc(data: bytes) -> int:
    """The checksum of TFRecord: CRC-32C, rotated by 15 bits, plus a constant."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _checked(data: bytes, checksum: bytes, what: str) -> bytes:
    """The data itself. Raises `UserError` if its checksum does not match."""
    # The checksum is an unsigned integer of 4 bytes; at the end of a truncated file it
    # has fewer.
    expected = struct.pack("<I", masked_crc(data))
    if checksum != expected:
        raise UserError(
            f"{what} is damaged (its checksum does not match); copy the file again"
        )
    return data


def _exactly(file: BinaryIO, size: int, what: str) -> bytes:
    """The next `size` bytes of a file. Raises `UserError` if there are fewer."""
    data = file.read(size)
    if len(data) < size:
        raise UserError(f"{what} is cut short; copy the file again")
    return data


def _convert_shard(shard: pathlib.Path, length: int, target: pathlib.Path) -> None:
    """Writes one shard. length: the number of records that it should have."""
    from array_record.python import array_record_module

    # An earlier run has renamed it, so it is complete.
    if target.exists():
        return

    part = target.with_name(target.name + ".part")
    # Groups of one record, as in TFDS, so that a record is read without its neighbours.
    writer = array_record_module.ArrayRecordWriter(str(part), "group_size:1")
    count = 0
    try:
        for record in read_records(shard):
            writer.write(record)
            count += 1
        if count != length:
            raise UserError(
                f"{shard} has {count} records instead of {length}; copy the file again"
            )
        writer.close()
    # The file is closed before it is removed.
    except BaseException:
        with contextlib.suppress(Exception):
            writer.close()
        part.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    print(f"{target.name}: {count} records", file=sys.stderr)


def _read_info(directory: pathlib.Path) -> dict:
    """The dataset_info.json of a set in TFRecord format.

    Raises `UserError` where it cannot be read, and for another format.
    """
    path = directory / tfds_directory.INFO
    try:
        info = json.loads(path.read_text())
        # Both are needed for the path of the target.
        _ = info["name"], info["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read {path} ({error}); copy the data set again"
        ) from error
    if info.get("fileFormat", _SUFFIX) != _SUFFIX:
        raise UserError(
            f"{directory} is in {info['fileFormat']}; only {_SUFFIX} is converted"
        )
    return info


def _shards(directory: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
    """(file, number of its records) of all TFRecord files, of all splits."""
    builder = tfds_examples.open_builder(directory)

    # TFDS knows the names of the files, and how many records each should have.
    shards = []
    for split in builder.info.splits.values():
        files = [pathlib.Path(file) for file in split.filepaths]
        shards += list(zip(files, split.shard_lengths, strict=True))
    for shard, _ in shards:
        if not shard.is_file():
            raise UserError(f"{shard} is missing; copy or prepare the data set again")
    return shards


def _converted(info: dict) -> dict[str, Any]:
    """The contents of dataset_info.json for the new format.

    The format is an entry of its own, and part of the names of files.
    """
    splits = []
    for split in info.get("splits", []):
        # The template of the files' names may contain the format.
        if "filepathTemplate" in split:
            template = split["filepathTemplate"].replace(_SUFFIX, _NEW_SUFFIX)
            split = {**split, "filepathTemplate": template}
        splits.append(split)
    return {**info, "fileFormat": _NEW_SUFFIX, "splits": splits}
