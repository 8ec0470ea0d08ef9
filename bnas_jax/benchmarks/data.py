"""Measures the cost of data.

It measures the augmentation compared with a training step, the decoding of JPEGs for
training, and the memory over many epochs.
"""

import functools
import io
import pathlib
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, program_of, size_of
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.readers import folder, images
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.data.sources import train_source
from bnas_jax.data.stream import StreamTrainSource
from bnas_jax.data.stream_items import random_box
from bnas_jax.runtime import devices
from bnas_jax.settings import TrainSettings

# ImageNet: the usual size of an image, the side of a resized crop, and the least share
# of the image's area that a random crop has.
_HEIGHT, _WIDTH = 375, 500
_SIDE, _MIN_AREA = 224, 0.08
_EPOCHS = 10  # the epochs over which the memory of the pipeline is measured


def benchmark(run: TrainSettings, num_images: int, repeats: int, workers: int) -> dict:
    """The figures of decoding, of streaming, and of augmentation in a training.

    run: a training, which is measured on random images of CIFAR's size.
    num_images: the number of JPEGs that are made and read.
    repeats: the number of repeats of each measurement.
    workers: the number of processes that decode.
    """
    jpegs = [photo(seed) for seed in range(num_images)]
    size = np.mean([len(jpeg) for jpeg in jpegs]) / 1000
    measure.say(f"{num_images} JPEGs of {_WIDTH}x{_HEIGHT}, {size:.0f} kB each")
    return {
        "jpeg": decoding(jpegs, repeats),
        "stream": streaming(jpegs, workers),
        "augmentation": augmentation(run, repeats),
        "conditions": measure.conditions("grain", "pillow", "opencv-python-headless"),
    }


def photo(seed: int) -> bytes:
    """A JPEG of random shapes and noise.

    Its size is about that of an ImageNet photograph (110 kB).
    """
    from PIL import Image, ImageDraw

    # A smooth background.
    rng = np.random.default_rng(seed)
    coarse = rng.integers(
        0, 256, size=(12, 16, 3), dtype=np.uint8
    )  # (rows, columns, 3)
    image = Image.fromarray(coarse)
    image = image.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)

    # Ellipses, for edges.
    draw = ImageDraw.Draw(image)
    lowest, highest = (0, 0, 20, 20), (450, 330, 150, 150)
    for _ in range(12):
        place = rng.integers(lowest, highest)
        left, top, width, height = place.tolist()
        color = rng.integers(0, 256, 3).tolist()
        ends = (left, top, left + width, top + height)
        draw.ellipse(ends, fill=tuple(color))

    # The noise of a sensor.
    noise = rng.normal(0, 14, size=(_HEIGHT, _WIDTH, 1))
    noisy = np.asarray(image) + noise  # (rows, columns, 3)
    pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decoding(jpegs: list[bytes], repeats: int) -> dict:
    """Images per second on one core, from the bytes of a JPEG to a random crop of 224.

    Our way to read images is compared with Pillow's, and with the decoder alone.
    """
    # The first call of each way loads libraries, and is not measured.
    ways = _ways_to_read(jpegs)
    for way in ways.values():
        way(0)

    # Call them in turns, so that other programs slow down all of them alike.
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            read_all = functools.partial(_read_all, way, len(jpegs))
            time = measure.cpu_once(read_all)
            rates[name].append(len(jpegs) / time)
        latest = [f"{name} {values[-1]:.0f}/s" for name, values in rates.items()]
        measure.say("  ".join(latest))

    # The ratios are of rates in the same turn.
    summaries, ratios = {}, {}
    for name, values in rates.items():
        summaries[name] = measure.summary(values)
        if name != "ours":
            pairs = zip(rates["ours"], values, strict=True)
            of_turns = [ours / other for ours, other in pairs]
            ratios[name] = measure.summary(of_turns)
    return {"images_per_second_and_core": summaries, "ours_over": ratios}


def _ways_to_read(jpegs: list[bytes]) -> dict[str, Callable[[int], np.ndarray]]:
    """{name: function of an image's number that reads the image}, for four ways."""
    # For the decoder alone, headers and crops are read beforehand.
    pictures = [images.read_header(data) for data in jpegs]
    boxes = [_crop(row, picture) for row, picture in enumerate(pictures)]

    def ours(row: int) -> np.ndarray:
        picture = images.read_header(jpegs[row])
        box = _crop(row, picture)
        return images.take(picture, box, side=_SIDE, channels=3)

    def pillow(row: int) -> np.ndarray:
        return _pillow_crop(jpegs[row], boxes[row])

    def decoder(row: int) -> np.ndarray:
        return images.decode(pictures[row], channels=3)

    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, if the crop is large enough.
    def scaled_decoder(row: int) -> np.ndarray:
        scale = images.scale_for(pictures[row], boxes[row], side=_SIDE)
        return images.decode(pictures[row], channels=3, scale=scale)

    return {
        "ours": ours,
        "pillow": pillow,
        "decoder_alone": decoder,
        "decoder_alone_at_the_scale_of_the_crop": scaled_decoder,
    }


