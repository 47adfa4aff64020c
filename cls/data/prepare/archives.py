"""Readers of the archives of small data sets, with NumPy.

Each reader raises ValueError for a file of another format, and for an incomplete file.
"""

import gzip
import io
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read_idx(file: Path) -> np.ndarray:
    """Returns (N, ...) uint8 from a file in MNIST's format, compressed by gzip or not.

    The format: the bytes 0, 0, 8 (for uint8) and the number of dimensions; each dimension in four
    bytes, big-endian; the values (yann.lecun.com/exdb/mnist).
    """
    content = file.read_bytes()
    if content[:2] == b'\x1f\x8b':
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError) as error:
            raise ValueError(f'{file} is broken ({error})') from error
    if len(content) < 4 or content[:3] != b'\0\0\x08':
        raise ValueError(f'{file} is not an idx file of bytes')
    dimensions = content[3]
    shape = np.frombuffer(content[4 : 4 + 4 * dimensions], '>u4').astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise ValueError(
            f'{file} has {values.size} values, but its header says {tuple(shape.tolist())}'
        )
    return values.reshape(shape)


def read_members(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Returns members of a tar, compressed or not, by the last part of their names."""
    members = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and (name := Path(member.name).name) in names:
                    members[name] = _file(tar, member).read()
    except (EOFError, OSError, tarfile.TarError) as error:
        raise ValueError(f'{archive} is broken ({error})') from error
    if missing := [name for name in names if name not in members]:
        raise ValueError(f'{archive} has no {missing[0]}')
    return members


def cifar_binary(content: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N, labels) uint8 and (N, 32, 32, 3) uint8 from a .bin file of CIFAR."""
    if not content or len(content) % (labels + 3072):
        raise ValueError(f'{len(content)} bytes are not a whole number of CIFAR examples')
    rows = np.frombuffer(content, np.uint8).reshape(-1, labels + 3072)
    return rows[:, :labels], _cifar_images(rows[:, labels:])


def cifar_python(content: bytes, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the arrays of `cifar_binary` from a pickled batch; `keys` has those of the labels."""
    batch = unpickle(content)
    try:
        labels = np.stack([np.asarray(batch[key.encode()], np.uint8) for key in keys], axis=1)
        images = _cifar_images(batch[b'data'])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'not a batch of CIFAR ({error!r})') from error
    if len(labels) != len(images):
        raise ValueError(f'{len(images)} images with {len(labels)} labels')
    return labels, images


def _cifar_images(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def unpickle(content: bytes) -> dict:
    """Returns the content of a Python 2 pickle that has only NumPy arrays and plain values."""
    try:
        return _Plain(io.BytesIO(content), encoding='bytes').load()
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f'not a pickle of arrays ({error})') from error


class _Plain(pickle.Unpickler):
    """An unpickler that makes arrays, and runs no other code."""

    def find_class(self, module: str, name: str):
        if (module, name) == ('numpy.core.multiarray', '_reconstruct'):
            return lambda *_: np.empty(0, np.uint8)  # __setstate__ sets its content
        if module == 'numpy' and name in ('ndarray', 'dtype'):
            return getattr(np, name)
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def read_mat(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N, 32, 32, 3) uint8 images and (N,) labels 0 to 9 from a .mat file of SVHN.

    Label 10 in the file is the digit 0.
    """
    from scipy import io as scipy_io  # comes with scikit-learn, slow to import

    try:
        content = scipy_io.loadmat(file)
        images, labels = content['X'], content['y'].reshape(-1)
    except (KeyError, OSError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f'{file} is not a .mat file of SVHN ({error})') from error
    good = images.ndim == 4 and images.shape[:3] == (32, 32, 3) and images.dtype == np.uint8
    if not good or images.shape[3] != len(labels) or not ((labels >= 1) & (labels <= 10)).all():
        raise ValueError(f'{file} has arrays of {images.shape} and {labels.shape}, unlike SVHN')
    return np.moveaxis(images, 3, 0), labels % 10


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    """Returns the open file of a member that is one."""
    return tar.extractfile(member)


def tar_members(tar: tarfile.TarFile) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yields (name without folders, open file) of the files in a tar, in their order."""
    for member in tar:
        if member.isfile():
            yield Path(member.name).name, _file(tar, member)
