"""The final network: the searched cell, stacked to a budget, in its CIFAR and its ImageNet form (section 5.1, Table 5)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.cell import FinalCell, cell_convs, check_image_size, drop_path
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import FORMS, Genotype, reductions
from bnas_jax.core.layers import BatchNorm, Conv, bias_init, uniform_fan_in
from bnas_jax.core.rules import Rules


class CifarStem(nn.Module):
    """BN -> 3x3 convolution to 3C channels -> ReLU; both inputs of the first cell."""

    channels: int
    rules: Rules

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = BatchNorm(self.rules, name="bn")(images, train=train)
        x = nn.relu(Conv(3 * self.channels, 3, self.rules, binary=False, name="conv")(x))
        return x, x


class ImageNetStem(nn.Module):
    """Three float 3x3 convolutions of stride 2: outputs at a quarter and an eighth of the image (methods.md D)."""

    channels: int
    rules: Rules

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = Conv(self.channels // 2, 3, self.rules, 2, binary=False, name="conv0")(images)
        x = nn.relu(BatchNorm(self.rules, name="bn0")(x, train=train))
        x = Conv(self.channels, 3, self.rules, 2, binary=False, name="conv1")(x)
        before = BatchNorm(self.rules, name="bn1")(x, train=train)
        x = Conv(self.channels, 3, self.rules, 2, binary=False, name="conv2")(nn.relu(before))
        return before, BatchNorm(self.rules, name="bn2")(x, train=train)


class Classifier(nn.Module):
    """Global average pooling and a float linear layer."""

    num_classes: int
    rules: Rules

    @nn.compact
    def __call__(self, x):
        x = jnp.mean(x, axis=(1, 2))
        kernel = self.param("kernel", uniform_fan_in, (x.shape[-1], self.num_classes), self.rules.dtype)
        return x @ kernel + self.param("bias", bias_init(x.shape[-1]), (self.num_classes,), self.rules.dtype)


class Network(nn.Module):
    """The final network. `apply(variables, images, train=False)` takes NHWC images and gives logits (N, num_classes)."""

    genotype: Genotype
    num_cells: int
    channels: int
    num_classes: int
    form: str = "cifar"
    skip: bool = True
    rules: Rules = Rules()

    @nn.compact
    def __call__(self, images, *, train: bool = False, drop_path_rate=None):
        """drop_path_rate: None or a scalar, of use in training alone; needs the rng `drop_path`."""
        images = images.astype(self.rules.dtype)
        factors: list | jax.Array = [None] * self.num_cells
        if train and drop_path_rate is not None:
            key = self.make_rng("drop_path")
            factors = drop_path(key, drop_path_rate, self.num_cells, images.shape[0], self.rules.dtype, self.rules.batch_axis)
        stem = CifarStem if self.form == "cifar" else ImageNetStem
        before, previous = stem(self.channels, self.rules, name="stem")(images, train=train)
        check_shape(previous, self.num_cells)
        float_convs = float_head(self) if self.rules.float_head else [0] * self.num_cells
        channels, previous_reduction = self.channels, self.form == "imagenet"
        for index in range(self.num_cells):
            reduction = index in reductions(self.num_cells)
            channels *= 2 if reduction else 1
            cell = FinalCell(
                self.genotype.cell(reduction),
                channels,
                reduction,
                previous_reduction,
                index == 0,
                self.skip,
                self.rules,
                float_convs[index],
                self.form == "imagenet",
                name=f"cell{index}",
            )
            before, previous = previous, cell(before, previous, train=train, factors=factors[index])
            previous_reduction = reduction
        return Classifier(self.num_classes, self.rules, name="classifier")(previous)


def check_shape(first, num_cells: int) -> None:
    """`UserError` unless the input of the first cell (N, H, W, C) can be halved by the reductions."""
    check_image_size(first.shape[1], num_cells)
    check_image_size(first.shape[2], num_cells)


def float_head(network: Network) -> list[int]:
    """For each cell, how many of its last convolutions the released code leaves float by an index error.

    It counts the convolutions that it means to binarize but walks over all of them, the skips' included, so the last ones
    fall out: as many as there are skips (methods.md D, "Binarized set").
    """
    kinds: list[tuple[int, bool]] = []  # (cell, is a skip) of each convolution, in the order of the release's modules
    for index in range(network.num_cells):
        reduction = index in reductions(network.num_cells)
        kinds += [(index, False)] * 2
        kinds += [(index, True)] * (reduction and network.skip and index > 0)
        kinds += [(index, False)] * (cell_convs(network.genotype.cell(reduction)) - 2)
    excluded = sum(is_skip for _, is_skip in kinds)
    dropped = kinds[len(kinds) - excluded :]
    return [sum(cell == index and not is_skip for cell, is_skip in dropped) for index in range(network.num_cells)]


def check(form: str, channels: int, num_cells: int) -> None:
    """`UserError` for sizes that no network has."""
    if form not in FORMS:
        raise UserError(f"network.form must be one of {', '.join(FORMS)}, got {form!r}")
    if channels < 1 or num_cells < 1:
        raise UserError(f"network.channels and network.num_cells must be at least 1, got {channels} and {num_cells}")
    if form == "imagenet" and channels % 2:
        raise UserError(f"the ImageNet stem halves network.channels; use an even number, got {channels}")
