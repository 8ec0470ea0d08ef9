"""What data costs: augmentation beside a training step, JPEGs decoded for training, memory over many epochs."""

import io
import pathlib
import sys
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, program_of, size_of
from bnas_jax.data import folder, images
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.encoded import ReadOptions
from bnas_jax.data.sources import train_source
from bnas_jax.data.stream import StreamTrainSource
from bnas_jax.data.stream_items import random_box
from bnas_jax.runtime import devices
from bnas_jax.settings import TrainSettings

_HEIGHT, _WIDTH, _SIDE, _MIN_AREA = 375, 500, 224, 0.08
_EPOCHS = 10


def benchmark(run: TrainSettings, num_images: int, repeats: int, workers: int) -> dict:
    """All figures, for a training of CIFAR-sized images. num_images: JPEGs that are made and read."""
    jpegs = [photo(seed) for seed in range(num_images)]
    _say(
        f"{num_images} JPEGs of {_WIDTH}x{_HEIGHT}, {np.mean([len(j) for j in jpegs]) / 1000:.0f} kB each"
    )
    return {
        "jpeg": decoding(jpegs, repeats),
        "stream": streaming(jpegs, workers),
        "augmentation": augmentation(run, repeats),
        "conditions": measure.conditions("grain", "pillow", "opencv-python-headless"),
    }


def photo(seed: int) -> bytes:
    """A JPEG of seeded shapes and noise that compresses about like a photograph of ImageNet (110 kB)."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image = coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top, width, height = (
            int(v) for v in rng.integers((0, 0, 20, 20), (450, 330, 150, 150))
        )
        draw.ellipse(
            (left, top, left + width, top + height),
            fill=tuple(int(v) for v in rng.integers(0, 256, 3)),
        )
    noisy = np.asarray(image) + rng.normal(0, 14, (_HEIGHT, _WIDTH, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decoding(jpegs: list[bytes], repeats: int) -> dict:
    """Images per second on one core: ours from bytes to a random crop of 224, beside Pillow's and the decoder alone."""
    boxes = [random_box(0, 0, row, _HEIGHT, _WIDTH, _MIN_AREA) for row in range(len(jpegs))]
    pictures = [images.read_header(data) for data in jpegs]

    def ours(row: int) -> None:
        picture = images.read_header(jpegs[row])
        box = random_box(0, 0, row, picture.height, picture.width, _MIN_AREA)
        images.take(picture, box, _SIDE, 3)

    ways: dict[str, Callable[[int], object]] = {
        "ours": ours,
        "pillow": lambda row: _pillow_crop(jpegs[row], boxes[row]),
        "decoder_alone": lambda row: images.decode(pictures[row], 3),
        "decoder_alone_at_the_scale_of_the_crop": lambda row: images.decode(
            pictures[row], 3, images.scale_for(pictures[row], boxes[row], _SIDE)
        ),
    }
    for way in ways.values():  # the first call loads libraries
        way(0)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):  # in turns, so that a load from elsewhere falls on all of them
        for name, way in ways.items():
            time = measure.cpu_once(lambda way=way: [way(row) for row in range(len(jpegs))])  # type: ignore[misc]
            rates[name].append(len(jpegs) / time)
        _say("  ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))
    ratio = lambda other: measure.summary(
        [a / b for a, b in zip(rates["ours"], rates[other], strict=True)]
    )
    return {
        "images_per_second_and_core": {
            name: measure.summary(values) for name, values in rates.items()
        },
        "ours_over": {other: ratio(other) for other in ways if other != "ours"},
    }


def streaming(jpegs: list[bytes], workers: int) -> dict:
    """Images per second of the whole pipeline, and the growth of this process's largest memory after the second epoch."""
    import resource

    with tempfile.TemporaryDirectory() as root:
        for row, data in enumerate(jpegs):
            for part in ("train", "test"):
                path = pathlib.Path(root) / part / f"class{row % 2}" / f"{row:06}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        train = folder.read(root, ReadOptions(image_size=_SIDE, in_memory_mib=0, workers=workers))[
            "train"
        ]
        batch_size = max(1, len(train) // 4)
        source = StreamTrainSource(
            train, batch_size, 0, Augmentation((0.5,) * 3, (0.25,) * 3, min_area=_MIN_AREA)
        )
        peaks, rates = [], []
        for epoch in range(_EPOCHS):

            def one_epoch(epoch: int = epoch) -> None:
                for step in range(source.steps_per_epoch):
                    jax.block_until_ready(source.feed(epoch * source.steps_per_epoch + step))

            time = measure.once(one_epoch)
            rates.append(source.steps_per_epoch * batch_size / time)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    _say(f"stream: {np.median(rates):.0f} images/s, {peaks[-1]:.0f} MiB")
    growth = peaks[-1] - peaks[1]
    memory = {"after_2_epochs_mib": round(peaks[1]), f"growth_to_{_EPOCHS}_mib": round(growth, 1)}
    return {
        "workers": workers,
        "images_per_second": measure.summary(rates[1:]),
        "peak_memory": memory,
    }


def augmentation(run: TrainSettings, repeats: int) -> dict:
    """Crop, flip and normalisation of a batch in memory, as a share of a whole training step, both jitted."""
    data = noise(50000, 32, 10)
    program = program_of(run, data, devices.ONE)
    state = devices.ONE.create(program.create, 0)
    call = devices.ONE.compile_steps(*program.stages)
    feeds = program.feeds(0)
    source = train_source(
        data.train, run.batch_size, run.seed, data.augmentation, program.model.arithmetic.dtype
    )
    feed, prepare = source.feed(0), jax.jit(source.prepare)
    _say("compiling the training step")

    def step() -> None:
        nonlocal state
        state = jax.block_until_ready(call(state, [feeds]))

    step_times = measure.seconds(step, repeats)
    own_times = measure.seconds(lambda: jax.block_until_ready(prepare(feed)), 10 * repeats)
    share = 100 * float(np.median(own_times) / np.median(step_times))
    _say(f"augmentation: {share:.2f} % of a step")
    return {
        "batch_size": run.batch_size,
        "network": size_of(run, 32),
        "step_seconds": measure.summary(step_times),
        "augmentation_seconds": measure.summary(own_times),
        "share_percent": float(f"{share:.3g}"),
    }


def _pillow_crop(data: bytes, box: images.Box) -> np.ndarray:
    """As torchvision's loader and RandomResizedCrop do it."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        part = image.convert("RGB").crop(
            (box.left, box.top, box.left + box.width, box.top + box.height)
        )
    return np.asarray(part.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
