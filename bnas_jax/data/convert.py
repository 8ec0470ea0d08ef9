"""From TFRecord to ArrayRecord: the records of a prepared TFDS data set copied, each checked, without TensorFlow."""

import contextlib
import json
import os
import pathlib
import shutil
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data import tfds_directory, tfds_examples

_SUFFIX, _NEW_SUFFIX = "tfrecord", "array_record"


def convert(source: str, out: str) -> dict:
    """Writes the version at `source` (a directory with dataset_info.json) into the TFDS data directory `out`.

    Shards are written beside their place and renamed when whole, in VERSION.incomplete, which becomes VERSION at the end: a
    run that stops goes on where it stood. The source is only read. Raises `UserError` for a shard that is missing, cut
    short or damaged, and leaves nothing of that shard.
    """
    directory = paths.local(source, "--source")
    if not (directory / tfds_directory.INFO).is_file():
        raise UserError(
            f"{directory} holds no {tfds_directory.INFO}; --source is the directory NAME/VERSION of a TFDS set"
        )
    info = _read_info(directory)
    target = paths.local(out, "--out") / info["name"] / info.get("configName", "") / info["version"]
    if target.resolve() == directory.resolve():
        raise UserError(
            f"--out={out} is where the source stands; write into another data directory"
        )
    if target.exists():
        raise UserError(f"{target} exists already; move it away, or choose another --out")
    shards = _shards(directory)
    try:
        return _convert(directory, info, shards, target)
    except (OSError, RuntimeError) as error:  # the second is ArrayRecord's
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
    part = target.with_name(target.name + ".incomplete")
    part.mkdir(parents=True, exist_ok=True)
    for shard, length in shards:
        _convert_shard(shard, length, part / shard.name.replace(f".{_SUFFIX}-", f".{_NEW_SUFFIX}-"))
    records = {shard.name for shard, _ in shards}
    for file in directory.iterdir():
        if file.is_file() and file.name not in records and f".{_SUFFIX}" not in file.name:
            shutil.copyfile(file, part / file.name)
    (part / tfds_directory.INFO).write_text(json.dumps(_converted(info), indent=2))
    os.replace(part, target)
    return {
        "num_examples": sum(length for _, length in shards),
        "num_shards": len(shards),
        "out": str(target),
    }


def read_records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of a TFRecord file. Raises `UserError` where it is cut short or a checksum does not fit."""
    with path.open("rb") as file:
        number = 0
        while header := file.read(12):
            where = f"{path}, record {number}"
            length = _checked(header[:8], header[8:], f"the length of {where}")
            data = _exactly(file, struct.unpack("<Q", length)[0], where)
            yield _checked(data, _exactly(file, 4, where), where)
            number += 1


def masked_crc(data: bytes) -> int:
    """The checksum that TFRecord keeps: CRC-32C, rotated by 15 bits, plus a constant."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _checked(data: bytes, checksum: bytes, what: str) -> bytes:
    if len(checksum) < 4 or struct.unpack("<I", checksum)[0] != masked_crc(data):
        raise UserError(f"{what} is damaged (its checksum does not fit); copy the file again")
    return data


def _exactly(file: BinaryIO, size: int, what: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise UserError(f"{what} is cut short; copy the file again")
    return data


def _convert_shard(shard: pathlib.Path, length: int, target: pathlib.Path) -> None:
    from array_record.python import array_record_module

    if target.exists():  # renamed by an earlier run, so whole
        return
    part = target.with_name(target.name + ".part")
    writer = array_record_module.ArrayRecordWriter(str(part), "group_size:1")
    count = 0
    try:
        for record in read_records(shard):
            writer.write(record)
            count += 1
        if count != length:
            raise UserError(f"{shard} has {count} records instead of {length}; copy the file again")
        writer.close()
    except BaseException:
        with contextlib.suppress(Exception):
            writer.close()
        part.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    print(f"{target.name}: {count} records", file=sys.stderr)


def _read_info(directory: pathlib.Path) -> dict:
    try:
        info = json.loads((directory / tfds_directory.INFO).read_text())
        _ = info["name"], info["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read {directory / tfds_directory.INFO} ({error}); copy the dataset again"
        ) from error
    if info.get("fileFormat", _SUFFIX) != _SUFFIX:
        raise UserError(f"{directory} is in {info['fileFormat']}; only {_SUFFIX} is converted")
    return info


def _shards(directory: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
    """The TFRecord files of all splits, with their numbers of records."""
    builder = tfds_examples.open_builder(directory)
    found = []
    for split in builder.info.splits.values():
        found += list(
            zip((pathlib.Path(f) for f in split.filepaths), split.shard_lengths, strict=True)
        )
    missing = [shard for shard, _ in found if not shard.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing; copy or prepare the dataset again")
    return found


def _converted(info: dict) -> dict[str, Any]:
    splits = [
        {**split, "filepathTemplate": split["filepathTemplate"].replace(_SUFFIX, _NEW_SUFFIX)}
        if "filepathTemplate" in split
        else split
        for split in info.get("splits", [])
    ]
    return {**info, "fileFormat": _NEW_SUFFIX, "splits": splits}
