"""TFDS directories as TFDS itself lays them out, for the tests of data."""

import io
import json
import pathlib

import numpy as np

from bnas_jax.data.arrays import Arrays


def png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def write_dataset(
    directory,
    splits: dict[str, Arrays],
    name="cifar10",
    shape=(32, 32, 3),
    file_format="array_record",
    shards=1,
) -> pathlib.Path:
    """Each split in `shards` files.

    An image is an array, or bytes that are already encoded.
    """
    import tensorflow_datasets as tfds

    directory.mkdir(parents=True)
    classes = next(iter(splits.values())).num_classes

    def features_of(num_classes: int):
        label = tfds.features.ClassLabel(num_classes=num_classes)
        return tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=shape), "label": label}
        )

    (directory / "features.json").write_text(json.dumps(features_of(classes).to_json()))
    features = features_of(10**6)  # labels out of range can be written, too
    lengths = {}
    for split, arrays in splits.items():
        parts = np.array_split(np.arange(len(arrays)), shards)
        lengths[split] = [str(len(part)) for part in parts]
        for number, part in enumerate(parts):
            shard = (
                directory / f"{name}-{split}.{file_format}-{number:05}-of-{shards:05}"
            )
            writer = open_writer(shard, file_format)
            for row in part:
                image = arrays.images[row]
                data = image if isinstance(image, bytes) else png(image)
                writer.write(
                    features.serialize_example(
                        {"image": data, "label": int(arrays.labels[row])}
                    )
                )
            writer.close()
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {
        "name": name,
        "version": directory.name,
        "fileFormat": file_format,
        "splits": [
            {
                "name": split,
                "shardLengths": lengths[split],
                "numBytes": "1",
                "filepathTemplate": template,
            }
            for split in splits
        ],
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return directory


def open_writer(path: pathlib.Path, file_format: str):
    if file_format == "tfrecord":
        from tensorboardX.record_writer import RecordWriter

        return RecordWriter(str(path))
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordWriter(str(path), "group_size:1")
