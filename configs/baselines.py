r"""Training the hand-crafted networks that the paper compares with, in any scheme.

    python -m bnas_jax train --workdir=DIR \
        --config=configs/baselines.py:NAME --config.scheme.name=SCHEME

FLOPs are in 1e8: ours, counted, and the paper's. top-1 (top-5) are the paper's, in %:

| variant | scheme in the paper | FLOPs | top-1 (top-5) |
|---|---|---|---|
| resnet18 | xnor, binarynet | .166, ~.16 | 88.82, 89.95 |
| resnet18 | float | 5.55, ~1.41 | 94.73 |
| resnet34 | xnor | .261, ~.27 | 88.54 |
| senet18 | xnor | .167, ~.16 | 88.12 |
| densenet | xnor | .156, ~.16 | 85.16 |
| nin | xnor | .181, ~.16 | 86.28 |
| wrn40 | xnor | .259, ~.27 | 91.58 |
| wrn22, width 16 | pcnn | .013, ~.04 | 89.16 |
| wrn22, width 64 | pcnn | .160, ~.27 | 94.31 |
| resnext29 | xnor | 1.05, ~.90 | 84.27 |
| small_cnn with bin_conv_3x3 | xnor; float | - | 46.15; 61.78 (Table 1) |
| imagenet_resnet18 | binarynet | 1.45, ~1.48 | 42.20 (67.10) |
| imagenet_resnet18 | abc_net | 1.45, ~1.48 | 42.70 (67.60) |
| imagenet_resnet18 | xnor | 1.45, ~1.48 | 51.20 (73.20) |
| imagenet_resnet18 | bireal | 1.64, ~1.63 | 56.40 (79.50) |
| imagenet_resnet18 | xnor_pp | 1.64, ~1.63 | 57.10 (79.90) |
| imagenet_resnet18 | pcnn | 2.22, ~1.63 | 57.30 (80.00) |
| imagenet_resnet18 | float | 18.14, ~18.25 | 69.76 (89.08) |
| reactnet_mobilenet | reactnet | - | not in the paper |

None of these results was reproduced here; the accuracies are the paper's (Tables 1, 6,
7). digits_NAME, for all except the ImageNet networks, is a narrow form for the embedded
digits: 40 epochs take 22 s (digits_small_cnn) to 134 s (digits_resnext29) on two cores
of an AMD EPYC, compiling included, extrapolated from three epochs.

The paper prints its FLOPs as classes. Those of resnet18 in float would need a pooling
after its first convolution, and those of wrn22 are unexplained. PCNN's published
shortcut has its float 1x1 convolution before the pooling, where it costs four times as
much.

The paper does not state how it trained them. Here they are trained as BNAS-A and, on
ImageNet, as BNAS-D, see train.py (docs/recipes.md); `small_cnn` for 50 epochs, as
Table 12 says. The files of `bnas_jax/baselines`, one for each family, describe the
blocks, shortcuts and first convolutions in each scheme.
"""

from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.settings import template
from configs import train

# Network -> the settings of its narrow form. An image of 8x8 pixels can be halved three
# times.
DIGITS: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 8, "blocks": (2, 2, 2)},
    "resnet34": {"width": 8, "blocks": (3, 4, 3)},
    "senet18": {"width": 8, "blocks": (2, 2, 2), "gate": 4},
    "densenet": {"growth": 8, "blocks": (4, 4, 4)},
    "nin": {"widths": (32, 24, 16)},
    "wrn40": {"stem": 8, "width": 16, "blocks": (2, 2, 2)},
    "wrn22": {"width": 8},
    "resnext29": {"stem": 16, "group_width": 8, "blocks": (2, 2, 2)},
    "small_cnn": {},
}
IMAGENET = ("imagenet_resnet18", "reactnet_mobilenet")
VARIANTS = (*DIGITS, *(f"digits_{name}" for name in DIGITS), *IMAGENET)


def get_config(variant: str = "resnet18"):
    """The training settings of one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise UserError(f"no baseline {variant!r}: write one of {', '.join(VARIANTS)}")
    name = variant.removeprefix("digits_")
    config = train.get_config(_trained_as(variant))
    template.choose(config, "network", name)
    config.preset.optimizer.drop_path = 0.0  # only for networks of cells

    # Settings of the network.
    if variant != name:
        config.network.update(DIGITS[name])
    elif name == "small_cnn":
        config.preset.num_epochs = 50
    if name == "reactnet_mobilenet":
        template.choose(config, "scheme", "reactnet")
    return config


def _trained_as(variant: str) -> str:
    """The preset of train.py that a variant is trained with."""
    if variant in IMAGENET:
        return "d"
    if variant.startswith("digits_"):
        return "digits"
    return "a"
