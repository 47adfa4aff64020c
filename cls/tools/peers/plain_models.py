"""Networks in plain PyTorch, without further packages.

Residual networks for CIFAR: ResNet-20 (He et al. 2016, section 4.2, shortcuts of option A) and
WRN-16-4 (Zagoruyko & Komodakis 2016). For ImageNet: ResNet-50 with the stride in the 3x3
convolution, DenseNet-121 (Huang et al. 2017), EfficientNet-B0 (Tan & Le 2019).
"""

import torch
from torch import nn
from torch.nn import functional as F


def conv(features: int, width: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Returns a convolution without bias that keeps the size, or divides it by the stride."""
    return nn.Conv2d(features, width, size, stride, size // 2, groups=groups, bias=False)


def conv_norm(
    features: int,
    width: int,
    size: int,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Returns a convolution, a batch norm, and an activation if there is one."""
    layers = [conv(features, width, size, stride, groups), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


def head(features: int, classes: int) -> list[nn.Module]:
    """Returns the mean over the image and a linear classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


class Basic(nn.Module):
    """The basic block of a ResNet for CIFAR; its shortcut subsamples and pads, without weights."""

    def __init__(self, features: int, width: int, stride: int):
        super().__init__()
        self.conv1 = conv_norm(features, width, 3, stride, act=nn.ReLU)
        self.conv2 = conv_norm(width, width, 3)
        self.stride, self.more = stride, width - features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        if self.more:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(x + y)


def resnet20_cifar(classes: int = 10) -> nn.Module:
    """Returns ResNet-20."""
    layers: list[nn.Module] = [conv_norm(3, 16, 3, act=nn.ReLU)]
    features = 16
    for width, first in ((16, 1), (32, 2), (64, 2)):
        for unit in range(3):
            layers.append(Basic(features, width, 1 if unit else first))
            features = width
    return nn.Sequential(*layers, *head(64, classes))


class PreAct(nn.Module):
    """The basic pre-activation block of a wide ResNet."""

    def __init__(self, features: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(features), conv(features, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.shortcut = conv(features, width, 1, stride) if features != width else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(x))
        shortcut = self.shortcut(y) if self.shortcut else x
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


def wrn16_4_cifar(classes: int = 10) -> nn.Module:
    """Returns WRN-16-4."""
    layers: list[nn.Module] = [conv(3, 16, 3)]
    features = 16
    for width, first in ((64, 1), (128, 2), (256, 2)):
        for unit in range(2):
            layers.append(PreAct(features, width, 1 if unit else first))
            features = width
    return nn.Sequential(*layers, nn.BatchNorm2d(256), nn.ReLU(), *head(256, classes))


class Bottleneck(nn.Module):
    """The bottleneck of a ResNet, with the stride in its 3x3 convolution."""

    def __init__(self, features: int, inner: int, stride: int):
        super().__init__()
        width = 4 * inner
        self.body = nn.Sequential(
            conv_norm(features, inner, 1, act=nn.ReLU),
            conv_norm(inner, inner, 3, stride, act=nn.ReLU),
            conv_norm(inner, width, 1),
        )
        self.shortcut = (
            conv_norm(features, width, 1, stride) if features != width else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def resnet50(classes: int = 1000) -> nn.Module:
    """Returns ResNet-50."""
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    features = 64
    for inner, units, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for unit in range(units):
            layers.append(Bottleneck(features, inner, 1 if unit else first))
            features = 4 * inner
    return nn.Sequential(*layers, *head(2048, classes))


class Dense(nn.Module):
    """A layer of a DenseNet: its 32 new channels are appended to its input."""

    def __init__(self, features: int):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(features), nn.ReLU(inplace=True), conv(features, 128, 1)),
            *(nn.BatchNorm2d(128), nn.ReLU(inplace=True), conv(128, 32, 3)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet121(classes: int = 1000) -> nn.Module:
    """Returns DenseNet-121."""
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    features = 64
    for units in (6, 12, 24, 16):
        if features > 64:  # a transition
            layers += [nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
            layers += [conv(features, features // 2, 1), nn.AvgPool2d(2)]
            features //= 2
        for _ in range(units):
            layers.append(Dense(features))
            features += 32
    return nn.Sequential(*layers, nn.BatchNorm2d(features), nn.ReLU(), *head(features, classes))


class Inverted(nn.Module):
    """An inverted residual with squeeze and excitation; drops its body in training at a rate."""

    def __init__(self, features: int, width: int, size: int, stride: int, expand: int, drop: float):
        super().__init__()
        inner, squeezed = expand * features, features // 4
        widened = [conv_norm(features, inner, 1, act=nn.SiLU)] if expand > 1 else []
        self.body = nn.Sequential(
            *widened, conv_norm(inner, inner, size, stride, groups=inner, act=nn.SiLU)
        )
        self.gate = nn.Sequential(
            *(nn.Conv2d(inner, squeezed, 1), nn.SiLU(inplace=True)),
            *(nn.Conv2d(squeezed, inner, 1), nn.Sigmoid()),
        )
        self.project = conv_norm(inner, width, 1)
        self.drop, self.residual = drop, stride == 1 and features == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        y = self.project(y * self.gate(y.mean((2, 3), keepdim=True)))
        if not self.residual:
            return y
        if self.training and self.drop:
            kept = torch.empty(len(x), 1, 1, 1, device=x.device).bernoulli_(1 - self.drop)
            y = y * (kept / (1 - self.drop)).to(y.dtype)
        return x + y


def efficientnet_b0(classes: int = 1000) -> nn.Module:
    """Returns EfficientNet-B0, with dropout and stochastic depth of 0.2."""
    stages = (
        *((1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6), (3, 80, 3, 2, 6)),
        *((3, 112, 5, 1, 6), (4, 192, 5, 2, 6), (1, 320, 3, 1, 6)),
    )
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, act=nn.SiLU)]
    features, blocks = 32, sum(units for units, *_ in stages)
    for units, width, size, first, expand in stages:
        for unit in range(units):
            drop = 0.2 * (len(layers) - 1) / blocks
            stride = 1 if unit else first
            layers.append(Inverted(features, width, size, stride, expand, drop))
            features = width
    layers.append(conv_norm(320, 1280, 1, act=nn.SiLU))
    pooled, flat, linear = head(1280, classes)
    return nn.Sequential(*layers, pooled, flat, nn.Dropout(0.2), linear)
