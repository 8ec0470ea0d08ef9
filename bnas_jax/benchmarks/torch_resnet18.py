"""A training step of XNOR-Net's ResNet18 in PyTorch, as one writes it there; for `benchmark train --against=torch` alone.

The function of `configs/baselines.py:resnet18` under the scheme `xnor`: Eq. (1) with the rule `bnas`, XNOR-Net's block (BN ->
sign -> convolution), float shortcuts, a float first convolution, SGD with momentum, and latent weights, centred and clipped.
Signs are multiplied as floats: PyTorch has no other convolution of them. The augmentation of images is left out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bnas_jax.baselines.resnet import ResNet18
from bnas_jax.core.schemes import Xnor
from bnas_jax.core.schemes.xnor import gradient_factor


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
    """K * beta * conv(sign x, sign W), Eq. (1). activation: a ReLU behind it; input_scale: whether it has the factor K.

    beta is within the kernel, as usual in PyTorch. Where signs add up to 0, its rounding then decides the ReLU's gradient; but
    for that, outputs and gradients are ours.
    """

    def __init__(self, *sizes: int, activation: bool, input_scale: bool, **geometry: int):
        super().__init__(*sizes, bias=False, **geometry)
        self.activation, self.input_scale = activation, input_scale

    def forward(self, x):
        beta = self.weight.abs().mean((1, 2, 3), keepdim=True)
        kernel = Sign.apply(self.weight) * beta
        y = F.conv2d(Sign.apply(x), kernel, stride=self.stride, padding=self.padding)
        if self.input_scale:
            magnitude = x.detach().abs().mean(1, keepdim=True)
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
        self.units = nn.Sequential(nn.BatchNorm2d(width), first, nn.BatchNorm2d(features), second)
        self.shortcut = nn.Sequential()
        if stride != 1 or width != features:
            conv = nn.Conv2d(width, features, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(features))

    def forward(self, x):
        return self.shortcut(x) + self.units(x)


def network(settings: ResNet18, scheme: Xnor, num_classes: int) -> nn.Module:
    """Images (N, 3, H, W) to logits (N, num_classes)."""
    width = settings.width
    stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
    for stage, count in enumerate(settings.blocks):
        features = settings.width * 2**stage
        for index in range(count):
            stride = 1
            if stage > 0 and index == 0:
                stride = 2
            layers.append(Block(width, features, stride, input_scale=scheme.activation_scale))
            width = features
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]
    return nn.Sequential(*layers, *head)


class TorchStep:
    """Steps of SGD on images of seeded noise, one after the other.

    parameters: how many the network has, its classifier and batch norms included.
    """

    def __init__(
        self,
        settings: ResNet18,
        scheme: Xnor,
        *,
        batch_size: int,
        image_size: int,
        num_classes: int,
    ):
        torch.manual_seed(0)
        # What makes PyTorch fast on a CPU: three and one and a half times, of ResNet18 on an AMD EPYC.
        torch.set_flush_denormal(True)
        layout = torch.channels_last
        self.network = network(settings, scheme, num_classes).train().to(memory_format=layout)
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self._latents = [m.weight for m in self.network.modules() if isinstance(m, XnorConv)]
        self._optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.05, momentum=0.9, weight_decay=3e-6
        )
        images = torch.randn(batch_size, 3, image_size, image_size)
        self._images = images.contiguous(memory_format=layout)
        self._labels = torch.randint(0, num_classes, (batch_size,))

    def step(self) -> None:
        """Makes a step; PyTorch on CPU returns when it is done."""
        self._optimizer.zero_grad()
        F.cross_entropy(self.network(self._images), self._labels).backward()
        self._scale_gradients()
        self._optimizer.step()
        self._project()

    @torch.no_grad()
    def _scale_gradients(self) -> None:
        for weight in self._latents:
            co, ci, kh, kw = weight.shape
            weight.grad.mul_(gradient_factor((kh, kw, ci, co)))

    @torch.no_grad()
    def _project(self) -> None:
        for weight in self._latents:
            weight.sub_(weight.mean(1, keepdim=True)).clamp_(-1, 1)
