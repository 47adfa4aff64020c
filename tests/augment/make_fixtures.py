"""Writes results of torchvision, timm and TensorFlow on small images, for the tests of this folder.

ORACLE_PYTHON tests/augment/make_fixtures.py torch        torchvision 0.28, timm 1.0.31
ORACLE_PYTHON tests/augment/make_fixtures.py tensorflow   tensorflow 2.21
"""

import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FACTORS = {'brightness': 1.3, 'saturation': 0.4, 'contrast': 1.6, 'hue': -0.23}
DISTORTION = {'brightness': -30.0, 'saturation': 1.45, 'contrast': 1.35, 'hue': 0.17}
ANGLES = (-10.0, 3.3, 90.0, 180.0)


def picture(size: int, seed: int) -> np.ndarray:
    """Returns a picture with slopes and some noise, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    y, x, c = np.meshgrid(*map(np.arange, (size, size, 3)), indexing='ij')
    slopes = 128 + 90 * np.sin(x * 0.9 / (1 + c) + seed) + 60 * np.cos(y * 0.5 + c)
    return np.clip(slopes + rng.integers(-20, 20, (size, size, 3)), 0, 255).astype(np.uint8)


def of_torch() -> dict[str, np.ndarray]:
    """Returns torchvision's and timm's results."""
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / 'golden')]
    from make import _declare_torchvision_operators

    _declare_torchvision_operators()
    import torch
    from PIL import Image
    from timm.data import auto_augment, random_erasing
    from torchvision import transforms
    from torchvision.transforms.v2 import functional as F

    small = picture(8, 0)
    arrays = {'jitter_image': small, 'warp_image': picture(16, 1), 'policy_image': picture(20, 2)}

    def tensor(image):
        return torch.tensor(image.astype(np.float32) / 255).permute(2, 0, 1)

    def array(image):
        return (image.permute(1, 2, 0) * 255).numpy()

    adjust = [getattr(F, f'adjust_{name}') for name in FACTORS]
    jittered = []
    for order in itertools.permutations(range(4)):
        image = tensor(small)
        for i in order:
            image = adjust[i](image, list(FACTORS.values())[i])
        jittered.append(array(image))
    arrays['jittered'] = np.stack(jittered)
    bilinear = transforms.InterpolationMode.BILINEAR
    image = tensor(arrays['warp_image'])
    rotated = [F.rotate(image, angle, interpolation=bilinear) for angle in ANGLES]
    arrays['rotated'] = np.stack([array(image) for image in rotated])

    tables = {}
    for policy in ('imagenet', 'cifar10', 'svhn'):
        kind = getattr(transforms.AutoAugmentPolicy, policy.upper())
        augment = transforms.AutoAugment(kind, fill=[128, 128, 128])
        tables[policy] = augment.policies
        images = []
        for i in range(25):
            augment.get_params = lambda _, i=i: (i, torch.full((2,), -1.0), torch.full((2,), i % 2))
            images.append(np.asarray(augment(Image.fromarray(arrays['policy_image']))))
        arrays[policy] = np.stack(images)
    for name in ('original', 'v0'):
        policy = auto_augment.auto_augment_policy(name)
        tables[name] = [[(op.name, op.prob, op.magnitude) for op in row] for row in policy]
    arrays['tables'] = np.array(json.dumps(tables))

    auto_augment._randomly_negate = lambda value: value
    for kind in ('_RAND_TRANSFORMS', '_RAND_INCREASING_TRANSFORMS'):
        levels = {}
        for name in getattr(auto_augment, kind):
            function = auto_augment.LEVEL_TO_ARG[name]
            levels[name] = [function(m, {})[0] if function else 0 for m in range(11)]
        arrays[kind] = np.array(json.dumps(levels))

    random_erasing._get_pixels = lambda *_, **__: 0.0
    rng = np.random.default_rng(3)
    numbers = rng.uniform(size=(40, 10, 4)).astype(np.float32)
    numbers[:, :, 0] **= 0.2  # large ones, some of which do not fit
    numbers[0, :, :2] = 0.999, 0.001  # none fits
    masks = []
    for row in numbers:
        eraser = random_erasing.RandomErasing(1.0, mode='const')
        tries = iter(row)
        state = {}

        def uniform(low, high, state=state, tries=tries):
            if 'now' not in state or state.pop('aspect', False):
                state['now'] = next(tries)
                return low + (high - low) * state['now'][0]
            state['aspect'] = True
            return low + (high - low) * state['now'][1]

        def randint(low, high, state=state):
            i = 3 if state.pop('row', False) else 2
            state['row'] = i == 2
            return low + int(state['now'][i] * (high - low + 1))

        random.uniform, random.randint, random.random = uniform, randint, lambda: 0.0
        image = torch.ones(1, 18, 14)
        eraser(image)
        masks.append(image[0].numpy() == 0)
    arrays['erasing_numbers'], arrays['erased'] = numbers, np.stack(masks)
    return arrays


def of_tensorflow() -> dict[str, np.ndarray]:
    """Returns tf.image's results."""
    import tensorflow as tf

    image = picture(8, 0)
    orders = (  # slim's, of its inception_preprocessing
        ('brightness', 'saturation', 'hue', 'contrast'),
        ('saturation', 'brightness', 'contrast', 'hue'),
        ('contrast', 'hue', 'brightness', 'saturation'),
        ('hue', 'saturation', 'contrast', 'brightness'),
        ('brightness', 'saturation'),
    )
    distorted = []
    for order in orders:
        x = tf.constant(image.astype(np.float32) / 255)
        for name in order:
            amount = DISTORTION[name] / (255 if name == 'brightness' else 1)
            x = getattr(tf.image, f'adjust_{name}')(x, amount)
        distorted.append(255 * tf.clip_by_value(x, 0, 1).numpy())
    flat = np.full((8, 8, 3), 9, np.uint8)
    flat[0, 0, 0] = 10
    images = np.stack([image, flat, np.full_like(flat, 9)])
    standard = tf.image.per_image_standardization(images).numpy()
    return {'image': image, 'distorted': np.stack(distorted), 'plain': images, 'standard': standard}


if __name__ == '__main__':
    make = {'torch': of_torch, 'tensorflow': of_tensorflow}[sys.argv[1]]
    np.savez_compressed(HERE / f'{sys.argv[1]}.npz', **make())
