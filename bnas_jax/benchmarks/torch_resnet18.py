"""A training step of XNOR-Net's ResNet18 in PyTorch, written as is usual there.

It is only for `benchmark train --against=torch`. It computes the same function as
`configs/baselines.py:resnet18` with the scheme `xnor`: Eq. (1) with the gradient rule
`bnas`, XNOR-Net's block (BN -> sign -> convolution), float shortcuts, a float first
convolution, SGD with momentum, and latent weights that are centred and clipped. Signs
are multiplied as floats: PyTorch has no other convolution for them. Images are not
augmented.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bnas_jax.baselines.resnet import ResNet18
from bnas_jax.baselines.units import block_places
from bnas_jax.core.schemes import Xnor
from bnas_jax.core.schemes.xnor import gradient_factor
from bnas_jax.interop.published.torch_arrays import to_torch


class Sign(torch.autograd.Function):
    """sign(x) with the gradient of the clip to [-1, 1]."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


class XnorConv(nn.Conv2d):
    """K * beta * conv(sign x, sign W), Eq. (1).

    beta multiplies the kernel, as is usual in PyTorch. Where a sum of signs is 0,
    rounding then decides the ReLU's gradient; apart from that, outputs and gradients
    equal ours.

    activation: whether a ReLU follows.
    input_scale: whether there is the factor K.
    """

    def __init__(
        self, *sizes: int, activation: bool, input_scale: bool, **geometry: int
    ):
        super().__init__(*sizes, bias=False, **geometry)
        self.activation, self.input_scale = activation, input_scale

    def forward(self, x):
        # beta * conv(sign x, sign W), with a beta for each output channel.
        beta = self.weight.abs().mean((1, 2, 3), keepdim=True)  # [O, 1, 1, 1]
        kernel = Sign.apply(self.weight) * beta  # (O, C, kh, kw)
        y = F.conv2d(Sign.apply(x), kernel, stride=self.stride, padding=self.padding)

        # K: the mean of |x| over channels and over each window.
        if self.input_scale:
            magnitude = x.detach().abs().mean(1, keepdim=True)  # (N, 1, H, W)
            y = y * F.avg_pool2d(magnitude, self.kernel_size, self.stride, self.padding)
        if self.activation:
            y = F.relu(y)
        return y


class Block(nn.Module):
    """BN -> sign -> convolution twice, and a shortcut around both."""

    def __init__(self, width: int, features: int, stride: int, *, input_scale: bool):
        super().__init__()
        common: dict[str, Any] = {"padding": 1, "input_scale": input_scale}
        first = XnorConv(width, features, 3, stride=stride, activation=True, **common)
        second = XnorConv(features, features, 3, activation=False, **common)
        self.unit0 = named(bn=nn.BatchNorm2d(width), conv=first)
        self.unit1 = named(bn=nn.BatchNorm2d(features), conv=second)
        # The shortcut is the identity, unless the block changes the shape.
        self.shortcut = nn.Sequential()
        if stride != 1 or width != features:
            conv = nn.Conv2d(width, features, 1, stride=stride, bias=False)
            self.shortcut = named(conv=conv, bn=nn.BatchNorm2d(features))

    def forward(self, x):
        return self.shortcut(x) + self.unit1(self.unit0(x))


def named(**modules: nn.Module) -> nn.Sequential:
    """A chain of modules with these names."""
    return nn.Sequential(OrderedDict(modules))


def network(settings: ResNet18, scheme: Xnor, num_classes: int) -> nn.Module:
    """Images (N, 3, H, W) to logits (N, num_classes).

    Its modules have the names of `baselines.resnet.ResNet`.
    """
    # The first convolution is float.
    width = settings.width
    stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
    modules: dict[str, nn.Module] = {
        "stem": named(conv=stem, bn=nn.BatchNorm2d(width), relu=nn.ReLU())
    }
    # Each stage has twice the channels of the stage before.
    for place in block_places(settings.blocks):
        features = settings.width * 2**place.stage
        block = Block(
            width, features, place.stride, input_scale=scheme.activation_scale
        )
        modules[place.name] = block
        width = features

    # The classifier, on the mean over the image.
    modules |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return named(**modules, classifier=nn.Linear(width, num_classes))


class TorchStep:
    """Steps of SGD, one after the other, on the same images.

    images: (N, H, W, 3), normalised. labels: (N,).
    """

    def __init__(
        self,
        settings: ResNet18,
        scheme: Xnor,
        *,
        num_classes: int,
        images: np.ndarray,
        labels: np.ndarray,
    ):
        # Both make PyTorch faster on a CPU: flushing denormals about 3 times, channels
        # last about 1.5 times (AMD EPYC).
        torch.set_flush_denormal(True)
        layout = torch.channels_last

        # The network, its latent weights and its optimizer.
        trained = network(settings, scheme, num_classes).train()
        self.network = trained.to(memory_format=layout)
        modules = self.network.modules()
        self._latents = [each.weight for each in modules if isinstance(each, XnorConv)]
        self._optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.05, momentum=0.9, weight_decay=3e-6
        )

        nchw = torch.tensor(images.transpose(0, 3, 1, 2))  # (N, 3, H, W)
        self._images = nchw.contiguous(memory_format=layout)
        self._labels = torch.tensor(labels, dtype=torch.long)

    @torch.no_grad()
    def load(self, params: Mapping[tuple[str, ...], np.ndarray]) -> None:
        """Replaces the parameters by ours.

        params: (names of the modules, name of the array) -> array. Both networks must
            have the same parameters.
        """
        ours = dict(params)
        for name, theirs in self.network.named_parameters():
            *modules, kind = name.split(".")
            # Our array of this kind (weight or bias) in the same module.
            of_module = [path for path in ours if list(path[:-1]) == modules]
            (found,) = [path for path in of_module if _is(kind, path[-1])]
            theirs.copy_(torch.tensor(to_torch(ours.pop(found))))
        assert not ours, f"PyTorch's network lacks {sorted(ours)}"

    def loss(self) -> torch.Tensor:
        """The cross-entropy of the images; batch norm uses the batch's statistics."""
        return F.cross_entropy(self.network(self._images), self._labels)

    def step(self) -> None:
        """Makes a step; on a CPU, PyTorch returns when it is done."""
        # The gradients, the update, and the rules of `xnor` for latent weights.
        self._optimizer.zero_grad()
        self.loss().backward()
        self._scale_gradients()
        self._optimizer.step()
        self._project()

    @torch.no_grad()
    def _scale_gradients(self) -> None:
        """Multiplies the gradients of latent weights by the factor of `xnor`."""
        for weight in self._latents:
            co, ci, kh, kw = weight.shape
            weight.grad.mul_(gradient_factor((kh, kw, ci, co)))

    @torch.no_grad()
    def _project(self) -> None:
        """Centres the latent weights over input channels, and clips them to [-1, 1]."""
        for weight in self._latents:
            weight.sub_(weight.mean(1, keepdim=True)).clamp_(-1, 1)


def _is(kind: str, ours: str) -> bool:
    """Whether our array `ours` is of PyTorch's kind, `weight` or `bias`."""
    return (ours == "bias") == (kind == "bias")
