"""The input pipelines of `benchmark input` as usually written with tf.data.

Run by that tool with an interpreter that has TensorFlow: input_with_tensorflow.py FOLDER BATCH SIZE
SHORTER_SIDE THREADS. See answering.py for its input and output.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'

import tensorflow as tf  # noqa: E402
from answering import answer_with  # noqa: E402  next to this file, a script


def main(folder: str, batch: int, size: int, shorter: int, threads: int) -> None:
    """Answers requests until the input ends."""
    files = sorted(str(path) for path in Path(folder).rglob('*') if path.is_file())
    examples = tf.data.Dataset.from_tensor_slices((files, [0] * len(files)))
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads

    def batches(examples: tf.data.Dataset, example: Callable) -> Iterator:
        batches = (
            examples.repeat()
            .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(batch, drop_remainder=True)
            .prefetch(tf.data.AUTOTUNE)
        )
        return batches.with_options(options).as_numpy_iterator()

    def center(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.decode_jpeg(tf.io.read_file(path), channels=3)
        shape = tf.shape(image)[:2]
        to = shape * shorter // tf.reduce_min(shape)
        image = tf.image.resize(image, to)
        top, left = tf.unstack((to - size) // 2)
        image = tf.image.crop_to_bounding_box(image, top, left, size, size)
        return tf.cast(tf.round(image), tf.uint8), label

    def random_part(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content = tf.io.read_file(path)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content),
            tf.zeros((1, 0, 4)),
            min_object_covered=0.0,
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.image.resize(image, (size, size))
        image = tf.image.random_flip_left_right(image)
        return tf.cast(image, tf.uint8), label

    answer_with(
        training=batches(examples.shuffle(len(files)), random_part),
        evaluation=batches(examples, center),
    )


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
