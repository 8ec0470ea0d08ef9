"""`predict`: classifies images with a packed network."""

import itertools
import sys
from typing import TYPE_CHECKING

from bnas_jax.cli.configs import Loaded
from bnas_jax.cli.flags import number, options, required
from bnas_jax.workdir.files import file_to_write

if TYPE_CHECKING:
    from bnas_jax.deploy.predict import Predictions

# The number of predictions that are printed if no file is written.
_SHOWN = 10


def predict(arguments: list[str], loaded: Loaded) -> dict:
    """Classifies images with a network that `export` wrote."""
    from bnas_jax.deploy import load, predict
    from bnas_jax.runtime import jax_setup

    # Read the options.
    names = ("model", "input", "out", "top", "batch_size")
    values = options(arguments, "predict", *names)
    model = required(values, "model", example="FILE, which export wrote")
    given = required(
        values, "input", example="IMAGES.npy, an image or a folder of images"
    )
    batch_size = number(values, "batch_size", kind=int, least=1) or 64
    top = number(values, "top", kind=int, least=1) or 1
    # The output file is checked before anything is computed.
    out = None
    if values.out is not None:
        out = file_to_write(values.out, predict.FORMATS)

    # Classify all images.
    network = load.read(model, loaded)
    jax_setup.configure_alone(network.run)
    images = predict.read_images(given, network)
    predictions = predict.predict(network, images, batch_size=batch_size)
    result: dict = {"num_examples": len(predictions.names)}
    if out is not None:
        predict.write(out, predictions, top=top)
        result["out"] = values.out
        return result

    # Without an output file, print the predictions of the first images.
    result["predictions"] = _first(predictions, top)
    if len(predictions.names) > _SHOWN:
        print(
            f"these are the first {_SHOWN} images; --out=FILE.csv writes all",
            file=sys.stderr,
        )
    return result


def _first(predictions: "Predictions", top: int) -> list[dict]:
    """The predictions of the first images, as the command prints them."""
    shown = []
    top = min(top, len(predictions.classes))
    rows = itertools.islice(predictions.rows(top), _SHOWN * top)
    for name, label, share in rows:
        shown.append({"image": name, "class": label, "probability": round(share, 4)})
    return shown
