"""Trains ResNet-20 on CIFAR-10 in PyTorch: the reference for the trainer's own curve.

  VENV/bin/python tests/golden/train_resnet20.py FOLDER --epochs 10 [--until 3]

The recipe is that of configs/resnet.py:cifar10 (He et al. 2016, section 4.2) with the rate divided
by 10 at 50 and 75 percent of the epochs; --until stops earlier on the same schedule. Prints the
loss of the batch every 50 steps, and the test accuracy after every epoch. Needs torch, NumPy and
Pillow.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
BATCH = 128


class Block(nn.Module):
    """Two 3x3 convolutions; a shortcut to more channels is strided and padded with zeros."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new = stride, width - before

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0) + 2 * (self.new // 2,))
        return F.relu(x + y)


def resnet20():
    """Returns the network, initialized as ours: He normal by fan-out, a uniform classifier."""
    widths = [(16, 16, 1)] * 3
    widths += [(16, 32, 2)] + [(32, 32, 1)] * 2
    widths += [(32, 64, 2)] + [(64, 64, 1)] * 2
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *(Block(*block) for block in widths),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out')
        elif isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -1 / 8, 1 / 8)
            nn.init.zeros_(module.bias)
    return model


def load(folder):
    """Returns images (N, 3, 32, 32) uint8 and labels (N,) of FOLDER/<class>/*.jpg or *.png."""
    files = [sorted(path.glob('*.[jp][pn]g')) for path in sorted(folder.iterdir())]
    labels = np.repeat(range(len(files)), [len(names) for names in files])
    images = np.stack([np.asarray(Image.open(file)) for names in files for file in names])
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)


def normalized(images):
    """Returns float32 images, normalized by channel."""
    return (images.float() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def augmented(images, generator):
    """Returns images padded by 4, cropped and mirrored at random, each independently."""
    padded = F.pad(images, (4, 4, 4, 4))
    tops, lefts = torch.randint(9, (2, len(images)), generator=generator)
    flips = torch.rand(len(images), generator=generator) < 0.5
    crops = [
        image[:, top : top + 32, left : left + 32].flip(2 if flip else ())
        for image, top, left, flip in zip(padded, tops, lefts, flips, strict=True)
    ]
    return torch.stack(crops)


@torch.no_grad()
def accuracy(model, images, labels):
    """Returns the percentage of correct predictions."""
    model.eval()
    correct = [
        (model(normalized(images[i : i + 500])).argmax(1) == labels[i : i + 500]).sum()
        for i in range(0, len(images), 500)
    ]
    model.train()
    return 100 * int(sum(correct)) / len(images)


def main():
    """Trains and prints the losses and accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--epochs', type=int, default=10, help='of the schedule')
    parser.add_argument('--until', type=int, default=0, help='epochs to train; 0: all')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    images, labels = load(args.folder / 'train')
    test = load(args.folder / 'test')
    model = resnet20()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    total, step, began = args.epochs * len(images) // BATCH, 0, time.perf_counter()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [total // 2, total * 3 // 4])
    for epoch in range(1, (args.until or args.epochs) + 1):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            loss = F.cross_entropy(
                model(normalized(augmented(images[rows], generator))), labels[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 50 == 0:
                print(f'step {step}: loss {loss.item():.4f}', flush=True)
        spent = time.perf_counter() - began
        print(
            f'epoch {epoch}: test top-1 {accuracy(model, *test):.2f} %, {spent:.0f} s', flush=True
        )


if __name__ == '__main__':
    main()
