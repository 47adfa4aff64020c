"""The embedded data set: scikit-learn's 1,797 handwritten digits, as a TFDS data set.

It needs no download, so a new checkout can train. It is prepared in a cache folder at its first
use, and then read as any other prepared data set.
"""

import contextlib
import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds

from cls.data import tfds_sets
from cls.errors import UserError
from cls.storage import paths
from cls.storage.cache import cache_dir as default_dir


class Digits(tfds.core.GeneratorBasedBuilder):
    """8x8 gray digits, 10 classes, from `sklearn.datasets.load_digits`.

    Pixels 0..16 become uint8 by round(x * 255 / 16). The split is fixed and stratified: every fifth
    example of a class (the 5th, 10th, ...), in scikit-learn's order, is in the test split. The
    numbers of examples of the classes 0..9 are

      test   35  36  35  36  36  36  36  35  34  36    355 in all
      train 143 146 142 147 145 146 145 144 140 144  1,442 in all
    """

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'Every fifth example of a class is test.'}
    # Nothing is downloaded, so there are no checksums. TFDS would look for them next to this file
    # with importlib_resources, a package that it does not require.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Handwritten digits of scikit-learn (UCI optdigits, test part).',
            homepage='https://archive.ics.uci.edu/dataset/80',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
                    'label': tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=('image', 'label'),
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # nothing is downloaded
        from sklearn import datasets  # slow to import and needed once

        images, labels = datasets.load_digits(return_X_y=True)
        images = np.round(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
        is_test = every_fifth(labels)
        return {
            'train': self._generate_examples(images, labels, np.flatnonzero(~is_test)),
            'test': self._generate_examples(images, labels, np.flatnonzero(is_test)),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for index in indices:
            # Encoded here, because TFDS encodes arrays through TensorFlow.
            _, png = cv2.imencode('.png', images[index])
            yield int(index), {'image': png.tobytes(), 'label': int(labels[index])}


def every_fifth(labels: np.ndarray) -> np.ndarray:
    """Returns (N,) bool for (N,) labels: True for the 5th, 10th, ... example of each class."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen


def prepare(cache_dir: str = '') -> tfds.core.DatasetBuilder:
    """Returns the builder of the digits; prepares them in cache_dir if they are missing there.

    cache_dir '' is the default folder. Raises UserError if the folder cannot be written.
    """
    if paths.is_remote(cache_dir):
        raise UserError(
            f'config.data.dir is {cache_dir}, and the digits are made on this machine: expected a '
            f"folder of it, or '' for the default one."
        )
    root = Path(cache_dir).expanduser() if cache_dir else default_dir()
    folder = root / Digits.name / str(Digits.VERSION)
    try:
        if not folder.is_dir():  # created by a rename: a folder that exists is complete
            _prepare_once(root, folder)
    except OSError as error:
        raise UserError(
            f'The digits cannot be prepared in {root} ({error.strerror or error}): set the '
            'environment variable CLS_CACHE_DIR to a folder with room.'
        ) from error
    return tfds_sets.open_builder(folder)


def opened(data_dir: str) -> tfds.core.DatasetBuilder:
    """Returns the builder of the digits for config.data.dir.

    They are read from data_dir if they are prepared there, and otherwise prepared in the default
    cache: an untrusted config must not make a run write elsewhere.
    """
    there = data_dir and (Path(data_dir).expanduser() / Digits.name / str(Digits.VERSION)).is_dir()
    return prepare(data_dir if there or paths.is_remote(data_dir) else '')


def _prepare_once(root: Path, folder: Path) -> None:
    """Prepares the digits in a temporary folder next to the final one; one process at a time."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / '.digits.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel unlocks it for a process that is killed
        if folder.is_dir():  # another process was first
            return
        for left_over in root.glob('.digits-*.tmp'):  # only a killed process leaves one unlocked
            shutil.rmtree(left_over)
        temporary = Path(tempfile.mkdtemp(prefix='.digits-', suffix='.tmp', dir=root))
        try:
            with _quiet():
                Digits(data_dir=temporary, file_format='array_record').download_and_prepare()
            folder.parent.mkdir(exist_ok=True)
            os.rename(temporary / folder.relative_to(root), folder)
        finally:
            shutil.rmtree(temporary)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without output of TFDS: stdout may belong to the caller's results."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
