"""Networks in plain PyTorch, without further packages."""

import torch
from torch import nn
from torch.nn import functional as F


class Basic(nn.Module):
    """The basic block of a ResNet for CIFAR; its shortcut subsamples and pads, without weights."""

    def __init__(self, features: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(x + y)


def resnet20_cifar(classes: int = 10) -> nn.Module:
    """Returns the ResNet-20 of He et al. (2016), section 4.2."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    features = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for unit in range(3):
            layers.append(Basic(features, width, stride if unit == 0 else 1))
            features = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
