"""ImageNet 2012 from its two tars, read in place: nothing is extracted to disk.

The training tar has a tar for each class, named by its WordNet id; the validation tar has the
images, and TFDS has a list of their labels in order of the numbers in their names. As in TFDS's
data set, 22 training images in CMYK and a PNG are re-encoded as JPEG in RGB; the pixels of OpenCV
differ from TensorFlow's by a few levels.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
from tensorflow_datasets.core import DatasetBuilder

from cls.data.classes import validation_labels, wnids
from cls.data.decode import decode
from cls.data.prepare import archives
from cls.errors import UserError

# Names and sizes in bytes, as image-net.org publishes them.
SIZES = {
    'ILSVRC2012_img_train.tar': 147_897_477_120,
    'ILSVRC2012_img_val.tar': 6_744_924_160,
}


def check_tars(manual: Path, found: dict[str, Path]) -> None:
    """Raises UserError if a tar is missing or does not have its size in SIZES."""
    if absent := [tar for tar in SIZES if tar not in found]:
        raise UserError(
            f'{" and ".join(absent)} not found in {manual}: download from https://image-net.org '
            'and put there as it is, not extracted, or name the folder with --manual_dir.'
        )
    for name, size in SIZES.items():
        if (here := found[name].stat().st_size) != size:
            raise UserError(
                f'{found[name]} has {here:,} bytes: expected {size:,}. Download it again from '
                'https://image-net.org.'
            )


def splits(builder: DatasetBuilder, files: dict[str, Path]) -> dict[str, Iterator]:
    """Returns the examples of both splits, as TFDS's builder yields them.

    Iteration raises ValueError for a broken tar.
    """
    del builder
    train, validation = (files[name] for name in SIZES)
    return {'train': _train(train), 'validation': _validation(validation)}


def _train(file: Path) -> Iterator[tuple[str, dict]]:
    classes = set(wnids())
    try:
        with tarfile.open(file, 'r:') as outer:
            for class_tar, opened in archives.tar_members(outer):
                label = class_tar.removesuffix('.tar')
                if label not in classes:
                    raise ValueError(f'{class_tar} in {file} is not a class of ImageNet')
                with tarfile.open(fileobj=opened, mode='r:') as inner:
                    for name, image in archives.tar_members(inner):
                        content = as_rgb_jpeg(name, image.read())
                        yield name, {'file_name': name, 'image': content, 'label': label}
    except tarfile.TarError as error:
        raise ValueError(f'{file} is broken ({error})') from error


def _validation(file: Path) -> Iterator[tuple[str, dict]]:
    try:
        with tarfile.open(file, 'r:') as tar:
            for name, image in archives.tar_members(tar):
                number = int(name.removesuffix('.JPEG').rpartition('_')[2])
                label = validation_labels()[number - 1]
                yield name, {'file_name': name, 'image': image.read(), 'label': label}
    except tarfile.TarError as error:
        raise ValueError(f'{file} is broken ({error})') from error


def as_rgb_jpeg(name: str, content: bytes) -> bytes:
    """Returns an image file unchanged, or re-encoded if it is in TFDS's lists of CMYK and PNG."""
    from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as listed

    if name not in listed.CMYK_IMAGES and name not in listed.PNG_IMAGES:
        return content
    bgr = decode(content, 3)[..., ::-1]
    # As in TensorFlow's encoder, chroma has half the resolution in both directions, OpenCV's
    # default.
    return cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
