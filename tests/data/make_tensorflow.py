"""Writes tensorflow.npz: resized images and crops of TensorFlow. Needs TensorFlow and NumPy.

python tests/data/make_tensorflow.py
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

SIZES = ((20, 17), (40, 31), (90, 130))  # of the 60x80 image: twice reduced, and enlarged


def main() -> None:
    """Writes the file next to this script."""
    rng = np.random.default_rng(0)
    rough = rng.integers(256, size=(1, 60, 80, 3)).astype(np.uint8)
    smooth = tf.image.resize(rough[:, :12, :16], (60, 80), 'bicubic')
    mixed = np.clip(0.7 * smooth.numpy() + 0.3 * rough, 0, 255).astype(np.uint8)
    found = {'image': mixed[0]}
    for method in ('bilinear', 'bicubic'):
        for height, width in SIZES:
            resized = tf.image.resize(mixed, (height, width), method, antialias=False)[0].numpy()
            found[f'{method}_{height}x{width}'] = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    boxes = []
    for seed in range(4000):
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            (300, 400, 3),
            tf.zeros((1, 0, 4)),
            seed=(seed, 1),
            min_object_covered=0.0,
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        boxes.append([*begin[:2].numpy(), *extent[:2].numpy()])
    found['boxes'] = np.array(boxes, np.int16)  # top, left, height, width in 300x400
    np.savez_compressed(Path(__file__).with_name('tensorflow.npz'), **found)


if __name__ == '__main__':
    main()