def _crop(row: int, picture: images.Picture) -> images.Box:
    """The random crop of an image in epoch 0."""
    return random_box(
        seed=0,
        epoch=0,
        row=row,
        height=picture.height,
        width=picture.width,
        min_area=_MIN_AREA,
    )


def _read_all(way: Callable[[int], np.ndarray], count: int) -> None:
    for row in range(count):
        way(row)


def streaming(jpegs: list[bytes], workers: int) -> dict:
    """Images per second of the whole pipeline, and the growth of its memory.

    The growth is that of this process's largest memory since the second epoch.
    """
    # With in_memory_mib=0, files are read again in each epoch, as for a data set that
    # does not fit into memory.
    options = ReadOptions(image_size=_SIDE, in_memory_mib=0, workers=workers)
    colors = Augmentation(mean=(0.5,) * 3, std=(0.25,) * 3, min_area=_MIN_AREA)

    # The memory and the rate of each epoch.
    peaks, rates = [], []
    with tempfile.TemporaryDirectory() as root:
        _write_folder(pathlib.Path(root), jpegs)
        train = folder.read(root, options)["train"]
        batch_size = max(1, len(train) // 4)
        source = StreamTrainSource(train, batch_size, seed=0, augmentation=colors)
        steps = source.steps_per_epoch
        for epoch in range(_EPOCHS):
            time = measure.once(functools.partial(_read_epoch, source, epoch))
            rates.append(steps * batch_size / time)
            peaks.append(measure.peak_memory_mib())
    last = peaks[-1]
    measure.say(f"stream: {np.median(rates):.0f} images/s, {last:.0f} MiB")

    # The first epoch does not count, because it starts the workers.
    second = peaks[1]
    memory = {
        "after_2_epochs_mib": round(second),
        f"growth_to_{_EPOCHS}_mib": round(last - second, 1),
    }
    return {
        "workers": workers,
        "images_per_second": measure.summary(rates[1:]),
        "peak_memory": memory,
    }


def _write_folder(root: pathlib.Path, jpegs: list[bytes]) -> None:
    """Writes a folder of images, PART/CLASS/NAME.jpg, of two classes.

    Both parts, train and test, have the same images.
    """
    for row, data in enumerate(jpegs):
        for part in ("train", "test"):
            folder_of_class = root / part / f"class{row % 2}"
            folder_of_class.mkdir(parents=True, exist_ok=True)
            (folder_of_class / f"{row:06}.jpg").write_bytes(data)


def _read_epoch(source: StreamTrainSource, epoch: int) -> None:
    """Reads the batches of an epoch, one after the other."""
    first = epoch * source.steps_per_epoch
    for step in range(first, first + source.steps_per_epoch):
        jax.block_until_ready(source.feed(step))


def augmentation(run: TrainSettings, repeats: int) -> dict:
    """The time of augmentation as a share of a whole training step, both jitted.

    It crops, flips and normalises a batch of images in memory.
    """
    # The training step.
    data = noise(50000, image_size=32, num_classes=10)
    program = program_of(run, data=data, where=devices.ONE)
    state = devices.ONE.settle(devices.ONE.create(program.create, 0))
    call = devices.ONE.compile_steps(*program.stages)
    feeds = program.feeds(0)

    # The augmentation, which is part of it.
    source = train_source(
        data.train,
        run.batch_size,
        seed=run.seed,
        augmentation=data.augmentation,
        dtype=program.model.arithmetic.dtype,
    )
    feed = source.feed(0)
    prepare = jax.jit(source.prepare)

    def step() -> None:
        # A step donates the memory of its state, so that a state can be used only once.
        nonlocal state
        state = jax.block_until_ready(call(state, [feeds]))

    def augment() -> None:
        jax.block_until_ready(prepare(feed))

    # The first call of each compiles it, and is not measured.
    measure.say("compiling the training step")
    step_times = measure.seconds(step, repeats)
    augment_times = measure.seconds(augment, 10 * repeats)
    ratio = np.median(augment_times) / np.median(step_times)
    share = 100 * float(ratio)
    measure.say(f"augmentation: {share:.2f} % of a step")
    return {
        "batch_size": run.batch_size,
        "network": size_of(run, 32),
        "step_seconds": measure.summary(step_times),
        "augmentation_seconds": measure.summary(augment_times),
        "share_percent": float(f"{share:.3g}"),
    }


def _pillow_crop(data: bytes, box: images.Box) -> np.ndarray:
    """A resized crop, made as by torchvision's loader and RandomResizedCrop."""
    from PIL import Image

    right, bottom = box.left + box.width, box.top + box.height
    ends = (box.left, box.top, right, bottom)
    with Image.open(io.BytesIO(data)) as image:
        part = image.convert("RGB").crop(ends)
    resized = part.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(resized)
